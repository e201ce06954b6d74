"""Text in pixels is found in real files, covered, and never told; how much goes unseen is bounded exactly."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import stats

from privsyn.bit_depth import Images
from privsyn.cohort import text
from privsyn.cohort.text import TextBox, cleared, find_text, masked, need_ocr, share_bound
from privsyn.errors import CohortError
from privsyn.recipe import Data

Grey = NDArray[np.uint8]

WITH_TEXT = (
    "GREYSCALE_IMAGE",
    "RGB_IMAGE",
    "US1_UNCR",
    "gdcm-US-ALOKA-16",
    "OBXXXX1A",
    "JPGLosslessP14SV1_1s_1f_8b",
)
# RG1_UNCR shows no side marker, RG3_UNCR a mirrored R; explicit_VR-UN has kidneys that look like zeros.
WITHOUT = (
    "cat",
    "CT_small",
    "MR_small",
    "RG1_UNCR",
    "RG3_UNCR",
    "ctbrain1",
    "693_UNCR",
    "MR2_UNCR",
    "explicit_VR-UN",
)
LINES = ("DOE^JANE 1951-08-29", "ID 4711823", "SMITH JOHN", "12 Mar 2019", "00047431395", "Mueller, K.")


@functools.cache
def _sample(name: str) -> Images:
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


@functools.cache
def _boxes(name: str) -> tuple[TextBox, ...]:
    return find_text(_sample(name))


def _clean(name: str, side: int = 400, top: int = 0, left: int = 0) -> Grey:
    """(H, W) uint8, a part of an image without text, stretched to black and white."""
    part = _sample(name)[top : top + side, left : left + side].mean(axis=2)
    return np.round((part - part.min()) * (255 / np.ptp(part))).astype(np.uint8)


def _planted(
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


def _covers(boxes: Sequence[TextBox], place: TextBox) -> bool:
    """Whether 9/10 of the place is in one of them, or in several."""
    covered = np.zeros((place.bottom, place.right), dtype=bool)
    for box in boxes:
        covered[_inside(box)] = True
    return bool(covered[_inside(place)].mean() >= 0.9)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_text_is_found_in_real_files_that_have_it(name: str) -> None:
    """Among them one whose header says that it has none, and one whose header does not say."""
    height, width, _ = _sample(name).shape
    assert len(_boxes(name)) >= 9
    for box in _boxes(name):
        assert 0 <= box.top < box.bottom <= height
        assert 0 <= box.left < box.right <= width
        assert box.characters >= 3


@pytest.mark.parametrize("name", WITHOUT)
def test_nothing_is_found_in_real_files_that_have_none(name: str) -> None:
    """Computed and plain radiographs, MR, a cat; side markers are no text."""
    assert _boxes(name) == ()


@pytest.mark.parametrize("name", WITH_TEXT)
def test_cleared_images_are_no_longer_flagged(name: str) -> None:
    """And only what is in the neighbourhood of text is changed."""
    pixels, boxes = _sample(name), _boxes(name)
    result = cleared(pixels, boxes)
    assert result.shape == pixels.shape
    assert result.dtype == pixels.dtype
    assert find_text(result) == ()
    assert (result == pixels).all(axis=2).mean() > 0.8


@pytest.mark.parametrize("px", [8, 10, 14])
def test_small_text_is_found_where_it_is(px: int) -> None:
    """White on dark and black on bright, in an X-ray at its own size."""
    dark, bright = _clean("RG1_UNCR", 500, 500, 350), _clean("RG1_UNCR", 500, 1450, 900)
    for image in (dark, bright):
        pixels, place = _planted(image, LINES[0], px, (200, 150))
        assert _covers(find_text(pixels), place)


def test_a_whole_radiograph_is_seen_in_its_own_size() -> None:
    """10 px in 1955 x 1841, across the border of two tiles: found, and as one line."""
    whole = _clean("RG1_UNCR", 2000)
    borders = text._tiles(whole.shape[1], text.TILE)
    at = (1000, borders[0][1] - 60)
    pixels, place = _planted(whole, LINES[0], 10, at)
    boxes = find_text(pixels)
    assert len(boxes) == 1
    assert _covers(boxes, place)


def test_letters_that_no_tile_can_hold_are_found() -> None:
    """300 px high on a radiograph: the look at the whole image is for these."""
    pixels, place = _planted(_clean("RG1_UNCR", 2000), "DOE JANE", 300, (700, 200))
    assert _covers(find_text(pixels), place)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_text_may_run_in_any_direction(turns: int) -> None:
    """Upwards, upside down and downwards."""
    pixels, _ = _planted(_clean("MR2_UNCR"), LINES[0], 14, (200, 100))
    assert find_text(np.ascontiguousarray(np.rot90(pixels, turns)))


def test_text_is_found_in_16_bits() -> None:
    """In the same place as in 8, and where it differs from what is around it by 1/6 of all levels alone."""
    pixels, place = _planted(_clean("MR2_UNCR"), LINES[0], 12, (150, 100), 40)
    deep = pixels.astype(np.uint16) * 257
    boxes = find_text(deep)
    assert _covers(boxes, place)
    hidden = masked(deep, boxes)
    assert hidden.dtype == np.uint16
    assert not find_text(hidden)


def test_text_is_found_in_colour() -> None:
    """Yellow on a brain."""
    pixels, place = _planted(_clean("ctbrain1"), LINES[0], 12, (250, 100), None)
    colour = np.repeat(pixels, 3, axis=2)
    colour[..., 2][_inside(place)] //= 4
    assert _covers(find_text(colour), place)


def test_tiny_images_are_enlarged(shared_data: Path) -> None:
    """A line of 8 px on 64 px is found; nothing is found in cells of 32 px and in lungs of 28."""
    pixels, place = _planted(_clean("CT_small", 64, 32, 32), "DOE^JANE", 8, (20, 8))
    assert _covers(find_text(pixels), place)
    for images in _thumbnails(shared_data):
        assert not any(find_text(image) for image in images[:20])


def test_the_same_pixels_give_the_same_boxes() -> None:
    """Whether or not other images were looked at in between."""
    assert find_text(_sample("US1_UNCR")) == _boxes("US1_UNCR")


def test_nothing_is_found_where_there_is_nothing() -> None:
    """Blank images, and images of no pixels."""
    pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    for shape in ((0, 0, 1), (1, 1, 1), (300, 2, 3), (900, 900, 1)):
        assert find_text(np.zeros(shape, np.uint8)) == ()


def test_what_the_text_says_stays_nowhere(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not on the terminal, in a log, in what is returned, or in any string that something still holds."""
    letters, image = list("77KVWXZQ"), _clean("MR2_UNCR")  # reversed, so that no string here says it
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        pixels, _ = _planted(image, "".join(reversed(letters)), 20, (150, 100))
        boxes = find_text(pixels)
    assert [box.characters for box in boxes] == [len(letters)]
    assert all(type(value) is int for box in boxes for value in vars(box).values())
    assert not _held(letters[::-1])
    kept = [("".join(reversed(letters)),)]
    assert _held(letters[::-1]), "this test would not see it"
    del kept
    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])


