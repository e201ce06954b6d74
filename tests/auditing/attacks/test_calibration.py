"""Thresholds per person: what they win, and that they favour neither side."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.auditing.attacks.calibration import Looks, Thresholds, margins
from privsyn.auditing.attacks.membership import Sides
from privsyn.auditing.statistics.roc import auc


def scored(members: int, others: int, gap: float, seed: int) -> tuple[Sides, Looks]:
    """Scores that hang on the looks far more than on membership."""
    generator = np.random.default_rng(seed)
    looks = generator.standard_normal((members + others, 4))
    scores = 3 * looks[:, 0] - looks[:, 2] + generator.standard_normal(members + others)
    scores[:members] += gap
    return Sides(scores[:members], scores[members:]), Looks(looks[:members], looks[members:])


def test_margins_find_what_hardness_hides() -> None:
    """A shift of one standard deviation of the noise is lost in the raw score, and found in the margin."""
    sides, looks = scored(300, 600, 1.0, seed=0)
    found = margins(sides, looks)
    assert auc(sides.members, sides.nonmembers) < 0.65
    assert auc(found.members, found.nonmembers) > 0.72


def test_under_the_null_neither_side_is_favoured() -> None:
    """Over 60 cohorts without a leak the mean AUC is one half, though one side teaches the thresholds."""
    found = [margins(*scored(40, 120, 0.0, seed)) for seed in range(60)]
    values = np.array([auc(each.members, each.nonmembers) for each in found])
    assert values.mean() == pytest.approx(0.5, abs=3 * values.std() / np.sqrt(60))


def test_nobody_is_judged_by_what_his_own_score_taught() -> None:
    """A changed score changes the margins of the other fold alone, and its own by as much as itself."""
    sides, looks = scored(20, 60, 0.0, seed=1)
    before = margins(sides, looks)
    changed = sides.nonmembers.copy()
    changed[4] += 100
    after = margins(Sides(sides.members, changed), looks)
    assert after.nonmembers[4] - before.nonmembers[4] == pytest.approx(100)
    same_fold = np.delete(np.arange(0, 60, 2), 2)
    np.testing.assert_allclose(after.nonmembers[same_fold], before.nonmembers[same_fold])
    np.testing.assert_allclose(after.members[0::2], before.members[0::2])


def test_a_threshold_is_the_quantile_it_says() -> None:
    """Nine tenths of those who taught it lie below, up to the few that a line may pass through."""
    sides, looks = scored(1, 500, 0.0, seed=2)
    thresholds = Thresholds.learned(looks.nonmembers, sides.nonmembers, 0.9)
    below = (sides.nonmembers <= thresholds(looks.nonmembers) + 1e-9).mean()
    assert below == pytest.approx(0.9, abs=0.015)
