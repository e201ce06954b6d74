"""From entries to an index: every image read once, made what the recipe declares, and noted.

Ids in the clear exist here only between reading a source and hashing them.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import itertools
import struct
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.cohort.entries import NotAnImage, SourceEntry, SourceImage
from privsyn.cohort.index import RECORD_DTYPE, ImageIndex, IndexRecords
from privsyn.cohort.labels import label_index
from privsyn.cohort.pixels import fit_pixels
from privsyn.cohort.split import draw
from privsyn.cohort.subgroups import coarse, subgroup_name
from privsyn.cohort.workers import ChunkRestarted, ItemLost, WorkerEvent, in_process, in_processes
from privsyn.errors import CohortError
from privsyn.progress import Progress
from privsyn.recipe import Data

BURNED_IN = "DICOM BurnedInAnnotation"
FEWEST_FOR_PROCESSES = 200  # entries for which no process is worth being started
CHUNK = 64  # entries that go to a worker at once, unless they are large
CHUNK_BYTES = 8 << 20
EXAMPLES = 3  # values of an identifier that are shown to a user who asks
_RECORD = struct.Struct("<32s32s32sH2xIQ")  # the subgroup is 0, until the chunk is whole
_PACK = _RECORD.pack
assert _RECORD.size == RECORD_DTYPE.itemsize


@dataclass(frozen=True)
class EntryReader:
    """What is done with every entry; sent to each worker once.

    Attributes:
        seed: of the split.
        key: of this machine's HMACs.
        opted_out: HMACs of patients who must not be in any cohort.
        keep_values: whether the values of identifiers are wanted, for the user's eyes.
    """

    data: Data
    seed: int
    key: bytes
    opted_out: frozenset[bytes] = frozenset()
    keep_values: bool = False

    def __call__(self, entries: Sequence[SourceEntry]) -> Iterator[ReadImages | list[EntryOutcome]]:
        """Rows in pieces of bounded size, then an outcome for each entry."""
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
        patient = normal_id(entry.patient) or normal_id(picture.patient)
        pseudonym = drawn = b""
        if patient:
            pseudonym, drawn = _hashed(f"patient {patient}", self.key, self.seed)
            if pseudonym in self.opted_out:
                outcome.opted_out += 1
                return
        try:
            label = label_index(picture.label if entry.label is None else entry.label, self.data.classes)
            pixels = fit_pixels(picture.pixels, self.data).tobytes()
        except CohortError as fault:
            raise CohortError(f"{picture.part}: {fault}" if picture.part else str(fault)) from None
        sha256 = hashlib.sha256(pixels).digest()
        rows.records += _PACK(sha256, pseudonym, drawn, label, rows.count, outcome.source)
        rows.pixels += pixels
        rows.count += 1
        outcome.images += 1


@dataclass
class ReadImages:
    """Images as bytes, one after another, and their records, whose rows count from 0."""

    records: bytearray = field(default_factory=bytearray)
    pixels: bytearray = field(default_factory=bytearray)
    count: int = 0


@dataclass
class EntryOutcome:
    """What became of one entry.

    Attributes:
        source: `entry_hash` of it.
        images: how many went into the index.
        refused, passed_over: why, in words; "" if not.
        opted_out: images of patients who opted out.
        marks: names of what in it may identify somebody; `values` of them only if wanted.
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


