"""DICOM objects to images as a radiologist's screen shows them.

The steps from stored values to an image follow DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2: check the header
(`layout`), decode frames of stored bits (`frames`), apply the modality LUT or rescale and the VOI LUT or
window, and show bone white whatever the photometric interpretation (`display`). Each step uses what the
recipe or the header declares, never the smallest and largest value of an image: those would be a query on
private data, and the same tissue would look different in every image.

Error messages are privsyn's own. Exceptions of pydicom and of the decoders may contain values of the file, so
their texts are never passed on. This is the only reader that imports pydicom, and only when there is a file
to read.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from privsyn.cohort.confidentiality import as_text, identifying
from privsyn.cohort.dicom.display import eight_bits, grey, palette
from privsyn.cohort.dicom.frames import frames_of
from privsyn.cohort.dicom.layout import GREY_MODELS, layout_of
from privsyn.cohort.entries import NotAnImage, SourceImage
from privsyn.cohort.parsers import guarded
from privsyn.errors import CohortError
from privsyn.recipe import Data

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
_HINT = "is DICOM, which needs pydicom: pip install 'privsyn[dicom]'"
_LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")

_DEFERRED = 2**20  # bytes; longer values, such as pixels, are read when they are used
_INFLATED = 2**30  # bytes that a deflated data set may grow to

_MAPS = ("Dose", "Segmentation", "Parametric Map")  # derived from images, not images themselves

# Of bare data sets.
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # kinds with lengths of 4 bytes
_KINDS = _LONG | frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


def looks_like_dicom(head: bytes, name: str) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM.

    Either DICM follows after 128 bytes, or it is a bare data set, as in old archives: elements of the first
    groups in ascending order, with known kinds and lengths. Three such elements are required, or all that fit
    in 132 bytes; one is enough if the file name ends like those of DICOM files.
    """
    if head[128:132] == b"DICM":
        return True
    wanted = 1 if Path(name).suffix.lower() in DICOM_SUFFIXES else 3
    return any(
        _has_elements(head[:132], wanted, order, explicit)
        for order, explicit in (("<", True), ("<", False), (">", True))
    )


def read_dicom(path: str | Path, data: Data) -> Iterator[SourceImage]:
    """The images in a DICOM file, one per frame; one frame is in memory at a time.

    Grey objects of more than 8 stored bits are shown through `data.window` (PS3.3 C.11.2.1.2, linear), else
    through the file's first VOI LUT or window, else over all that their bits can hold after rescaling. Grey
    objects of 8 bits or fewer are shown as they are, through the file's own LUTs if it has any. Padding is
    black, and overlays are left out.

    The patient is the PatientID alone. IssuerOfPatientID is left out on purpose: archives fill it in one
    study and not in the next, which would split a patient into two units and void the protection of both,
    while two patients of different issuers who share an id merely count as one. The study is the
    StudyInstanceUID.

    Returns:
        Pictures: (H, W, 1) grey, uint16 if `data.bit_depth` is 16, else uint8; or (H, W, 3) RGB uint8. The
        label is the value of `data.label_tag`, if that is set. Marks come with the first picture.

    Raises:
        NotAnImage: the object has no pixels: a report, a plan, a directory.
        CohortError: damaged, unsupported, without the label's tag, larger than Pillow's pixel limit, or
            pydicom is missing. Damage of a later frame shows after the pictures before it.
    """
    return guarded(_pictures(Path(path), data), "DICOM", _LOGGERS)


def _pictures(path: Path, data: Data) -> Iterator[SourceImage]:
    dataset = _open(path)
    from pydicom.datadict import keyword_for_tag

    _check_has_pixels(dataset)
    layout = layout_of(dataset)
    label = None if data.label_tag is None else _label(dataset, data.label_tag)
    patient = as_text(dataset.get("PatientID")) or None
    study = as_text(dataset.get("StudyInstanceUID")) or None
    marks = identifying(dataset, keyword_for_tag)
    for number, stored in enumerate(frames_of(path, dataset, layout)):
        if layout.photometric in GREY_MODELS:
            pixels = grey(stored, dataset, number, layout, data)
        elif layout.photometric == "PALETTE COLOR":
            pixels = palette(stored, dataset)
        else:
            pixels = eight_bits(stored, layout.stored)
        part = f"frame {number + 1}" if layout.frames > 1 else ""
        yield SourceImage(pixels, label, patient, part, {} if number else marks, study)


