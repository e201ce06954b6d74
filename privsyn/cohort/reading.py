"""Read the images of a file of any format; the first bytes decide the format, not the name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from privsyn.cohort.dicom import DICOM_SUFFIXES, looks_like_dicom, read_dicom
from privsyn.cohort.entries import NotAnImage, SourceImage
from privsyn.cohort.nifti import NIFTI_SUFFIXES, looks_like_nifti, read_nifti
from privsyn.cohort.pixels import IMAGE_SUFFIXES, image_format, open_regular, read_picture
from privsyn.errors import CohortError
from privsyn.recipe import Data

ENDINGS = (*IMAGE_SUFFIXES, *DICOM_SUFFIXES, *NIFTI_SUFFIXES)  # file names of images
_HEAD = 4096
_DICOM_MARK = 128  # offset of DICM, behind a preamble that may be the head of a TIFF
# Image formats that are not read; they are refused and not passed over.
_OTHER_PICTURES = (
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51", re.DOTALL)),
    ("JPEG XL", re.compile(rb"\xff\x0a|\0\0\0\x0cJXL ")),
    ("HEIC or AVIF", re.compile(rb".{4}ftyp(?:heic|heix|hevc|mif1|msf1|avif|avis)", re.DOTALL)),
    ("PNM", re.compile(rb"P[1-7][\s#]")),
    ("Photoshop", re.compile(rb"8BPS\0[\1\2]")),
    ("OpenEXR", re.compile(rb"\x76\x2f\x31\x01")),
    ("NRRD", re.compile(rb"NRRD000")),
    ("MetaImage", re.compile(rb"(?:ObjectType|NDims) *=")),
)


def read_file(path: str, data: Data, size: int | None = None) -> Iterable[SourceImage]:
    """The images in a PNG, JPEG, BMP, TIFF, WebP, DICOM or NIfTI file.

    With `data.patient_pattern` the patient is what the pattern finds in the name of the file.

    Args:
        size: of the file in bytes, if a listing has shown that it is a regular file; None looks it up.

    Raises:
        NotAnImage: the file is a text, a document, an archive ...
        CohortError: it cannot be used, or is not a regular file.
    """
    pictures = read_any(path, data, size)
    if data.patient_pattern is None:
        return pictures
    patient = patient_in(path, data.patient_pattern)
    if isinstance(pictures, tuple):  # one image, already decoded
        return (pictures[0]._replace(patient=patient),)
    return (picture._replace(patient=patient) for picture in pictures)


def read_any(path: str, data: Data, size: int | None = None) -> Iterable[SourceImage]:
    """Like `read_file`, with the patient that the file itself gives."""
    with open_regular(path, size) as file:
        head = file.read(_HEAD)
        if head[_DICOM_MARK : _DICOM_MARK + 4] != b"DICM" and image_format(head) is not None:
            file.seek(0)
            return (read_picture(file),)
    name = os.path.basename(path)
    if looks_like_dicom(head, name):
        return read_dicom(path, data)
    if looks_like_nifti(name):
        return read_nifti(path, data)
    raise _no_picture(head, name)


def read_bytes(content: bytes, name: str, data: Data, named: bool) -> Iterator[SourceImage]:
    """The image in the bytes of a PNG, JPEG, BMP, TIFF or WebP file.

    Args:
        name: its file name, if known; `data.patient_pattern` is searched for in it.
        named: whether the patient is known from elsewhere.
    """
    picture = read_picture(content)
    if data.patient_pattern is not None and not named:
        picture = picture._replace(patient=patient_in(name, data.patient_pattern))
    yield picture


def patient_in(path: str, pattern: str) -> str:
    """The patient that `data.patient_pattern` finds in the name of a file.

    Raises:
        CohortError: there is no match; the image would silently count as a patient of its own.
    """
    match = re.search(pattern, path[path.rfind("/") + 1 :])
    if match is None or not match["patient"]:
        raise CohortError("its name does not match data.patient_pattern")
    return match["patient"]


def seems_a_picture(path: str) -> bool:
    """Whether a file is named like an image or begins like one; False if it cannot be read."""
    if path.lower().endswith(ENDINGS):
        return True
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
    except CohortError:
        return False
    return image_format(head) is not None or looks_like_dicom(head, os.path.basename(path))


def _no_picture(head: bytes, name: str) -> CohortError:
    kind = next((kind for kind, pattern in _OTHER_PICTURES if pattern.match(head)), None)
    if kind is not None:
        return CohortError(f"is a {kind} image: convert it to PNG, without loss")
    if not name.lower().endswith(ENDINGS):
        return NotAnImage("is not an image")
    if not head:
        return CohortError("is an empty file")
    return CohortError("is not what its name says: no PNG, JPEG, BMP, TIFF, WebP, DICOM or NIfTI image")
