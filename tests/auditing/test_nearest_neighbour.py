"""The nearest-neighbour audit on real images: copies are caught, smooth sets are not."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from real_cohorts import blends

from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.cohort.document import write_document
from privsyn.files import file_digest
from privsyn.synthetic.dataset import SyntheticSet

COUNT, COPIES = 1000, 30


def leaky_set(cohort: Cohort, source: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """1,000 blends of two test images each, 30 of them replaced by disturbed copies from a part."""
    images, labels = blends(cohort.part("test"), COUNT, generator)
    part = cohort.part(source)
    rows = generator.choice(len(part.images), COPIES, replace=False)
    images[:COPIES], labels[:COPIES] = LIGHT.plant(part.images[rows]), part.labels[rows]
    return images, labels


@pytest.mark.parametrize(("source", "outcomes"), [("train", {"fail"}), ("holdout", {"pass", "inconclusive"})])
def test_three_per_cent_of_copies_are_caught_if_they_are_of_training_patients(
    tmp_path: Path, chest_cohort: Cohort, source: str, outcomes: set[str]
) -> None:
    """3 % lightly disturbed training images among blends fail; the same made of holdout patients do not."""
    images, labels = leaky_set(chest_cohort, source, np.random.default_rng(0))
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    verdict = audit(
        synthetic=tmp_path / "set.npz",
        cohort=chest_cohort.folder,
        policy="internal-review",
        out=tmp_path / "audit",
        only=["nearest-neighbour"],
    )
    assert verdict.outcome in outcomes
    assert {row.audit for row in verdict.rules} == {"nearest-neighbour"}


def run(evidence: Evidence, images: np.ndarray, alpha: float = 0.05) -> Finding:
    """The finding about a set of digits; labels play no part in it."""
    labels = np.zeros(len(images), np.int64)
    of_them = evidence.about(SyntheticSet(images, labels, evidence.cohort.classes, None, "0" * 64))
    (finding,) = installed()["nearest-neighbour"].load()(of_them, Settings(alpha=alpha))
    return finding


@pytest.fixture(scope="module")
def evidence(digits_cohort: Cohort) -> Evidence:
    """Shared by the tests below, so that the cohort is embedded once."""
    test = digits_cohort.part("test")
    return Evidence(
        digits_cohort, SyntheticSet(test.images, test.labels, digits_cohort.classes, None, "0" * 64)
    )


def test_a_leak_of_the_stated_size_is_found_and_shown(evidence: Evidence) -> None:
    """Twice the smallest leak that the audit says it sees is caught, and most of its pairs are the copies."""
    generator = np.random.default_rng(5)
    images, _ = blends(evidence.test, 300, generator)
    clean = run(evidence, images)
    assert clean.power is not None
    assert clean.power.smallest_leak is not None
    copies = int(2 * clean.power.smallest_leak)
    rows = generator.choice(len(evidence.train.images), copies, replace=False)
    images[:copies] = LIGHT.plant(evidence.train.images[rows])
    found = run(evidence, images)
    assert clean.interval is not None
    assert found.interval is not None
    assert clean.interval[0] == 0 < found.interval[0] <= copies <= found.interval[1]
    pairs = found.details["pairs"]
    assert isinstance(pairs, list)
    assert len(pairs) == 12
    planted = [pair for pair in pairs if pair["synthetic"] < copies]
    assert len(planted) >= 9
    assert all(pair["train"] == evidence.train.rows[rows[pair["synthetic"]]] for pair in planted)


def test_the_estimate_is_never_below_what_is_proven(evidence: Evidence) -> None:
    """A set of many copies, and one of none: the number of copied patients lies in its own interval."""
    rows = np.random.default_rng(8).permutation(len(evidence.train.images))[:600]
    for images in (
        LIGHT.plant(evidence.train.images[rows]),
        blends(evidence.test, 200, np.random.default_rng(9))[0],
    ):
        finding = run(evidence, images)
        assert finding.interval is not None
        assert finding.value is not None
        assert finding.interval[0] <= finding.value <= finding.interval[1]


def test_smooth_sets_are_not_called_copiers(evidence: Evidence) -> None:
    """Averages of ten images are closer to all patients and expose none."""
    generator = np.random.default_rng(2)
    groups = generator.integers(len(evidence.test.images), size=(300, 10))
    smooth = evidence.test.images[groups].mean(axis=1).round().astype(np.uint8)
    finding = run(evidence, smooth)
    assert finding.interval is not None
    assert finding.interval[0] == 0


def test_pseudonyms_do_not_change_the_finding(tmp_path: Path, evidence: Evidence) -> None:
    """One split gives one finding, though the patients' keyed ids sort differently on every machine."""
    images, _ = blends(evidence.test, 100, np.random.default_rng(3))
    again = Path(shutil.copytree(evidence.cohort.folder, tmp_path / "cohort"))
    records = pd.read_parquet(again / "records.parquet")
    records["patient"] = [hashlib.sha256(each.encode()).hexdigest() for each in records["patient"]]
    records.to_parquet(again / "records.parquet")
    sha256 = file_digest(again / "records.parquet")
    write_document(again / "cohort.json", replace(evidence.cohort.document, records_sha256=sha256))
    elsewhere = Evidence(load_cohort(again), evidence.synthetic)
    assert sorted(elsewhere.train.patients) != sorted(evidence.train.patients)
    assert run(elsewhere, images) == run(evidence, images)


def test_a_small_set_says_that_it_cannot_tell(evidence: Evidence) -> None:
    """With eight images not even a leak of all of them could be seen: not conclusive."""
    images, _ = blends(evidence.test, 8, np.random.default_rng(4))
    finding = run(evidence, images)
    assert not finding.conclusive
    assert "too small" in finding.reason


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_honest_sets_raise_alarms_at_the_nominal_rate(evidence: Evidence) -> None:
    """Over 200 honest sets, a bound above zero comes up in at most 5 % plus 2 standard errors."""
    alarms = 0
    for seed in range(200):
        images, _ = blends(evidence.test, 120, np.random.default_rng(100 + seed))
        finding = run(evidence, images)
        assert finding.interval is not None
        alarms += finding.interval[0] > 0
    assert alarms / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
