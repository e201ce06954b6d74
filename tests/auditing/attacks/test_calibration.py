"""Thresholds per person: what they win, and that they favour neither side."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.auditing.attacks.calibration import PatientAppearance, Thresholds, margins
from privsyn.auditing.attacks.membership import AttackScores
from privsyn.auditing.statistics.roc import auc


def scored(members: int, others: int, gap: float, seed: int) -> tuple[AttackScores, PatientAppearance]:
    """Scores that hang on the appearance far more than on membership."""
    generator = np.random.default_rng(seed)
    appearance = generator.standard_normal((members + others, 4))
    scores = 3 * appearance[:, 0] - appearance[:, 2] + generator.standard_normal(members + others)
    scores[:members] += gap
    return AttackScores(scores[:members], scores[members:]), PatientAppearance(
        appearance[:members], appearance[members:]
    )


def test_margins_find_what_hardness_hides() -> None:
    """A shift of one standard deviation of the noise is lost in the raw score, and found in the margin."""
    scores, appearance = scored(300, 600, 1.0, seed=0)
    found = margins(scores, appearance)
    assert auc(scores.members, scores.nonmembers) < 0.65
    assert auc(found.members, found.nonmembers) > 0.72


def test_under_the_null_neither_side_is_favoured() -> None:
    """Over 60 cohorts without a leak the mean AUC is one half, though one side teaches the thresholds."""
    found = [margins(*scored(40, 120, 0.0, seed)) for seed in range(60)]
    values = np.array([auc(each.members, each.nonmembers) for each in found])
    assert values.mean() == pytest.approx(0.5, abs=3 * values.std() / np.sqrt(60))


def test_nobody_is_judged_by_what_his_own_score_taught() -> None:
    """A changed score changes the margins of the other fold alone, and its own by as much as itself."""
    scores, appearance = scored(20, 60, 0.0, seed=1)
    before = margins(scores, appearance)
    changed = scores.nonmembers.copy()
    changed[4] += 100
    after = margins(AttackScores(scores.members, changed), appearance)
    assert after.nonmembers[4] - before.nonmembers[4] == pytest.approx(100)
    same_fold = np.delete(np.arange(0, 60, 2), 2)
    np.testing.assert_allclose(after.nonmembers[same_fold], before.nonmembers[same_fold])
    np.testing.assert_allclose(after.members[0::2], before.members[0::2])


def test_a_threshold_is_the_quantile_it_says() -> None:
    """Nine tenths of those who taught it lie below, up to the few that a line may pass through."""
    scores, appearance = scored(1, 500, 0.0, seed=2)
    thresholds = Thresholds.learned(appearance.nonmembers, scores.nonmembers, 0.9)
    below = (scores.nonmembers <= thresholds(appearance.nonmembers) + 1e-9).mean()
    assert below == pytest.approx(0.9, abs=0.015)
