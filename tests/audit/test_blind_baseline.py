"""The blind baseline: alike where privsyn split the patients, not where another scanner came in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privsyn.audit.blind import appearance, blind_guess, selected
from privsyn.audit.contract import Evidence, Settings
from privsyn.audit.plant import brighten
from privsyn.audit.run import installed
from privsyn.audit.stats import auc
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic import SyntheticSet


@pytest.fixture
def evidence(digits_cohort: Cohort) -> Evidence:
    test = digits_cohort.part("test")
    return Evidence(
        digits_cohort, SyntheticSet(test.images, test.labels, digits_cohort.classes, None, "0" * 64)
    )


def test_a_cohort_that_privsyn_split_is_alike(evidence: Evidence) -> None:
    """Chance lies in the interval, the controls are in order, and membership may be asked about."""
    (finding,) = installed()["blind-baseline"].load()(evidence, Settings())
    assert finding.conclusive, finding.reason
    assert finding.interval is not None
    assert finding.interval[0] <= 0.5
    assert evidence.alike(1e-3).passed


def test_another_scanner_for_the_holdout_is_noticed_and_voids_membership_findings(evidence: Evidence) -> None:
    """Holdout images 15 % brighter are told from train's; the attack on the set says that it cannot judge."""
    holdout = evidence.holdout
    evidence.__dict__["holdout"] = replace(
        holdout, images=np.stack([brighten(image, 1.15) for image in holdout.images])
    )
    assert not evidence.alike(1e-3).passed
    (finding,) = installed()["blind-baseline"].load()(evidence, Settings())
    assert finding.interval is not None
    assert finding.interval[0] > 0.5
    for found in installed()["membership-synthetic"].load()(evidence, Settings()):
        assert not found.conclusive


def test_the_guess_is_at_chance_as_often_as_it_says_and_finds_what_is_planted() -> None:
    """Over 200 draws of members at random few alarms at 5 %; selection by looks has the AUC it was given."""
    generator = np.random.default_rng(0)
    looks = appearance(generator.normal(0, 1, (900, 12)).astype(np.float32), np.arange(900) // 3)
    strata, is_member = np.zeros(300, np.int64), np.arange(300) < 200
    alarms = 0
    for _ in range(200):
        guess = blind_guess(looks, generator.permutation(is_member), strata, generator)
        spread = np.sqrt(301 / (12 * 200 * 100))  # of the AUC under the null hypothesis
        alarms += auc(guess.members, guess.nonmembers) > 0.5 + 1.645 * spread
    assert alarms / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
    found = []
    for _ in range(100):
        members = selected(looks, 200, 0.65, generator)
        found.append(auc(looks[members, 0], looks[~members, 0]))
    assert np.mean(found) == pytest.approx(0.65, abs=2 * np.std(found) / np.sqrt(100) + 1e-3)
