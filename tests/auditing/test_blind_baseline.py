"""The blind baseline: train and holdout are alike if privsyn split them, not if another scanner came in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from privsyn.auditing.attacks.null_hypothesis import NullHypothesis
from privsyn.auditing.attacks.planted_leaks import brighten
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.statistics.blind_baseline import (
    BlindBaseline,
    BlindClassifier,
    appearance_components,
    selected,
    strongest,
)
from privsyn.auditing.statistics.permutation import permuted_members
from privsyn.auditing.statistics.roc import auc
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet


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
    assert NullHypothesis(evidence).control(1e-3).passed


def test_another_scanner_for_the_holdout_is_noticed_and_voids_membership_findings(evidence: Evidence) -> None:
    """Holdout images 15 % brighter are told from train's; the attack on the set says that it cannot judge."""
    holdout = evidence.holdout
    evidence.__dict__["holdout"] = replace(
        holdout, images=np.stack([brighten(image, 1.15) for image in holdout.images])
    )
    assert not NullHypothesis(evidence).control(1e-3).passed
    (finding,) = installed()["blind-baseline"].load()(evidence, Settings())
    assert finding.interval is not None
    assert finding.interval[0] > 0.5
    for found in installed()["membership-synthetic"].load()(evidence, Settings()):
        assert not found.conclusive


def test_the_guess_is_at_chance_as_often_as_it_says_and_finds_what_is_planted() -> None:
    """Over 400 draws of members at random few alarms at 5 %; selection by appearance has its AUC."""
    generator = np.random.default_rng(0)
    appearance = appearance_components(
        generator.normal(0, 1, (900, 32)).astype(np.float32), np.arange(900) // 3
    )
    strata, is_member = np.arange(300) % 2, np.arange(300) < 200
    classifier = BlindClassifier.of(appearance, strata, generator)
    chance = classifier.aucs(permuted_members(is_member, strata, 1_999, generator)[:, 1:])
    alarms = 0
    for value in classifier.aucs(permuted_members(is_member, strata, 400, generator)[:, 1:]):
        alarms += BlindBaseline(np.zeros(1), np.zeros(1), chance).p_value(value) <= 0.05
    assert alarms / 400 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 400)
    found = []
    for _ in range(100):
        members = selected(appearance, 200, 0.65, generator)
        found.append(auc(appearance[members, 0], appearance[~members, 0]))
    assert np.mean(found) == pytest.approx(0.65, abs=2 * np.std(found) / np.sqrt(100) + 1e-3)


def test_chance_spreads_a_cross_fitted_guess_more_than_a_rank_test_thinks() -> None:
    """Each pair of patients in different folds counts twice: the AUC varies 1.4 times as much."""
    generator = np.random.default_rng(0)
    strata, is_member = np.zeros(2000, np.int64), np.arange(2000) < 1500
    classifier = BlindClassifier.of(generator.normal(0, 1, (2000, 32)), strata, generator)
    chance = classifier.aucs(permuted_members(is_member, strata, 2_000, generator)[:, 1:])
    independent = np.sqrt(2001 / (12 * 1500 * 500))
    assert chance.std() / independent == pytest.approx(np.sqrt(2), abs=0.07)  # three standard errors
    assert chance.mean() == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.2, 0.3, 0.5])
def test_the_interval_leaves_chance_only_where_the_p_value_does(shift: float) -> None:
    """At every level the lower end exceeds 1/2 exactly where the permutation test rejects."""
    generator = np.random.default_rng(1)
    strata, is_member = np.zeros(300, np.int64), np.arange(300) < 200
    appearance = generator.normal(0, 1, (300, 8)) + shift * is_member[:, np.newaxis]
    classifier = BlindClassifier.of(appearance, strata, generator)
    labels = permuted_members(is_member, strata, 999, generator)
    truth, chance = classifier.scores(labels[:, :1])[:, 0], classifier.aucs(labels)
    guess = BlindBaseline(truth[is_member], truth[~is_member], chance[1:])
    assert guess.auc == chance[0]
    p_value = guess.p_value(guess.auc)
    assert p_value == np.mean(chance >= chance[0])
    for level in (5e-4, 1e-3, 0.01, 0.05, 0.2, p_value - 1e-3, p_value):
        if 0 < level < 0.5:
            assert (guess.interval(1 - 2 * level)[0] > 0.5) == (p_value <= level), level


def test_nobody_is_scored_by_a_classifier_that_knew_whether_they_are_in() -> None:
    """Turning the membership of one patient changes the other folds, and its own by the mean alone."""
    generator = np.random.default_rng(2)
    labels = (generator.random((60, 1)) < 0.5).astype(np.int8)
    classifier = BlindClassifier.of(generator.normal(0, 1, (60, 3)), np.zeros(60, np.int64), generator)
    turned = labels.copy()
    turned[7] = 1 - turned[7]
    before, after = (classifier.scores(each)[:, 0] for each in (labels, turned))
    learnt = classifier.fold != classifier.fold[7]
    mean = classifier.appearance[learnt].sum(axis=0) * (turned.mean() - labels.mean())
    others = ~learnt
    assert after[others] == pytest.approx(before[others] - classifier.appearance[others] @ mean, abs=1e-9)
    assert not np.allclose(after[learnt], before[learnt])


@pytest.mark.parametrize("share", [0.5, 0.75, 0.9])
def test_the_strongest_selection_is_as_strong_as_it_says(share: float) -> None:
    """With few others no selection by chances between 0 and 1 has a higher AUC, whatever is asked for."""
    generator, appearance = np.random.default_rng(3), np.arange(20_000.0)[:, np.newaxis]
    most = strongest(round(share * 20_000), 20_000)
    members = selected(appearance, round(share * 20_000), 0.99, generator)
    assert auc(appearance[members, 0], appearance[~members, 0]) == pytest.approx(most, abs=0.015)
    assert members.mean() == pytest.approx(share, abs=0.015)
