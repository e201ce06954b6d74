"""The one-run bounds against published figures, and their level where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from privsyn.auditing.statistics.one_run import (
    Guesses,
    ceiling,
    contradicts_gdp,
    epsilon_bound,
    epsilon_of_mu,
    hull_bound,
    lower_bound,
    most,
    mu_bound,
    mu_of_epsilon,
    p_value,
    smallest_epsilon,
)

Sample = tuple[np.ndarray, np.ndarray]
TRUE = {1: 4.887, 2: 10.997, 4: 26.357}  # epsilon at 1e-6 of a Gaussian mechanism of that mu


def gaussian_quantiles(mu: float, n: int) -> Sample:
    """Scores and coins of n "in" ~ N(mu, 1) and n "out" ~ N(0, 1), at the quantiles (i + .5) / n."""
    quantiles = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return np.concatenate([quantiles + mu, quantiles]), np.arange(2 * n) < n


def gaussian_run(mu: float, m: int, generator: np.random.Generator) -> Sample:
    """Scores and coins of one run with m canaries."""
    is_in = generator.random(m) < 0.5
    return generator.standard_normal(m) + mu * is_in, is_in


@pytest.mark.parametrize(
    ("shift", "epsilon", "gdp"), [(1, 1.13346, 2.16475), (2, 2.31195, 4.72181), (4, 4.39557, 9.13375)]
)
def test_bounds_of_gaussian_scores_are_those_of_jax_privacy(shift: int, epsilon: float, gdp: float) -> None:
    """10,000 quantiles on each side, delta 1e-6, guesses on one side, Bonferroni over the ROC's hull."""
    found = hull_bound(*gaussian_quantiles(shift, 10_000), delta=1e-6, alpha=0.05)
    assert found.epsilon == pytest.approx(epsilon, abs=1e-5)
    assert found.epsilon_gdp == pytest.approx(gdp, abs=1e-5)
    assert found.epsilon < found.epsilon_gdp < TRUE[shift]


@pytest.mark.parametrize(
    ("made", "epsilon"),
    [(10, 1.05), (20, 1.82), (50, 2.79), (100, 3.49), (200, 4.19), (500, 5.11), (1000, 5.81), (5000, 7.42)],
)
def test_perfect_guesses_show_what_they_can(made: int, epsilon: float) -> None:
    """A thousand right guesses show 5.8 and no more: q ** r = .05."""
    found = epsilon_bound(Guesses(made, made), made, delta=0, alpha=0.05)
    assert found == pytest.approx(epsilon, abs=0.0075)
    share = math.exp(found) / (1 + math.exp(found))
    assert share**made == pytest.approx(0.05)


@pytest.mark.parametrize(("made", "epsilon"), [(1000, 5.78), (5000, 7.28)])
def test_delta_costs_a_little(made: int, epsilon: float) -> None:
    """2 m delta is far below alpha at delta 1e-5."""
    assert epsilon_bound(Guesses(made, made), made, 1e-5, 0.05) == pytest.approx(epsilon, abs=0.005)


@pytest.mark.parametrize(
    ("accuracy", "epsilon"), [(0.6, 0.30), (0.7, 0.73), (0.8, 1.25), (0.9, 2.02), (0.95, 2.70), (0.99, 4.06)]
)
def test_accuracy_of_a_thousand_guesses(accuracy: float, epsilon: float) -> None:
    """All 1,000 guessed at delta 1e-5."""
    found = epsilon_bound(Guesses(1000, round(1000 * accuracy)), 1000, 1e-5, 0.05)
    assert found == pytest.approx(epsilon, abs=0.005)


@pytest.mark.parametrize(
    ("true", "bounds"), [(1, (0.61, 0.88, 0.96)), (4, (2.72, 3.60, 3.87)), (8, (3.02, 5.35, 7.00))]
)
def test_randomised_response_is_approached(true: float, bounds: tuple[float, ...]) -> None:
    """It tells a coin with chance e^epsilon / (1 + e^epsilon): more guesses, a bound nearer to the truth."""
    for number, bound in zip((100, 1000, 10_000), bounds, strict=True):
        correct = math.floor(number / (1 + math.exp(-true)))
        found = epsilon_bound(Guesses(number, correct), number, 0, 0.05)
        assert found == pytest.approx(bound, abs=0.02)
        assert found < true


