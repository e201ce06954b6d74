"""DICOM objects come out as a radiologist's screen shows them, or with a reason that names nobody."""

from __future__ import annotations

import logging
import re
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.confidentiality import CONFIDENTIAL, NEWER
from privsyn.cohort.dicom import looks_like_dicom, read_dicom
from privsyn.cohort.entries import NotAnImage, SourceImage
from privsyn.errors import CohortError
from privsyn.recipe import Data

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import (  # noqa: E402
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
)
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

FOLDERS = (
    Path(pydicom.__file__).parent / "data",
    Path(data_store.__file__).parent / "data",
    Path(deid_data.__file__).parent / "data",
)
BIG = ExplicitVRBigEndian
OTHERS = {".py", ".pyc", ".json", ".txt", ".md", ".dump", ".gz", ".icc", ".zip"}


def _samples() -> list[Path]:
    """Every DICOM file that pydicom, pydicom-data and deid-data bring; nothing is downloaded."""
    files = (path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path for path in files if path.suffix not in OTHERS and path.name not in {"README", "no_meta.dcm"}
    ]


def _sample(name: str) -> Path:
    return next(path for path in _samples() if path.name == name)


def _source(name: str | Path) -> FileDataset:
    """A sample as pydicom has it, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = pydicom.dcmread(_sample(name) if isinstance(name, str) else name, force=True)
        for _ in source.iterall():  # makes sense of all values, and says so where they make none
            pass
        if "TransferSyntaxUID" not in source.file_meta:
            source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        return source


def _data(**settings: Any) -> Data:
    return Data(size=64, channels=1, classes=("a", "b"), **settings)


def _pictures(path: Path, **settings: Any) -> list[SourceImage]:
    return list(read_dicom(path, _data(**settings)))


def _only(path: Path, **settings: Any) -> NDArray[Any]:
    (picture,) = _pictures(path, **settings)
    return picture.pixels


def _refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(CohortError) as caught:
        _pictures(path, **settings)
    return str(caught.value)


def _object(pixels: NDArray[Any] | bytes, shape: tuple[int, int], **attributes: Any) -> FileDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _made(pixels, shape, **attributes)


def _made(pixels: NDArray[Any] | bytes, shape: tuple[int, int], **attributes: Any) -> FileDataset:
    """A grey object of unsigned 16 bits, unless attributes say otherwise; `syntax` is its transfer syntax."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = attributes.pop("syntax", ExplicitVRLittleEndian)
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    made = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    made.PatientID, made.PatientName = " P-1 ", "Doe^Jane"
    made.Rows, made.Columns = shape
    wide = not isinstance(pixels, bytes) and pixels.dtype.itemsize > 1
    bits = 8 * pixels.dtype.itemsize if not isinstance(pixels, bytes) else 8
    made.BitsAllocated = made.BitsStored = bits
    made.HighBit, made.PixelRepresentation, made.SamplesPerPixel = bits - 1, 0, 1
    made.PhotometricInterpretation = "MONOCHROME2"
    content = pixels if isinstance(pixels, bytes) else pixels.tobytes()
    made.add_new(0x7FE00010, "OW" if wide else "OB", content + b"\0" * (len(content) % 2))
    for keyword, value in attributes.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    if "PixelData" in made and made.PixelData.startswith(b"\xfe\xff\x00\xe0"):  # items of compressed frames
        made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    return made


def _written(folder: Path, made: FileDataset, name: str = "object.dcm") -> Path:
    path = folder / name
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
        if made.file_meta.TransferSyntaxUID == BIG:
            pydicom.dcmwrite(path, made, implicit_vr=False, little_endian=False, force_encoding=True)
        else:
            made.save_as(path, enforce_file_format=True)
    return path


