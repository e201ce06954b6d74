"""Success rates of an attack on members, relative to the same attack on non-members.

After Giomi et al. 2023, "A Unified Framework for Quantifying Privacy Risk in Synthetic Data" (PoPETs 2023,
https://doi.org/10.56553/popets-2023-0055).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Rate:
    """A rate with a symmetric error: the interval is value - error to value + error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.value - self.error, self.value + self.error


def clopper_pearson(successes: int, trials: int, confidence: float) -> tuple[float, float]:
    """Exact two-sided interval of a proportion (Clopper & Pearson, Biometrika 26, 1934)."""
    if trials == 0:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    lower = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    upper = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(lower), float(upper)


def success_rate(attempts: int, successes: int, confidence: float = 0.95) -> Rate:
    """Wilson's interval of a proportion, as its centre and half width (Wilson 1927, JASA 22, page 209)."""
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2
    share = successes / attempts
    scale = 1 + z2 / attempts
    spread = share * (1 - share) / attempts + z2 / (4 * attempts**2)
    return Rate((share + z2 / (2 * attempts)) / scale, math.sqrt(z2 * spread) / scale)


def residual_risk(attack: Rate, control: Rate) -> Rate:
    """(attack - control) / (1 - control): the share that the attack got right of what the control got wrong.

    Giomi et al., equation 2, with errors propagated to first order; negative where control does better. A
    control that is always right leaves nothing open: the risk is 0 with an error of 1.
    """
    left = 1 - control.value
    if left <= 0:
        return Rate(0.0, 1.0)
    slope = (attack.value - 1) / left**2  # of the risk in the control's rate
    return Rate((attack.value - control.value) / left, math.hypot(attack.error / left, slope * control.error))


@dataclass(frozen=True)
class Hits:
    """Attempts and successes of an attack."""

    attempts: int
    successes: int

    def rate(self, confidence: float) -> Rate:
        return success_rate(self.attempts, self.successes, confidence)


def exact_p_value(attack: Hits, control: Hits) -> float:
    """One-sided p-value of "the attack is right more often than control" (Fisher's exact test)."""
    table = np.array([[side.successes, side.attempts - side.successes] for side in (attack, control)])
    return float(stats.fisher_exact(table, alternative="greater").pvalue)


def risk_interval(attack: Hits, control: Hits, level: float) -> tuple[float, float]:
    """Bounds of the residual risk, each at one-sided `level`; the lower one is above 0 only where it may be.

    Propagated errors alone raise an alarm in up to 6.5 % of honest attacks at a level of 5 % (rates near 0,
    three members for each control), so the lower bound exceeds 0 only where Fisher's exact test rejects.
    """
    confidence = 1 - 2 * level
    low, high = residual_risk(attack.rate(confidence), control.rate(confidence)).interval
    return (low if exact_p_value(attack, control) <= level else min(low, 0.0)), high
