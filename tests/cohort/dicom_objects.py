"""Real and synthetic DICOM objects for tests, and what the reader makes of them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privsyn.cohort.dicom import read_dicom
from privsyn.cohort.entries import SourceImage
from privsyn.errors import CohortError
from privsyn.recipe import Data

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

FOLDERS = (
    Path(pydicom.__file__).parent / "data",
    Path(data_store.__file__).parent / "data",
    Path(deid_data.__file__).parent / "data",
)


BIG = ExplicitVRBigEndian


OTHERS = {".py", ".pyc", ".json", ".txt", ".md", ".dump", ".gz", ".icc", ".zip"}


def dicom_samples() -> list[Path]:
    """Every DICOM file that pydicom, pydicom-data and deid-data bring; nothing is downloaded."""
    files = (path for folder in FOLDERS for path in sorted(folder.rglob("*")) if path.is_file())
    return [
        path for path in files if path.suffix not in OTHERS and path.name not in {"README", "no_meta.dcm"}
    ]


def dicom_sample(name: str) -> Path:
    return next(path for path in dicom_samples() if path.name == name)


def pydicom_of(name: str | Path) -> FileDataset:
    """A sample as pydicom has it, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = pydicom.dcmread(dicom_sample(name) if isinstance(name, str) else name, force=True)
        for _ in source.iterall():  # makes sense of all values, and says so where they make none
            pass
        if "TransferSyntaxUID" not in source.file_meta:
            source.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
        return source


def dicom_data(**settings: Any) -> Data:
    return Data(size=64, channels=1, classes=("a", "b"), **settings)


def pictures_of(path: Path, **settings: Any) -> list[SourceImage]:
    return list(read_dicom(path, dicom_data(**settings)))


def only_pixels(path: Path, **settings: Any) -> NDArray[Any]:
    (picture,) = pictures_of(path, **settings)
    return picture.pixels


def refusal_of(path: Path, **settings: Any) -> str:
    with pytest.raises(CohortError) as caught:
        pictures_of(path, **settings)
    return str(caught.value)


def dicom_object(pixels: NDArray[Any] | bytes, shape: tuple[int, int], **attributes: Any) -> FileDataset:
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


def written_to(folder: Path, made: FileDataset, name: str = "object.dcm") -> Path:
    path = folder / name
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")
        patch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.IGNORE)
        if made.file_meta.TransferSyntaxUID == BIG:
            pydicom.dcmwrite(path, made, implicit_vr=False, little_endian=False, force_encoding=True)
        else:
            made.save_as(path, enforce_file_format=True)
    return path


def look_up_table(entries: list[int], first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new(0x00283002, "US" if first >= 0 else "SS", [len(entries), first, bits])
    item.add_new(0x00283006, "OW", np.array(entries, "<u2").tobytes())
    return item