def _held(letters: list[str]) -> bool:
    """Whether a string that begins with these letters is in anything that Python knows of."""
    gc.collect()
    seen: set[int] = set()
    things = gc.get_objects()
    while things:
        for thing in gc.get_referents(things.pop()):
            if issubclass(type(thing), str) and list(thing[: len(letters)]) == letters:
                return True
            if not gc.is_tracked(thing) and not issubclass(type(thing), str) and id(thing) not in seen:
                seen.add(id(thing))  # such as a tuple of strings, which is not among gc's objects
                things.append(thing)
    return False


WATCHED = """
import os, sys
import numpy as np
from privsyn.cohort import text
assert not {"rapidocr", "onnxruntime", "cv2"} & set(sys.modules), "imported before it is needed"
text.need_ocr()
before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0

def watch(event, args):
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in {"os.mkdir", "os.rename", "os.remove", "socket.connect", "socket.getaddrinfo"}:
        if args[0] != os.devnull:
            print(event, args, flush=True)
            os._exit(1)

sys.addaudithook(watch)
pixels = np.load(sys.argv[1])
assert text.find_text(pixels)
after = len(os.listdir("/proc/self/task")) if before else 0
assert after == before, f"{after - before} more threads"
"""


def test_looking_writes_asks_and_says_nothing(tmp_path: Path) -> None:
    """A fresh process opens no file for writing and no connection, starts no thread, and is silent."""
    np.save(tmp_path / "a.npy", _planted(_clean("MR2_UNCR"), LINES[0], 14, (150, 100))[0])
    command = [sys.executable, "-B", "-c", WATCHED, str(tmp_path / "a.npy")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_extra_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first image, too."""
    monkeypatch.setattr(text, "_engine", functools.cache(text._engine.__wrapped__))
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    calls: tuple[Callable[[], object], ...] = (
        need_ocr,
        lambda: find_text(np.zeros((9, 9, 1), np.uint8)),
    )
    for call in calls:
        with pytest.raises(CohortError, match=r"pip install 'privsyn\[ocr\]'"):
            call()


def test_without_the_networks_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of RapidOCR holds others, and would fetch these."""
    pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    monkeypatch.setitem(text._WEIGHTS, "Det", "PP-OCRv9_det.onnx")
    with pytest.raises(CohortError, match=r"holds no PP-OCRv9_det.onnx: pip install"):
        need_ocr()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_masked_cannot_be_told_from_the_result(dtype: type[np.uint8] | type[np.uint16]) -> None:
    """Other content of the boxes gives the same pixels; the argument is left as it was."""
    generator = np.random.default_rng(0)
    pixels: Images = generator.integers(0, np.iinfo(dtype).max, (60, 80, 1), dtype=dtype)
    boxes = (TextBox(10, 10, 22, 50, 5), TextBox(24, 10, 36, 50, 5), TextBox(50, 70, 60, 80, 3))
    other = pixels.copy()
    for box in boxes:
        other[_inside(box)] = np.iinfo(dtype).max - other[_inside(box)]
    kept = pixels.copy()
    result = masked(pixels, boxes)
    np.testing.assert_array_equal(result, masked(other, boxes))
    np.testing.assert_array_equal(pixels, kept)
    assert result.dtype == dtype
    assert len(np.unique(result[_inside(boxes[0])])) == 1
    np.testing.assert_array_equal(result[:8], pixels[:8])  # 2 px of margin


def test_a_mask_has_the_colour_of_what_is_around_it() -> None:
    """In each channel; and if all of the image is covered, it is black."""
    pixels = np.full((40, 60, 3), (200, 100, 50), np.uint8)
    pixels[10:20, 10:50] = 255
    covered = masked(pixels, [TextBox(10, 10, 20, 50, 4)])
    assert (covered == (200, 100, 50)).all()
    assert not masked(pixels, [TextBox(0, 0, 40, 60, 4)]).any()
    np.testing.assert_array_equal(masked(pixels, []), pixels)


def test_clearing_gives_up_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an error that says what to do."""
    box = TextBox(1, 1, 4, 4, 3)
    monkeypatch.setattr(text, "find_text", lambda *_, **__: (box,))
    with pytest.raises(CohortError, match="leave this image out"):
        cleared(np.zeros((9, 9, 1), np.uint8), (box,))


@given(st.integers(1, 5000), st.integers(200, text.TILE))
def test_tiles_cover_all_and_overlap_enough(length: int, side: int) -> None:
    """None is larger than a side."""
    tiles = text._tiles(length, side)
    assert tiles[0][0] == 0
    assert tiles[-1][1] == length
    assert all(0 < end - start <= side for start, end in tiles)
    assert all(end - start >= text.TILE_OVERLAP for (_, end), (start, _) in itertools.pairwise(tiles))


@given(st.data())
def test_the_bound_is_that_of_a_naive_count(data: st.DataObject) -> None:
    """Against the formula with binomial coefficients, for each K in turn, without rounding."""
    of = data.draw(st.integers(1, 30))
    looked = data.draw(st.integers(0, of))
    flagged = data.draw(st.integers(0, looked))
    confidence = data.draw(st.sampled_from([0.5, 0.9, 0.95, 0.99]))
    possible = range(flagged, of - (looked - flagged) + 1)

    def chance(K: int) -> Fraction:
        ways = sum(math.comb(K, x) * math.comb(of - K, looked - x) for x in range(flagged + 1))
        return Fraction(ways, math.comb(of, looked))

    largest = max(K for K in possible if chance(K) > 1 - Fraction(str(confidence)))
    assert share_bound(flagged, looked, of, confidence) == largest / of


@pytest.mark.parametrize(("flagged", "looked"), [(0, 1000), (1, 1000), (30, 1000), (400, 1000)])
def test_the_bound_of_a_large_source_is_clopper_and_pearsons(flagged: int, looked: int) -> None:
    """And a bit less, as the source is finite."""
    infinite = stats.beta.ppf(0.95, flagged + 1, looked - flagged)
    assert share_bound(flagged, looked, 1_000_000) == pytest.approx(infinite, rel=0.01)
    assert share_bound(flagged, looked, 3000) < infinite


def test_looking_at_all_leaves_no_doubt_and_at_none_all() -> None:
    """The bound is the share itself, or 1; what cannot be is refused."""
    assert share_bound(7, 100, 100) == 0.07
    assert share_bound(0, 0, 100) == 1.0
    for impossible in ((2, 1, 5), (0, 6, 5), (-1, 3, 5), (0, 0, 0)):
        with pytest.raises(ValueError, match="cannot be"):
            share_bound(*impossible)


@pytest.mark.parametrize("truth", [0, 3, 40, 500])
def test_the_bound_holds_as_often_as_it_says(truth: int) -> None:
    """Of 2000 draws of 200 from 2000, at most 5 % end with a bound below the truth (and chance: 3 sigma)."""
    draws = np.random.default_rng(truth).hypergeometric(truth, 2000 - truth, 200, size=2000)
    bounds = {int(seen): share_bound(int(seen), 200, 2000) for seen in np.unique(draws)}
    missed = np.mean([bounds[int(seen)] < truth / 2000 for seen in draws])
    assert missed <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 2000)


CLEAN = ("RG1_UNCR", "RG3_UNCR", "693_UNCR", "MR2_UNCR", "ctbrain1")


def _backgrounds(count: int, seed: int) -> Iterator[tuple[Grey, np.random.Generator]]:
    """Parts of 400 px, at random, of real images without text."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        name = CLEAN[number % len(CLEAN)]
        height, width, _ = _sample(name).shape
        top, left = (int(generator.integers(0, side - 400 + 1)) for side in (height, width))
        yield _clean(name, 400, top, left), generator


def _thumbnails(shared_data: Path) -> Iterator[Images]:
    yield np.load(shared_data / "bccd32.npz")["images"]
    yield np.load(shared_data / "pneumoniamnist.npz")["test_images"][..., np.newaxis]


def _inside(box: TextBox) -> tuple[slice, slice]:
    return slice(box.top, box.bottom), slice(box.left, box.right)


FLAGGED = {(8, None): 0.8, (10, None): 0.9, (12, None): 0.9, (14, None): 0.9, (8, 40): 0.2, (14, 40): 0.75}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_recall_of_planted_text() -> None:
    """Share of 40 images with one line planted, anywhere, that were flagged, and in which 9/10 was covered.

    Measured with rapidocr 3.10.0, onnxruntime 1.32.0, opencv 5.0.0; faint is 40 of 255 levels from the
    median around it, sharp is white on dark and black on bright.

    What is left uncovered is mostly a word, or the end of a line on tissue as bright as it.

    | px | ink   | flagged | covered |
    |----|-------|---------|---------|
    | 8  | sharp | .93     | .90     |
    | 10 | sharp | 1.00    | .98     |
    | 12 | sharp | .98     | .95     |
    | 14 | sharp | 1.00    | .85     |
    | 8  | faint | .40     | .30     |
    | 14 | faint | .88     | .80     |
    """
    share = {}
    for px, difference in FLAGGED:
        flagged = []
        for number, (image, generator) in enumerate(_backgrounds(40, seed=px)):
            at = (int(generator.integers(0, 375)), int(generator.integers(0, 200)))
            pixels, _ = _planted(image, LINES[number % len(LINES)], px, at, difference)
            flagged.append(bool(find_text(pixels)))
        share[px, difference] = float(np.mean(flagged))
    assert all(share[case] >= least for case, least in FLAGGED.items()), share


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_false_flags_on_clean_images(shared_data: Path) -> None:
    """None of 100 parts of X-rays, CT and MR, of 200 blood cells, of 200 chest thumbnails, when measured."""
    parts: list[Images] = [image[..., np.newaxis] for image, _ in _backgrounds(100, seed=0)]
    flagged = {"parts": sum(bool(find_text(image)) for image in parts)}
    for name, images in zip(("cells", "chests"), _thumbnails(shared_data), strict=True):
        flagged[name] = sum(bool(find_text(image)) for image in images[:200])
    assert sum(flagged.values()) <= 5, flagged
