"""Images as `data:` URIs, so that a report is one file, and the random choice of which to show."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privsyn.bit_depth import Images, in_8_bits

SHEET_CLASSES, SHEET_IMAGES = 10, 10
CONTACT_IMAGES = 8  # of either kind
SHEET_EDGE, PAIR_EDGE = 96, 140  # pixels on the page that small images are enlarged to, at most


@dataclass(frozen=True)
class InlineImage:
    """One image for the page.

    Attributes:
        uri: the image itself, a PNG as a `data:` URI.
        edge: width and height on the page, in CSS pixels.
        reduced: the page shows it smaller than it is, so it must be smoothed.
    """

    uri: str
    edge: int
    reduced: bool


@dataclass(frozen=True)
class ClassRow:
    """The images of one class that a sheet shows, out of `count` in all."""

    name: str
    count: int
    pictures: tuple[InlineImage, ...]


@dataclass(frozen=True)
class ClassComparison:
    """Real and synthetic images of one class, each drawn independently of the other."""

    real: ClassRow
    synthetic: ClassRow


def sheet(
    images: Images,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    seed: int = 0,
    most: int = SHEET_IMAGES,
) -> list[ClassRow]:
    """Up to `most` images of each of the first 10 classes, drawn at random with a fixed seed.

    Args:
        images: (n, H, W, C).
        labels: (n,) indices into `classes`; an image with any other is not shown.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for label, name in list(enumerate(classes))[:SHEET_CLASSES]:
        members = np.flatnonzero(labels == label)
        shown = np.sort(generator.permutation(members)[:most])
        rows.append(ClassRow(name, len(members), tuple(thumbnail(images[i]) for i in shown)))
    return rows


def contact_sheet(
    real: tuple[Images, NDArray[np.int64]],
    synthetic: tuple[Images, NDArray[np.int64]],
    classes: Sequence[str],
    seed: int = 0,
) -> list[ClassComparison]:
    """Up to 8 images of either kind of each of the first 10 classes, each kind a `sheet` of its own.

    Args:
        real, synthetic: images (n, H, W, C) and labels (n,) as `sheet` takes them.
    """
    unseen, drawn = (
        sheet(*kind, classes, own, CONTACT_IMAGES) for kind, own in ((real, seed + 1), (synthetic, seed))
    )
    return [ClassComparison(*each) for each in zip(unseen, drawn, strict=True)]


def thumbnail(image: Images) -> InlineImage:
    """An image for a sheet; a large one is reduced to twice its size on the page, to keep the file small."""
    drawn = _drawn(image)
    drawn.thumbnail((2 * SHEET_EDGE, 2 * SHEET_EDGE), Image.Resampling.LANCZOS)
    return InlineImage(
        _uri(drawn), _enlarged(drawn.width, SHEET_EDGE) or SHEET_EDGE, drawn.width > SHEET_EDGE
    )


def whole(image: Images) -> InlineImage:
    """An image to be judged by eye, at its full resolution."""
    drawn = _drawn(image)
    return InlineImage(_uri(drawn), _enlarged(drawn.width, PAIR_EDGE) or drawn.width, drawn.width > PAIR_EDGE)


def _enlarged(width: int, edge: int) -> int:
    """The largest whole multiple of `width` within `edge`, so that pixels stay square; 0 if there is none."""
    return edge // width * width


def _drawn(image: Images) -> Image.Image:
    shown = in_8_bits(image)  # no screen shows more
    return Image.fromarray(shown[..., 0] if shown.shape[-1] == 1 else shown)


def _uri(drawn: Image.Image) -> str:
    out = io.BytesIO()
    drawn.save(out, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")
