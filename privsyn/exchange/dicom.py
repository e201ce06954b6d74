"""Writes a synthetic set as DICOM files that claim no patient and no examination.

A storage class is used only if what it demands can be said truthfully of an image that no device took. CT,
MR, DX or ophthalmic classes demand pixel spacing, positions, detectors or Hounsfield values, so an image that
looks like one of these is a Secondary Capture whose modality says what it looks like.

Source: DICOM PS3.3 A.2 (CR), A.8.1 (Secondary Capture), A.32.2 (VL Microscopic), C.12.1 (SOP Common, with
Synthetic Data), https://dicom.nema.org/medical/dicom/current/output/html/part03.html.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privsyn import __version__
from privsyn.bit_depth import bit_depth_of
from privsyn.errors import PrivsynError
from privsyn.exchange.pictures import file_names, write_labels
from privsyn.exchange.source import Source
from privsyn.recipe import nearest
from privsyn.synthetic.card import SUMMARY

try:
    from pydicom import Dataset, dcmwrite
    from pydicom.pixels import set_pixel_data
    from pydicom.uid import (
        UID,
        ComputedRadiographyImageStorage,
        SecondaryCaptureImageStorage,
        VLMicroscopicImageStorage,
    )
except ImportError:
    raise PrivsynError("--format dicom needs pydicom: pip install 'privsyn[dicom]'") from None

LO_LENGTH, LT_LENGTH = 64, 10_240  # characters, PS3.5 table 6.2-1
_CUT = "…"


@dataclass(frozen=True)
class Storage:
    """A storage class, and what it demands beyond what every image here says.

    Attributes:
        uid: SOP Class UID.
        attributes: keyword to value; "" is "not known".
        grey_only: the class has no colour.
        bit_depths: that the class allows.
    """

    uid: UID
    attributes: Mapping[str, Any] = field(default_factory=dict)
    grey_only: bool = False
    bit_depths: tuple[int, ...] = (8, 16)


SECONDARY_CAPTURE = Storage(SecondaryCaptureImageStorage, {"ConversionType": "SYN"})
RADIOGRAPH = Storage(
    ComputedRadiographyImageStorage, {"BodyPartExamined": "", "ViewPosition": ""}, grey_only=True
)
MICROGRAPH = Storage(
    VLMicroscopicImageStorage,
    {"AcquisitionContextSequence": [], "LossyImageCompression": ""},
    bit_depths=(8,),
)
CLASSES = {"CR": RADIOGRAPH, "GM": MICROGRAPH}  # by modality; every other is a Secondary Capture
MODALITIES = ("OT", "CR", "CT", "DX", "ES", "GM", "MG", "MR", "OP", "OPT", "SM", "US", "XC")


def write_dicom(folder: Path, source: Source, modality: str = "OT") -> None:
    """Write `images/000000.dcm` ... and `metadata.jsonl`; one study, with one series for each class.

    UIDs are derived from the set, the modality and the version of this program, and from nothing that was
    ever in a real file: the same export has the same UIDs, and any other has others.

    Args:
        modality: what the images look like, a term of PS3.3 C.7.3.1.1.1; "OT" is "other".

    Raises:
        PrivsynError: the modality is not known, or its class has no colour, or no 16 bits, and the set has.
    """
    if modality not in MODALITIES:
        raise PrivsynError(f"no modality {modality!r}{nearest(modality, MODALITIES)}")
    storage, images = CLASSES.get(modality, SECONDARY_CAPTURE), source.synthetic.images
    if storage.grey_only and images.shape[3] != 1:
        raise PrivsynError(
            f"{storage.uid.name} is grey and this set is RGB: choose another --modality, as OT"
        )
    if bit_depth_of(images) not in storage.bit_depths:
        raise PrivsynError(
            f"{storage.uid.name} has 8 bits and this set has 16: choose another --modality, as OT"
        )
    names = file_names(len(images), "dcm")
    (folder / "images").mkdir()
    for row, name in enumerate(names):
        dcmwrite(folder / name, _instance(source, row, storage, modality), enforce_file_format=True)
    write_labels(folder, names, source.synthetic)


def series_description(label: int, name: str) -> str:
    """The class for people, as a long string (LO) may say it: no backslash, no control character, cut.

    It is cut to 64 bytes of UTF-8, for the programs that count these instead of characters.
    """
    text = f"class {label}: " + "".join(c if c.isprintable() and c != "\\" else "?" for c in name)
    if len(text.encode()) <= LO_LENGTH:
        return text
    return text.encode()[: LO_LENGTH - len(_CUT.encode())].decode(errors="ignore") + _CUT


def image_comments(label: int, name: str) -> str:
    """The class for programs: JSON in ASCII, without the name if it would not fit into a long text (LT)."""
    told = json.dumps({"label": label, "label_name": name})
    return told if len(told) <= LT_LENGTH else json.dumps({"label": label})


def _instance(source: Source, row: int, storage: Storage, modality: str) -> Dataset:
    synthetic, export = source.synthetic, f"{source.shards} {modality} {__version__}"
    label = int(synthetic.labels[row])
    name = synthetic.classes[label]
    image = Dataset()
    for keyword, value in {
        **_COMMON,
        **storage.attributes,
        "SOPClassUID": storage.uid,
        "SOPInstanceUID": _uid(f"{export} image {row}"),
        "StudyInstanceUID": _uid(export),
        "SeriesInstanceUID": _uid(f"{export} class {label}"),
        "Modality": modality,
        "SeriesNumber": label + 1,
        "SeriesDescription": series_description(label, name),
        "InstanceNumber": row + 1,
        "ImageComments": image_comments(label, name),
    }.items():
        setattr(image, keyword, value)
    pixels = synthetic.images[row]
    grey = pixels.shape[2] == 1
    set_pixel_data(
        image,
        pixels[:, :, 0] if grey else pixels,
        "MONOCHROME2" if grey else "RGB",
        bits_stored=bit_depth_of(pixels),
        generate_instance_uid=False,
    )
    return image


def _uid(name: str) -> str:
    """A UID of a name-based UUID, as PS3.5 B.2 derives them."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'privsyn {name}').int}"


# "" is type 2, "not known": there was no patient, no examination, and no time that anybody should learn.
_COMMON = {
    "SpecificCharacterSet": "ISO_IR 192",
    "SyntheticData": "YES",
    "PatientName": "",
    "PatientID": "",
    "PatientBirthDate": "",
    "PatientSex": "",
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "Synthetic: drawn from a generative model, of no patient",
    "StudyDate": "",
    "StudyTime": "",
    "StudyID": "",
    "StudyDescription": "Synthetic images",
    "AccessionNumber": "",
    "ReferringPhysicianName": "",
    "Manufacturer": "privsyn",
    "ManufacturerModelName": "privsyn",
    "SoftwareVersions": __version__,
    "ImageType": ["DERIVED", "SECONDARY"],
    "DerivationDescription": SUMMARY,
    "PatientOrientation": "",
    "Laterality": "",
    "BurnedInAnnotation": "NO",
}
