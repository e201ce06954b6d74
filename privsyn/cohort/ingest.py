"""Read every entry of a source once, fit its images to the recipe, and add them to the index."""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privsyn.claim.document import UNITS
from privsyn.cohort.entries import NotAnImage, SourceEntry, SourceImage
from privsyn.cohort.index import RECORD_DTYPE, ChunkNote, ImageIndex, IndexRecords
from privsyn.cohort.labels import label_index
from privsyn.cohort.pixels import fit_pixels
from privsyn.cohort.pseudonyms import entry_hash, normal_id, pseudonym_of
from privsyn.cohort.subgroups import coarse, subgroup_name
from privsyn.cohort.workers import ChunkRestarted, ItemLost, WorkerEvent, in_process, in_processes
from privsyn.errors import CohortError
from privsyn.progress import Progress
from privsyn.recipe import Data

BURNED_IN = "DICOM BurnedInAnnotation"
FEWEST_FOR_PROCESSES = 200  # entries; with fewer, starting processes takes longer than it saves
CHUNK = 64  # entries that go to a worker at once, unless they are large
CHUNK_BYTES = 8 << 20
EXAMPLES = 3  # values of an identifier that `--show` prints
_RECORD = struct.Struct("<32s32sH2xIQB")  # the subgroup is 0 until the chunk is whole
_PACK = _RECORD.pack
assert _RECORD.size == RECORD_DTYPE.itemsize
IMAGE, STUDY, PATIENT = (UNITS.index(unit) for unit in ("image", "study", "patient"))


@dataclass(frozen=True)
class EntryReader:
    """Reads entries to pixels and records; sent to each worker once.

    Attributes:
        key: of this machine's HMACs.
        opted_out: HMACs of patients who must not be in any cohort.
        keep_values: whether to keep some values of identifiers, for the user's terminal.
    """

    data: Data
    key: bytes
    opted_out: frozenset[bytes] = frozenset()
    keep_values: bool = False

    def __call__(self, entries: Sequence[SourceEntry]) -> Iterator[ReadImages | list[EntryOutcome]]:
        """Images in batches of bounded size, then an outcome for each entry."""
        rows, outcomes = ReadImages(), []
        for entry in entries:
            outcome = EntryOutcome(entry_hash(entry, self.key))
            try:
                for picture in entry.read():
                    outcome.note(picture, self.keep_values)
                    self._add(rows, outcome, entry, picture)
                    if len(rows.pixels) > CHUNK_BYTES:
                        yield rows
                        rows = ReadImages()
            except NotAnImage as fault:
                outcome.passed_over = str(fault)
            except CohortError as fault:
                outcome.refused = str(fault)
            except MemoryError:
                outcome.refused = "needs more memory than a worker may have"
            outcomes.append(outcome)
        if rows.pixels:
            yield rows
        yield outcomes

    def _add(self, rows: ReadImages, outcome: EntryOutcome, entry: SourceEntry, picture: SourceImage) -> None:
        pseudonym, unit = self._identity(entry, picture)
        if pseudonym in self.opted_out:
            outcome.opted_out += 1
            return
        try:
            label = label_index(picture.label if entry.label is None else entry.label, self.data.classes)
            pixels = fit_pixels(picture.pixels, self.data).tobytes()
        except CohortError as fault:
            raise CohortError(f"{picture.part}: {fault}" if picture.part else str(fault)) from None
        sha256 = hashlib.sha256(pixels).digest()
        rows.records += _PACK(sha256, pseudonym, label, rows.count, outcome.source, unit)
        rows.pixels += pixels
        rows.count += 1
        outcome.images += 1

    def _identity(self, entry: SourceEntry, picture: SourceImage) -> tuple[bytes, int]:
        """The pseudonym of the patient, or else of the study; and which of the two it is for certain."""
        patient = normal_id(entry.patient) or normal_id(picture.patient)
        if patient:
            return pseudonym_of(f"patient {patient}", self.key), PATIENT
        study = normal_id(picture.study)
        return (pseudonym_of(f"study {study}", self.key), STUDY) if study else (b"", IMAGE)


@dataclass
class ReadImages:
    """Images as bytes, one after another, and their records, whose rows count from 0."""

    records: bytearray = field(default_factory=bytearray)
    pixels: bytearray = field(default_factory=bytearray)
    count: int = 0