@pytest.mark.parametrize(
    ("epsilon", "by_canaries"),
    [
        (1, {1000: 0.22, 5000: 0.40}),
        (2, {1000: 0.66, 5000: 0.93}),
        (4, {1000: 1.47, 5000: 1.94}),
        (8, {1000: 2.79, 5000: 3.52}),
    ],
)
def test_ceilings_of_a_tight_gaussian_mechanism(epsilon: float, by_canaries: dict[int, float]) -> None:
    """The best single number of guesses at delta 1e-5; the grid pays for choosing and shows less."""
    for m, expected in by_canaries.items():
        singly = max(ceiling(epsilon, 1e-5, m, 0.05, shares=[k / 100]) for k in range(1, 101))
        assert singly == pytest.approx(expected, abs=0.06)
        assert ceiling(epsilon, 1e-5, m, 0.05) < singly < epsilon


def test_mu_and_epsilon_are_two_words_for_one_mechanism() -> None:
    """At delta 1e-5 the mu of epsilon 1, 2, 4, 8, and back."""
    for epsilon, mu in {1: 0.268, 2: 0.502, 4: 0.925, 8: 1.666}.items():
        assert mu_of_epsilon(epsilon, 1e-5) == pytest.approx(mu, abs=6e-4)
        assert epsilon_of_mu(mu_of_epsilon(epsilon, 1e-5), 1e-5) == pytest.approx(epsilon)


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.5])
def test_the_level_is_kept_where_the_truth_is_known(mu: float) -> None:
    """Over 200 runs of a Gaussian mechanism, neither bound exceeds its epsilon in more than 5 %."""
    generator, epsilon = np.random.default_rng(7), epsilon_of_mu(mu, 1e-5)
    wrong = np.zeros(2)
    for _ in range(200):
        found = lower_bound(*gaussian_run(mu, 200, generator), 1e-5, 0.05)
        wrong += np.array([found.epsilon, found.epsilon_gdp]) > epsilon
    assert (wrong <= 200 * 0.05).all()


def test_guessing_both_sides_shows_more_than_guessing_one() -> None:
    """For fair coins and Gaussian scores, at every epsilon and number of canaries tried."""
    for epsilon in (1, 2, 4, 8):
        for m in (300, 1000, 5000):
            scores, is_in = gaussian_quantiles(mu_of_epsilon(epsilon, 1e-5), m // 2)
            both = lower_bound(scores, is_in, 1e-5, 0.05).epsilon
            ranked = is_in[np.argsort(-scores)]
            ones = [Guesses(made, int(ranked[:made].sum())) for made in (m // 20, 3 * m // 20, 2 * m // 5, m)]
            assert both >= max(epsilon_bound(guesses, m, 1e-5, 0.05 / 4) for guesses in ones)


def test_scores_without_information_show_nothing() -> None:
    """Equal scores are ranked by position, which knows no coin."""
    is_in = np.random.default_rng(0).random(500) < 0.5
    assert lower_bound(np.zeros(500), is_in, 1e-5, 0.05).epsilon == 0


def test_more_right_guesses_never_show_less() -> None:
    """In either analysis; a p-value falls with the right guesses and rises with epsilon."""
    bounds = [epsilon_bound(Guesses(100, v), 200, 1e-5, 0.05) for v in range(0, 101, 5)]
    assert bounds == sorted(bounds)
    assert bounds[10] == 0
    mus = [mu_bound(Guesses(100, v), 200, 0.05) for v in range(0, 101, 5)]
    assert mus == sorted(mus)
    assert contradicts_gdp(mus[-1] - 1e-3, Guesses(100, 100), 200, 0.05)
    assert not contradicts_gdp(mus[-1] + 1e-3, Guesses(100, 100), 200, 0.05)
    p_values = [p_value(epsilon, Guesses(100, 90), 200, 1e-5) for epsilon in (0, 1, 2, 3, 4)]
    assert p_values == sorted(p_values)


def test_the_smallest_leak_is_shown_in_four_of_five_runs() -> None:
    """What `smallest_epsilon` promises, by simulation; and None where no leak could be shown."""
    smallest = smallest_epsilon(1.0, 1e-5, 1000, 0.05)
    assert smallest is not None
    generator, mu = np.random.default_rng(3), mu_of_epsilon(smallest, 1e-5)
    runs = (gaussian_run(mu, 1000, generator) for _ in range(100))
    shown = [lower_bound(*run, 1e-5, 0.05).epsilon > 1 for run in runs]
    assert np.mean(shown) > 0.8 - 2 * math.sqrt(0.8 * 0.2 / 100)
    assert most(100, 1e-5, 0.05) < 8
    assert smallest_epsilon(8.0, 1e-5, 100, 0.05) is None
