"""Damaged and hostile DICOM files are refused in words, before they cost memory or time."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privsyn.errors import CohortError

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from dicom_objects import (  # noqa: E402
    dicom_object,
    dicom_sample,
    pictures_of,
    pydicom_of,
    refusal_of,
    written_to,
)
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.uid import (  # noqa: E402
    JPEG2000Lossless,
    JPEGBaseline8Bit,
)

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
    path = written_to(tmp_path, dicom_object(np.zeros((4, 4), np.uint16), (4, 4), **attributes))
    assert reason in refusal_of(path)


def test_floating_point_pixels_are_refused_in_words(tmp_path: Path) -> None:
    """Parametric maps may hold floats."""
    made = dicom_object(np.zeros((2, 2), np.uint16), (2, 2), PixelData=None, FloatPixelData=bytes(16))
    assert "floating-point pixels" in refusal_of(written_to(tmp_path, made))


def test_a_codestream_larger_than_its_header_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A JPEG 2000 and a JPEG frame that say 60,000 x 60,000 px, a few hundred bytes each."""
    jpeg2000 = b"\xff\x4f\xff\x51\x00\x29" + struct.pack(
        ">H8IH", 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1
    )
    jpeg = b"\xff\xd8\xff\xc0\x00\x0b\x08" + struct.pack(">HHB", 60000, 60000, 1) + b"\x01\x11\x00"
    for syntax, frame in ((JPEG2000Lossless, jpeg2000), (JPEGBaseline8Bit, jpeg)):
        made = dicom_object(encapsulate([frame + bytes(200)]), (4, 4), syntax=syntax)
        assert "60000x60000" in refusal_of(written_to(tmp_path, made))


def test_an_empty_box_before_a_codestream_is_no_endless_loop(tmp_path: Path) -> None:
    """A JP2 file in a frame, one of whose boxes has length 0; pydicom steps over it for ever."""
    frame = struct.pack(">I4sI", 12, b"jP  ", 0x0D0A870A) + bytes(100)
    made = dicom_object(
        np.zeros((4, 4), np.uint8), (4, 4), syntax=JPEG2000Lossless, PixelData=encapsulate([frame])
    )
    assert "empty box" in refusal_of(written_to(tmp_path, made))


def test_compressed_frames_that_are_missing_are_counted(tmp_path: Path) -> None:
    """The first frames may be there: they are given, and then the reason."""
    source = pydicom_of("SC_rgb_rle_2frame.dcm")
    source.NumberOfFrames = "3"
    path = written_to(tmp_path, source)
    with pytest.raises(CohortError, match=r"decoded|holds 2 of the 3 frames"):
        pictures_of(path)


def test_a_deflated_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a few kilobytes inflate to is counted before it is kept."""
    monkeypatch.setattr("privsyn.cohort.dicom._INFLATED", 2**22)
    made = dicom_object(np.zeros((2, 2), np.uint16), (2, 2), syntax="1.2.840.10008.1.2.1.99")
    path = written_to(tmp_path, made)
    whole = path.read_bytes()
    start = 132 + 12 + struct.unpack("<I", whole[140:144])[0]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    inflated = zlib.decompress(whole[start:], -zlib.MAX_WBITS) + bytes(2**24)
    path.write_bytes(whole[:start] + squeeze.compress(inflated) + squeeze.flush())
    assert path.stat().st_size < 2**16
    assert "when inflated" in refusal_of(path)


def test_a_large_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """60 frames of 3 MiB, in a file with a hole, are read with the memory of a few."""
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    path = written_to(tmp_path, dicom_object(b"", (1024, 1024), NumberOfFrames="60", **colour))
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
    assert "does not exist" in refusal_of(tmp_path / "none.dcm")
    assert "not a file" in refusal_of(tmp_path)
    (tmp_path / "text.dcm").write_text("hello")
    assert "is not a DICOM file" in refusal_of(tmp_path / "text.dcm")
    for name in [name for name in sys.modules if name.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert "pip install 'privsyn[dicom]'" in refusal_of(dicom_sample("CT_small.dcm"))