def _lut(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return item


# Real files.

WITHOUT = "without its pixels"
DIRECTORIES = """
DICOMDIR DICOMDIR-bigEnd DICOMDIR-empty.dcm DICOMDIR-implicit DICOMDIR-nooffset DICOMDIR-nopatient
DICOMDIR-reordered
"""
DOSES = """
badVR.dcm rtdose.dcm rtdose_1frame.dcm rtdose_expb.dcm rtdose_expb_1frame.dcm rtdose_rle.dcm
rtdose_rle_1frame.dcm
"""
MASKS = "liver.dcm liver_1frame.dcm liver_expb.dcm liver_expb_1frame.dcm"
CUT_AWAY = """
chrJapMulti.dcm chrJapMultiExplicitIR6.dcm chrKoreanMulti.dcm chrSQEncoding.dcm chrSQEncoding1.dcm
UN_sequence.dcm no_meta_group_length.dcm priv_SQ.dcm emri_small_jpeg_2k_lossless_too_short.dcm
"""
GREY_SAMPLES = """
mlut_18 vlut_04 MR2_UNCR RG3_UNCR RG1_UNCI bad_sequence examples_overlay 693_J2KR J2K_pixelrep_mismatch
MR_small GREYSCALE_IMAGE JPGLosslessP14SV1_1s_1f_8b
"""
REASONS = {
    # No images, though viewers may have a use for them.
    **dict.fromkeys(
        (
            "fall.dcm",
            "hotiron.dcm",
            "hotmetalblue.dcm",
            "pet.dcm",
            "pet20step.dcm",
            "spring.dcm",
            "summer.dcm",
        ),
        "DICOM Color Palette: no pixels",
    ),
    "winter.dcm": "DICOM Color Palette: no pixels",
    **dict.fromkeys(("ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"), "DICOM RT Ion Plan: no pixels"),
    **dict.fromkeys(
        ("reportsi.dcm", "reportsi_with_empty_number_tags.dcm"), "DICOM Basic Text SR: no pixels"
    ),
    **dict.fromkeys(("rtplan.dcm", "rtplan_truncated.dcm"), "DICOM RT Plan: no pixels"),
    "rtstruct.dcm": "DICOM RT Structure Set: no pixels",
    "test-SR.dcm": "DICOM Comprehensive SR: no pixels",
    "waveform_ecg.dcm": "DICOM 12-lead ECG Waveform: no pixels",
    **dict.fromkeys(
        DIRECTORIES.split(),
        "DICOM Media Storage Directory: no pixels",
    ),
    # Images whose pixels were cut away to test something else.
    **dict.fromkeys(
        CUT_AWAY.split(),
        WITHOUT,
    ),
    **dict.fromkeys(("meta_missing_tsyntax.dcm", "nested_priv_SQ.dcm"), "has no BitsAllocated"),
    "empty_charset_LEI.dcm": "no known kind",
    # Damaged on purpose.
    "JPEG-lossy.dcm": "damaged JPEG Extended",  # a wrong scan header; JPGExtended.dcm is the same, mended
    "JPEG2000-embedded-sequence-delimiter.dcm": "in its compressed pixels: damaged",
    "MR_truncated.dcm": "holds 8,130 bytes of pixels where its header promises 8,192",
    # Made from images; among these they would stand for what was seen.
    **dict.fromkeys(MASKS.split(), "DICOM Segmentation: no image of its own"),
    **dict.fromkeys(DOSES.split(), "DICOM RT Dose: no image of its own"),
}


def test_every_sample_is_read_or_named(capfd: pytest.CaptureFixture[str]) -> None:
    """Of 270 real files each gives all of its frames, or the reason looked up for it, and no noise."""
    read = 0
    for path in _samples():
        cut_away = "TINY_ALPHA" in path.parts and path.name != "DICOMDIR"
        expected = WITHOUT if cut_away else REASONS.get(path.name)
        if expected is None:
            pictures = _pictures(path)
            header = _source(path)
            assert len(pictures) == int(header.get("NumberOfFrames") or 1), path.name
            for picture in pictures:
                assert picture.pixels.shape[:2] == (header.Rows, header.Columns)
                assert picture.pixels.dtype == np.uint8
            read += 1
        else:
            kind = NotAnImage if expected.endswith(("no pixels", "of its own")) else CohortError
            with pytest.raises(kind, match=re.escape(expected)) as caught:
                _pictures(path)
            assert isinstance(caught.value, NotAnImage) == (kind is NotAnImage), path.name
    assert read > 140
    assert capfd.readouterr() == ("", "")


def test_no_reason_names_the_patient() -> None:
    """Whatever is wrong with a sample, its reason holds no name, id or birth date that is in it."""
    for path in _samples():
        header = _source(path)
        names = [
            str(header.get(keyword) or "") for keyword in ("PatientName", "PatientID", "PatientBirthDate")
        ]
        parts = {part for name in names for part in re.split(r"\W+", name) if len(part) > 3}
        reasons = [_refusal(path, label_tag="HangingProtocolLevel")]  # which none of them has
        if path.name in REASONS:
            reasons.append(_refusal(path))
        assert not [part for part in parts if part.lower() in " ".join(reasons).lower()], path.name


def test_a_reason_repeats_nothing_that_the_file_says(tmp_path: Path) -> None:
    """Values of a broken file stay in it, whichever attribute they are in."""
    secret = "SECRETJANE"
    pixels = np.zeros((4, 4), np.uint16)
    for keyword in (
        "PhotometricInterpretation",
        "NumberOfFrames",
        "VOILUTFunction",
        "WindowWidth",
        "SOPClassUID",
    ):
        made = _object(pixels, (4, 4), WindowCenter="1", WindowWidth="2")
        if keyword == "SOPClassUID":
            del made["PixelData"], made["Rows"]
        tag = pydicom.datadict.tag_for_keyword(keyword)
        made[tag] = pydicom.DataElement(tag, "LO", secret)
        assert secret not in _refusal(_written(tmp_path, made))
    whole = _written(tmp_path, _object(pixels, (4, 4), PatientName=secret)).read_bytes()
    for end in range(140, len(whole), 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        assert secret not in _refusal(tmp_path / "cut.dcm")


def test_parsers_are_quiet_only_while_a_picture_is_read() -> None:
    """Between two pictures, and after an error, warnings and log levels are the caller's."""
    filters, level = list(warnings.filters), logging.getLogger("pydicom").level
    for _ in read_dicom(_sample("SC_rgb_rle_2frame.dcm"), _data()):
        assert list(warnings.filters) == filters
        assert logging.getLogger("pydicom").level == level
    _refusal(_sample("JPEG-lossy.dcm"))
    assert list(warnings.filters) == filters
    assert logging.getLogger("pydicom").level == level


def test_a_monochrome1_chest_has_white_bones(tmp_path: Path) -> None:
    """RG1_UNCR is stored as a negative: shown, the spine is brighter than the lungs, and the air is black."""
    pixels = _only(_sample("RG1_UNCR.dcm"))[..., 0]
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    height, width = pixels.shape
    spine = pixels[int(0.55 * height) : int(0.7 * height), int(0.46 * width) : int(0.5 * width)].mean()
    lung = pixels[int(0.32 * height) : int(0.38 * height), int(0.2 * width) : int(0.3 * width)].mean()
    assert spine > lung + 40
    assert spine > pixels[10:40, 10:100].mean() + 60


def test_all_encodings_of_one_picture_look_alike() -> None:
    """Colour bars and films in RGB, YBR, RLE, JPEG, JPEG-LS and JPEG 2000, either planar and byte order."""
    bars = _only(_sample("SC_rgb.dcm")).astype(int)
    names = [
        path.name
        for path in _samples()
        if re.match(r"SC_(rgb|ybr)_(?!jpeg\.|jpeg_d|jpeg_a|small)", path.name)
    ]
    assert len(names) > 30
    for name in names:
        for number, picture in enumerate(_pictures(_sample(name))):
            expected = 255 - bars if number else bars  # the second frame of each is its negative
            assert np.median(np.abs(picture.pixels.astype(int) - expected)) <= 3, name
            assert (np.abs(picture.pixels.astype(int) - expected) > 60).mean() <= 0.01, name
    for one, other in (
        ("MR_small", "MR_small_RLE"),
        ("MR_small", "MR_small_bigendian"),
        ("RG3_UNCR", "RG3_J2KR"),
    ):
        assert (_only(_sample(f"{one}.dcm")) == _only(_sample(f"{other}.dcm"))).all()
    for other in (
        "MR_small_implicit",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_padded",
    ):
        assert (_only(_sample("MR_small.dcm")) == _only(_sample(f"{other}.dcm"))).all()


def test_the_test_patterns_in_look_up_tables_come_out_right() -> None:
    """The SMPTE pattern behind a modality LUT and behind a VOI LUT is one picture, with black and white."""
    modality, voi = _only(_sample("mlut_18.dcm")).astype(int), _only(_sample("vlut_04.dcm")).astype(int)
    assert np.abs(modality - voi).max() <= 2
    assert (voi.min(), voi.max()) == (0, 255)


def test_a_ct_in_a_declared_window_is_the_formula_of_the_standard() -> None:
    """CT_small at [40, 400]: the pseudo-code of PS3.3 C.11.2.1.2.1, value by value, to 8 and to 16 bits."""
    path = _sample("CT_small.dcm")
    source = _source(path)
    shown8, shown16 = _only(path, window=(40, 400)), _only(path, window=(40, 400), bit_depth=16)
    assert shown16.dtype == np.uint16
    for (row, column), stored in np.ndenumerate(source.pixel_array):
        x = int(stored) * float(source.RescaleSlope) + float(source.RescaleIntercept)
        if x <= 40 - 0.5 - 399 / 2:
            y = 0.0
        elif x > 40 - 0.5 + 399 / 2:
            y = 1.0
        else:
            y = (x - (40 - 0.5)) / 399 + 0.5
        assert shown8[row, column, 0] == round(y * 255)
        assert shown16[row, column, 0] == round(y * 65535)
    assert shown8.min() == 0
    assert shown8.max() == 255


@pytest.mark.parametrize("name", GREY_SAMPLES.split())
def test_grey_is_what_pydicom_makes_of_it(name: str) -> None:
    """apply_modality_lut and apply_voi_lut, brought from their output range to 0..255, to half a level."""
    source = _source(f"{name}.dcm")
    values = np.asarray(apply_voi_lut(apply_modality_lut(source.pixel_array, source), source), np.float64)
    if source.get("VOILUTSequence"):
        low, high = 0.0, 2.0 ** source.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif source.get("ModalityLUTSequence"):
        low, high = 0.0, 2.0 ** source.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        signed, bits = source.PixelRepresentation, source.BitsStored
        low, high = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)
        slope, intercept = source.get("RescaleSlope", 1), source.get("RescaleIntercept", 0)
        low, high = low * float(slope) + float(intercept), high * float(slope) + float(intercept)
    expected = (values - low) / (high - low) * 255
    if source.PhotometricInterpretation == "MONOCHROME1":
        expected = 255 - expected
    padded = source.pixel_array == source.get("PixelPaddingValue", np.nan)
    assert np.abs(_only(_sample(f"{name}.dcm"))[..., 0] - expected)[~padded].max() <= 0.501


@pytest.mark.parametrize(
    "name", ["OT-PAL-8-face", "gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big", "examples_palette"]
)
def test_palettes_are_those_of_pydicom(name: str) -> None:
    """apply_color_lut, its 16 bits brought to 8."""
    source = _source(f"{name}.dcm")
    expected = apply_color_lut(source.pixel_array, source).astype(np.float64)
    if expected.max() > 255:
        expected = expected * (255 / 65535)
    assert np.abs(_only(_sample(f"{name}.dcm")) - expected).max() <= 0.5


# Synthetic objects: one property each.


def test_stored_range_is_shown_when_nothing_else_is_said(tmp_path: Path) -> None:
    """Neither the brightest nor the darkest pixel of an image changes how it is shown."""
    pixels = np.array([[0, 1000], [2000, 4095]], np.uint16)
    path = _written(tmp_path, _object(pixels, (2, 2), BitsStored=12, HighBit=11))
    assert _only(path)[..., 0].tolist() == [[0, round(1000 / 4095 * 255)], [round(2000 / 4095 * 255), 255]]
    dim = _written(tmp_path, _object(pixels // 4, (2, 2), BitsStored=12, HighBit=11))
    assert _only(dim).max() == round(1023 / 4095 * 255)


def test_sixteen_bits_stay_sixteen_bits(tmp_path: Path) -> None:
    """All 65,536 stored values come out as themselves; in 8 bits each is the nearest level; 8 become 16."""
    pixels = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    path = _written(tmp_path, _object(pixels, (256, 256)))
    assert (_only(path, bit_depth=16)[..., 0] == pixels).all()
    assert (_only(path)[..., 0] == np.rint(pixels / 257)).all()
    larger = _written(tmp_path, _object(np.tile(pixels, (1, 2)), (256, 512)))  # looked up, not computed
    assert (_only(larger, bit_depth=16)[..., 0] == np.tile(pixels, (1, 2))).all()
    signed = _object(np.tile(pixels, (1, 2)).view(np.int16), (256, 512), PixelRepresentation=1)
    assert (_only(_written(tmp_path, signed), bit_depth=16)[..., 0] == np.tile(pixels ^ 2**15, (1, 2))).all()
    flat = _written(tmp_path, _object(np.arange(256, dtype=np.uint8).reshape(16, 16), (16, 16)))
    assert (_only(flat)[..., 0] == np.arange(256).reshape(16, 16)).all()
    assert (_only(flat, bit_depth=16)[..., 0] == 257 * np.arange(256).reshape(16, 16)).all()


def test_monochrome1_is_inverted_after_everything_else(tmp_path: Path) -> None:
    """The window is applied to the values, and the picture is turned into its negative then."""
    pixels = np.array([[0, 100], [200, 1000]], np.uint16)
    plain = _only(_written(tmp_path, _object(pixels, (2, 2))), window=(100, 201)).astype(int)
    path = _written(tmp_path, _object(pixels, (2, 2), PhotometricInterpretation="MONOCHROME1"))
    assert (np.abs(_only(path, window=(100, 201)) - (255 - plain)) <= 1).all()
    assert (_only(path, bit_depth=16)[..., 0] == 65535 - pixels).all()


def test_signed_pixels_and_negative_slopes(tmp_path: Path) -> None:
    """-2048..2047 in 12 of 16 bits; a slope of -2 turns black and white round."""
    pixels = np.array([[-2048, -1], [0, 2047]], np.int16)
    signed = {"PixelRepresentation": 1, "BitsStored": 12, "HighBit": 11}
    plain = _only(_written(tmp_path, _object(pixels, (2, 2), **signed)))[..., 0]
    assert plain.tolist() == [[0, 127], [128, 255]]
    turned = _object(pixels, (2, 2), RescaleSlope="-2", RescaleIntercept="7", **signed)
    assert (_only(_written(tmp_path, turned))[..., 0] == 255 - plain).all()
    assert "rescale slope of 0" in _refusal(
        _written(tmp_path, _object(pixels, (2, 2), RescaleSlope="0", RescaleIntercept="0"))
    )


@pytest.mark.parametrize(("stored", "high", "shift"), [(12, 11, 0), (12, 15, 4), (10, 13, 4)])
def test_overlays_in_unused_bits_are_masked_away(tmp_path: Path, stored: int, high: int, shift: int) -> None:
    """Bits above and below the stored ones, where old scanners put overlays, do not reach the picture."""
    clean = np.arange(2**stored, dtype=np.uint16).reshape(-1, 32)
    noise = np.random.default_rng(0).integers(0, 2**16, clean.shape).astype(np.uint16)
    mask = np.uint16(((1 << stored) - 1) << shift)
    mixed = (noise & ~mask) | (clean << shift).astype(np.uint16)
    made = _object(mixed, clean.shape, BitsStored=stored, HighBit=high)
    for squeezed in (False, True):
        if squeezed:
            made.compress(RLELossless, generate_instance_uid=False)
        shown = _only(_written(tmp_path, made), bit_depth=16)[..., 0]
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
        made = _object(pixels, (20, 20), WindowCenter=["100", "7"], WindowWidth=["200", "9"])
        made.VOILUTFunction = function
        path = _written(tmp_path, made)
        assert (_only(path, bit_depth=16)[..., 0] == np.rint(shown * 65535)).all(), function
        declared = _only(path, window=(100, 200), bit_depth=16)[..., 0]
        assert (declared == np.rint(expected["LINEAR"] * 65535)).all()
    made.WindowWidth, made.VOILUTFunction = "0", "LINEAR"
    assert (_only(_written(tmp_path, made), bit_depth=16)[..., 0] == pixels).all()
    assert "width of 1 or more" in _refusal(path, window=(1, 0.5))


def test_a_voi_lut_goes_before_a_window_and_a_declared_window_before_both(tmp_path: Path) -> None:
    """Entries beyond the table's ends take the first and the last one; its first value may be negative."""
    pixels = np.array([[-5, -2], [-1, 3]], np.int16)
    made = _object(pixels, (2, 2), PixelRepresentation=1, WindowCenter="0", WindowWidth="2")
    made.VOILUTSequence = [_lut([0, 500, 1023], -2, 10)]
    path = _written(tmp_path, made)
    assert _only(path)[..., 0].tolist() == [[0, 0], [round(500 / 1023 * 255), 255]]
    assert _only(path, window=(0, 2))[..., 0].tolist() == [[0, 0], [0, 255]]
    made.VOILUTSequence[0].LUTDescriptor = [9, -2, 10]
    assert "3 of its 9 entries" in _refusal(_written(tmp_path, made))


def test_eight_bits_are_shown_as_they_are(tmp_path: Path) -> None:
    """A declared window, which speaks of HU, leaves ultrasound alone; the file's own VOI LUT does not."""
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    made = _object(pixels, (16, 16))
    assert (_only(_written(tmp_path, made), window=(40, 400))[..., 0] == pixels).all()
    made.VOILUTSequence = [_lut(list(range(255, -1, -1)), 0, 8)]
    assert (_only(_written(tmp_path, made), window=(40, 400))[..., 0] == 255 - pixels).all()


def test_padding_is_black(tmp_path: Path) -> None:
    """The padding value, or the range up to its limit, is no tissue: in a negative, and of the wrong sign."""
    pixels = np.array([[63536, 63540], [100, 200]], np.uint16)
    made = _object(pixels, (2, 2), PixelPaddingValue=63536, PhotometricInterpretation="MONOCHROME1")
    assert (_only(_written(tmp_path, made))[..., 0] == 0).tolist() == [[True, False], [False, False]]
    made.PixelPaddingRangeLimit = 63540
    assert (_only(_written(tmp_path, made))[..., 0] == 0).tolist() == [[True, True], [False, False]]
    signed = _object(
        pixels.astype(np.int16), (2, 2), PixelRepresentation=1, WindowCenter="-1990", WindowWidth="4"
    )
    signed.add_new("PixelPaddingValue", "US", 63536)
    assert _only(_written(tmp_path, signed))[0, 0, 0] == 0


def test_colours_in_every_arrangement(tmp_path: Path, noise: Any) -> None:
    """RGB by pixel and by plane, of 8 and 16 bits, YBR_FULL and YBR_FULL_422; all become RGB of 8 bits."""
    rgb = noise(4, 6, 3)
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        assert (_only(_written(tmp_path, _object(rgb, (4, 6), syntax=syntax, **colour))) == rgb).all()
    planes = np.ascontiguousarray(rgb.transpose(2, 0, 1))
    assert (
        _only(_written(tmp_path, _object(planes, (4, 6), **{**colour, "PlanarConfiguration": 1}))) == rgb
    ).all()
    deep = rgb.astype(np.uint16) * 257
    assert (_only(_written(tmp_path, _object(deep, (4, 6), **colour))) == rgb).all()
    assert (_only(_written(tmp_path, _object(deep, (4, 6), **colour)), bit_depth=16) == rgb).all()

    ybr = convert_color_space(rgb, "RGB", "YBR_FULL")
    colour["PhotometricInterpretation"] = "YBR_FULL"
    assert np.abs(_only(_written(tmp_path, _object(ybr, (4, 6), **colour))).astype(int) - rgb).max() <= 2
    colour["PhotometricInterpretation"] = "YBR_FULL_422"
    assert np.abs(_only(_written(tmp_path, _object(ybr, (4, 6), **colour))).astype(int) - rgb).max() <= 2
    pairs = np.repeat(ybr[:, ::2], 2, axis=1)
    pairs[..., 0] = ybr[..., 0]
    shared = np.stack([pairs[:, ::2, 0], pairs[:, 1::2, 0], pairs[:, ::2, 1], pairs[:, ::2, 2]], axis=-1)
    path = _written(tmp_path, _object(np.ascontiguousarray(shared), (4, 6), **colour))
    assert (_only(path) == convert_color_space(pairs, "YBR_FULL", "RGB")).all()


def test_palettes_of_more_entries_than_their_bits(tmp_path: Path) -> None:
    """512 entries of 8 bits behind 16-bit pixels, from 100 on; 16-bit entries that hold 8 are not black."""
    pixels = np.array([[0, 100], [400, 9999]], np.uint16)
    table = (np.arange(512) // 2).astype(np.uint8)
    for entries, bits, depth in ((table.tobytes(), 8, 8), (table.astype("<u2").tobytes(), 16, 8)):
        made = _object(pixels, (2, 2), PhotometricInterpretation="PALETTE COLOR")
        for name in ("Red", "Green", "Blue"):
            setattr(made, f"{name}PaletteColorLookupTableDescriptor", [512, 100, bits])
            setattr(made, f"{name}PaletteColorLookupTableData", entries)
        shown = _only(_written(tmp_path, made))
        assert depth == 8
        assert shown[..., 0].tolist() == [[0, 0], [150, 255]]
        assert (shown[..., 0] == shown[..., 2]).all()


def test_frames_are_decoded_one_at_a_time_and_shown_by_their_own_groups(tmp_path: Path) -> None:
    """An enhanced object says for each frame how it is rescaled and windowed, or once for all of them."""
    pixels = np.full((3, 2, 2), 100, np.uint16)
    made = _object(pixels, (2, 2), NumberOfFrames="3")
    made.SharedFunctionalGroupsSequence = [Dataset()]
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence = [Dataset()]
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowCenter = "100"
    made.SharedFunctionalGroupsSequence[0].FrameVOILUTSequence[0].WindowWidth = "201"
    made.PerFrameFunctionalGroupsSequence = [Dataset(), Dataset(), Dataset()]
    for group, slope in zip(made.PerFrameFunctionalGroupsSequence, ("0.5", "1", "2"), strict=True):
        group.PixelValueTransformationSequence = [Dataset()]
        group.PixelValueTransformationSequence[0].RescaleSlope = slope
        group.PixelValueTransformationSequence[0].RescaleIntercept = "0"
    pictures = _pictures(_written(tmp_path, made))
    assert [picture.part for picture in pictures] == ["frame 1", "frame 2", "frame 3"]
    shown = [int(picture.pixels[0, 0, 0]) for picture in pictures]
    assert shown == [min(round((value - 99.5) / 200 * 255 + 127.5), 255) for value in (50, 100, 200)]
    assert [bool(picture.marks) for picture in pictures] == [True, False, False]


def test_bit_packed_frames_are_black_and_white(tmp_path: Path) -> None:
    """One bit a pixel, frames that do not end at a byte: 0 and 255."""
    bits = np.random.default_rng(1).integers(0, 2, (3, 5, 3)).astype(np.uint8)
    made = _object(np.packbits(bits.ravel(), bitorder="little").tobytes(), (5, 3), NumberOfFrames="3")
    made.BitsAllocated = made.BitsStored = 1
    made.HighBit = 0
    shown = np.stack([picture.pixels[..., 0] for picture in _pictures(_written(tmp_path, made))])
    assert (shown == 255 * bits).all()


def test_big_endian_words(tmp_path: Path) -> None:
    """16-bit pixels and a look-up table in the byte order that was retired."""
    pixels = np.array([[0, 1], [2, 3]], ">u2")
    made = _object(pixels, (2, 2), syntax=BIG)
    made.VOILUTSequence = [_lut([0, 1 * 256, 2 * 256, 255 * 256 + 255], 0, 16)]
    item = made.VOILUTSequence[0]
    item.LUTData = np.frombuffer(item.LUTData, "<u2").astype(">u2").tobytes()
    assert _only(_written(tmp_path, made), bit_depth=16)[..., 0].tolist() == [[0, 256], [512, 65535]]


def test_without_preamble_and_without_the_meta_group(tmp_path: Path, noise: Any) -> None:
    """Bare data sets of old archives are recognised by their first elements in each of three encodings."""
    pixels = noise(4, 4)
    for implicit, little in ((True, True), (False, True), (False, False)):
        made = _object(pixels, (4, 4))
        bare = Dataset()
        bare.update(made)
        path = tmp_path / "bare"
        bare.save_as(path, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
        assert looks_like_dicom(path.read_bytes()[:132], path.name)
        assert (_only(path)[..., 0] == pixels).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp", "gif", "ico", "pdf"])
def test_other_files_do_not_look_like_dicom(tmp_path: Path, suffix: str) -> None:
    """Neither images nor zeros nor text are taken for a bare data set, even when they are named like one."""
    Image.new("RGB", (40, 40), (8, 0, 8)).save(tmp_path / f"image.{suffix}")
    head = (tmp_path / f"image.{suffix}").read_bytes()[:132]
    for content in (head, bytes(132), b"patient,label\n" * 20, b"\x08\x00" * 66, b"", b"\x08"):
        assert not looks_like_dicom(content, "image.dcm")
    assert not looks_like_dicom(_sample("CT_small.dcm").read_bytes()[300:432], "rest.bin")


# Hostile and damaged headers.


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Rows": 65535, "Columns": 65535}, "has more than"),
        ({"Rows": 8000, "Columns": 8000}, "holds 32 bytes of pixels where its header promises 128,000,000"),
        ({"NumberOfFrames": "2147483647"}, "where its header promises 68,719,476,704"),
        ({"NumberOfFrames": "-1"}, "has no pixels"),
        ({"Rows": 0}, "has no pixels"),
        ({"Rows": None}, "has no Rows"),
        ({"BitsAllocated": 12, "BitsStored": 12}, "12 bits stored in 12"),
        ({"BitsStored": 17}, "17 bits stored in 16"),
        ({"BitsStored": 12, "HighBit": 3}, "highest of 12 stored bits at 3"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel, which is not MONOCHROME2"),
        ({"PhotometricInterpretation": None}, "has no PhotometricInterpretation"),
        ({"PhotometricInterpretation": "CMYK"}, "colour model"),
        ({"PixelData": None}, "without its pixels"),
        ({"PixelData": b""}, "holds 0 bytes"),
        ({"PixelData": bytes(30)}, "cut short?"),
        ({"RescaleSlope": "1e999", "RescaleIntercept": "0"}, "has no usable RescaleSlope"),
        ({"VOILUTFunction": "SPLINE", "WindowCenter": "1", "WindowWidth": "2"}, "VOILUTFunction"),
        (
            {"syntax": "1.2.840.10008.1.2.4.102", "PixelData": encapsulate([b"video"])},
            "is compressed as MPEG-4",
        ),
        ({"syntax": "1.2.3.4"}, "an unknown transfer syntax"),
    ],
)
def test_headers_that_cannot_be_are_refused_in_words(
    tmp_path: Path, attributes: dict[str, Any], reason: str
) -> None:
    """Before any room is made for what they promise."""
    path = _written(tmp_path, _object(np.zeros((4, 4), np.uint16), (4, 4), **attributes))
    assert reason in _refusal(path)


def test_floating_point_pixels_are_refused_in_words(tmp_path: Path) -> None:
    """Parametric maps may hold floats."""
    made = _object(np.zeros((2, 2), np.uint16), (2, 2), PixelData=None, FloatPixelData=bytes(16))
    assert "floating-point pixels" in _refusal(_written(tmp_path, made))


def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A JPEG 2000 and a JPEG frame that say 60,000 x 60,000 px, a few hundred bytes each."""
    jpeg2000 = b"\xff\x4f\xff\x51\x00\x29" + struct.pack(
        ">H8IH", 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1
    )
    jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HHB", 60000, 60000, 1) + b"\x01\x11\x00"
    for syntax, frame in ((JPEG2000Lossless, jpeg2000), (JPEGBaseline8Bit, jpeg)):
        made = _object(encapsulate([frame + bytes(200)]), (4, 4), syntax=syntax)
        assert "60000x60000" in _refusal(_written(tmp_path, made))


def test_an_empty_box_before_a_codestream_is_no_endless_loop(tmp_path: Path) -> None:
    """A JP2 file in a frame, one of whose boxes has length 0; pydicom steps over it for ever."""
    frame = struct.pack(">I4sI", 12, b"jP  ", 0x0D0A870A) + bytes(100)
    made = _object(
        np.zeros((4, 4), np.uint8), (4, 4), syntax=JPEG2000Lossless, PixelData=encapsulate([frame])
    )
    assert "empty box" in _refusal(_written(tmp_path, made))


def test_compressed_frames_that_are_missing_are_counted(tmp_path: Path) -> None:
    """The first frames may be there: they are given, and then the reason."""
    source = _source("SC_rgb_rle_2frame.dcm")
    source.NumberOfFrames = "3"
    path = _written(tmp_path, source)
    with pytest.raises(CohortError, match=r"decoded|holds 2 of the 3 frames"):
        _pictures(path)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a few kilobytes inflate to is counted before it is kept."""
    monkeypatch.setattr("privsyn.cohort.dicom._INFLATED", 2**22)
    made = _object(np.zeros((2, 2), np.uint16), (2, 2), syntax="1.2.840.10008.1.2.1.99")
    path = _written(tmp_path, made)
    whole = path.read_bytes()
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    inflated = zlib.decompress(whole[start:], -zlib.MAX_WBITS) + bytes(2**24)
    path.write_bytes(whole[:start] + squeeze.compress(inflated) + squeeze.flush())
    assert path.stat().st_size < 2**16
    assert "when inflated" in _refusal(path)


def test_a_large_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """60 frames of 3 MiB, in a file with a hole, are read with the memory of a few."""
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = _written(tmp_path, _object(b"", (1024, 1024), NumberOfFrames="60", **colour))
    content, length = path.read_bytes(), 60 * 3 * 2**20
    path.write_bytes(content[:-4] + struct.pack("<I", length))
    with path.open("r+b") as handle:
        handle.truncate(len(content) + length)
    program = (
        "import resource, sys\nfrom privsyn.cohort.dicom import read_dicom\nfrom privsyn.recipe import Data\n"
        "import pydicom.pixels\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in read_dicom(sys.argv[1], Data(size=8, classes=('a',))))\n"
        "print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    out = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    count, grown = out.stdout.split()
    assert count == "60"
    assert int(grown) < 60 * 1024  # KiB


def test_what_is_not_there_or_not_dicom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are missing, folders, other files, and a machine without pydicom."""
    assert "does not exist" in _refusal(tmp_path / "none.dcm")
    assert "not a file" in _refusal(tmp_path)
    (tmp_path / "text.dcm").write_text("hello")
    assert "is not a DICOM file" in _refusal(tmp_path / "text.dcm")
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'privsyn[dicom]'" in _refusal(_sample("CT_small.dcm"))


# What the tags say.


def test_patient_and_label_come_from_the_tags(tmp_path: Path) -> None:
    """The id without spaces around it, the issuer left out; the label's tag must be there, and be a tag."""
    made = _object(np.zeros((2, 2), np.uint16), (2, 2), IssuerOfPatientID="Ward 7", BodyPartExamined="CHEST ")
    path = _written(tmp_path, made)
    (picture,) = read_dicom(path, _data(label_tag="BodyPartExamined"))
    assert (picture.patient, picture.label, picture.part) == ("P-1", "CHEST", "")
    (picture,) = read_dicom(str(path), _data())
    assert picture.label is None
    assert "has no ViewPosition" in _refusal(path, label_tag="ViewPosition")
    assert "is no DICOM keyword" in _refusal(path, label_tag="BodyPart")
    made.PatientID = ""
    assert _pictures(_written(tmp_path, made))[0].patient is None


def _marks(folder: Path, **attributes: Any) -> dict[str, str]:
    made = _object(np.zeros((2, 2), np.uint16), (2, 2), **attributes)
    return dict(_pictures(_written(folder, made))[0].marks)


def test_marks_are_what_the_confidentiality_profile_names(tmp_path: Path) -> None:
    """At any depth, each different value once, cut to 64 characters; empty values are none."""
    inner = Dataset()
    inner.PatientName, inner.OtherPatientIDs = "Roe^Richard", "42"
    outer = Dataset()
    outer.ModifiedAttributesSequence = [inner]
    comments = "told " * 40
    marks = _marks(
        tmp_path, OriginalAttributesSequence=[outer], PatientComments=comments, StudyDate="", Modality="CT"
    )
    assert marks["DICOM PatientName"] == "Doe^Jane\\Roe^Richard"
    assert marks["DICOM OtherPatientIDs"] == "42"
    assert marks["DICOM OriginalAttributesSequence"] == "1 item"
    assert marks["DICOM PatientComments"] == comments[:64]
    assert marks["DICOM SOPInstanceUID"] == "1.2.3"
    assert not {"DICOM StudyDate", "DICOM Modality", "DICOM Rows"} & marks.keys()


def test_private_elements_overlays_curves_and_newer_attributes_are_marked(tmp_path: Path) -> None:
    """Those that the profile names by pattern, and those that pydicom's dictionary does not know yet."""
    made = _object(np.zeros((2, 2), np.uint16), (2, 2), BurnedInAnnotation="no")
    block = made.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", "x")
    block.add_new(2, "LO", "")
    made.add_new(0x60000010, "US", 2)
    made.add_new(0x60003000, "OW", b"\1\0")
    made.add_new(0x50003000, "OW", b"\1\0")
    made.add_new(0x00100012, "LO", "Janie")
    marks = dict(_pictures(_written(tmp_path, made))[0].marks)
    assert marks["DICOM private tags"] == "1"
    assert (marks["DICOM overlay"], marks["DICOM curve"]) == ("1", "1")
    assert marks["DICOM NameToUse"] == "Janie"
    assert marks["DICOM BurnedInAnnotation"] == "NO"
    bare = _marks(tmp_path)
    assert bare["DICOM BurnedInAnnotation"] == "absent"
    assert not {"DICOM private tags", "DICOM overlay", "DICOM curve"} & bare.keys()


def test_marks_of_real_files() -> None:
    """The trap of the samples: a flag that says NO; a birth date in the tags; overlays; private tags."""
    assert _pictures(_sample("JPGLosslessP14SV1_1s_1f_8b.dcm"))[0].marks["DICOM BurnedInAnnotation"] == "NO"
    assert _pictures(_sample("GREYSCALE_IMAGE.dcm"))[0].marks["DICOM BurnedInAnnotation"] == "YES"
    assert _pictures(_sample("RGB_IMAGE.dcm"))[0].marks["DICOM BurnedInAnnotation"] == "absent"
    assert "DICOM PatientBirthDate" in _pictures(_sample("RG1_UNCR.dcm"))[0].marks
    overlaid = _pictures(_sample("MR-SIEMENS-DICOM-WithOverlays.dcm"))[0].marks
    assert int(overlaid["DICOM overlay"]) >= 1
    assert int(overlaid["DICOM private tags"]) > 1


def test_marks_can_be_printed(tmp_path: Path) -> None:
    """A value cannot move the cursor of the terminal that shows it."""
    marks = _marks(tmp_path, PatientComments="a\x1b[2Jb\nc")
    assert marks["DICOM PatientComments"] == "a?[2Jb c"


# The table of attributes.


def test_the_table_speaks_of_attributes_that_exist() -> None:
    """Every keyword is in pydicom's dictionary, or among those newer than it."""
    known = {entry[4] for entry in pydicom.datadict.DicomDictionary.values()}
    assert known | set(NEWER.values()) >= CONFIDENTIAL
    assert len(CONFIDENTIAL) == 652


def test_the_table_names_what_it_must() -> None:
    """Names of persons of the patient and study modules, and the attributes that the profile is known for."""
    persons = {
        entry[4] for entry in pydicom.datadict.DicomDictionary.values() if entry[0] == "PN" and not entry[3]
    }
    assert {
        name for name in persons if name.startswith(("Patient", "OtherPatient", "Referring", "Performing"))
    } <= (CONFIDENTIAL)
    assert {
        "PatientID",
        "StudyDate",
        "InstitutionName",
        "AccessionNumber",
        "DeviceSerialNumber",
    } <= CONFIDENTIAL
    assert not {"Modality", "Rows", "BodyPartExamined", "PixelData", "SOPClassUID"} & CONFIDENTIAL
