"""Patients of one to thirty images: real blood cells, the smear standing for the patient."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from privsyn.claim.document import Mechanism
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.dp.accounting import epsilon
from privsyn.dp.cipher_stream import keyed_stream
from privsyn.dp.sampling import capped, units_of
from privsyn.study import init
from privsyn.training.loop import train

SETTINGS = (
    "data.size=32", "data.channels=3", 'data.classes=["RBC", "WBC", "Platelets"]', "train.steps=4",
    "train.batch_size=40", "privacy.expected_units=200", "privacy.noise_multiplicity=2",
    "privacy.max_images_per_unit=6", "privacy.epsilon=8.0",
)  # fmt: skip


def test_a_smear_is_one_unit_however_many_cells_it_has(shared_data: Path, tmp_path: Path) -> None:
    """A patient-level run on BCCD: the claim says patient, steps count smears, and each is capped again."""
    study = init(tmp_path / "study", recipe="toy", policy="internal-review", settings=SETTINGS)
    prepare(study, shared_data / "bccd32.npz")
    part = load_cohort(study.cohort).part("train")
    units = units_of(part.units("patient"))
    sizes = sorted({len(rows) for rows in units})
    assert (sizes[0], sizes[-1] >= 25) == (1, True)
    assert len(units) < len(part.labels) / 5

    document = train(study, dp=True).to_document()
    assert document["unit"] == "patient"
    mechanism = document["mechanism"]
    assert (mechanism["max_images_per_unit"], mechanism["sample_rate"]) == (6, 0.2)
    assert document["group"] == []
    ran = Mechanism(*(mechanism[key] for key in ("noise_multiplier", "sample_rate", "steps")))
    assert document["epsilon"] == epsilon([ran], document["delta"]) <= 8
    logged = [json.loads(line) for line in study.training_log.read_text().splitlines()][-1]
    expected = len(units) * mechanism["sample_rate"] * mechanism["steps"]
    assert abs(logged["units"] - expected) < 6 * np.sqrt(expected)
    assert logged["dropped_units"] == 0

    largest = max(units, key=len)
    drawn = [capped(largest, 6, keyed_stream(step)) for step in range(40)]
    assert {len(rows) for rows in drawn} == {6}
    assert set(np.concatenate(drawn)) == set(largest)
