"""Success rates and residual risk against the figures of the paper's own software."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from privsyn.auditing.statistics.rates import (
    Hits,
    Rate,
    residual_risk,
    risk_interval,
    success_rate,
)


@pytest.mark.parametrize(
    ("attempts", "successes", "value", "error"),
    [(1000, 850, 0.849, 0.022), (1000, 0, 0.002, 0.002), (100, 100, 0.98150325, 0.01849675)],
)
def test_success_rates_equal_anonymeters(attempts: int, successes: int, value: float, error: float) -> None:
    """Wilson's centre and half width, as in anonymeter's tests."""
    rate = success_rate(attempts, successes)
    digits = 8 if attempts == 100 else 3
    assert (round(rate.value, digits), round(rate.error, digits)) == (value, error)


def test_wilson_equals_scipy() -> None:
    """Both ends agree with scipy's interval."""
    for successes in (0, 1, 40, 99, 100):
        theirs = stats.binomtest(successes, 100).proportion_ci(0.9, method="wilson")
        assert success_rate(100, successes, 0.9).interval == pytest.approx(
            (theirs.low, theirs.high), abs=1e-12
        )


def test_residual_risk_equals_anonymeters() -> None:
    """(.9, .8) leaves half of what control left open; errors propagate as in anonymeter's tests."""
    assert residual_risk(Rate(0.9, 0), Rate(0.8, 0)).value == pytest.approx(0.5)
    risk = residual_risk(Rate(0.9, 0.02), Rate(0.85, 0.02))
    assert (round(risk.value, 3), round(risk.error, 2)) == (0.333, 0.16)
    assert residual_risk(Rate(0.9, 0.02), Rate(1.0, 0.0)) == Rate(0.0, 1.0)


def test_the_lower_bound_of_no_risk_is_above_zero_as_rarely_as_it_says() -> None:
    """Over 20,000 honest attacks, at rates near 0, in the middle and near 1; errors alone would not do."""
    generator, level, alone = np.random.default_rng(0), 0.05, []
    most = level + 2 * np.sqrt(level * (1 - level) / 20_000)
    for rate in (0.05, 0.5, 0.95):
        alarms = by_errors = 0
        draws = generator.binomial((900, 300), rate, (20_000, 2))
        for (first, second), times in zip(*np.unique(draws, axis=0, return_counts=True), strict=True):
            attack, control = Hits(900, int(first)), Hits(300, int(second))
            alarms += times * (risk_interval(attack, control, level)[0] > 0)
            risk = residual_risk(attack.rate(1 - 2 * level), control.rate(1 - 2 * level))
            by_errors += times * (risk.interval[0] > 0)
        alone.append(by_errors / 20_000)
        assert alarms / 20_000 <= most
    assert max(alone) > most
