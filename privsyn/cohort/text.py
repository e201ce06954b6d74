"""Text burned into the pixels of an image: find it, mask it, and bound the share of images that have it.

Text is found by OCR (RapidOCR, whose wheel contains its networks). An image is flagged if the network detects
a line and reads at least three letters or digits in it, whichever they are: a misread name is still a name.
The characters are counted and dropped at once; they are never kept, logged or returned. This is the only
module that imports rapidocr.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privsyn.bit_depth import Images, in_8_bits
from privsyn.errors import CohortError

if TYPE_CHECKING:
    from rapidocr import RapidOCR

Grey = NDArray[np.uint8]

MIN_CHARACTERS = 3  # letters and digits in a line that is text; side markers and noise have one or two
MIN_READING = 0.65  # mean confidence in them; text of 8 px has .8, what is not text at most .6
TILE = 736  # pixels of a side that the network sees at once; more costs memory and, per pixel, more time
TILE_OVERLAP = 64  # pixels of the image that tiles share; three characters of 14 px fit into them
ENLARGEMENT = 1.5  # helps to find faint text of 8 px; 2 takes twice the time and finds hardly more
MAX_LINE_SHARE = 0.2  # of the image's shorter side; taller "lines" are anatomy that looks like letters
ALWAYS_LINE = 48  # pixels; a line up to this height counts in images of any size
LARGE_SIDE = 1024  # pixels of the shorter side; larger images are searched at their own size
SMALLEST_SIDE = 256  # pixels; the shorter side is enlarged to at least this
CONTRAST_CELL = 64  # pixels, of the image, in which contrast is equalised
ROUNDING_MARGIN = 1e-12  # of a probability: one that equals its limit is not above it
MASKING_ROUNDS = 4  # of masking and looking again
CONTRAST_LIMIT = 3.0  # how much contrast is raised at most

_WEIGHTS = {
    "Det": "PP-OCRv6_det_small.onnx",
    "Rec": "PP-OCRv6_rec_small.onnx",
    "Cls": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
}
_HINT = "looking for text in images needs RapidOCR: pip install 'privsyn[ocr]'"


@dataclass(frozen=True)
class TextBox:
    """A place with text: rows `top` to `bottom` and columns `left` to `right` of the image, ends excluded.

    Attributes:
        characters: how many letters and digits were read there, at least 3.
    """

    top: int
    left: int
    bottom: int
    right: int
    characters: int


@dataclass(frozen=True)
class _Look:
    """A part of an image, and how many times as large it is shown to the network."""

    top: int
    left: int
    height: int
    width: int
    scale: float


def need_ocr() -> None:
    """Check that the extra is installed and contains its networks, before the first image is searched.

    Raises:
        CohortError: how to install it.
    """
    try:
        import rapidocr

        importlib.import_module("rapidocr.main")  # loads OpenCV, as the package itself does not
        importlib.import_module("onnxruntime")  # has no types, and rapidocr does not depend on it
    except ImportError:
        raise CohortError(_HINT) from None
    folder = Path(rapidocr.__file__).parent / "models"
    if missing := [name for name in _WEIGHTS.values() if not (folder / name).is_file()]:
        raise CohortError(f"this RapidOCR holds no {missing[0]}: pip install 'rapidocr>=3.9,<4'")


def find_text(pixels: Images, *, threads: int = 1) -> tuple[TextBox, ...]:
    """The places with text of at least three letters or digits; deterministic.

    Every part is enlarged and its contrast equalised; a large image is searched once more as a whole, for
    large letters.

    Args:
        pixels: (H, W, 1) or (H, W, 3) uint8, or (H, W, 1) uint16.
        threads: of this process, for the networks.

    Raises:
        CohortError: the extra `ocr` is missing.
    """
    engine = _engine(threads)
    found = [box for look in _looks(*pixels.shape[:2]) for box in _seen(engine, pixels, look)]
    return _merged(found)


def masked(pixels: Images, boxes: Sequence[TextBox]) -> Images:
    """A copy with each box, and a margin around it, filled with the median of what lies around that.

    The margin, an eighth of the line's height and at least 2 px, covers blurred edges and what JPEG spreads
    around them. It is small, as boxes are generous and half a neighbouring sign may read as something new.
    No pixel in any box influences what a box is filled with.
    """
    covered = pixels.copy()
    grown = [_grown(box, pixels.shape) for box in boxes]
    free = np.ones(pixels.shape[:2], dtype=bool)
    for box in grown:
        free[_region(box)] = False
    for box in grown:
        around = _region(_widened(box, _margin(box), pixels.shape))
        border = pixels[around][free[around]]
        if not len(border):
            border = pixels[free] if free.any() else np.zeros((1, pixels.shape[2]), pixels.dtype)
        covered[_region(box)] = np.median(border, axis=0).astype(pixels.dtype)
    return covered


def cleared(pixels: Images, boxes: Sequence[TextBox], *, threads: int = 1) -> Images:
    """Mask the boxes and search again, until no text is found; `boxes` are those of the first search.

    One round is not always enough: half of a sign beside a box may be read as letters when the rest is gone.
    What no round finds stays, such as one or two letters, or the faint end of a line.

    Raises:
        CohortError: there is still text after ROUNDS rounds.
    """
    for _ in range(MASKING_ROUNDS):
        pixels = masked(pixels, boxes)
        boxes = find_text(pixels, threads=threads)
        if not boxes:
            return pixels
    raise CohortError(f"still shows text after it was masked {MASKING_ROUNDS} times: leave this image out")


def share_bound(flagged: int, looked: int, of: int, confidence: float = 0.95) -> float:
    """Upper bound on the share of `of` images that would be flagged, from `looked` drawn without replacement.

    The largest K / of for which P(X <= flagged) > 1 - confidence, where X is hypergeometric with K flagged of
    `of` and `looked` draws. It is exact: Clopper and Pearson's bound
    (Biometrika 26, 1934, https://doi.org/10.1093/biomet/26.4.404) for a finite population.

    Raises:
        ValueError: not 0 <= flagged <= looked <= of, or of = 0.
    """
    if not (0 <= flagged <= looked <= of and of):
        raise ValueError(f"{flagged} flagged of {looked} looked at of {of} images cannot be")
    from scipy import stats  # slow to import, and only used if text is searched

    low, high = flagged, of - (looked - flagged)  # K is at least and at most this
    while low < high:
        middle = (low + high + 1) // 2
        if stats.hypergeom.cdf(flagged, of, middle, looked) > (1 - confidence) * (1 + ROUNDING_MARGIN):
            low = middle
        else:
            high = middle - 1
    return low / of


@functools.cache
def _engine(threads: int) -> RapidOCR:
    """The networks, by their paths in the wheel: RapidOCR downloads those that have no path."""
    need_ocr()
    import cv2
    import rapidocr

    # On Windows onnxruntime tells the system what it runs.
    importlib.import_module("onnxruntime").disable_telemetry_events()
    cv2.setNumThreads(threads)
    folder = Path(rapidocr.__file__).parent / "models"
    return rapidocr.RapidOCR(
        params={
            **{f"{part}.model_path": str(folder / name) for part, name in _WEIGHTS.items()},
            "Global.log_level": "critical",
            "Global.text_score": MIN_READING,
            "Global.max_side_len": 10 * TILE,  # sizes are chosen here, not there
            "Det.limit_side_len": 32,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def _looks(height: int, width: int) -> Iterator[_Look]:
    """Overlapping tiles, shown enlarged to the network, and the whole image if it needs several tiles."""
    if not height or not width:
        return
    shorter = min(height, width)
    scale = max(1.0, min(ENLARGEMENT, LARGE_SIDE / shorter), SMALLEST_SIDE / shorter)
    rows, columns = (_tiles(length, int(TILE / scale)) for length in (height, width))
    for top, bottom in rows:
        for left, right in columns:
            yield _Look(top, left, bottom - top, right - left, scale)
    if len(rows) * len(columns) > 1:
        yield _Look(0, 0, height, width, min(1.0, TILE / max(height, width)))


def _tiles(length: int, side: int) -> list[tuple[int, int]]:
    """Start and end of the fewest and smallest overlapping tiles of at most `side` that cover `length`."""
    count = max(1, math.ceil((length - TILE_OVERLAP) / (side - TILE_OVERLAP)))
    side = min(length, math.ceil((length + (count - 1) * TILE_OVERLAP) / count))
    starts = [number * (length - side) // max(1, count - 1) for number in range(count)]
    return [(start, start + side) for start in starts]


def _seen(engine: RapidOCR, pixels: Images, look: _Look) -> Iterator[TextBox]:
    part = pixels[look.top : look.top + look.height, look.left : look.left + look.width]
    if part.min() == part.max():
        return
    result: Any = engine(_shown(part, look.scale))  # of another type where nothing was detected, or read
    if getattr(result, "txts", None) is None or result.boxes is None:
        return
    tallest = max(ALWAYS_LINE, MAX_LINE_SHARE * min(pixels.shape[:2]))
    for corners, line in zip(result.boxes / look.scale, result.txts, strict=True):
        characters = sum(character.isalnum() for character in line)
        height = np.linalg.norm(corners[[1, 3]] - corners[0], axis=1).min()  # of a line of any direction
        if characters >= MIN_CHARACTERS and height <= tallest:
            yield _box(corners, look, characters)


def _box(corners: NDArray[np.float64], look: _Look, characters: int) -> TextBox:
    left, top = (int(low) for low in np.floor(corners.min(axis=0)))
    right, bottom = (int(high) for high in np.ceil(corners.max(axis=0)))
    return TextBox(
        look.top + max(0, top),
        look.left + max(0, left),
        look.top + min(look.height, bottom),
        look.left + min(look.width, right),
        characters,
    )


def _shown(part: Images, scale: float) -> Grey:
    """(H, W, 3) uint8 in OpenCV's order of colours: the mean of the image and its equalised version.

    Equalisation alone (contrast-limited adaptive histogram) shows faint text, but hides sharp text in noise.
    """
    import cv2

    height, width, channels = part.shape
    even = cv2.createCLAHE(
        CONTRAST_LIMIT, (max(1, round(width / CONTRAST_CELL)), max(1, round(height / CONTRAST_CELL)))
    )
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shown: list[Grey] = []
    for channel in reversed(range(channels)):
        grey: NDArray[Any] = np.ascontiguousarray(part[..., channel])
        mean: NDArray[Any] = ((grey.astype(np.uint32) + even.apply(grey)) // 2).astype(part.dtype)
        shown.append(np.asarray(Image.fromarray(in_8_bits(mean)).resize(size, Image.Resampling.BICUBIC)))
    return np.stack(shown * (3 // channels), axis=2)


def _merged(boxes: Sequence[TextBox]) -> tuple[TextBox, ...]:
    """One box per line, also if overlapping tiles found it twice or in two parts; from top to bottom."""
    lines: list[TextBox] = []
    for box in boxes:
        while same := next((line for line in lines if _same_line(line, box)), None):
            lines.remove(same)
            box = TextBox(
                min(box.top, same.top),
                min(box.left, same.left),
                max(box.bottom, same.bottom),
                max(box.right, same.right),
                max(box.characters, same.characters),
            )
        lines.append(box)
    return tuple(sorted(lines, key=lambda box: (box.top, box.left, box.bottom, box.right)))


def _same_line(a: TextBox, b: TextBox) -> bool:
    shared = min(a.bottom, b.bottom) - max(a.top, b.top)
    touching = min(a.right, b.right) > max(a.left, b.left)
    return touching and 2 * shared >= min(a.bottom - a.top, b.bottom - b.top)


def _margin(box: TextBox) -> int:
    return max(2, math.ceil(min(box.bottom - box.top, box.right - box.left) / 8))


def _grown(box: TextBox, shape: tuple[int, ...]) -> TextBox:
    return _widened(box, _margin(box), shape)


def _widened(box: TextBox, by: int, shape: tuple[int, ...]) -> TextBox:
    return TextBox(
        max(0, box.top - by),
        max(0, box.left - by),
        min(shape[0], box.bottom + by),
        min(shape[1], box.right + by),
        box.characters,
    )


def _region(box: TextBox) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)
