"""Real public data sets become cohorts: chest X-rays and blood cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from privsyn.cohort.prepare import prepare
from privsyn.cohort.split import SPLITS
from privsyn.study import Study

MakeStudy = Callable[..., Study]


def test_pneumoniamnist_is_pooled_and_its_duplicates_stay_together(
    make_study: MakeStudy, shared_data: Path
) -> None:
    """Real chest X-rays: 5,856 images, 29 of which equal an earlier one."""
    study = make_study("data.size=28", 'data.classes=["normal", "pneumonia"]')
    cohort = prepare(study, shared_data / "pneumoniamnist.npz")
    assert cohort.images.shape == (5856, 28, 28, 1)
    assert cohort.document.duplicates.exact_images == 29
    assert cohort.records.groupby("sha256")["split"].nunique().eq(1).all()
    sizes = [cohort.document.counts[split].images for split in SPLITS]
    np.testing.assert_allclose(sizes, [0.6 * 5856, 0.2 * 5856, 0.2 * 5856], atol=4 * np.sqrt(0.24 * 5856))


def test_blood_cells_are_split_by_smear(make_study: MakeStudy, shared_data: Path) -> None:
    """Real RGB cells from 364 smears: a smear is a patient, and shares hold for smears."""
    study = make_study("data.size=32", "data.channels=3", 'data.classes=["Platelets", "RBC", "WBC"]')
    cohort = prepare(study, shared_data / "bccd32.npz")
    assert cohort.document.patient_ids == "given"
    assert cohort.records.groupby("patient")["split"].nunique().eq(1).all()
    patients = {split: set(cohort.part(split).patients) for split in SPLITS}
    assert sum(map(len, patients.values())) == 364
    assert abs(len(patients["train"]) - 0.6 * 364) <= 4 * np.sqrt(0.24 * 364)
    assert cohort.records["label_name"].value_counts().to_dict() == {
        "RBC": 4153,
        "WBC": 372,
        "Platelets": 360,
    }
