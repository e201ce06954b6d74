"""What counts as one unit: a patient, or the finest that the source makes certain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_objects import dicom_object, written_to
from numpy.typing import NDArray
from PIL import Image

from privsyn.claim.document import Unit
from privsyn.cohort.cohort import Cohort
from privsyn.cohort.prepare import SourceSpec, prepare
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe
from privsyn.study import Study

MakeStudy = Callable[..., Study]
Noise = Callable[..., NDArray[np.uint8]]
SHARES = "data.split=[0.4, 0.3, 0.3]"  # so that a few files are enough for every part
DICOM = ("data.label_tag=BodyPartExamined", "data.text_scan=0", 'data.classes=["A", "B"]')


def _units(cohort: Cohort, unit: Unit = "patient") -> int:
    return len(set(cohort.of_rows(np.arange(len(cohort.records))).units(unit).tolist()))


def _files(folder: Path, noise: Noise, count: int, **identity: str | None) -> Path:
    """DICOM files of three frames each; of `identity`, `{}` becomes the number of the file."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        named = {key: value and value.format(number) for key, value in identity.items()}
        made = dicom_object(noise(3, 8, 8), (8, 8), NumberOfFrames=3, BodyPartExamined="A", **named)
        written_to(folder, made, f"{identity.get('PatientID')}-{number}.dcm")
    return folder


def test_frames_of_a_file_are_one_unit_where_nothing_else_is_known(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Twelve files of three frames without patient and study: twelve units, called files."""
    study = make_study(SHARES, *DICOM)
    cohort = prepare(study, _files(tmp_path / "dicom", noise, 12, PatientID=None))
    assert (len(cohort.records), cohort.document.unit, _units(cohort)) == (36, "file", 12)
    assert cohort.document.patient_ids.startswith("none: every file counts by itself")
    assert cohort.records.groupby("patient")["split"].nunique().eq(1).all()


def test_files_of_a_study_are_one_unit_where_no_patient_is_known(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Two files in each of fifteen examinations: fifteen units, called studies."""
    folder = _files(tmp_path / "dicom", noise, 15, PatientID=None, StudyInstanceUID="1.2.{}")
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"first {path.name}"))
    _files(folder, noise, 15, PatientID=None, StudyInstanceUID="1.2.{}")
    cohort = prepare(make_study(SHARES, *DICOM), folder)
    assert (len(cohort.records), cohort.document.unit, _units(cohort)) == (90, "study", 15)


def test_only_images_are_certain_where_some_have_a_patient_and_some_have_none(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """A claim for patients would not hold for those without an id."""
    folder = _files(tmp_path / "dicom", noise, 9, PatientID="p{}")
    _files(folder, noise, 9, PatientID=None)
    cohort = prepare(make_study(SHARES, *DICOM), folder)
    assert (cohort.document.unit, _units(cohort, "image")) == ("image", 54)


def test_equal_files_without_ids_are_one_cluster_in_any_order(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Two copies of a file are two files with the same pictures: two pseudonyms, and one unit."""
    folder = _files(tmp_path / "dicom", noise, 12, PatientID=None)
    first = next(folder.iterdir())
    (folder / "copy.dcm").write_bytes(first.read_bytes())
    cohort = prepare(make_study(SHARES, *DICOM), folder)
    assert cohort.records["patient"].nunique() == 13
    assert _units(cohort) == 12


def test_a_table_makes_patients_of_files(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """With 17, 17.0 and ' 17 ' as one; the same form decides about opt-outs."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["file,label,patient"]
    for number, patient in enumerate(["17", "17.0", " 17 ", *range(100, 120)]):
        Image.fromarray(noise(8, 8)).save(folder / f"{number}.png")
        lines.append(f"{number}.png,a,{patient}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    (tmp_path / "out.txt").write_text("100.0\n")
    spec = SourceSpec(folder, table=tmp_path / "table.csv", opt_outs=tmp_path / "out.txt")
    cohort = prepare(make_study(SHARES), spec)
    assert cohort.document.left_out.opted_out == 1
    assert (cohort.document.unit, _units(cohort)) == ("patient", 20)


def test_a_claim_is_lowered_to_what_a_cohort_knows_and_never_raised() -> None:
    """A recipe for patients claims files where only files are certain; images can always be claimed."""
    recipe = Recipe.model_validate({"data": {"size": 8, "classes": ["a"]}})
    for certain in ("image", "file", "study", "patient"):
        assert recipe.claiming(certain).privacy.unit == certain
        images = recipe.with_settings(["privacy.unit=image"])
        assert images.claiming(certain) is images
    with pytest.raises(RecipeError, match="knows what belongs to one patient: set it to patient"):
        recipe.with_settings(["privacy.unit=file"]).claiming("patient")
