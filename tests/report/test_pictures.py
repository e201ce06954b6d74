"""Images on a page: lossless where they are judged, small where they are many, chosen blindly."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privsyn.report.pictures import (
    PAIR_EDGE,
    SHEET_EDGE,
    InlineImage,
    contact_sheet,
    sheet,
    thumbnail,
    whole,
)


def content(picture: InlineImage) -> bytes:
    return base64.b64decode(picture.uri.removeprefix("data:image/png;base64,"))


def pixels(picture: InlineImage) -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(content(picture))) as image:
        return np.asarray(image)


def noise(size: int, channels: int, count: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(size).integers(0, 256, (count, size, size, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 300])
def test_whole_images_keep_every_pixel(size: int, channels: int) -> None:
    """An image that a reviewer judges is the image itself, grey or RGB, whatever its size."""
    image = noise(size, channels)[0]
    assert np.array_equal(pixels(whole(image)).reshape(image.shape), image)


@pytest.mark.parametrize("size", [28, 300])
def test_16_bits_are_shown_in_8(size: int) -> None:
    """The nearest of 8 bits, which is all that a screen shows; thumbnails are those of the 8-bit image."""
    image = noise(size, 1)[0]
    wide = image.astype(np.uint16) * 257 + np.where(image < 128, 128, -128).astype(np.uint16)
    assert np.array_equal(pixels(whole(wide)), image[..., 0])
    assert thumbnail(wide) == thumbnail(image)


@pytest.mark.parametrize("size", [1, 8, 28, 64, 96])
def test_small_images_grow_by_whole_multiples(size: int) -> None:
    """Pixels stay square: the edge on the page is a multiple of the image's, and within its place."""
    image = noise(size, 1)[0]
    for shown, place in ((thumbnail(image), SHEET_EDGE), (whole(image), PAIR_EDGE)):
        assert shown.edge % size == 0
        assert place - size < shown.edge <= place
        assert not shown.reduced


def test_large_images_are_reduced_for_the_sheet_only() -> None:
    """A sheet of large images stays small; a pair of them is shown whole, and smoothed where it shrinks."""
    image = noise(512, 3)[0]
    small, large = thumbnail(image), whole(image)
    assert pixels(small).shape == (2 * SHEET_EDGE, 2 * SHEET_EDGE, 3)
    assert (small.edge, small.reduced) == (SHEET_EDGE, True)
    assert (large.edge, large.reduced) == (512, True)


def test_pngs_carry_pixels_and_nothing_else() -> None:
    """No text, time or colour-profile chunk travels with an image."""
    png, chunks, at = content(whole(noise(28, 3)[0])), [], 8
    while at < len(png):
        chunks.append(png[at + 4 : at + 8])
        at += 12 + int.from_bytes(png[at : at + 4], "big")
    assert set(chunks) == {b"IHDR", b"IDAT", b"IEND"}


def test_sheet_shows_up_to_ten_of_each_class() -> None:
    """Rows follow the class list; each shows its own class only, and a class without images says so."""
    images = noise(8, 1, 40)
    labels = np.repeat(np.array([0, 2]), [4, 36])
    rows = sheet(images, labels, ("few", "none", "many"))
    assert [(row.name, row.count, len(row.pictures)) for row in rows] == [
        ("few", 4, 4),
        ("none", 0, 0),
        ("many", 36, 10),
    ]
    shown = {pixels(picture).tobytes() for picture in rows[2].pictures}
    assert shown <= {image.tobytes() for image in images[labels == 2]}
    assert len(shown) == 10


def test_sheet_is_chosen_by_its_seed() -> None:
    """The same seed shows the same images, another seed shows others."""
    images, labels = noise(8, 1, 50), np.zeros(50, np.int64)
    assert sheet(images, labels, ("a",)) == sheet(images, labels, ("a",))
    assert sheet(images, labels, ("a",), seed=1) != sheet(images, labels, ("a",))


def test_sheet_stops_at_ten_classes() -> None:
    """A page for a hundred classes shows the first ten."""
    names = tuple(map(str, range(100)))
    assert len(sheet(noise(8, 1, 100), np.arange(100), names)) == 10


def test_contact_sheet_shows_up_to_eight_of_either_kind() -> None:
    """Real and synthetic images of a class stand together; an image of no class is not shown."""
    real, drawn = noise(8, 1, 40), noise(9, 1, 30)
    real_labels, labels = np.repeat([0, 1, -1], [5, 15, 20]), np.repeat([0, 1], [30, 0])
    rows = contact_sheet((real, real_labels), (drawn, labels), ("few", "unseen"))
    counts = [(row.real.count, row.synthetic.count) for row in rows]
    shown = [(len(row.real.pictures), len(row.synthetic.pictures)) for row in rows]
    assert counts == [(5, 30), (15, 0)]
    assert shown == [(5, 8), (8, 0)]
    pictures = [picture for row in rows for picture in row.real.pictures]
    assert {pixels(each).tobytes() for each in pictures} <= {each.tobytes() for each in real[:20]}


def test_contact_sheet_is_chosen_without_a_look() -> None:
    """Which real images are shown does not depend on what the synthetic ones look like, nor the reverse."""
    real, labels = noise(8, 1, 60), np.zeros(60, np.int64)
    (near,) = contact_sheet((real, labels), (real, labels), ("a",))
    (far,) = contact_sheet((real, labels), (255 - real, labels), ("a",))
    assert near.real == far.real
    (flat,) = contact_sheet((np.zeros_like(real), labels), (real, labels), ("a",))
    assert near.synthetic == flat.synthetic
    assert contact_sheet((real, labels), (real, labels), ("a",), seed=1) != [near]
