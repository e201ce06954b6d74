"""Real DICOM files are read as a radiologist's screen shows them, or refused without naming a patient."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privsyn.cohort.dicom import read_dicom
from privsyn.cohort.entries import NotAnImage
from privsyn.errors import CohortError

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from dicom_objects import (  # noqa: E402
    dicom_data,
    dicom_object,
    dicom_sample,
    dicom_samples,
    only_pixels,
    pictures_of,
    pydicom_of,
    refusal_of,
    written_to,
)
from pydicom.pixels import (  # noqa: E402
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
)

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
    for path in dicom_samples():
        cut_away = "TINY_ALPHA" in path.parts and path.name != "DICOMDIR"
        expected = WITHOUT if cut_away else REASONS.get(path.name)
        if expected is None:
            pictures = pictures_of(path)
            header = pydicom_of(path)
            assert len(pictures) == int(header.get("NumberOfFrames") or 1), path.name
            for picture in pictures:
                assert picture.pixels.shape[:2] == (header.Rows, header.Columns)
                assert picture.pixels.dtype == np.uint8
            read += 1
        else:
            kind = NotAnImage if expected.endswith(("no pixels", "of its own")) else CohortError
            with pytest.raises(kind, match=re.escape(expected)) as caught:
                pictures_of(path)
            assert isinstance(caught.value, NotAnImage) == (kind is NotAnImage), path.name
    assert read > 140
    assert capfd.readouterr() == ("", "")


def test_no_reason_names_the_patient() -> None:
    """Whatever is wrong with a sample, its reason holds no name, id or birth date that is in it."""
    for path in dicom_samples():
        header = pydicom_of(path)
        names = [
            str(header.get(keyword) or "") for keyword in ("PatientName", "PatientID", "PatientBirthDate")
        ]
        parts = {part for name in names for part in re.split(r"\W+", name) if len(part) > 3}
        reasons = [refusal_of(path, label_tag="HangingProtocolLevel")]  # which none of them has
        if path.name in REASONS:
            reasons.append(refusal_of(path))
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
        made = dicom_object(pixels, (4, 4), WindowCenter="1", WindowWidth="2")
        if keyword == "SOPClassUID":
            del made["PixelData"], made["Rows"]
        tag = pydicom.datadict.tag_for_keyword(keyword)
        made[tag] = pydicom.DataElement(tag, "LO", secret)
        assert secret not in refusal_of(written_to(tmp_path, made))
    whole = written_to(tmp_path, dicom_object(pixels, (4, 4), PatientName=secret)).read_bytes()
    for end in range(140, len(whole), 7):
        (tmp_path / "cut.dcm").write_bytes(whole[:end])
        assert secret not in refusal_of(tmp_path / "cut.dcm")


def test_parsers_are_quiet_only_while_a_picture_is_read() -> None:
    """Between two pictures, and after an error, warnings and log levels are the caller's."""
    filters, level = list(warnings.filters), logging.getLogger("pydicom").level
    for _ in read_dicom(dicom_sample("SC_rgb_rle_2frame.dcm"), dicom_data()):
        assert list(warnings.filters) == filters
        assert logging.getLogger("pydicom").level == level
    refusal_of(dicom_sample("JPEG-lossy.dcm"))
    assert list(warnings.filters) == filters
    assert logging.getLogger("pydicom").level == level


def test_a_monochrome1_chest_has_white_bones(tmp_path: Path) -> None:
    """RG1_UNCR is stored as a negative: shown, the spine is brighter than the lungs, and the air is black."""
    pixels = only_pixels(dicom_sample("RG1_UNCR.dcm"))[..., 0]
    Image.fromarray(pixels).save(tmp_path / "chest.png")
    height, width = pixels.shape
    spine = pixels[int(0.55 * height) : int(0.7 * height), int(0.46 * width) : int(0.5 * width)].mean()
    lung = pixels[int(0.32 * height) : int(0.38 * height), int(0.2 * width) : int(0.3 * width)].mean()
    assert spine > lung + 40
    assert spine > pixels[10:40, 10:100].mean() + 60


def test_all_encodings_of_one_picture_look_alike() -> None:
    """Colour bars and films in RGB, YBR, RLE, JPEG, JPEG-LS and JPEG 2000, either planar and byte order."""
    bars = only_pixels(dicom_sample("SC_rgb.dcm")).astype(int)
    names = [
        path.name
        for path in dicom_samples()
        if re.match(r"SC_(rgb|ybr)_(?!jpeg\.|jpeg_d|jpeg_a|small)", path.name)
    ]
    assert len(names) > 30
    for name in names:
        for number, picture in enumerate(pictures_of(dicom_sample(name))):
            expected = 255 - bars if number else bars  # the second frame of each is its negative
            assert np.median(np.abs(picture.pixels.astype(int) - expected)) <= 3, name
            assert (np.abs(picture.pixels.astype(int) - expected) > 60).mean() <= 0.01, name
    for one, other in (
        ("MR_small", "MR_small_RLE"),
        ("MR_small", "MR_small_bigendian"),
        ("RG3_UNCR", "RG3_J2KR"),
    ):
        assert (only_pixels(dicom_sample(f"{one}.dcm")) == only_pixels(dicom_sample(f"{other}.dcm"))).all()
    for other in (
        "MR_small_implicit",
        "MR_small_jp2klossless",
        "MR_small_jpeg_ls_lossless",
        "MR_small_padded",
    ):
        assert (only_pixels(dicom_sample("MR_small.dcm")) == only_pixels(dicom_sample(f"{other}.dcm"))).all()


def test_the_test_patterns_in_look_up_tables_come_out_right() -> None:
    """The SMPTE pattern behind a modality LUT and behind a VOI LUT is one picture, with black and white."""
    modality, voi = (
        only_pixels(dicom_sample("mlut_18.dcm")).astype(int),
        only_pixels(dicom_sample("vlut_04.dcm")).astype(int),
    )
    assert np.abs(modality - voi).max() <= 2
    assert (voi.min(), voi.max()) == (0, 255)


def test_a_ct_in_a_declared_window_is_the_formula_of_the_standard() -> None:
    """CT_small at [40, 400]: the pseudo-code of PS3.3 C.11.2.1.2.1, value by value, to 8 and to 16 bits."""
    path = dicom_sample("CT_small.dcm")
    source = pydicom_of(path)
    shown8, shown16 = only_pixels(path, window=(40, 400)), only_pixels(path, window=(40, 400), bit_depth=16)
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
    source = pydicom_of(f"{name}.dcm")
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
    assert np.abs(only_pixels(dicom_sample(f"{name}.dcm"))[..., 0] - expected)[~padded].max() <= 0.501


@pytest.mark.parametrize(
    "name", ["OT-PAL-8-face", "gdcm-US-ALOKA-16", "gdcm-US-ALOKA-16_big", "examples_palette"]
)
def test_palettes_are_those_of_pydicom(name: str) -> None:
    """apply_color_lut, its 16 bits brought to 8."""
    source = pydicom_of(f"{name}.dcm")
    expected = apply_color_lut(source.pixel_array, source).astype(np.float64)
    if expected.max() > 255:
        expected = expected * (255 / 65535)
    assert np.abs(only_pixels(dicom_sample(f"{name}.dcm")) - expected).max() <= 0.5
