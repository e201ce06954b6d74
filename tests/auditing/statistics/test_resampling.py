"""Intervals from halves, clustered means and tests of equivalence hold what they promise, over seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privsyn.auditing.statistics.resampling import (
    clustered_mean,
    equivalence_p_value,
    halves_interval,
    random_half,
    resampled,
)
from privsyn.features.distances import kernel_distance


def test_a_half_has_half_of_the_patients_and_all_of_their_images() -> None:
    """Units stay whole, and none is there twice."""
    clusters = np.array(["a", "b", "a", "c", "d", "d", "e"])
    generator = np.random.default_rng(0)
    for _ in range(20):
        rows = random_half(clusters, generator)
        chosen = set(clusters[rows])
        assert len(chosen) == 3
        assert len(rows) == len(set(rows)) == sum(cluster in chosen for cluster in clusters)


def test_the_spread_over_halves_is_the_standard_error_of_the_whole() -> None:
    """Of a mean of patients with one to five images, over 300 seeds: the interval holds the truth in 95 %."""
    inside = 0
    for seed in range(300):
        generator = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(60), generator.integers(1, 6, 60))
        values = generator.normal(0, 1, 60)[clusters] + generator.normal(0, 0.5, len(clusters))
        halves = np.array([values[random_half(clusters, generator)].mean() for _ in range(20)])
        low, high = halves_interval(values.mean(), halves, 0.95)
        inside += low <= 0 <= high
    assert stats.binomtest(inside, 300, 0.95).pvalue > 0.001


def test_the_kernel_distance_has_a_right_interval_by_halves() -> None:
    """Over 100 pairs of samples of two distributions, whose true distance is the mean over large samples."""
    shift, d = 0.5, 5
    big = np.random.default_rng(0)
    truth = np.mean(
        [kernel_distance(big.normal(size=(400, d)), big.normal(shift, 1, (400, d))) for _ in range(40)]
    )
    inside = 0
    for seed in range(1, 101):
        generator = np.random.default_rng(seed)
        real, other = generator.normal(size=(80, d)), generator.normal(shift, 1, (80, d))
        everybody = np.arange(80)
        halves = np.array(
            [
                kernel_distance(
                    real[random_half(everybody, generator)], other[random_half(everybody, generator)]
                )
                for _ in range(20)
            ]
        )
        low, high = halves_interval(kernel_distance(real, other), halves, 0.95)
        inside += low <= truth <= high
    assert inside >= 89  # P(fewer) is .001 at 95 %


def test_a_clustered_mean_knows_that_images_of_a_patient_are_alike() -> None:
    """Four equal images of each patient carry as much as one: the error is that of the patients' mean."""
    values = np.random.default_rng(1).normal(size=50)
    mean, error = clustered_mean(np.repeat(values, 4), np.repeat(np.arange(50), 4))
    assert mean == pytest.approx(values.mean())
    assert error == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    assert clustered_mean(values, np.zeros(50))[1] == np.inf


def test_equivalence_is_claimed_wrongly_in_five_per_cent_at_most() -> None:
    """At a true difference of just the margin, over 4,000 draws; far inside of it nearly always rightly."""
    generator = np.random.default_rng(2)
    at_margin = [equivalence_p_value(x, 0.05, 0.2) <= 0.05 for x in generator.normal(0.2, 0.05, 4000)]
    assert stats.binomtest(sum(at_margin), 4000, 0.05).pvalue > 0.001
    inside = [equivalence_p_value(x, 0.05, 0.2) <= 0.05 for x in generator.normal(0, 0.05, 400)]
    assert np.mean(inside) > 0.9
    assert equivalence_p_value(0.0, 10.0, 0.2) > 0.4  # few data show nothing
    assert equivalence_p_value(0.1, 0.0, 0.2) == 0
    assert equivalence_p_value(0.3, 0.0, 0.2) == 1


def test_the_bootstrap_draws_whole_patients() -> None:
    """Images of one patient count equally often, and on average once."""
    clusters = np.array([0, 0, 1, 2, 2, 2])
    drawn = resampled(clusters, np.random.default_rng(3), 2000)
    assert (drawn[:, 0] == drawn[:, 1]).all()
    assert (drawn[:, 3] == drawn[:, 5]).all()
    assert (drawn[:, [0, 2, 3]].sum(axis=1) == 3).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(6), abs=0.1)