@dataclass
class EntryOutcome:
    """The outcome of reading one entry.

    Attributes:
        source: `entry_hash` of the entry.
        images: number of images that went into the index.
        refused, passed_over: the reason; "" if it was not.
        opted_out: images of patients who opted out.
        marks: names of its identifying metadata.
        values: of these, if wanted.
    """

    source: int
    images: int = 0
    refused: str = ""
    passed_over: str = ""
    opted_out: int = 0
    marks: tuple[str, ...] = ()
    values: dict[str, str] = field(default_factory=dict)

    def note(self, picture: SourceImage, keep_values: bool) -> None:
        if picture.marks:
            declared = picture.marks.get(BURNED_IN)
            self.marks += tuple(f"{name} {declared}" if name == BURNED_IN else name for name in picture.marks)
            if keep_values:
                self.values |= picture.marks


ReadingEvent = WorkerEvent[ReadImages | list[EntryOutcome], SourceEntry]


@dataclass
class Ingested:
    """The outcome of reading a source.

    Attributes:
        refused: (where, why) of each entry that cannot be used; only for the terminal.
        passed_over: (where, why) of each entry that is not an image; only for the terminal.
        opted_out: images of patients who opted out.
        files: number of entries.
        marks: identifying metadata by name, to the number of files that have it.
        examples: some of their values, if wanted; only for the terminal.
        subgroups: names, by the numbers in the records; empty without subgroups.
    """

    refused: list[tuple[str, str]] = field(default_factory=list)
    passed_over: list[tuple[str, str]] = field(default_factory=list)
    opted_out: int = 0
    files: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    examples: dict[str, set[str]] = field(default_factory=dict)
    subgroups: list[str] = field(default_factory=list)

    def resume(self, index: ImageIndex) -> None:
        """Count what an interrupted run has read."""
        for note in index.notes():
            self.files += len(note.sources)
            self.opted_out += note.opted_out
            self.marks.update(note.marks)
            self.subgroups += note.subgroups

    def add(self, entry: SourceEntry, outcome: EntryOutcome) -> None:
        self.files += 1
        if outcome.refused:
            self.refused.append((entry.where, outcome.refused))
        if outcome.passed_over:
            self.passed_over.append((entry.where, outcome.passed_over))
        self.opted_out += outcome.opted_out
        self.marks.update(dict.fromkeys(outcome.marks, 1))
        for name, value in outcome.values.items():
            known = self.examples.setdefault(name, set())
            if len(known) < EXAMPLES:
                known.add(value)

    def number(
        self, records: IndexRecords, chunk: Sequence[SourceEntry], outcomes: Sequence[EntryOutcome]
    ) -> list[str]:
        """Put the numbers of their subgroups into records; returns the names that were not known before."""
        numbers = {name: number for number, name in enumerate(self.subgroups)}
        found = {
            outcome.source: numbers.setdefault(subgroup_name(entry.subgroup), len(numbers))
            for entry, outcome in zip(chunk, outcomes, strict=True)
            if entry.subgroup is not None and outcome.images and not outcome.refused
        }
        if found:
            records["subgroup"] = [found[source] for source in records["source"].tolist()]
        new = list(numbers)[len(self.subgroups) :]
        self.subgroups += new
        return new


@dataclass(frozen=True)
class SourceReading:
    """A source and how it is read.

    Attributes:
        entries: lists the entries, from the start on each call.
        reader: reads them.
        processes: 1 reads in this process; more survive decoders that crash.
    """

    entries: Callable[[], Iterable[SourceEntry]]
    reader: EntryReader
    processes: int
    progress: Progress


def ingest(reading: SourceReading, index: ImageIndex) -> Ingested:
    """Read every entry that the index does not have yet into it.

    Entries are listed once more if an interrupted run is resumed, to see whether its files are unchanged.

    Raises:
        CohortError: the source as a whole cannot be read, or its subgroups are too many or too long.
    """
    ingested, known = Ingested(), _known(reading, index)
    ingested.resume(index)
    waiting: dict[int, Sequence[SourceEntry]] = {}

    def chunks() -> Iterator[Sequence[SourceEntry]]:
        for number, chunk in enumerate(_unread(reading, known, index)):
            waiting[number] = chunk
            yield chunk

    with reading.progress.stage("read images", None) as advance:
        events = _read(reading, chunks())
        for number, records, outcomes in _whole_chunks(events, index, reading.reader.key):
            chunk = waiting.pop(number)
            for entry, outcome in zip(chunk, outcomes, strict=True):
                ingested.add(entry, outcome)
            index.finish(records, _note(outcomes, ingested.number(records, chunk, outcomes)))
            advance(len(chunk))
    return ingested


