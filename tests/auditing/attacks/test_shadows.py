"""LiRA and RMIA against their formulas written out, and the halves that shadows are trained on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privsyn.auditing.attacks.shadows import lira, random_halves, rmia
from privsyn.auditing.statistics.roc import auc


def draws(count: int, people: int, gap: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fits under shadows, each person with a level of its own and `gap` higher inside; and who is inside."""
    generator = np.random.default_rng(seed)
    inside = random_halves(np.zeros(people, np.int64), count, generator)
    level = 3 * generator.standard_normal(people)
    return level + gap * inside + generator.standard_normal(inside.shape), inside, level


@pytest.mark.parametrize("count", [6, 80])
def test_lira_is_the_ratio_of_two_normals(count: int) -> None:
    """With few shadows the variance within people is pooled; from 64 on each person has its own."""
    fits, inside, level = draws(count, 12, 1.0, seed=0)
    found = lira(level, fits, inside)
    residuals: dict[bool, list[float]] = {True: [], False: []}
    for person in range(12):
        for side in (True, False):
            own = fits[inside[:, person] == side, person]
            residuals[side] += list(own - own.mean())
    for person in range(12):
        logs = {}
        for side in (True, False):
            own = fits[inside[:, person] == side, person]
            pooled = np.sqrt(np.sum(np.square(residuals[side])) / (12 * (count // 2 - 1)))
            spread = pooled if count < 64 else own.std(ddof=1)
            logs[side] = stats.norm(own.mean(), spread).logpdf(level[person])
        assert found[person] == pytest.approx(logs[True] - logs[False], rel=1e-6)


def test_rmia_counts_whom_one_dominates() -> None:
    """The share of z with [p(model | x) / p(x)] / [p(model | z) / p(z)] above 1, counted one by one."""
    fits, _, level = draws(6, 15, 1.0, seed=1)
    ratio = [np.exp(level[x]) / np.mean(np.exp(fits[:, x])) for x in range(15)]
    naive = [np.mean([ratio[x] / ratio[z] > 1 for z in range(15)]) for x in range(15)]
    assert rmia(level, fits) == pytest.approx(naive)


def test_both_find_members_whom_no_threshold_finds() -> None:
    """A gap of twice the noise drowns in the differences between people, but not in a comparison."""
    fits, inside, level = draws(16, 600, 2.0, seed=2)
    generator = np.random.default_rng(3)
    member = generator.random(600) < 0.5
    target = level + 2 * member + generator.standard_normal(600)
    assert auc(target[member], target[~member]) < 0.75
    for scores in (lira(target, fits, inside), rmia(target, fits)):
        assert auc(scores[member], scores[~member]) > 0.85


def test_without_a_leak_they_are_at_chance() -> None:
    """Whatever the shadow models show, an untrained target gives no membership signal."""
    fits, inside, level = draws(6, 4000, 0.5, seed=4)
    generator = np.random.default_rng(5)
    member = generator.random(4000) < 0.5
    target = level + generator.standard_normal(4000)
    for scores in (lira(target, fits, inside), rmia(target, fits)):
        assert auc(scores[member], scores[~member]) == pytest.approx(0.5, abs=0.03)


def test_halves_come_in_pairs_and_are_even_within_strata() -> None:
    """Everybody is inside half of the shadows; a stratum is split to within one."""
    strata = np.array([0] * 7 + [1] * 10 + [2])
    halves = random_halves(strata, 8, np.random.default_rng(0))
    assert (halves.sum(axis=0) == 4).all()
    assert (halves[0::2] == ~halves[1::2]).all()
    for half in halves:
        for stratum in range(3):
            own = half[strata == stratum]
            assert abs(2 * int(own.sum()) - len(own)) <= 1
