"""Findings of the quality audits: measurements of private images, without an attacker.

A rule that asks for at least some quality passes on evidence, not for lack of it: it judges the unfavourable
end of the interval. A set that must pass several such rules needs no correction for their number (an
intersection-union test, Berger 1982), so each interval holds for its own finding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from privsyn.auditing.findings import Controls, Finding, Power
from privsyn.auditing.quality.classifier_scores import MIN_SCORED_IMAGES, ScoreEstimate
from privsyn.auditing.statistics.resampling import halves_interval

CONFIDENCE = 0.95
NO_INTERVAL = (
    f"fewer than {MIN_SCORED_IMAGES} images to score, or a class is missing in nearly all resamplings"
)
NOT_DP = "measured on private images without noise: not differentially private, not for release"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class QualityFindings:
    """Makes the findings of one audit about one scope, all of threat `quality`.

    Attributes:
        audit, version: name and version of the audit.
        scope: such as class, classifier or network.
        n: numbers of images and patients.
        details: of every finding.
    """

    audit: str
    version: str
    scope: Mapping[str, str]
    n: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, JsonValue] = field(default_factory=dict)

    def measured(
        self,
        statistic: str,
        value: float,
        *,
        interval: tuple[float, float] | None = None,
        confidence: float = CONFIDENCE,
        baseline: float | None = None,
        controls: Controls = Controls(),  # noqa: B008 - frozen
        power: Power | None = None,
        reason: str = "",
        details: Mapping[str, JsonValue] | None = None,
    ) -> Finding:
        """A measured statistic.

        Args:
            value, baseline: NaN is written as `None`.
            confidence: of the interval.
            reason: why the finding is not conclusive; "" if it is.
        """
        return Finding(
            audit=self.audit,
            version=self.version,
            threat="quality",
            statistic=statistic,
            scope=dict(self.scope),
            value=_finite(value),
            interval=interval,
            confidence=None if interval is None else confidence,
            n=dict(self.n),
            baseline=None if baseline is None else _finite(baseline),
            controls=controls,
            power=power,
            conclusive=not reason,
            reason=reason,
            details={"privacy": NOT_DP, **self.details, **(details or {})},
        )

    def estimated(
        self,
        statistic: str,
        estimate: ScoreEstimate,
        *,
        baseline: float,
        low: float = 0.0,
        controls: Controls = Controls(),  # noqa: B008 - frozen
        power: Power | None = None,
        reason: str = "",
        details: Mapping[str, JsonValue] | None = None,
    ) -> Finding:
        """A score of classifiers, in [low, 1]; not conclusive without an interval."""
        interval = estimate.interval(CONFIDENCE, low, 1)
        return self.measured(
            statistic,
            estimate.value,
            interval=interval,
            baseline=baseline,
            controls=controls,
            power=power,
            reason=NO_INTERVAL if interval is None else reason,
            details=details,
        )

    def not_measured(self, statistic: str, reason: str, *, applicable: bool = True) -> Finding:
        """A statistic without a value: not conclusive or, where it can have no value, not applicable."""
        return Finding(
            audit=self.audit,
            version=self.version,
            threat="quality",
            statistic=statistic,
            scope=dict(self.scope),
            n=dict(self.n),
            applicable=applicable,
            conclusive=not applicable,
            reason=reason,
            details={"privacy": NOT_DP, **self.details},
        )

    def compared(
        self,
        statistic: str,
        synthetic: Floats,
        baseline: Floats,
        controls: Controls,
        *,
        low: float = -np.inf,
        high: float = np.inf,
        details: Mapping[str, JsonValue] | None = None,
    ) -> Finding:
        """A measure of the synthetic images beside that of `test` patients in their place.

        Args:
            synthetic, baseline: (1 + b,) the measure of all images, then of b random halves.
            low, high: range of the measure, to which intervals are clipped.
        """
        interval, baseline_interval = (
            halves_interval(float(values[0]), values[1:], CONFIDENCE, low, high)
            for values in (synthetic, baseline)
        )
        error, baseline_error = (float(np.std(values[1:], ddof=1)) for values in (synthetic, baseline))
        smallest = detectable_difference(float(np.hypot(error, baseline_error)))
        return self.measured(
            statistic,
            float(synthetic[0]),
            interval=interval,
            baseline=float(baseline[0]),
            controls=controls,
            power=Power(
                smallest_leak=smallest,
                description=f"{smallest:.3g} away from the baseline would be detected in 80 % of trials",
            ),
            reason=controls.fault(""),
            details={
                "floor_interval": list(baseline_interval),
                "standard_error": error,
                **(details or {}),
            },
        )


def detectable_difference(standard_error: float) -> float:
    """The smallest difference whose interval at `CONFIDENCE` excludes 0 in 80 % of trials; normal errors."""
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(0.8)) * standard_error


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
