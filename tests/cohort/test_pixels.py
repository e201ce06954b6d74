"""What becomes of an image file, and what is refused rather than quietly changed."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from privsyn.cohort.pixels import fit_pixels, open_regular, read_image, read_picture
from privsyn.errors import CohortError
from privsyn.recipe import Data

Noise = Callable[..., NDArray[np.uint8]]
GREY = Data(size=8, channels=1, classes=("a",))
GREY_16 = Data(size=8, channels=1, classes=("a",), bit_depth=16)
RGB = Data(size=8, channels=3, classes=("a",))


def _png(path: Path, bit_depth: int, colour_type: int, samples: int) -> Path:
    """A 4x3 PNG of zeros, written by hand, since Pillow cannot write 16-bit colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 4, 3, bit_depth, colour_type, 0, 0, 0)
    rows = (b"\0" + bytes(4 * samples * bit_depth // 8)) * 3
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp"])
@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_lossless_files_give_their_exact_pixels(
    tmp_path: Path, noise: Noise, suffix: str, shape: tuple[int, ...]
) -> None:
    """Grey comes as one channel and RGB as three; WebP has no grey and gives three equal ones."""
    pixels, path = noise(*shape), tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.ndim == 3
    np.testing.assert_array_equal(read, np.broadcast_to(pixels.reshape(5, 7, -1), read.shape))


def test_jpeg_is_read_in_grey_and_colour(tmp_path: Path, noise: Noise) -> None:
    """JPEG keeps the number of channels it was saved with."""
    for shape, channels in (((8, 8), 1), ((8, 8, 3), 3)):
        Image.fromarray(noise(*shape)).save(tmp_path / "a.jpg")
        assert read_image(tmp_path / "a.jpg").shape == (8, 8, channels)


def test_exif_orientation_is_applied(tmp_path: Path, noise: Noise) -> None:
    """A photograph tagged as lying on its side comes upright."""
    pixels, exif = noise(4, 6), Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to display
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], np.rot90(pixels, -1))


def test_palettes_bilevel_and_opaque_alpha_lose_nothing(tmp_path: Path, noise: Noise) -> None:
    """They are only other spellings of RGB or grey."""
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], dtype=np.uint8)
    Image.fromarray(colours).quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_image(tmp_path / "palette.png"), colours)
    Image.fromarray(colours).convert("RGBA").save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(read_image(tmp_path / "opaque.png"), colours)
    bilevel = noise(8, 8) > 127
    Image.fromarray(bilevel).save(tmp_path / "bilevel.png")
    np.testing.assert_array_equal(read_image(tmp_path / "bilevel.png")[..., 0], bilevel * 255)


