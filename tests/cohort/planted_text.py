"""Real images without text, and lines of text drawn on them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from privsyn.bit_depth import Images
from privsyn.cohort.text import TextBox
from privsyn.recipe import Data

Grey = NDArray[np.uint8]


LINES = ("DOE^JANE 1951-08-29", "ID 4711823", "SMITH JOHN", "12 Mar 2019", "00047431395", "Mueller, K.")


@functools.cache
def text_sample(name: str) -> Images:
    """The first picture of a file that pydicom, pydicom-data or deid-data brings; nothing is downloaded."""
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    from privsyn.cohort.dicom import read_dicom

    data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
    deid_data = pytest.importorskip("deid_data", reason="needs deid-data")
    folders = (Path(module.__file__).parent for module in (deid_data, pydicom, data_store))
    path = next(path for folder in folders for path in sorted(folder.rglob(f"{name}.dcm")))
    pixels = next(read_dicom(path, Data(size=64, channels=1, classes=("a",)))).pixels
    pixels.setflags(write=False)
    return pixels


def clean_part(name: str, side: int = 400, top: int = 0, left: int = 0) -> Grey:
    """(H, W) uint8, a part of an image without text, stretched to black and white."""
    part = text_sample(name)[top : top + side, left : left + side].mean(axis=2)
    return np.round((part - part.min()) * (255 / np.ptp(part))).astype(np.uint8)


def plant_line(
    image: Grey, line: str, px: int, at: tuple[int, int], difference: int | None = None
) -> tuple[Images, TextBox]:
    """With a line drawn on it, black on bright and white on dark, or so many levels from what is there.

    Returns:
        (H, W, 1) uint8, and where the line is.
    """
    mask = Image.new("L", image.shape[::-1])
    font = ImageFont.load_default(px)
    ImageDraw.Draw(mask).text((at[1], at[0]), line, fill=255, font=font)
    inside = mask.getbbox()
    assert inside is not None
    left, top, right, bottom = inside
    ground = float(np.median(image[top:bottom, left:right]))
    extreme, sign = (255, 1) if ground < 128 else (0, -1)
    ink = extreme if difference is None else ground + sign * difference
    opacity = np.asarray(mask) / 255
    drawn = np.round(image * (1 - opacity) + ink * opacity).astype(np.uint8)
    return drawn[..., np.newaxis], TextBox(top, left, bottom, right, 0)


def inside_of(box: TextBox) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


def thumbnails(shared_data: Path) -> Iterator[Images]:
    yield np.load(shared_data / "bccd32.npz")["images"]
    yield np.load(shared_data / "pneumoniamnist.npz")["test_images"][..., np.newaxis]
