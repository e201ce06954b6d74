"""Text in pixels is found in real files, covered, and never told."""

from __future__ import annotations

import functools
import gc
import itertools
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_text import LINES, clean_part, inside_of, plant_line, text_sample, thumbnails

from privsyn.bit_depth import Images
from privsyn.cohort import text
from privsyn.cohort.text import TextBox, cleared, find_text, masked, need_ocr
from privsyn.errors import CohortError

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


@functools.cache
def _boxes(name: str) -> tuple[TextBox, ...]:
    return find_text(text_sample(name))


def _covers(boxes: Sequence[TextBox], place: TextBox) -> bool:
    """Whether 9/10 of the place is in one of them, or in several."""
    covered = np.zeros((place.bottom, place.right), dtype=bool)
    for box in boxes:
        covered[inside_of(box)] = True
    return bool(covered[inside_of(place)].mean() >= 0.9)


@pytest.mark.parametrize("name", WITH_TEXT)
def test_text_is_found_in_real_files_that_have_it(name: str) -> None:
    """Among them one whose header says that it has none, and one whose header does not say."""
    height, width, _ = text_sample(name).shape
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
    pixels, boxes = text_sample(name), _boxes(name)
    result = cleared(pixels, boxes)
    assert result.shape == pixels.shape
    assert result.dtype == pixels.dtype
    assert find_text(result) == ()
    assert (result == pixels).all(axis=2).mean() > 0.8


@pytest.mark.parametrize("px", [8, 10, 14])
def test_small_text_is_found_where_it_is(px: int) -> None:
    """White on dark and black on bright, in an X-ray at its own size."""
    dark, bright = clean_part("RG1_UNCR", 500, 500, 350), clean_part("RG1_UNCR", 500, 1450, 900)
    for image in (dark, bright):
        pixels, place = plant_line(image, LINES[0], px, (200, 150))
        assert _covers(find_text(pixels), place)


def test_a_whole_radiograph_is_seen_in_its_own_size() -> None:
    """10 px in 1955 x 1841, across the border of two tiles: found, and as one line."""
    whole = clean_part("RG1_UNCR", 2000)
    borders = text._tiles(whole.shape[1], text.TILE)
    at = (1000, borders[0][1] - 60)
    pixels, place = plant_line(whole, LINES[0], 10, at)
    boxes = find_text(pixels)
    assert len(boxes) == 1
    assert _covers(boxes, place)


def test_letters_that_no_tile_can_hold_are_found() -> None:
    """300 px high on a radiograph: the look at the whole image is for these."""
    pixels, place = plant_line(clean_part("RG1_UNCR", 2000), "DOE JANE", 300, (700, 200))
    assert _covers(find_text(pixels), place)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_text_may_run_in_any_direction(turns: int) -> None:
    """Upwards, upside down and downwards."""
    pixels, _ = plant_line(clean_part("MR2_UNCR"), LINES[0], 14, (200, 100))
    assert find_text(np.ascontiguousarray(np.rot90(pixels, turns)))


def test_text_is_found_in_16_bits() -> None:
    """In the same place as in 8, and where it differs from what is around it by 1/6 of all levels alone."""
    pixels, place = plant_line(clean_part("MR2_UNCR"), LINES[0], 12, (150, 100), 40)
    deep = pixels.astype(np.uint16) * 257
    boxes = find_text(deep)
    assert _covers(boxes, place)
    hidden = masked(deep, boxes)
    assert hidden.dtype == np.uint16
    assert not find_text(hidden)


def test_text_is_found_in_colour() -> None:
    """Yellow on a brain."""
    pixels, place = plant_line(clean_part("ctbrain1"), LINES[0], 12, (250, 100), None)
    colour = np.repeat(pixels, 3, axis=2)
    colour[..., 2][inside_of(place)] //= 4
    assert _covers(find_text(colour), place)


def test_tiny_images_are_enlarged(shared_data: Path) -> None:
    """A line of 8 px on 64 px is found; nothing is found in cells of 32 px and in lungs of 28."""
    pixels, place = plant_line(clean_part("CT_small", 64, 32, 32), "DOE^JANE", 8, (20, 8))
    assert _covers(find_text(pixels), place)
    for images in thumbnails(shared_data):
        assert not any(find_text(image) for image in images[:20])


def test_the_same_pixels_give_the_same_boxes() -> None:
    """Whether or not other images were looked at in between."""
    assert find_text(text_sample("US1_UNCR")) == _boxes("US1_UNCR")


def test_nothing_is_found_where_there_is_nothing() -> None:
    """Blank images, and images of no pixels."""
    pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    for shape in ((0, 0, 1), (1, 1, 1), (300, 2, 3), (900, 900, 1)):
        assert find_text(np.zeros(shape, np.uint8)) == ()


def test_what_the_text_says_stays_nowhere(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not on the terminal, in a log, in what is returned, or in any string that something still holds."""
    letters, image = list("77KVWXZQ"), clean_part("MR2_UNCR")  # reversed, so that no string here says it
    with caplog.at_level(logging.DEBUG):
        caplog.clear()
        pixels, _ = plant_line(image, "".join(reversed(letters)), 20, (150, 100))
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
    np.save(tmp_path / "a.npy", plant_line(clean_part("MR2_UNCR"), LINES[0], 14, (150, 100))[0])
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
        other[inside_of(box)] = np.iinfo(dtype).max - other[inside_of(box)]
    kept = pixels.copy()
    result = masked(pixels, boxes)
    np.testing.assert_array_equal(result, masked(other, boxes))
    np.testing.assert_array_equal(pixels, kept)
    assert result.dtype == dtype
    assert len(np.unique(result[inside_of(boxes[0])])) == 1
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
