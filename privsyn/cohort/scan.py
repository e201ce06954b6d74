"""What identifies somebody in a source: in tags, as counted while reading, and as text in the pixels.

The header cannot be asked whether there is text in the pixels: BurnedInAnnotation is often absent, and
sometimes wrong. So images are looked at, as they are in the source, all of them or some drawn at random.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.index import ImageIndex, IndexRecords, pixel_digest
from privsyn.cohort.ingest import entry_hash
from privsyn.cohort.pixels import fit_pixels
from privsyn.cohort.text import cleared, find_text, need_ocr, share_bound
from privsyn.cohort.workers import ChunkResult, ItemLost, in_process, in_processes
from privsyn.errors import CohortError
from privsyn.progress import Progress
from privsyn.recipe import Data

AUTOMATIC_SCAN = 1000  # images of a source that holds DICOM; with none flagged, at most .3 % of all have text
TEXT_CONFIDENCE = 0.95
_CHUNK = 4  # entries that go to a worker at once: text takes long


@dataclass
class ScannedImage:
    """One image in which text was looked for.

    Attributes:
        where: for the terminal alone.
        sha256: of the pixels as the recipe wants them.
        boxes: how many places with text.
        instead: pixels with the text masked, as the recipe wants them, if that was asked for.
    """

    where: str
    sha256: bytes
    boxes: int
    instead: bytes = b""


@dataclass(frozen=True)
class TextReader:
    """Looks for text in the images of entries; sent to each worker once."""

    data: Data
    key: bytes
    chosen: frozenset[bytes]

    def __call__(self, entries: Sequence[SourceEntry]) -> Iterator[list[ScannedImage]]:
        """What was seen in each entry."""
        return (list(self._look(entry)) for entry in entries)

    def _look(self, entry: SourceEntry) -> Iterator[ScannedImage]:
        for picture in entry.read():
            sha256 = bytes.fromhex(pixel_digest(fit_pixels(picture.pixels, self.data)))
            if sha256 not in self.chosen:
                continue
            boxes = find_text(picture.pixels)
            looked = ScannedImage(f"{entry.where} {picture.part}".strip(), sha256, len(boxes))
            if boxes and self.data.text == "mask":
                try:
                    looked.instead = fit_pixels(cleared(picture.pixels, boxes), self.data).tobytes()
                except CohortError as fault:
                    raise CohortError(f"{looked.where}: {fault}") from None
            yield looked


@dataclass
class TextScan:
    """What was found in the pixels.

    Attributes:
        policy: "refuse", "drop" or "mask".
        looked, of: images looked at, and images of the source.
        flagged: images with text.
        where: of these; for the terminal alone.
    """

    policy: str
    of: int
    looked: int = 0
    flagged: int = 0
    where: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """For `cohort.json`: numbers alone."""
        document: dict[str, Any] = {
            "policy": self.policy,
            "looked_at": self.looked,
            "of": self.of,
            "flagged": self.flagged,
        }
        if self.looked:
            bound = share_bound(self.flagged, self.looked, self.of, TEXT_CONFIDENCE)
            document |= {"share_at_most": bound, "confidence": TEXT_CONFIDENCE}
        return document


def scan_for_text(
    entries: Callable[[], Iterable[SourceEntry]],
    records: IndexRecords,
    index: ImageIndex,
    data: Data,
    count: int,
    *,
    seed: int,
    key: bytes,
    processes: int,
    progress: Progress,
) -> tuple[TextScan, IndexRecords]:
    """Look at `count` images, drawn at random, and do with those that have text what `data.text` says.

    Returns:
        what was found, and the records that are left: of `drop`, fewer; of `mask`, with other pixels.

    Raises:
        CohortError: the extra `ocr` is missing, or a source changed since it was read.
    """
    told = TextScan(data.text, len(records))
    if not count or not len(records):
        return told, records
    need_ocr()
    order = np.argsort(records["sha256"], kind="stable")  # so that the draw does not know the source's order
    drawn = order[np.random.default_rng(seed).permutation(len(records))[:count]]
    chosen = frozenset(records["sha256"][drawn].tobytes()[i : i + 32] for i in range(0, 32 * len(drawn), 32))
    sources = np.unique(records["source"][drawn])
    reader = TextReader(data, key, chosen)
    found: dict[bytes, ScannedImage] = {}
    with progress.stage("look for text", len(sources)) as advance:
        for seen in _looked(_of(entries(), sources, key), reader, processes):
            found |= {looked.sha256: looked for looked in seen}
            advance()
    if len(found) != len(chosen):
        raise CohortError("the source changed while it was read: prepare it again")
    flagged = [looked for looked in found.values() if looked.boxes]
    digests = np.array([looked.sha256 for looked in flagged], "S32")
    told.looked = len(drawn)
    told.flagged = int(np.isin(records["sha256"][drawn], digests).sum())
    told.where = sorted(looked.where for looked in flagged)
    if data.text == "drop":
        return told, records[~np.isin(records["sha256"], digests)]
    if data.text == "mask":
        for looked in flagged:
            changed = np.flatnonzero(records["sha256"] == looked.sha256)
            records["row"][changed] = index.put_pixels(looked.instead)
            records["sha256"][changed] = hashlib.sha256(looked.instead).digest()
    return told, records


def _of(
    entries: Iterable[SourceEntry], sources: NDArray[np.uint64], key: bytes
) -> Iterator[Sequence[SourceEntry]]:
    """Entries that chosen images came from, in chunks."""
    wanted = frozenset(sources.tolist())
    chosen = (entry for entry in entries if entry_hash(entry, key) in wanted)
    while chunk := tuple(itertools.islice(chosen, _CHUNK)):
        yield chunk


def _looked(
    chunks: Iterable[Sequence[SourceEntry]], reader: TextReader, processes: int
) -> Iterator[list[ScannedImage]]:
    """What was seen in each entry."""
    events = in_process(reader, chunks) if processes == 1 else in_processes(reader, chunks, processes)
    for event in events:
        if isinstance(event, ItemLost):
            raise CohortError(f"{event.item.where}: looking for text {event.why}")
        if isinstance(event, ChunkResult):
            yield event.value


def identifier_summary(marks: Mapping[str, int], files: int, text: TextScan) -> dict[str, Any]:
    """What `cohort.json` says about identifiers: which there were, in how many files, and no value."""
    return {"files": files, "marks": dict(sorted(marks.items())), "text": text.to_dict()}
