"""Search the images of a source for text in their pixels, and drop or mask what has some.

The DICOM header does not tell whether there is text in the pixels: BurnedInAnnotation is often absent and
sometimes wrong. So images are searched as they are in the source: all of them, or a random sample.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from privsyn.cohort.document import TextCounts
from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.index import ImageIndex, IndexRecords, pixel_digest
from privsyn.cohort.ingest import SourceReading
from privsyn.cohort.pixels import fit_pixels
from privsyn.cohort.pseudonyms import entry_hash
from privsyn.cohort.text import cleared, find_text, need_ocr, share_bound
from privsyn.cohort.workers import ChunkResult, ItemLost, in_process, in_processes
from privsyn.errors import CohortError
from privsyn.recipe import Data

AUTOMATIC_SCAN = 1000  # images, of a source with DICOM; if none is flagged, at most .3 % of all have text
TEXT_CONFIDENCE = 0.95
_CHUNK = 4  # entries that go to a worker at once: the search is slow


@dataclass
class ScannedImage:
    """One image that was searched for text.

    Attributes:
        where: name of the entry; only for the terminal.
        sha256: of the pixels as the recipe declares them.
        boxes: number of places with text.
        masked: the pixels with the text masked, as the recipe declares them, if `data.text` is "mask".
    """

    where: str
    sha256: bytes
    boxes: int
    masked: bytes = b""


@dataclass(frozen=True)
class TextReader:
    """Searches the images of entries for text; sent to each worker once."""

    data: Data
    key: bytes
    chosen: frozenset[bytes]

    def __call__(self, entries: Sequence[SourceEntry]) -> Iterator[list[ScannedImage]]:
        """The searched images of each entry."""
        return (list(self._scan(entry)) for entry in entries)

    def _scan(self, entry: SourceEntry) -> Iterator[ScannedImage]:
        for picture in entry.read():
            sha256 = bytes.fromhex(pixel_digest(fit_pixels(picture.pixels, self.data)))
            if sha256 not in self.chosen:
                continue
            boxes = find_text(picture.pixels)
            image = ScannedImage(f"{entry.where} {picture.part}".strip(), sha256, len(boxes))
            if boxes and self.data.text == "mask":
                try:
                    image.masked = fit_pixels(cleared(picture.pixels, boxes), self.data).tobytes()
                except CohortError as fault:
                    raise CohortError(f"{image.where}: {fault}") from None
            yield image


@dataclass(frozen=True)
class TextScan:
    """Result of the search for text.

    Attributes:
        policy: `data.text` of the recipe: "refuse", "drop" or "mask".
        of: images of the source.
        looked: images searched.
        flagged: searched images with text.
        where: names of their entries; only for the terminal.
    """

    policy: str
    of: int
    looked: int = 0
    flagged: int = 0
    where: tuple[str, ...] = ()

    @property
    def counts(self) -> TextCounts:
        """For `cohort.json`, with the upper bound on the share of all images that have text."""
        counts = TextCounts(self.policy, self.looked, self.of, self.flagged)
        if not self.looked:
            return counts
        bound = share_bound(self.flagged, self.looked, self.of, TEXT_CONFIDENCE)
        return replace(counts, share_at_most=bound, confidence=TEXT_CONFIDENCE)


def scan_for_text(
    reading: SourceReading, records: IndexRecords, index: ImageIndex, count: int, seed: int
) -> tuple[TextScan, IndexRecords]:
    """Search `count` images, drawn at random, and treat those with text as `data.text` says.

    Returns:
        The result, and the records that remain: fewer if `data.text` is "drop", of other pixels if "mask".

    Raises:
        CohortError: the extra `ocr` is missing, or the source changed since it was read.
    """
    data = reading.reader.data
    if not count or not len(records):
        return TextScan(data.text, len(records)), records
    need_ocr()
    order = np.argsort(records["sha256"], kind="stable")  # the draw must not depend on the source's order
    drawn = order[np.random.default_rng(seed).permutation(len(records))[:count]]
    flagged = [image for image in _scanned(reading, records[drawn]) if image.boxes]
    digests = np.array([image.sha256 for image in flagged], "S32")
    scan = TextScan(
        data.text,
        len(records),
        looked=len(drawn),
        flagged=int(np.isin(records["sha256"][drawn], digests).sum()),
        where=tuple(sorted(image.where for image in flagged)),
    )
    if data.text == "drop":
        return scan, records[~np.isin(records["sha256"], digests)]
    if data.text == "mask":
        for image in flagged:
            changed = np.flatnonzero(records["sha256"] == image.sha256)
            records["row"][changed] = index.put_pixels(image.masked)
            records["sha256"][changed] = hashlib.sha256(image.masked).digest()
    return scan, records


def _scanned(reading: SourceReading, drawn: IndexRecords) -> Iterable[ScannedImage]:
    """The drawn images, each once, whatever the number of its copies."""
    digests = drawn["sha256"].tobytes()
    chosen = frozenset(digests[start : start + 32] for start in range(0, len(digests), 32))
    sources = np.unique(drawn["source"])
    reader = TextReader(reading.reader.data, reading.reader.key, chosen)
    found: dict[bytes, ScannedImage] = {}
    with reading.progress.stage("look for text", len(sources)) as advance:
        for images in _scan(_of(reading, sources), reader, reading.processes):
            found |= {image.sha256: image for image in images}
            advance()
    if len(found) != len(chosen):
        raise CohortError("the source changed while it was read: prepare it again")
    return found.values()


def _of(reading: SourceReading, sources: NDArray[np.uint64]) -> Iterator[Sequence[SourceEntry]]:
    """The entries that chosen images came from, in chunks."""
    wanted, key = frozenset(sources.tolist()), reading.reader.key
    chosen = (entry for entry in reading.entries() if entry_hash(entry, key) in wanted)
    while chunk := tuple(itertools.islice(chosen, _CHUNK)):
        yield chunk


def _scan(
    chunks: Iterable[Sequence[SourceEntry]], reader: TextReader, processes: int
) -> Iterator[list[ScannedImage]]:
    """The searched images of each entry."""
    events = in_process(reader, chunks) if processes == 1 else in_processes(reader, chunks, processes)
    for event in events:
        if isinstance(event, ItemLost):
            raise CohortError(f"{event.item.where}: looking for text {event.why}")
        if isinstance(event, ChunkResult):
            yield event.value
