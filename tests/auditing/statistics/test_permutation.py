"""The statistics against independent implementations, known answers and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from privsyn.auditing.statistics.density import log_density
from privsyn.auditing.statistics.permutation import Enrichment
from privsyn.auditing.statistics.rates import clopper_pearson
from privsyn.auditing.statistics.roc import (
    auc,
    auc_interval,
    aucs,
    caught_by_chance,
    roc,
    smallest_auc,
    smallest_tpr,
    tpr_at_fpr,
)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (17, 1000)])
def test_clopper_pearson_equals_scipys(successes: int, trials: int) -> None:
    """The interval is the one that scipy calls exact."""
    expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(successes, trials, 0.95) == pytest.approx((expected.low, expected.high))


def test_no_trials_tell_nothing() -> None:
    """Without a trial the interval is everything."""
    assert clopper_pearson(0, 0, 0.95) == (0.0, 1.0)


def test_auc_and_roc_equal_scikit_learns_with_ties() -> None:
    """Area and curve agree with an independent implementation, ties included."""
    generator = np.random.default_rng(0)
    members, others = generator.integers(0, 9, 200).astype(float), generator.integers(0, 7, 300).astype(float)
    truth, scores = np.r_[np.ones(200), np.zeros(300)], np.r_[members, others]
    assert auc(members, others) == pytest.approx(roc_auc_score(truth, scores))
    fpr, tpr = roc(members, others)
    expected = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, expected[0])
    np.testing.assert_allclose(tpr, expected[1])


@pytest.mark.parametrize("levels", [7, 2**40])
def test_many_aucs_at_once_equal_each_alone(levels: int) -> None:
    """With and without ties, whatever the number of members in a row."""
    generator = np.random.default_rng(0)
    scores, is_member = (
        generator.integers(0, levels, (20, 90)).astype(float),
        generator.random((20, 90)) < 0.4,
    )
    one_by_one = [auc(row[there], row[~there]) for row, there in zip(scores, is_member, strict=True)]
    assert aucs(scores, is_member).tolist() == one_by_one


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("sizes", [(64, 1000), (400, 200)])
def test_the_auc_interval_covers(shift: float, sizes: tuple[int, int]) -> None:
    """For Gaussian scores, whose AUC is known, a 95 % interval misses in about 5 % of 400 draws."""
    truth = stats.norm.cdf(shift / np.sqrt(2))
    generator = np.random.default_rng(1)
    missed = 0
    for _ in range(400):
        low, high = auc_interval(generator.normal(shift, 1, sizes[0]), generator.normal(0, 1, sizes[1]), 0.95)
        missed += not low <= truth <= high
    assert missed / 400 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_the_auc_interval_stays_inside_and_open_at_the_ends() -> None:
    """Perfect separation gives an upper bound of almost 1 and a lower one that is honest about the size."""
    low, high = auc_interval(np.ones(20), np.zeros(20), 0.95)
    assert 0.7 < low < 1
    assert high <= 1
    wide_low, _ = auc_interval(np.ones(5), np.zeros(20), 0.95)
    assert wide_low < low


def test_the_smallest_auc_is_found_in_four_of_five_trials() -> None:
    """Scores with exactly the promised AUC are told from chance about as often as promised."""
    promised = smallest_auc(300, 300, level=0.025)
    shift = np.sqrt(2) * stats.norm.ppf(promised)
    generator = np.random.default_rng(2)
    found = [
        auc_interval(generator.normal(shift, 1, 300), generator.normal(0, 1, 300), 0.95)[0] > 0.5
        for _ in range(300)
    ]
    assert 0.72 <= np.mean(found) <= 0.9


def caught(seed: int, guilty: int, members: int = 3000, others: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Scores of which some are always caught, and the rest knows nothing."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(0, 1, members)
    scores[:guilty] += 100
    return scores, generator.normal(0, 1, others)


def test_the_bound_of_a_tpr_allows_for_the_chance_in_its_threshold() -> None:
    """Over 1,000 honest attacks it exceeds the FPR as often as the p-value allows, which a bound of the rate
    alone does not: the threshold is that of 1,000 non-members."""
    alarms, naive = 0, 0
    for seed in range(1000):
        sides = caught(seed, guilty=0)
        point = tpr_at_fpr(*sides, 0.01, 0.9)
        assert point is not None
        assert (point.tpr_interval[0] > 0.01) == (caught_by_chance(*sides, 0.01) <= 0.05)
        alarms += point.tpr_interval[0] > 0.01
        naive += clopper_pearson(round(point.tpr * 3000), 3000, 0.9)[0] > 0.01
    assert 0.035 <= alarms / 1000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 1000)
    assert naive / 1000 > 0.15


def test_the_chance_of_catching_members_is_that_of_permutations() -> None:
    """The beta-binomial law agrees with members drawn again among the same scores."""
    members, others = caught(0, guilty=25, members=900, others=500)
    scores, generator = np.concatenate([members, others]), np.random.default_rng(1)
    seen, as_many = (members > np.sort(others)[::-1][5]).sum(), 0
    for _ in range(4000):
        drawn = generator.permutation(scores)
        as_many += (drawn[:900] > np.sort(drawn[900:])[::-1][5]).sum() >= seen
    expected = caught_by_chance(members, others, 0.01)
    assert as_many / 4000 == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / 4000))


def test_the_smallest_tpr_is_found_in_four_of_five_trials() -> None:
    """A TPR of the promised size is told from the FPR as often as promised, and the bound is below it."""
    promised = smallest_tpr(3000, 1000, 0.01, level=0.0125)
    guilty = round((promised - 0.01) / 0.99 * 3000)
    found, covered = 0, 0
    for seed in range(400):
        point = tpr_at_fpr(*caught(seed, guilty), 0.01, 0.975)
        assert point is not None
        found += point.tpr_interval[0] > 0.01
        covered += point.tpr_interval[0] <= promised
    assert 0.76 <= found / 400 <= 0.88
    assert covered / 400 >= 1 - 0.0125 - 2 * np.sqrt(0.0125 / 400)


def test_nothing_is_small_enough_for_few_members() -> None:
    """Three members against ten others cannot be told at one in a million, however guilty."""
    assert smallest_tpr(3, 10, 0.01, level=1e-6) == 1


def test_tpr_at_fpr_never_exceeds_its_false_positive_rate() -> None:
    """The achieved FPR is at most the asked one, also with ties, and TPR counts strictly above."""
    generator = np.random.default_rng(3)
    for _ in range(50):
        members, others = generator.integers(0, 50, 500) * 1.0, generator.integers(0, 50, 1000) * 1.0
        point = tpr_at_fpr(members, others, 0.01, 0.95)
        assert point is not None
        assert point.fpr <= 0.01
        assert point.fpr_interval[0] <= point.fpr <= point.fpr_interval[1]


def test_tpr_at_fpr_is_refused_below_what_n_supports() -> None:
    """1 % FPR needs 1,000 non-members."""
    scores = np.arange(999.0)
    assert tpr_at_fpr(scores, scores, 0.01, 0.95) is None
    assert tpr_at_fpr(scores, np.arange(1000.0), 0.01, 0.95) is not None


def test_tpr_at_fpr_of_gaussians_is_the_theoretical_one() -> None:
    """TPR = Phi(mu - z) for unit Gaussians a distance mu apart."""
    generator = np.random.default_rng(4)
    point = tpr_at_fpr(generator.normal(2, 1, 200_000), generator.normal(0, 1, 200_000), 0.01, 0.95)
    assert point is not None
    assert point.tpr == pytest.approx(stats.norm.cdf(2 - stats.norm.isf(0.01)), abs=0.01)


THRESHOLDS = np.array([[2.5, 2.0, 1.0, -np.inf]])


def enrichment(clusters: int, seed: int, strata: int = 1) -> tuple[Enrichment, np.ndarray]:
    """A test over `clusters`, three quarters of them members drawn at random within strata."""
    generator = np.random.default_rng(seed)
    stratum = np.arange(clusters) % strata
    is_member = np.zeros(clusters, bool)
    for s in range(strata):
        rows = np.flatnonzero(stratum == s)
        is_member[generator.permutation(rows)[: round(0.75 * len(rows))]] = True
    return Enrichment.of(is_member, stratum, THRESHOLDS, 499, generator), is_member


def test_honest_scores_raise_alarms_at_the_nominal_rate() -> None:
    """Over 300 seeds, p <= .05 comes up in at most 5 % plus two standard errors, also where few take part."""
    alarms = 0
    for seed in range(300):
        test, _ = enrichment(400, seed, strata=3)
        scores = np.random.default_rng(1000 + seed).normal(0, 1, (1, 400))
        scores[0, : seed % 200] = -np.inf
        alarms += test.p_value(scores) <= 0.05
    assert alarms / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def test_k_members_alone_in_the_tail_reach_the_theoretical_limit() -> None:
    """With k members and no others above the highest threshold the p-value is near share ** k."""
    test, is_member = enrichment(2000, 0)
    scores = np.full((1, 2000), -np.inf)
    scores[0, np.flatnonzero(is_member)[:12]] = 3.0
    limit = 0.75**12
    assert limit * 0.5 <= test.p_value(scores) <= limit * 1.8


def test_copies_of_nonmembers_raise_no_alarm() -> None:
    """The same tail made of non-members is the opposite of suspicious."""
    test, is_member = enrichment(2000, 0)
    scores = np.full((1, 2000), -np.inf)
    scores[0, np.flatnonzero(~is_member)[:40]] = 3.0
    assert test.p_value(scores) > 0.9


def test_the_lower_bound_rarely_exceeds_the_truth() -> None:
    """With 40 guilty members the lower bound exceeds 40 in few of 100 seeds, and is above 10 in most."""
    bounds = []
    for seed in range(100):
        test, is_member = enrichment(1200, seed)
        generator = np.random.default_rng(500 + seed)
        scores = generator.normal(0, 1, (1, 1200))
        scores[0, generator.choice(np.flatnonzero(is_member), 40, replace=False)] = generator.normal(
            4, 0.5, 40
        )
        bounds.append(test.lower_bound(scores, 0.05))
        assert test.upper_bound(scores, 0.05) >= bounds[-1]
    assert np.mean(np.array(bounds) > 40) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 100)
    assert np.median(bounds) >= 10


def test_the_lower_bound_holds_where_one_of_two_kinds_of_score_shows_nothing() -> None:
    """40 guilty members in the first kind alone: with the worst of both kinds mixed the bound was above 40 in
    half of the seeds."""
    bounds = []
    for seed in range(60):
        generator = np.random.default_rng(700 + seed)
        is_member = generator.permutation(np.arange(1000) < 750)
        thresholds = np.tile([2.5, 2.0, 1.0, -np.inf], (2, 1))
        test = Enrichment.of(is_member, np.zeros(1000, np.int64), thresholds, 499, generator)
        scores = generator.normal(0, 1, (2, 1000))
        scores[0, generator.choice(np.flatnonzero(is_member), 40, replace=False)] = generator.normal(
            4, 0.5, 40
        )
        bounds.append(test.lower_bound(scores, 0.05))
    assert np.mean(np.array(bounds) > 40) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 60)
    assert np.median(bounds) >= 10


def test_the_lower_bound_is_zero_exactly_when_the_test_accepts() -> None:
    """Bound and p-value tell the same story at every level."""
    test, is_member = enrichment(800, 5)
    generator = np.random.default_rng(6)
    scores = generator.normal(0, 1, (1, 800))
    scores[0, generator.choice(np.flatnonzero(is_member), 15, replace=False)] = 5.0
    p_value = test.p_value(scores)
    assert test.lower_bound(scores, p_value * 0.99) == 0
    assert test.lower_bound(scores, min(1.0, p_value * 1.01)) > 0
    assert test.excess(scores) == pytest.approx(15, abs=8)


def test_what_was_counted_of_similar_scores_changes_no_p_value() -> None:
    """Units that come, go, or pass another threshold: the same p-value as when all are counted again."""
    test, _ = enrichment(600, 3, strata=2)
    generator = np.random.default_rng(4)
    scores = generator.normal(0, 1, (1, 600))
    scores[0, :200] = -np.inf
    near = test.near(scores)
    for _ in range(20):
        other = scores.copy()
        other[0, generator.choice(600, 50, replace=False)] = generator.normal(2, 1, 50)
        other[0, generator.choice(600, 30, replace=False)] = -np.inf
        assert near.p_value(other) == test.p_value(other)
        assert near.quick(199).p_value(other) == test.quick(199).p_value(other)


@pytest.mark.parametrize("dimensions", [1, 3, 8])
def test_the_log_density_is_that_of_scipy(dimensions: int) -> None:
    """Also far away, where every kernel underflows."""
    generator = np.random.default_rng(5)
    around = generator.normal(0, 1, (150, dimensions)) @ generator.normal(0, 1, (dimensions, dimensions))
    at = np.concatenate([around[:50], generator.normal(0, 30, (50, dimensions))])
    naive = stats.gaussian_kde(around.T).logpdf(at.T)
    np.testing.assert_allclose(log_density(around, at), naive, rtol=1e-9)


def test_scores_of_nobody_are_no_evidence() -> None:
    """Where no cluster has a score there is nothing to reject."""
    test, _ = enrichment(100, 0)
    scores = np.full((1, 100), -np.inf)
    assert test.p_value(scores) == 1.0
    assert test.lower_bound(scores, 0.05) == 0
    assert test.excess(scores) == 0