def _open(path: Path) -> Dataset:
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset, read_preamble
    except ImportError:
        raise CohortError(_HINT) from None
    if not path.is_file():
        raise CohortError("does not exist, or is not a file")
    try:
        with path.open("rb") as handle:
            if not looks_like_dicom(handle.read(132), path.name):
                raise CohortError("is not a DICOM file")
            handle.seek(0)
            read_preamble(handle, force=True)
            meta = read_dataset(handle, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            deflated = meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99"
            if deflated:
                _check_inflated(handle)
    except OSError as error:
        raise CohortError(f"cannot be read ({error.strerror})") from None
    # Offsets of deferred values would be wrong in a deflated file, which is in memory as a whole anyway.
    return dcmread(str(path), force=True, defer_size=None if deflated else _DEFERRED)


def _check_inflated(handle: BinaryIO) -> None:
    """Refuse a deflated data set that would fill the memory."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while block := (inflate.unconsumed_tail or handle.read(2**20)):
        total += len(inflate.decompress(block, 2**24))
        if total > _INFLATED:
            raise CohortError(f"is larger than {_INFLATED:,} bytes when inflated")
        if inflate.eof:
            return


def _check_has_pixels(dataset: Dataset) -> None:
    kind = _kind(dataset)
    if kind is not None and kind.endswith(_MAPS):
        raise NotAnImage(f"{kind}: no image of its own")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise CohortError(
            "holds floating-point pixels, which are not read: save it with integers and a rescale"
        )
    if "PixelData" in dataset:
        return
    if kind is None or "Rows" in dataset or kind.endswith(" Image"):
        what = f"is a {kind}" if kind else "is a DICOM object of no known kind,"
        raise CohortError(f"{what} without its pixels: damaged, or they are kept elsewhere")
    raise NotAnImage(f"{kind}: no pixels")


def _kind(dataset: Dataset) -> str | None:
    """The kind of the object, such as `DICOM RT Plan`, by the standard's names; None if it gives none."""
    from pydicom.uid import UID

    uid = UID(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if not uid:
        return None
    known = uid.name != str(uid) and "Storage" in uid.name  # others have no name but themselves
    return "DICOM " + (re.sub(r" Storage( - .*)?$", "", uid.name) if known else "object of a private kind")


def _label(dataset: Dataset, keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword

    if tag_for_keyword(keyword) is None:
        raise CohortError(f"cannot have the label data.label_tag = {keyword!r}: that is not a DICOM keyword")
    label = as_text(dataset.get(keyword))
    if not label:
        raise CohortError(f"has no {keyword}")
    return label


def _has_elements(head: bytes, wanted: int, order: str, explicit: bool) -> bool:
    """Whether `head` is `wanted` data elements, group 2 or 8 first, or fewer that reach beyond it."""
    place, last, count = 0, 0, 0
    while count < wanted and place + 8 <= len(head):
        group, element, length = struct.unpack_from(f"{order}HHI", head, place)
        tag, place = group << 16 | element, place + 8
        if (not last and group not in (0x0002, 0x0008)) or group % 2 or group > 0x0040 or tag <= last:
            return False
        if explicit:
            kind = head[place - 4 : place - 2]
            if kind not in _KINDS:
                return False
            (length,) = struct.unpack_from(f"{order}H", head, place - 2)
            if kind in _LONG:
                if place + 4 > len(head):
                    break
                (length,) = struct.unpack_from(f"{order}I", head, place)
                place += 4
        if length % 2 or (length > 2**16 and length != 0xFFFFFFFF):
            return False
        place, last, count = place + length, tag, count + 1
    return count >= 1 and (count >= wanted or place > len(head) - 8)
