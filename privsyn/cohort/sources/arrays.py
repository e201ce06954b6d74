"""NumPy archives, read row by row: the array of images is never in memory as a whole."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.entries import SourceEntry, SourceImage
from privsyn.cohort.pixels import check_depth
from privsyn.cohort.sources.names import as_text, file_stamp, readable, shown
from privsyn.errors import CohortError
from privsyn.recipe import Data

_MEDMNIST = ("train_", "val_", "test_")
_CHUNK = 2**20  # bytes of pixels that are read at a time, or one image
_NAMES = 2**20  # bytes of the largest list of class names


def digits_entries(data: Data) -> Iterator[SourceEntry]:
    """The 1,797 handwritten 8x8 digits of scikit-learn, without writer ids."""
    _check_names("digits", data)
    from sklearn.datasets import load_digits  # loads slowly, and only this source needs it

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    for row, target in enumerate(digits.target):
        read = partial(row_picture, images[row].tobytes(), "|u1", (8, 8, 1))
        yield SourceEntry(f"digits[{row}]", str(target), None, read, "digits")


def row_picture(pixels: bytes, dtype: str, shape: tuple[int, ...]) -> list[SourceImage]:
    """One row of an array: (H, W, C) of `dtype`, as bytes."""
    array = np.frombuffer(pixels, dtype)
    return [SourceImage(array.astype(array.dtype.newbyteorder("="), copy=False).reshape(shape))]


def npz_entries(path: Path, data: Data) -> Iterator[SourceEntry]:
    """`images, labels` and, if there, `groups` (the patients), or the pooled parts of a MedMNIST file.

    Integer labels are indices: of `class_names`, if the file lists some of the recipe's, else of
    `data.classes`.

    Raises:
        CohortError: it is not a zip of plain arrays, or has not one label for each uint8 or uint16 image.
    """
    with readable(path, "a readable .npz of plain arrays"), zipfile.ZipFile(path) as archive:
        there = {name.removesuffix(".npy"): name for name in archive.namelist()}
        parts = [""] if "images" in there else [part for part in _MEDMNIST if f"{part}images" in there]
        if not parts:
            raise CohortError(f"{path} has no array 'images' and is not a MedMNIST file")
        names = _class_names(path, archive, there)
        stamp = file_stamp(path)
        for part in parts:
            images = _images(path, part, archive, there, data)
            count = images.header.shape[0]
            labels = _labels(path, f"{part}labels", archive, there, count)
            groups = _one_each(path, f"{part}groups", archive, there, count)
            if groups is None:
                _check_names(str(path), data)
            named = names if set(names) & set(data.classes) and labels.dtype.kind != "U" else None
            where = f"{shown(path.name)} {part}images"
            for row, read in enumerate(images.rows(archive)):
                patient = None if groups is None else as_text(groups[row].item())
                label = _label(labels[row].item(), named)
                yield SourceEntry(f"{where}[{row}]", label, patient, read, f"{stamp} {row}")


@dataclass(frozen=True)
class _Header:
    """The header of an array in an archive."""

    member: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Images:
    """An array of images: `shape` (H, W, C) is that of each."""

    header: _Header
    shape: tuple[int, ...]

    def rows(self, archive: zipfile.ZipFile) -> Iterator[partial[list[SourceImage]]]:
        """A function for each row that reads it."""
        kind, one = self.header.dtype.str, math.prod(self.shape) * self.header.dtype.itemsize
        if self.header.fortran:  # the last axis runs slowest: no row is complete before the end
            for image in _whole(archive, self.header):
                yield partial(row_picture, image.tobytes(), kind, self.shape)
            return
        with archive.open(self.header.member) as member:
            _read_header(member, self.header.member)
            left, at_once = self.header.shape[0], max(1, _CHUNK // max(1, one))
            while left:
                rows = min(left, at_once)
                chunk = _exactly(member, rows * one)
                for start in range(0, rows * one, one) if one else [0] * rows:
                    yield partial(row_picture, chunk[start : start + one], kind, self.shape)
                left -= rows
            member.read(1)  # the end, where the archive's checksum is compared


def _check_names(source: str, data: Data) -> None:
    """Refuse a pattern that would find no patient: every image would count as a patient of its own."""
    if data.patient_pattern is not None:
        raise CohortError(f"{source} has no file names that data.patient_pattern could be searched for in")


def _images(path: Path, part: str, archive: zipfile.ZipFile, there: dict[str, str], data: Data) -> _Images:
    where, header = f"{path}: {part}images", _header(archive, there[f"{part}images"])
    if header.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise CohortError(f"{where} is {header.dtype}, not uint8 or uint16: convert it to 8 or 16 bits first")
    shape = (*header.shape[1:], 1) if len(header.shape) == 3 else header.shape[1:]
    if len(shape) != 3 or shape[2] not in (1, 3):
        raise CohortError(f"{where} has shape {header.shape}, not (N, H, W) or (N, H, W, 1 or 3)")
    if math.prod(shape[:2]) > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise CohortError(
            f"{where} has images of more than {Image.MAX_IMAGE_PIXELS} pixels: shrink them first"
        )
    try:
        check_depth(header.dtype, data)
    except CohortError as fault:
        raise CohortError(f"{where} {fault}") from None
    return _Images(header, shape)


def _labels(
    path: Path, name: str, archive: zipfile.ZipFile, there: dict[str, str], count: int
) -> NDArray[Any]:
    labels = _one_each(path, name, archive, there, count)
    if labels is None:
        raise CohortError(f"{path} has no array '{name}'")
    if labels.dtype.kind not in "iubU":
        raise CohortError(f"{path}: {name} is {labels.dtype}, not integers or names")
    return labels


def _label(label: Any, names: Sequence[str] | None) -> str | int:
    if isinstance(label, str):
        return label
    index = int(label)
    return names[index] if names is not None and 0 <= index < len(names) else index


def _class_names(path: Path, archive: zipfile.ZipFile, there: dict[str, str]) -> list[str]:
    if "class_names" not in there:
        return []
    header = _header(archive, there["class_names"])
    if math.prod(header.shape) * header.dtype.itemsize > _NAMES:
        raise CohortError(f"{path}: class_names has shape {header.shape}: not a list of classes")
    return [str(name) for name in _whole(archive, header).ravel()]


def _one_each(
    path: Path, name: str, archive: zipfile.ZipFile, there: dict[str, str], count: int
) -> NDArray[Any] | None:
    if name not in there:
        return None
    header = _header(archive, there[name])
    if header.shape not in {(count,), (count, 1)}:
        raise CohortError(
            f"{path}: {name} has shape {header.shape}, not one value for each of {count} images"
        )
    return _whole(archive, header).reshape(count)


def _whole(archive: zipfile.ZipFile, header: _Header) -> NDArray[Any]:
    with archive.open(header.member) as member:
        array: NDArray[Any] = npy.read_array(member, allow_pickle=False)
    return array


def _header(archive: zipfile.ZipFile, name: str) -> _Header:
    """Read a header, and check that the archive has as many bytes before memory is allocated."""
    with archive.open(name) as member:
        header = _read_header(member, name)
        size = member.tell() + math.prod(header.shape) * header.dtype.itemsize
    if header.dtype.hasobject or archive.getinfo(name).file_size != size:
        raise ValueError(f"{name} is cut short, or holds objects")
    return header


def _read_header(member: IO[bytes], name: str) -> _Header:
    version = npy.read_magic(member)
    if version == (1, 0):
        return _Header(name, *npy.read_array_header_1_0(member))
    if version == (2, 0):
        return _Header(name, *npy.read_array_header_2_0(member))
    raise ValueError(f"{name} is of version {version}")


def _exactly(member: IO[bytes], count: int) -> bytes:
    parts = []
    while count:
        part = member.read(count)
        if not part:
            raise EOFError("it ends early")
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
