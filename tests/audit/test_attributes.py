"""Inference of what is missing: copies give their patients away, honest sets do not."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.audit.contract import Evidence, Finding, Settings
from privsyn.audit.run import installed
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic import SyntheticSet

Strangers = tuple[Cohort, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def evidence(strangers: Strangers) -> Evidence:
    cohort, images, labels = strangers
    return Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64))


def infer(evidence: Evidence, images: np.ndarray, labels: np.ndarray) -> dict[str, Finding]:
    of_them = evidence.about(SyntheticSet(images, labels, evidence.cohort.classes, None, "0" * 64))
    findings = installed()["attributes"].load()(of_them, Settings())
    return {finding.scope["attribute"]: finding for finding in findings}


def test_halves_of_copied_patients_are_inferred(evidence: Evidence) -> None:
    """A set of 400 training images completes the halves of its patients, and not those of strangers."""
    train = evidence.train
    found = infer(evidence, train.images[:400], train.labels[:400])["masked half"]
    assert found.interval is not None
    assert 0.1 < found.interval[0] < 400 / len(train.labels) < found.interval[1]
    assert found.conclusive, found.reason


def test_honest_sets_infer_as_much_of_strangers(evidence: Evidence, strangers: Strangers) -> None:
    """Fresh digits are as useful about train as about holdout: no risk in either attribute."""
    found = infer(evidence, *strangers[1:])
    for finding in found.values():
        assert finding.interval is not None
        assert finding.interval[0] <= 0
    assert found["masked half"].conclusive, found["masked half"].reason


def test_where_hardly_anything_is_left_open_it_says_that_it_cannot_tell(
    evidence: Evidence, strangers: Strangers
) -> None:
    """Fresh digits tell 97 % of the labels, so in a cohort of 1,200 copies could not show in the rest."""
    finding = infer(evidence, *strangers[1:])["label"]
    assert finding.details["guessing"] < 0.2
    assert not finding.conclusive
    assert "too small" in finding.reason


@pytest.mark.slow
def test_honest_sets_raise_alarms_at_the_nominal_rate(evidence: Evidence, strangers: Strangers) -> None:
    """Over 200 honest sets, a risk above 0 comes up in at most 5 % plus 2 standard errors."""
    _, images, labels = strangers
    alarms = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).choice(len(images), 100, replace=False)
        findings = infer(evidence, images[rows], labels[rows]).values()
        alarms += any(finding.interval is not None and finding.interval[0] > 0 for finding in findings)
    assert alarms / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
