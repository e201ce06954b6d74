"""What all quality audits share: findings about usefulness, which no attacker is behind.

A rule that asks a quality to be at least so high is passed by evidence, not by the lack of it: it judges the
unfavourable end of the interval. Passing all of several such rules needs no correction for their number
(an intersection-union test, Berger 1982), so each interval holds for its own finding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.findings import Controls, Finding, Power
from privsyn.auditing.statistics.resampling import halves_interval

CONFIDENCE = 0.95
NOT_DP = "measured on private images without noise: not differentially private, not for release"


def quality_finding(**known: Any) -> Finding:
    """A finding of threat `quality`, marked as a measurement of private images."""
    known = {"threat": "quality", "confidence": CONFIDENCE, **known}
    if known.get("interval") is None:
        known["confidence"] = None
    return Finding.model_validate({**known, "details": {"privacy": NOT_DP, **known.get("details", {})}})


def seen_in_four_of_five(error: float) -> float:
    """The smallest difference whose interval leaves 0 in 80 % of trials, from its standard error."""
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(0.8)) * error


def beside_the_floor(
    drawn: NDArray[np.float64],
    floor: NDArray[np.float64],
    controls: Controls,
    low: float = -np.inf,
    high: float = np.inf,
) -> dict[str, Any]:
    """What a finding says of a measure of the synthetic images, beside that of real ones in their place.

    Args:
        drawn, floor: (1 + halves,) the measure of all images, then of halves.
        low, high: what is possible.
    """
    interval, natural = (
        halves_interval(float(each[0]), each[1:], CONFIDENCE, low, high) for each in (drawn, floor)
    )
    reason = controls.fault("")
    error, floor_error = (float(np.std(each[1:], ddof=1)) for each in (drawn, floor))
    smallest = seen_in_four_of_five(float(np.hypot(error, floor_error)))
    return {
        "value": float(drawn[0]),
        "interval": interval,
        "baseline": float(floor[0]),
        "controls": controls,
        "power": Power(
            smallest_leak=smallest,
            description=f"{smallest:.3g} away from the floor would be seen in 80 % of trials",
        ),
        "conclusive": not reason,
        "reason": reason,
        "details": {"floor_interval": list(natural), "standard_error": error},
    }
