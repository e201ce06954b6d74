"""Inference of what is missing: copies give their patients away, honest sets do not."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet

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


def with_copies(evidence: Evidence, images: np.ndarray, labels: np.ndarray, count: int) -> dict[str, Finding]:
    """A set in which so many training images have taken the place of others."""
    train = evidence.train
    rows = np.random.default_rng(5).choice(len(train.labels), count, replace=False)
    return infer(
        evidence,
        np.concatenate([LIGHT.plant(train.images[rows]), images[count:]]),
        np.concatenate([train.labels[rows], labels[count:]]),
    )


def test_copies_show_where_a_set_tells_nearly_all_labels_anyway(
    evidence: Evidence, strangers: Strangers
) -> None:
    """Fresh digits tell 97 % of the labels; he says nothing unless he is sure, so that copies stand out."""
    honest = infer(evidence, *strangers[1:])["label"]
    leaky = with_copies(evidence, *strangers[1:], 250)["label"]
    assert honest.conclusive, honest.reason
    assert honest.interval is not None
    assert leaky.interval is not None
    assert honest.interval[0] <= 0 < leaky.interval[0]


def test_copies_show_in_a_set_that_is_not_like_real_images(evidence: Evidence, strangers: Strangers) -> None:
    """As DP may draw them: copies among them are of use about everybody, most about those they show."""
    _, images, labels = strangers
    poor = np.random.default_rng(6).normal(128 + 0.3 * (images.astype(float) - 128), 60)
    poor = np.clip(poor, 0, 255).round().astype(np.uint8)
    honest = infer(evidence, poor, labels)["label"]
    leaky = with_copies(evidence, poor, labels, 250)["label"]
    assert honest.conclusive, honest.reason
    assert honest.interval is not None
    assert leaky.interval is not None
    assert honest.interval[0] <= 0 < leaky.interval[0]


def test_few_images_say_that_they_cannot_tell(evidence: Evidence, strangers: Strangers) -> None:
    """Not even if all of them were copies."""
    finding = infer(evidence, strangers[1][:12], strangers[2][:12])["label"]
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
