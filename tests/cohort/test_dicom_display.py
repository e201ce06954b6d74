"""Synthetic DICOM objects are shown as the standard says, however their values are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from privsyn.cohort.dicom import looks_like_dicom

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from dicom_objects import (  # noqa: E402
    BIG,
    dicom_object,
    dicom_sample,
    look_up_table,
    only_pixels,
    pictures_of,
    refusal_of,
    written_to,
)
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.pixels import (  # noqa: E402
    convert_color_space,
)
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

# Synthetic objects: one property each.


def test_stored_range_is_shown_when_nothing_else_is_said(tmp_path: Path) -> None:
    """Neither the brightest nor the darkest pixel of an image changes how it is shown."""
    pixels = np.array([[0, 1000], [2000, 4095]], np.uint16)
    path = written_to(tmp_path, dicom_object(pixels, (2, 2), BitsStored=12, HighBit=11))
    assert only_pixels(path)[..., 0].tolist() == [
        [0, round(1000 / 4095 * 255)],
        [round(2000 / 4095 * 255), 255],
    ]
    dim = written_to(tmp_path, dicom_object(pixels // 4, (2, 2), BitsStored=12, HighBit=11))
    assert only_pixels(dim).max() == round(1023 / 4095 * 255)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    """All 65,536 stored values come out as themselves; in 8 bits each is the nearest level; 8 become 16."""
    pixels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    path = written_to(tmp_path, dicom_object(pixels, (256, 256)))
    assert (only_pixels(path, bit_depth=16)[..., 0] == pixels).all()
    assert (only_pixels(path)[..., 0] == np.rint(pixels / 257)).all()
    larger = written_to(
        tmp_path, dicom_object(np.tile(pixels, (1, 2)), (256, 512))
    )  # looked up, not computed
    assert (only_pixels(larger, bit_depth=16)[..., 0] == np.tile(pixels, (1, 2))).all()
    signed = dicom_object(np.tile(pixels, (1, 2)).view(np.int16), (256, 512), PixelRepresentation=1)
    assert (
        only_pixels(written_to(tmp_path, signed), bit_depth=16)[..., 0] == np.tile(pixels ^ 2**15, (1, 2))
    ).all()
    flat = written_to(tmp_path, dicom_object(np.arange(256, dtype=np.uint8).reshape(16, 16), (16, 16)))
    assert (only_pixels(flat)[..., 0] == np.arange(256).reshape(16, 16)).all()
    assert (only_pixels(flat, bit_depth=16)[..., 0] == 257 * np.arange(256).reshape(16, 16)).all()


def test_monochrome1_is_inverted_after_everything_else(tmp_path: Path) -> None:
    """The window is applied to the values, and the picture is turned into its negative then."""
    pixels = np.array([[0, 100], [200, 1000]], np.uint16)
    plain = only_pixels(written_to(tmp_path, dicom_object(pixels, (2, 2))), window=(100, 201)).astype(int)
    path = written_to(tmp_path, dicom_object(pixels, (2, 2), PhotometricInterpretation="MONOCHROME1"))
    assert (np.abs(only_pixels(path, window=(100, 201)) - (255 - plain)) <= 1).all()
    assert (only_pixels(path, bit_depth=16)[..., 0] == 65535 - pixels).all()


def test_signed_pixels_and_negative_slopes(tmp_path: Path) -> None:
    """-2048..2047 in 12 of 16 bits; a slope of -2 turns black and white round."""
    pixels = np.array([[-2048, -1], [0, 2047]], np.int16)
    signed = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    plain = only_pixels(written_to(tmp_path, dicom_object(pixels, (2, 2), **signed)))[..., 0]
    assert plain.tolist() == [[0, 127], [128, 255]]
    turned = dicom_object(pixels, (2, 2), RescaleSlope="-2", RescaleIntercept="7", **signed)
    assert (only_pixels(written_to(tmp_path, turned))[..., 0] == 255 - plain).all()
    assert "rescale slope of 0" in refusal_of(
        written_to(tmp_path, dicom_object(pixels, (2, 2), RescaleSlope="0", RescaleIntercept="0"))
    )


@pytest.mark.parametrize(("stored", "high", "shift"), [(12, 11, 0), (12, 15, 4), (10, 13, 4)])
def test_overlays_in_unused_bits_are_masked_away(tmp_path: Path, stored: int, high: int, shift: int) -> None:
    """Bits above and below the stored ones, where old scanners put overlays, do not reach the picture."""
    clean = np.arange(2**stored, dtype=np.uint16).reshape(-1, 32)
    noise = np.random.default_rng(0).integers(0, 2**16, clean.shape).astype(np.uint16)
    mask = np.uint16(((1 << stored) - 1) << shift)
    mixed = (noise & ~mask) | (clean << shift).astype(np.uint16)
    made = dicom_object(mixed, clean.shape, BitsStored=stored, HighBit=high)
    for squeezed in (False, True):
        if squeezed:
            made.compress(RLELossless, generate_instance_uid=False)
        shown = only_pixels(written_to(tmp_path, made), bit_depth=16)[..., 0]
        assert (shown == np.rint(clean * (65535 / (2**stored - 1)))).all()


def test_the_first_window_of_the_file_is_taken(tmp_path: Path) -> None:
    """LINEAR, LINEAR_EXACT and SIGMOID by their formulas (C.11.2.1.2 and 3); a width of 0 is none."""
    pixels = np.arange(0, 400, dtype=np.uint16).reshape(20, 20)
    x = pixels.astype(np.float64)
    expected = {
        "LINEAR": np.clip((x - 99.5) / 199 + 0.5, 0, 1),
        "LINEAR_EXACT": np.clip((x - 100) / 200 + 0.5, 0, 1),
        "SIGMOID": 1 / (1 + np.exp(-4 * (x - 100) / 200)),
    }
    for function, shown in expected.items():
        made = dicom_object(pixels, (20, 20), WindowCenter=["100", "7"], WindowWidth=["200", "9"])
        made.VOILUTFunction = function
        path = written_to(tmp_path, made)
        assert (only_pixels(path, bit_depth=16)[..., 0] == np.rint(shown * 65535)).all(), function
        declared = only_pixels(path, window=(100, 200), bit_depth=16)[..., 0]
        assert (declared == np.rint(expected["LINEAR"] * 65535)).all()
    made.WindowWidth, made.VOILUTFunction = "0", "LINEAR"
    assert (only_pixels(written_to(tmp_path, made), bit_depth=16)[..., 0] == pixels).all()
    assert "width of 1 or more" in refusal_of(path, window=(1, 0.5))


def test_a_voi_lut_goes_before_a_window_and_a_declared_window_before_both(tmp_path: Path) -> None:
    """Entries beyond the table's ends take the first and the last one; its first value may be negative."""
    pixels = np.array([[-5, -2], [-1, 3]], np.int16)
    made = dicom_object(pixels, (2, 2), PixelRepresentation=1, WindowCenter="0", WindowWidth="2")
    made.VOILUTSequence = [look_up_table([0, 500, 1023], -2, 10)]
    path = written_to(tmp_path, made)
    assert only_pixels(path)[..., 0].tolist() == [[0, 0], [round(500 / 1023 * 255), 255]]
    assert only_pixels(path, window=(0, 2))[..., 0].tolist() == [[0, 0], [0, 255]]
    made.VOILUTSequence[0].LUTDescriptor = [9, -2, 10]
    assert "3 of its 9 entries" in refusal_of(written_to(tmp_path, made))