def _unread(reading: SourceReading, known: _Known, index: ImageIndex) -> Iterator[Sequence[SourceEntry]]:
    """Chunks of the entries that the index does not have."""
    entries = coarse(reading.entries(), index.clear)
    if not known.all_taken:
        entries = (entry for entry in entries if not known.takes(entry_hash(entry, reading.reader.key)))
    size = max(1, min(CHUNK, CHUNK_BYTES // index.bytes_per_image))
    while chunk := tuple(itertools.islice(entries, size)):
        yield chunk


def _read(reading: SourceReading, chunks: Iterable[Sequence[SourceEntry]]) -> Iterator[ReadingEvent]:
    """Read in this process, or in several if there are enough entries."""
    if reading.processes == 1 or _fewer_than(FEWEST_FOR_PROCESSES, reading.entries()):
        return in_process(reading.reader, chunks)
    return in_processes(reading.reader, chunks, reading.processes)


def _fewer_than(count: int, entries: Iterable[SourceEntry]) -> bool:
    return len(list(itertools.islice(entries, count))) < count


def _whole_chunks(
    events: Iterable[ReadingEvent], index: ImageIndex, key: bytes
) -> Iterator[tuple[int, IndexRecords, list[EntryOutcome]]]:
    """Chunks that were read to their end: number, records of usable images, an outcome for each entry."""
    records: dict[int, list[IndexRecords]] = defaultdict(list)
    outcomes: dict[int, list[EntryOutcome]] = defaultdict(list)
    for event in events:
        number = event.chunk
        if isinstance(event, ChunkRestarted):
            records.pop(number, None)
            outcomes.pop(number, None)
            continue
        if isinstance(event, ItemLost):
            outcomes[number].append(EntryOutcome(entry_hash(event.item, key), refused=event.why))
        elif isinstance(event.value, ReadImages):
            some = np.frombuffer(event.value.records, RECORD_DTYPE)
            some["row"] += index.put_pixels(event.value.pixels)
            records[number].append(some)
        else:
            outcomes[number] += event.value
        if event.last:
            found = np.concatenate([np.empty(0, RECORD_DTYPE), *records.pop(number, [])])
            ended = outcomes.pop(number)
            refused = [outcome.source for outcome in ended if outcome.refused]
            yield number, found[~np.isin(found["source"], np.array(refused, np.uint64))], ended


def _note(outcomes: Sequence[EntryOutcome], subgroups: Sequence[str]) -> ChunkNote:
    """The note on a chunk; what was refused or passed over is read again by a later run."""
    ended = [outcome for outcome in outcomes if not (outcome.refused or outcome.passed_over)]
    marks = Counter(name for outcome in ended for name in dict.fromkeys(outcome.marks))
    opted_out = sum(outcome.opted_out for outcome in ended)
    return ChunkNote([outcome.source for outcome in ended], opted_out, dict(marks), subgroups)


class _Known:
    """Hashes of entries that were read before, each to be taken as often as it was read."""

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.hashes, self.left = np.unique(hashes, return_counts=True)

    def takes(self, found: int) -> bool:
        place = int(np.searchsorted(self.hashes, np.uint64(found)))
        if place == len(self.hashes) or self.hashes[place] != found or not self.left[place]:
            return False
        self.left[place] -= 1
        return True

    @property
    def all_taken(self) -> bool:
        return not self.left.any()


def _known(reading: SourceReading, index: ImageIndex) -> _Known:
    """What an interrupted run has read, if all of it is unchanged; otherwise the index is cleared."""
    hashes = np.array([each for note in index.notes() for each in note.sources], np.uint64)
    if len(hashes):
        listed = _Known(hashes)
        for entry in reading.entries():
            listed.takes(entry_hash(entry, reading.reader.key))
        if not listed.all_taken:
            index.clear()
            hashes = hashes[:0]
    return _Known(hashes)
