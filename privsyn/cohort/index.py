"""The index of a cohort in preparation: 81 bytes an image, on disk until all images are read.

Each record describes an image; its pixels are in a second file, in the order in which they were read. Both
files are appended to and never changed, and a third holds a note on every chunk that was read to its end:
after a kill, what the three agree on is kept. They identify nobody: files are keyed hashes, patients are
HMACs under this machine's key, and subgroups, which are coarse, are numbers whose names are in the notes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.errors import PrivsynError
from privsyn.files import read_json, write_json

RECORD_DTYPE = np.dtype(
    [
        ("sha256", "S32"),  # of the pixels
        ("patient", "S32"),  # HMAC of the patient; empty while the image has none
        ("label", "<u2"),
        ("subgroup", "<u2"),  # a number, in the order of the names in the notes; 0 without subgroups
        ("row", "<u4"),  # of its pixels
        ("source", "<u8"),  # keyed hash of the entry that it was read from
        ("unit", "u1"),  # what `patient` names for certain: its place in `claim.document.UNITS`
    ]
)
IndexRecords = NDArray[np.void]
_FILES = ("records", "pixels", "notes")


@dataclass(frozen=True)
class ChunkNote:
    """What a later run must know about a chunk of entries that need not be read again.

    Attributes:
        sources: keyed hashes of the entries.
        opted_out: images of patients who opted out.
        marks: identifying metadata by name, to the number of files that have it.
        subgroups: names that occur here for the first time.
    """

    sources: Sequence[int]
    opted_out: int
    marks: Mapping[str, int]
    subgroups: Sequence[str] = ()


class ImageIndex:
    """Records and pixels of the images read so far.

    Args:
        folder: of the three files; None keeps everything in memory, and without `pixels` only the records.
        shape: of an image, (H, W, C).
        about: describes the purpose; an index with another purpose is not resumed.
    """

    def __init__(
        self,
        folder: Path | None,
        shape: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        about: str,
        pixels: bool = True,
    ) -> None:
        self.folder, self.shape, self.dtype = folder, shape, dtype
        self.bytes_per_image = int(np.prod(shape)) * self.dtype.itemsize
        self._resume(about)
        self._records = self._opened("records")
        self._pixels = self._opened("pixels") if folder is not None or pixels else None
        self._notes = self._opened("notes")
        self.images = self._settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles():
            handle.close()

    def notes(self) -> Iterator[ChunkNote]:
        """The note on each chunk that was read to its end, in order."""
        self._notes.seek(0)
        for line in self._notes:
            found = json.loads(line)
            yield ChunkNote(found["sources"], found["opted_out"], found["marks"], found.get("subgroups", ()))

    def put_pixels(self, pixels: bytes | bytearray) -> int:
        """Append images, and return the row of the first."""
        row = self.rows
        if self._pixels is not None:
            self._pixels.write(pixels)
        self.rows += len(pixels) // self.bytes_per_image
        return row

    def finish(self, records: IndexRecords, note: ChunkNote) -> None:
        """Append records whose pixels are there, with a note on the entries that they came from."""
        content = {"images": len(records), **asdict(note)}
        line = json.dumps(content, separators=(",", ":")) + "\n"
        contents = {self._records: records.tobytes(), self._notes: line.encode()}
        for handle in self._handles():
            handle.write(contents.get(handle, b""))
            handle.flush()
        self.images += len(records)

    def clear(self) -> None:
        """Remove everything."""
        for handle in self._handles():
            self._cut(handle, 0)
        self.images = self.rows = 0

    def records(self) -> IndexRecords:
        """(n,) of `RECORD_DTYPE`, a copy."""
        return self._all(self._records, RECORD_DTYPE)

    def read(self, rows: NDArray[Any]) -> Images:
        """(k, H, W, C) images by their rows; they are read and not mapped, so that memory holds only
        these."""
        assert self._pixels is not None
        self._pixels.flush()
        size = self.bytes_per_image
        if self.folder is None:
            view = self._pixels.getbuffer()  # type: ignore[attr-defined]
            content = b"".join(view[row * size : (row + 1) * size] for row in rows.tolist())
        else:
            handle = self._pixels.fileno()
            content = b"".join(os.pread(handle, size, row * size) for row in rows.tolist())
        return np.frombuffer(content, self.dtype).reshape(len(rows), *self.shape)

    def _resume(self, about: str) -> None:
        """Continue an interrupted run with the same purpose, or start with empty files."""
        if self.folder is None:
            return
        self.folder.mkdir(mode=0o700, exist_ok=True)
        about = hashlib.sha256(f"{about} {RECORD_DTYPE.descr} {self.shape} {self.dtype}".encode()).hexdigest()
        with suppress(PrivsynError, KeyError, TypeError):
            if read_json(self.folder / "about.json")["about"] == about:
                return
        for name in _FILES:
            (self.folder / name).unlink(missing_ok=True)
        write_json(self.folder / "about.json", {"about": about})

    def _opened(self, name: str) -> BinaryIO:
        if self.folder is None:
            return io.BytesIO()
        path = self.folder / name
        path.touch(mode=0o600)
        handle = path.open("r+b")
        handle.seek(0, os.SEEK_END)
        return handle

    def _settle(self) -> int:
        """Cut off what an interrupted run did not finish; returns the number of images that remain."""
        self.rows = images = length = 0
        for line in self._lines():
            length += len(line)
            images += json.loads(line)["images"]
        self._cut(self._notes, length)
        if self._pixels is not None:
            self.rows = self._length(self._pixels) // self.bytes_per_image
            self._cut(self._pixels, self.rows * self.bytes_per_image)
        lost = self._length(self._records) < images * RECORD_DTYPE.itemsize
        if lost or (images and self._all(self._records, RECORD_DTYPE)["row"][:images].max() >= self.rows):
            self.clear()  # the disk lost something that was written earlier
            return 0
        self._cut(self._records, images * RECORD_DTYPE.itemsize)
        return images

    def _handles(self) -> list[BinaryIO]:
        """The files in the order of writing: pixels and records are there before the note on them."""
        handles = (self._pixels, self._records, self._notes)
        return [handle for handle in handles if handle is not None]

    def _lines(self) -> Iterator[bytes]:
        self._notes.seek(0)
        return (line for line in self._notes if line.endswith(b"\n"))

    def _all(self, handle: BinaryIO, dtype: np.dtype[np.void]) -> NDArray[np.void]:
        if isinstance(handle, io.BytesIO):
            return np.frombuffer(handle.getvalue(), dtype).copy()
        handle.flush()
        return np.fromfile(handle.name, dtype)

    def _length(self, handle: BinaryIO) -> int:
        return handle.seek(0, os.SEEK_END)

    def _cut(self, handle: BinaryIO, length: int) -> None:
        handle.truncate(length)
        handle.seek(0, os.SEEK_END)


def pixel_digest(pixels: Images) -> str:
    """sha256 (hex) of the bytes of an image, rows first, channels last."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def hexadecimal(digests: NDArray[Any]) -> list[str]:
    """(n,) digests of 32 bytes as text."""
    text = np.ascontiguousarray(digests).tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]
