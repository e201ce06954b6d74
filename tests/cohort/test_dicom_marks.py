"""What the tags of DICOM files say: patient, label, and everything that may identify a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privsyn.cohort.confidentiality import CONFIDENTIAL, NEWER
from privsyn.cohort.dicom import read_dicom

pydicom = pytest.importorskip("pydicom")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

from dicom_objects import (  # noqa: E402
    dicom_data,
    dicom_object,
    dicom_sample,
    pictures_of,
    refusal_of,
    written_to,
)
from pydicom.dataset import Dataset  # noqa: E402

# What the tags say.


def test_patient_and_label_come_from_the_tags(tmp_path: Path) -> None:
    """The id without spaces around it, the issuer left out; the label's tag must be there, and be a tag."""
    made = dicom_object(
        np.zeros((2, 2), np.uint16), (2, 2), IssuerOfPatientID="Ward 7", BodyPartExamined="CHEST "
    )
    path = written_to(tmp_path, made)
    (picture,) = read_dicom(path, dicom_data(label_tag="BodyPartExamined"))
    assert (picture.patient, picture.label, picture.part) == ("P-1", "CHEST", "")
    (picture,) = read_dicom(str(path), dicom_data())
    assert picture.label is None
    assert "has no ViewPosition" in refusal_of(path, label_tag="ViewPosition")
    assert "is not a DICOM keyword" in refusal_of(path, label_tag="BodyPart")
    made.PatientID = ""
    assert pictures_of(written_to(tmp_path, made))[0].patient is None


def _marks(folder: Path, **attributes: Any) -> dict[str, str]:
    made = dicom_object(np.zeros((2, 2), np.uint16), (2, 2), **attributes)
    return dict(pictures_of(written_to(folder, made))[0].marks)


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
    made = dicom_object(np.zeros((2, 2), np.uint16), (2, 2), BurnedInAnnotation="no")
    block = made.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", "x")
    block.add_new(2, "LO", "")
    made.add_new(0x60000010, "US", 2)
    made.add_new(0x60003000, "OW", b"\1\0")
    made.add_new(0x50003000, "OW", b"\1\0")
    made.add_new(0x00100012, "LO", "Janie")
    marks = dict(pictures_of(written_to(tmp_path, made))[0].marks)
    assert marks["DICOM private tags"] == "1"
    assert (marks["DICOM overlay"], marks["DICOM curve"]) == ("1", "1")
    assert marks["DICOM NameToUse"] == "Janie"
    assert marks["DICOM BurnedInAnnotation"] == "NO"
    bare = _marks(tmp_path)
    assert bare["DICOM BurnedInAnnotation"] == "absent"
    assert not {"DICOM private tags", "DICOM overlay", "DICOM curve"} & bare.keys()


def test_marks_of_real_files() -> None:
    """The trap of the samples: a flag that says NO; a birth date in the tags; overlays; private tags."""
    assert (
        pictures_of(dicom_sample("JPGLosslessP14SV1_1s_1f_8b.dcm"))[0].marks["DICOM BurnedInAnnotation"]
        == "NO"
    )
    assert pictures_of(dicom_sample("GREYSCALE_IMAGE.dcm"))[0].marks["DICOM BurnedInAnnotation"] == "YES"
    assert pictures_of(dicom_sample("RGB_IMAGE.dcm"))[0].marks["DICOM BurnedInAnnotation"] == "absent"
    assert "DICOM PatientBirthDate" in pictures_of(dicom_sample("RG1_UNCR.dcm"))[0].marks
    overlaid = pictures_of(dicom_sample("MR-SIEMENS-DICOM-WithOverlays.dcm"))[0].marks
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