def test_eight_bits_are_shown_as_they_are(tmp_path: Path) -> None:
    """A declared window, which speaks of HU, leaves ultrasound alone; the file's own VOI LUT does not."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = dicom_object(pixels, (16, 16))
    assert (only_pixels(written_to(tmp_path, made), window=(40, 400))[..., 0] == pixels).all()
    made.VOILUTSequence = [look_up_table(list(range(255, -1, -1)), 0, 8)]
    assert (only_pixels(written_to(tmp_path, made), window=(40, 400))[..., 0] == 255 - pixels).all()


def test_padding_is_black(tmp_path: Path) -> None:
    """Padding, or the range up to its limit, is not tissue: in negatives, or with the wrong sign."""
    pixels = np.array([[63536, 63540], [100, 200]], np.uint16)
    made = dicom_object(pixels, (2, 2), PixelPaddingValue=63536, PhotometricInterpretation="MONOCHROME1")
    assert (only_pixels(written_to(tmp_path, made))[..., 0] == 0).tolist() == [[True, False], [False, False]]
    made.PixelPaddingRangeLimit = 63540
    assert (only_pixels(written_to(tmp_path, made))[..., 0] == 0).tolist() == [[True, True], [False, False]]
    signed = dicom_object(
        pixels.astype(np.int16), (2, 2), PixelRepresentation=1, WindowCenter="-1990", WindowWidth="4"
    )
    signed.add_new("PixelPaddingValue", "US", 63536)
    assert only_pixels(written_to(tmp_path, signed))[0, 0, 0] == 0


def test_colours_in_every_arrangement(tmp_path: Path, noise: Any) -> None:
    """RGB by pixel and by plane, of 8 and 16 bits, YBR_FULL and YBR_FULL_422; all become RGB of 8 bits."""
    rgb = noise(4, 6, 3)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert (
            only_pixels(written_to(tmp_path, dicom_object(rgb, (4, 6), syntax=syntax, **colour))) == rgb
        ).all()
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    assert (
        only_pixels(
            written_to(tmp_path, dicom_object(planes, (4, 6), **{**colour, "PlanarConfiguration": 1}))
        )
        == rgb
    ).all()
    deep = rgb.astype(np.uint16) * 257
    assert (only_pixels(written_to(tmp_path, dicom_object(deep, (4, 6), **colour))) == rgb).all()
    assert (
        only_pixels(written_to(tmp_path, dicom_object(deep, (4, 6), **colour)), bit_depth=16) == rgb
    ).all()

    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    colour["PhotometricInterpretation"] = "YBR_FULL"
    assert (
        np.abs(only_pixels(written_to(tmp_path, dicom_object(ybr, (4, 6), **colour))).astype(int) - rgb).max()
        <= 2
    )
    colour["PhotometricInterpretation"] = "YBR_FULL_422"
    assert (
        np.abs(only_pixels(written_to(tmp_path, dicom_object(ybr, (4, 6), **colour))).astype(int) - rgb).max()
        <= 2
    )
    pairs = np.repeat(ybr[:, ::2], 2, axis=1)
    pairs[..., 0] = ybr[..., 0]
    shared = np.stack([pairs[:, ::2, 0], pairs[:, 1::2, 0], pairs[:, ::2, 1], pairs[:, ::2, 2]], axis=-1)
    path = written_to(tmp_path, dicom_object(np.ascontiguousarray(shared), (4, 6), **colour))
    assert (only_pixels(path) == convert_color_space(pairs, "YBR_FULL", "RGB")).all()


def test_palettes_of_more_entries_than_their_bits(tmp_path: Path) -> None:
    """512 entries of 8 bits behind 16-bit pixels, from 100 on; 16-bit entries that hold 8 are not black."""
    pixels = np.array([[0, 100], [400, 9999]], np.uint16)
    table = (np.arange(512) // 2).astype(np.uint8)
    for entries, bits, depth in ((table.tobytes(), 8, 8), (table.astype("<u2").tobytes(), 16, 8)):
        made = dicom_object(pixels, (2, 2), PhotometricInterpretation="PALETTE COLOR")
        for name in ("Red", "Green", "Blue"):
            setattr(made, f"{name}PaletteColorLookupTableDescriptor", [512, 100, bits])
            setattr(made, f"{name}PaletteColorLookupTableData", entries)
        shown = only_pixels(written_to(tmp_path, made))
        assert depth == 8
        assert shown[..., 0].tolist() == [[0, 0], [150, 255]]
        assert (shown[..., 0] == shown[..., 2]).all()


def test_frames_are_decoded_one_at_a_time_and_shown_by_their_own_groups(tmp_path: Path) -> None:
    """An enhanced object says for each frame how it is rescaled and windowed, or once for all of them."""
    pixels = np.full((3, 2, 2), 100, np.uint16)
    made = dicom_object(pixels, (2, 2), NumberOfFrames="3")
    made.SharedFunctionalGroupsSequence = [Dataset()]
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [Dataset()]
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowCenter = "100"
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowWidth = "201"
    made.PerFrameFunctionalGroupsSequence = [Dataset(), Dataset(), Dataset()]
    for group, slope in zip(made.PerFrameFunctionalGroupsSequence, ("0.5", "1", "2"), strict=True):
        group.PixelValueTransformationSequence = [Dataset()]
        group.PixelValueTransformationSequence[0].RescaleSlope = slope
        group.PixelValueTransformationSequence[0].RescaleIntercept = "0"
    pictures = pictures_of(written_to(tmp_path, made))
    assert [picture.part for picture in pictures] == ["frame 1", "frame 2", "frame 3"]
    shown = [int(picture.pixels[0, 0, 0]) for picture in pictures]
    assert shown == [min(round((value - 99.5) / 200 * 255 + 127.5), 255) for value in (50, 100, 200)]
    assert [bool(picture.marks) for picture in pictures] == [True, False, False]


def test_bit_packed_frames_are_black_and_white(tmp_path: Path) -> None:
    """One bit a pixel, frames that do not end at a byte: 0 and 255."""
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 3)).astype(np.uint8)
    made = dicom_object(np.packbits(bits.ravel(), bitorder="little").tobytes(), (5, 3), NumberOfFrames="3")
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    shown = np.stack([picture.pixels[..., 0] for picture in pictures_of(written_to(tmp_path, made))])
    assert (shown == 255 * bits).all()


def test_big_endian_words(tmp_path: Path) -> None:
    """16-bit pixels and a look-up table in the byte order that was retired."""
    pixels = np.array([[0, 1], [2, 3]], ">u2")
    made = dicom_object(pixels, (2, 2), syntax=BIG)
    made.VOILUTSequence = [look_up_table([0, 1 * 256, 2 * 256, 255 * 256 + 255], 0, 16)]
    item = made.VOILUTSequence[0]
    item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    assert only_pixels(written_to(tmp_path, made), bit_depth=16)[..., 0].tolist() == [[0, 256], [512, 65535]]


def test_without_preamble_and_without_the_meta_group(tmp_path: Path, noise: Any) -> None:
    """Bare data sets of old archives are recognised by their first elements in each of three encodings."""
    pixels = noise(4, 4)
    for implicit, little in ((True, True), (False, True), (False, False)):
        made = dicom_object(pixels, (4, 4))
        bare = Dataset()
        bare.update(made)
        path = tmp_path / "bare"
        bare.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        assert looks_like_dicom(path.read_bytes()[:132], path.name)
        assert (only_pixels(path)[..., 0] == pixels).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "gif", "ico", "pdf"])
def test_other_files_do_not_look_like_dicom(tmp_path: Path, suffix: str) -> None:
    """Neither images nor zeros nor text are taken for a bare data set, even when they are named like one."""
    Image.new("RGB", (40, 40), (8, 0, 8)).save(tmp_path / f"image.{suffix}")
    head = (tmp_path / f"image.{suffix}").read_bytes()[:132]
    for content in (head, bytes(132), b"patient,label\n" * 20, b"\x08\x00" * 66, b"", b"\x08"):
        assert not looks_like_dicom(content, "image.dcm")
    assert not looks_like_dicom(dicom_sample("CT_small.dcm").read_bytes()[300:432], "rest.bin")
