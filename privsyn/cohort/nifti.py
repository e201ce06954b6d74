"""NIfTI volumes to slices, in one orientation whatever the order in which the scanner stored them.

Slices lie across the patient's third axis: the stored axes are permuted to the nearest order to right,
anterior, superior (RAS), without resampling, and slices run from inferior to superior. Each is shown with
anterior up and the patient's right on the left, as in radiology and in axial DICOM images. If the affine does
not give an orientation, nibabel's default is used.

A volume does not define how its numbers are displayed, and its minimum and maximum would be a query on
private data. So the recipe must declare `data.window`, unless the file holds bytes, which are shown as they
are. This is the only module that imports nibabel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privsyn.bit_depth import Images
from privsyn.cohort.entries import MARK_LENGTH, SourceImage
from privsyn.cohort.parsers import guarded
from privsyn.errors import CohortError
from privsyn.recipe import Data

Voxels = NDArray[Any]

NIFTI_SUFFIXES = (".nii", ".nii.gz")
_HINT = "is NIfTI, which needs nibabel: pip install 'privsyn[nifti]'"
_MOST_BYTES = 2**31  # of a compressed volume, which has to be in memory as a whole
_TEXTS = ("descrip", "aux_file", "db_name")  # NIfTI-2 has no db_name
_COLOURS = ("R", "G", "B")


def looks_like_nifti(name: str) -> bool:
    """Whether a file is named like a NIfTI volume: `.nii` or `.nii.gz`."""
    return name.lower().endswith(NIFTI_SUFFIXES)


def read_nifti(path: str | Path, data: Data) -> Iterator[SourceImage]:
    """The slices of a volume, from inferior to superior; of a series of volumes, one volume after the other.

    Numbers are scaled as the header says and shown through `data.window`, from centre - width / 2 to centre +
    width / 2; what is not a number is black. Of an uncompressed file one slice is in memory at a time.

    Returns:
        Pictures: (H, W, 1) grey, uint16 if `data.bit_depth` is 16, else uint8; or (H, W, 3) RGB uint8. NIfTI
        knows neither patients nor labels, so both are None. Marks come with the first picture.

    Raises:
        CohortError: damaged, unsupported or too large, no `data.window` where one is needed, or nibabel is
            missing.
    """
    return guarded(_pictures(Path(path), data), "NIfTI", ("nibabel.global",))


def _pictures(path: Path, data: Data) -> Iterator[SourceImage]:
    try:
        import nibabel
        from nibabel.orientations import io_orientation
    except ImportError:
        raise CohortError(_HINT) from None
    if not path.is_file():
        raise CohortError("does not exist, or is not a file")
    loaded = nibabel.load(path)
    if not isinstance(loaded, nibabel.Nifti1Image):  # NIfTI-2 is one too
        raise CohortError("is not a NIfTI volume in one file")
    volume: Any = loaded
    _check_size(volume, path)
    show = _display(volume, data)
    axes, flips = _orientation(io_orientation(volume.affine))  # type: ignore[no-untyped-call]
    width, height = ((*volume.shape, 1)[axis] for axis in axes[:2])
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise CohortError(f"has slices of more than {Image.MAX_IMAGE_PIXELS} pixels: crop or shrink it first")
    # The stored numbers: mapped from an uncompressed file, read from a compressed one.
    stored = volume.dataobj.get_unscaled()
    stored = stored.reshape(*stored.shape[:3], *(1,) * (3 - stored.ndim), -1)
    stored = stored.transpose(*axes, 3)[tuple(slice(None, None, flip) for flip in flips)]
    depth, times = stored.shape[2:]
    marks = _marks(volume)
    for number in range(depth * times):
        time, level = divmod(number, depth)
        # Rows from anterior to posterior, columns from the patient's right to the left: seen from the feet.
        piece = np.asarray(stored[::-1, ::-1, level, time]).swapaxes(0, 1)
        part = f"slice {level + 1}" if times == 1 else f"volume {time + 1}, slice {level + 1}"
        yield SourceImage(show(piece), part=part, marks={} if number else marks)


def _check_size(volume: Any, path: Path) -> None:
    """Compare the header with the size of the file before memory is allocated."""
    shape, size = volume.shape, volume.get_data_dtype().itemsize
    for length in shape:
        size *= int(length)
    if len(shape) < 2 or size < 1 or any(length != 1 for length in shape[4:]):
        raise CohortError(f"has dimensions {'x'.join(str(length) for length in shape)}, which are not slices")
    if path.name.lower().endswith(".gz"):
        if size > _MOST_BYTES:
            raise CohortError(f"has more than {_MOST_BYTES:,} bytes when decompressed: save it as .nii")
    elif path.stat().st_size < volume.dataobj.offset + size:
        there = max(path.stat().st_size - volume.dataobj.offset, 0)
        raise CohortError(f"holds {there:,} bytes of voxels where its header promises {size:,}: cut short?")


def _orientation(axes_flips: Voxels) -> tuple[list[int], list[int]]:
    """The stored axes that are the patient's first, second and third, and 1 or -1 for the direction of
    each."""
    if not np.isfinite(axes_flips).all():
        raise CohortError("has an affine that leaves an axis out: its orientation is not known")
    order = [int(axis) for axis in np.argsort(axes_flips[:, 0])]
    return order, [int(axes_flips[axis, 1]) for axis in order]


def _display(volume: Any, data: Data) -> Callable[[Voxels], Images]:
    """The function from a slice of stored numbers to an image."""
    dtype = volume.get_data_dtype()
    if dtype.names is not None:
        return _colour
    if dtype.kind not in "uif":
        raise CohortError(f"holds {dtype.name} numbers, which cannot be shown")
    if dtype == np.uint8:
        return partial(_quantised, depth=data.bit_depth, centre=127.5, width=255.0)
    if data.window is None:
        raise CohortError(
            f"holds {dtype.name} numbers without saying how to show them: set data.window = [centre, width]"
        )
    slope, intercept = float(volume.dataobj.slope), float(volume.dataobj.inter)
    # In stored numbers, so that only the shown slice is scaled.
    centre, width = (data.window[0] - intercept) / slope, data.window[1] / slope
    return partial(_quantised, depth=data.bit_depth, centre=centre, width=width)


def _quantised(values: Voxels, *, depth: int, centre: float, width: float) -> Images:
    """(H, W) numbers to (H, W, 1), 0 at centre - width / 2 and below; a negative width shows the negative."""
    shown = np.clip((values.astype(np.float64) - centre) / width + 0.5, 0, 1)
    shown[np.isnan(shown)] = 0
    pixels: Images = np.rint(shown * (2**depth - 1)).astype(np.uint16 if depth == 16 else np.uint8)
    return pixels[..., np.newaxis]


def _colour(values: Voxels) -> Images:
    if "A" in (values.dtype.names or ()) and (values["A"] != 255).any():
        raise CohortError("has transparent voxels: flatten it onto a background first")
    pixels: NDArray[np.uint8] = np.stack([values[name] for name in _COLOURS], axis=-1).astype(np.uint8)
    return pixels


def _marks(volume: Any) -> dict[str, str]:
    """The free texts of the header, and its extensions."""
    header = volume.header
    marks = {}
    for field in (name for name in _TEXTS if name in header.structarr.dtype.names):
        text = " ".join(bytes(header[field].item()).split(b"\0")[0].decode("latin-1").split())
        if text:
            shown = "".join(letter if letter.isprintable() else "?" for letter in text)
            marks[f"NIfTI {field}"] = shown[:MARK_LENGTH]
    kinds = [
        f"code {extension.get_code()}, {extension.get_sizeondisk()} bytes" for extension in header.extensions
    ]
    return marks | ({"NIfTI extension": "; ".join(kinds)[:MARK_LENGTH]} if kinds else {})