@dataclass
class Ingested:
    """What became of a source.

    Attributes:
        refused: (where, why) of each entry that cannot be used; for the terminal alone.
        passed_over: (where, why) of each that is no image.
        opted_out: images of patients who opted out.
        marks: identifiers by name to the number of files that have them.
        examples: values of them, if wanted; for the terminal alone.
        subgroups: names by the numbers that records have for them; empty if nobody asked for any.
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
            self.files += len(note["sources"])
            self.opted_out += note["opted_out"]
            self.marks.update(note["marks"])
            self.subgroups += note.get("subgroups", ())

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


def ingest(
    entries: Callable[[], Iterable[SourceEntry]],
    reader: EntryReader,
    index: ImageIndex,
    *,
    processes: int,
    progress: Progress,
) -> Ingested:
    """Read every entry that the index does not have yet into it.

    Args:
        entries: lists them; once more if an interrupted run is resumed, to see whether its files still are.
        processes: 1 reads in this process; more survive decoders that crash.

    Raises:
        CohortError: the source as a whole cannot be read, or its subgroups are no coarse groups.
    """
    told = Ingested()
    known = _known(entries, reader.key, index)
    told.resume(index)
    waiting: dict[int, Sequence[SourceEntry]] = {}

    def chunks() -> Iterator[Sequence[SourceEntry]]:
        unread = coarse(entries(), index.clear)
        if not known.all_taken:
            unread = (entry for entry in unread if not known.takes(entry_hash(entry, reader.key)))
        size = max(1, min(CHUNK, CHUNK_BYTES // index.bytes_per_image))
        for number in itertools.count():
            waiting[number] = chunk = tuple(itertools.islice(unread, size))
            if not chunk:
                return
            yield chunk

    with progress.stage("read images", None) as advance:
        events: Iterator[WorkerEvent[ReadImages | list[EntryOutcome], SourceEntry]]
        if (
            processes == 1
            or len(list(itertools.islice(entries(), FEWEST_FOR_PROCESSES))) < FEWEST_FOR_PROCESSES
        ):
            events = in_process(reader, chunks())
        else:
            events = in_processes(reader, chunks(), processes)
        for number, records, outcomes in _whole_chunks(events, index, reader.key):
            chunk = waiting.pop(number)
            for entry, outcome in zip(chunk, outcomes, strict=True):
                told.add(entry, outcome)
            index.finish(records, _note(outcomes, told.number(records, chunk, outcomes)))
            advance(len(chunk))
    return told


def _whole_chunks(
    events: Iterable[WorkerEvent[ReadImages | list[EntryOutcome], SourceEntry]], index: ImageIndex, key: bytes
) -> Iterator[tuple[int, IndexRecords, list[EntryOutcome]]]:
    """Chunks that came to their end: number, records of what can be used, an outcome for each entry."""
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


def _note(outcomes: Sequence[EntryOutcome], subgroups: Sequence[str]) -> dict[str, Any]:
    """What a later run must know of entries that need not be read again, and of subgroups first met here."""
    ended = [outcome for outcome in outcomes if not (outcome.refused or outcome.passed_over)]
    marks = Counter(name for outcome in ended for name in dict.fromkeys(outcome.marks))
    note = {
        "sources": [outcome.source for outcome in ended],
        "opted_out": sum(outcome.opted_out for outcome in ended),
        "marks": dict(marks),
    }
    return note | ({"subgroups": subgroups} if subgroups else {})


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


def _known(entries: Callable[[], Iterable[SourceEntry]], key: bytes, index: ImageIndex) -> _Known:
    """What an interrupted run has read, if all of it is still as it was; else the index begins anew."""
    hashes = np.array([each for note in index.notes() for each in note["sources"]], np.uint64)
    if len(hashes):
        listed = _Known(hashes)
        for entry in entries():
            listed.takes(entry_hash(entry, key))
        if not listed.all_taken:
            index.clear()
            hashes = hashes[:0]
    return _Known(hashes)


def entry_hash(entry: SourceEntry, key: bytes) -> int:
    """64 bits that stand for an entry and for what can be told of it without reading; keyed."""
    told = f"{entry.label}\0{entry.patient}"
    if entry.subgroup is not None:
        told += f"\0{entry.subgroup}"
    about = f"{entry.where}\0{entry.stamp}\0{told}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(about, digest_size=8, key=key).digest(), "little")


@functools.lru_cache(maxsize=1024)  # images of one patient mostly follow each other
def _hashed(unit: str, key: bytes, seed: int) -> tuple[bytes, bytes]:
    """The pseudonym of a unit, and its draw in the split."""
    return pseudonym_of(unit, key), draw(seed, unit)


def pseudonym_of(unit: str, key: bytes) -> bytes:
    """HMAC-SHA256 of a unit under this machine's key, 32 bytes."""
    return hmac.digest(key, unit.encode(), hashlib.sha256)


def normal_id(patient: str | None) -> str:
    """An id as it is compared: NFC, without blanks around it."""
    return unicodedata.normalize("NFC", patient or "").strip()