def test_transparent_pixels_are_refused(tmp_path: Path) -> None:
    """What lies behind them is not known: by alpha, and by a transparent colour."""
    Image.new("RGBA", (4, 4), (1, 2, 3, 128)).save(tmp_path / "alpha.png")
    Image.new("L", (4, 4), 7).save(tmp_path / "key.png", transparency=7)
    for name in ("alpha.png", "key.png"):
        with pytest.raises(CohortError, match="transparent"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(("colour_type", "samples"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_png_is_refused_in_every_colour_type(tmp_path: Path, colour_type: int, samples: int) -> None:
    """Pillow reads 16-bit colour as 8-bit without a word; we notice."""
    with pytest.raises(CohortError, match="more than 8 bits"):
        read_image(_png(tmp_path / "16.png", 16, colour_type, samples))


def test_deep_tiff_many_frames_and_print_colours_are_refused(tmp_path: Path) -> None:
    """Each by its own reason."""
    Image.new("I", (4, 4)).save(tmp_path / "a.tif", compression="tiff_lzw")
    Image.new("F", (4, 4)).save(tmp_path / "b.tif")
    Image.new("L", (4, 4)).save(tmp_path / "c.tif", save_all=True, append_images=[Image.new("L", (4, 4), 1)])
    Image.new("CMYK", (4, 4)).save(tmp_path / "d.jpg")
    reasons = {"a.tif": "32 bits", "b.tif": "32 bits", "c.tif": "one frame", "d.jpg": "CMYK"}
    for name, reason in reasons.items():
        with pytest.raises(CohortError, match=reason):
            read_image(tmp_path / name)


def test_broken_and_missing_files_are_refused(tmp_path: Path, noise: Noise) -> None:
    """Text, a file cut short, another format under a PNG name, a folder, and nothing at all."""
    Image.fromarray(noise(32, 32)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-200])
    Image.fromarray(noise(8, 8)).save(tmp_path / "gif.png", format="GIF")
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    for name in ("cut.png", "gif.png", "text.png", "empty.png"):
        with pytest.raises(CohortError, match="read"):
            read_image(tmp_path / name)
    for name in ("folder.png", "missing.png"):
        with pytest.raises(CohortError, match="does not exist, or is not a file"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("side", [12, 30])
def test_images_beyond_pillows_limit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    """Both where Pillow only warns (up to twice the limit) and where it stops."""
    Image.new("L", (side, side)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CohortError, match="more than 100 pixels"):
        read_image(tmp_path / "a.png")


def test_channels_change_only_where_nothing_is_lost(noise: Noise) -> None:
    """Grey is repeated for RGB; RGB becomes grey if its channels are equal, and is refused else."""
    grey = noise(8, 8, 1)
    np.testing.assert_array_equal(fit_pixels(grey, RGB), np.repeat(grey, 3, axis=2))
    np.testing.assert_array_equal(fit_pixels(np.repeat(grey, 3, axis=2), GREY), grey)
    with pytest.raises(CohortError, match=r"in colour, the recipe wants grey.*data\.channels"):
        fit_pixels(noise(8, 8, 3), GREY)


def test_another_size_is_refused_unless_declared(noise: Noise) -> None:
    """The message gives width x height and says what to set."""
    with pytest.raises(CohortError, match=r"30x28 px, the recipe wants 8x8 \(set data\.resize"):
        fit_pixels(noise(28, 30, 1), GREY)
    with pytest.raises(CohortError, match=r"no pixels \(8x0 px\)"):
        fit_pixels(noise(0, 8, 1), GREY.model_copy(update={"resize": "fit"}))


def test_the_three_ways_to_resize() -> None:
    """fit keeps all and may distort, crop keeps the centre, pad adds black; each antialiases."""
    wide = np.zeros((16, 32, 1), dtype=np.uint8)
    wide[:, :8], wide[:, 8:24], wide[:, 24:] = 60, 120, 180
    made = {way: fit_pixels(wide, GREY.model_copy(update={"resize": way})) for way in ("fit", "crop", "pad")}
    assert {image.shape for image in made.values()} == {(8, 8, 1)}
    np.testing.assert_allclose(made["fit"][4, [0, 4, 7], 0], [60, 120, 180], atol=2)
    np.testing.assert_allclose(made["crop"], 120, atol=5)
    assert made["pad"][[0, 7]].max() == 0
    np.testing.assert_allclose(made["pad"][4, [0, 4, 7], 0], [60, 120, 180], atol=5)
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)[..., np.newaxis]
    grey = fit_pixels(checkerboard, RGB.model_copy(update={"resize": "fit"}))
    assert np.abs(grey.astype(int) - 127).max() < 10


def test_an_image_of_the_right_size_is_never_resampled(noise: Noise) -> None:
    """`data.resize` changes nothing that fits already."""
    pixels = noise(8, 8, 1)
    for way in ("fit", "crop", "pad"):
        np.testing.assert_array_equal(fit_pixels(pixels, GREY.model_copy(update={"resize": way})), pixels)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "lzw.tif", "big.tif"])
def test_16_bit_grey_is_read_exactly(tmp_path: Path, name: str) -> None:
    """From PNG and TIFF, whatever the order of bytes in the file."""
    pixels = np.random.default_rng(0).integers(0, 2**16, (5, 7), dtype=np.uint16)
    image = Image.fromarray(pixels)
    if name == "big.tif":
        image = Image.frombytes("I;16B", (7, 5), pixels.astype(">u2").tobytes())
    image.save(tmp_path / name, **({"compression": "tiff_lzw"} if name == "lzw.tif" else {}))
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint16
    assert read.dtype.isnative
    np.testing.assert_array_equal(read[..., 0], pixels)


def test_a_16_bit_tiff_whose_zero_is_white_is_turned_round(tmp_path: Path) -> None:
    """Pillow turns 8 bits round, and leaves 16 as they are."""
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    for bits, white in ((8, 255), (16, 65535)):
        stored = (pixels >> (16 - bits)).astype(f"u{bits // 8}")
        Image.fromarray(stored).save(tmp_path / "a.tif")
        content = (tmp_path / "a.tif").read_bytes()
        black = content.replace(struct.pack("<HHII", 262, 3, 1, 1), struct.pack("<HHII", 262, 3, 1, 0))
        (tmp_path / "b.tif").write_bytes(black)
        assert black != content
        np.testing.assert_array_equal(read_image(tmp_path / "b.tif")[..., 0], white - stored)


def test_a_transparent_level_of_16_bits_is_refused(tmp_path: Path) -> None:
    """As one of 8; a level that no pixel has does not matter."""
    image = Image.fromarray(np.full((4, 4), 777, dtype=np.uint16))
    image.save(tmp_path / "a.png", transparency=777)
    image.save(tmp_path / "b.png", transparency=778)
    with pytest.raises(CohortError, match="transparent"):
        read_image(tmp_path / "a.png")
    assert read_image(tmp_path / "b.png").max() == 777


def test_another_bit_depth_is_refused_with_what_to_set(noise: Noise) -> None:
    """The recipe decides; nothing is stretched or cut."""
    deep = np.zeros((8, 8, 1), dtype=np.uint16)
    assert fit_pixels(deep, GREY_16).dtype == np.uint16
    with pytest.raises(
        CohortError, match=r"holds 16 bits per pixel, the recipe wants 8: set data\.bit_depth"
    ):
        fit_pixels(deep, GREY)
    with pytest.raises(
        CohortError, match=r"holds 8 bits per pixel, the recipe wants 16: set data\.bit_depth"
    ):
        fit_pixels(noise(8, 8, 1), GREY_16)


@pytest.mark.parametrize("way", ["fit", "crop", "pad"])
def test_16_bits_are_resized_as_8_bits_are_without_losing_any(way: str, noise: Noise) -> None:
    """Levels between those of 8 bits survive; where curves overshoot they end at the last level."""
    smooth = np.linspace(30_000, 30_200, 16 * 32).reshape(16, 32, 1).astype(np.uint16)
    made = fit_pixels(smooth, GREY_16.model_copy(update={"resize": way}))
    assert made.dtype == np.uint16
    assert made.shape == (8, 8, 1)
    inside = made[made > 0].astype(int)
    assert len(np.unique(inside)) > 20
    assert 29_990 < inside.min() < inside.max() < 30_210
    eight = noise(16, 32, 1)
    wanted = fit_pixels(eight, GREY.model_copy(update={"resize": way})).astype(float)
    got = fit_pixels(eight.astype(np.uint16) * 257, GREY_16.model_copy(update={"resize": way})) / 257
    np.testing.assert_allclose(got, wanted, atol=1.5)
    edges = (
        np.repeat(np.array([[0, 65535]], dtype=np.uint16), 16, axis=1).reshape(1, 32, 1).repeat(16, axis=0)
    )
    sharp = fit_pixels(edges, GREY_16.model_copy(update={"resize": "fit"}))
    assert sharp.min() == 0
    assert sharp.max() == 65535


def test_bytes_and_files_give_the_same_picture(tmp_path: Path, noise: Noise) -> None:
    """A cell of a table holds bytes."""
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    np.testing.assert_array_equal(read_picture(content).pixels, read_image(tmp_path / "a.png"))
    with pytest.raises(CohortError, match="not a readable PNG"):
        read_picture(b"")


def test_what_may_identify_somebody_is_told_by_name(tmp_path: Path, noise: Noise) -> None:
    """Texts, EXIF with its sub-folders, comments, profiles, XMP; not how the pixels are laid out."""
    image, exif, text = Image.fromarray(noise(8, 8)), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010F], exif[0x0112], exif[0x011A] = "Maker", 1, 72.0
    exif.get_ifd(0x8769)[0xA431] = "serial \x1b[2J" + "9" * 99
    exif.get_ifd(0x8825)[1] = "N"
    text.add_text("Author", "Doe")
    text.add_text("XML:com.adobe.xmp", "<x:xmpmeta>")
    image.save(tmp_path / "a.png", pnginfo=text, exif=exif, icc_profile=b"x" * 200)
    image.save(tmp_path / "a.jpg", comment="of Doe", exif=exif)
    image.save(tmp_path / "a.webp", exif=exif, xmp=b"<x:xmpmeta>")
    image.save(tmp_path / "a.tif", tiffinfo={270: "of Doe", 305: "PACS 7", 700: b"<x:xmpmeta>"})
    marks = {path.suffix: _marks(path) for path in tmp_path.iterdir()}
    camera = {"EXIF Make", "EXIF BodySerialNumber", "EXIF GPSInfo"}
    assert set(marks[".png"]) == camera | {"PNG text Author", "XMP", "ICC profile"}
    assert set(marks[".jpg"]) == camera | {"JPEG comment"}
    assert set(marks[".webp"]) == camera | {"XMP"}
    assert set(marks[".tif"]) == {"TIFF ImageDescription", "TIFF Software", "TIFF XMLPacket", "XMP"}
    assert marks[".png"]["PNG text Author"] == "Doe"
    assert marks[".jpg"]["JPEG comment"] == marks[".tif"]["TIFF ImageDescription"] == "of Doe"
    serial = marks[".png"]["EXIF BodySerialNumber"]
    assert serial.isprintable()
    assert len(serial) == 64


def test_plain_images_have_no_marks(tmp_path: Path, noise: Noise) -> None:
    """As Pillow writes them; metadata that only describes the layout is not identifying."""
    for suffix in ("png", "jpg", "webp", "bmp", "tif"):
        Image.fromarray(noise(8, 8)).save(tmp_path / f"a.{suffix}", dpi=(72, 72))
        assert not _marks(tmp_path / f"a.{suffix}"), suffix


def _marks(path: Path) -> Mapping[str, str]:
    with open_regular(path) as file:
        return read_picture(file).marks
