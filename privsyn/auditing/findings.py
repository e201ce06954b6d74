"""What an audit returns: findings with interval, controls and power. Needs neither torch nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue

MARGIN = 0.2  # standard deviations; a small effect (Cohen 1988)
Threat = Literal["none", "synthetic-only", "model", "shadow", "canary", "quality", "claim"]


class AuditId(NamedTuple):
    """Which audit a finding is of, and what access to the set or the model it assumes."""

    name: str
    version: str
    threat: Threat


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Settings(_Frozen):
    """How strict to be; the same for every audit of a run.

    Attributes:
        alpha: chance of a false alarm that this audit may spend over all of its findings.
        control_level: level at which controls are judged.
        margin: below which a difference of means counts for none, in standard deviations of real images.
        seed: of every random choice.
    """

    alpha: float = Field(0.05, gt=0, lt=1)
    control_level: float = Field(1e-3, gt=0, lt=1)
    margin: float = Field(MARGIN, gt=0)
    seed: int = 0


class Control(_Frozen):
    """The audit applied to an input whose answer is known.

    Attributes:
        passed: a positive control was detected, or a negative one raised no alarm.
        description: what was planted or put in place, with its size.
        p_value: of the audit's own test on the control, where it has one.
    """

    passed: bool
    description: str
    p_value: float | None = None


class Controls(_Frozen):
    """Both controls of a finding; `None` means that a control could not be run."""

    positive: Control | None = None
    negative: Control | None = None

    def fault(self, without: str) -> str:
        """Why a finding is not conclusive: `without` if no leak was planted, the failed control, or ""."""
        if self.positive is None:
            return without
        for control in (self.positive, self.negative):
            if control is not None and not control.passed:
                return f"control failed: {control.description}"
        return ""


class Power(_Frozen):
    """The smallest leak that this audit could have detected at this size.

    Attributes:
        smallest_leak: on the scale of the statistic, detected in at least 80 % of trials; `None` if no leak
            is.
        description: the same in words.
    """

    smallest_leak: float | None
    description: str


class Finding(_Frozen):
    """One measured statistic, with what is needed to believe it. `(audit, statistic, scope)` is unique.

    Attributes:
        value: the point estimate; `None` if it could not be measured.
        interval: lower and upper bound at `confidence`, which holds over all findings of the audit, or, of
            threat `quality`, for each by itself; the upper one is `None` where the audit bounds from below
            alone, and a rule about it is then inconclusive.
        n: sizes, images and patients on every side.
        baseline: what an honest generator is expected to show.
        applicable: False if the evidence cannot exist (no model given); `reason` says which.
        conclusive: False if a control failed or the data are too few; `reason` says why.
        details: internal only (indices of pairs, ROC points); never leaves the study.
    """

    audit: str
    version: str
    threat: Threat
    statistic: str
    scope: dict[str, str] = Field(default_factory=dict)
    value: float | None = None
    interval: tuple[float, float | None] | None = None
    confidence: float | None = None
    n: dict[str, int] = Field(default_factory=dict)
    baseline: float | None = None
    controls: Controls = Controls()
    power: Power | None = None
    applicable: bool = True
    conclusive: bool = True
    reason: str = ""
    details: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def measured(
        cls,
        audit: AuditId,
        statistic: str,
        *,
        value: float | None,
        scope: Mapping[str, str] | None = None,
        interval: tuple[float, float | None] | None = None,
        confidence: float | None = None,
        n: Mapping[str, int] | None = None,
        baseline: float | None = None,
        controls: Controls = Controls(),  # noqa: B008 - frozen
        power: Power | None = None,
        details: Mapping[str, JsonValue] | None = None,
        doubt: str = "",
    ) -> Finding:
        """A statistic that was measured.

        Args:
            doubt: why it is not conclusive; "" if it is.
        """
        return cls(
            audit=audit.name,
            version=audit.version,
            threat=audit.threat,
            statistic=statistic,
            scope=dict(scope or {}),
            value=value,
            interval=interval,
            confidence=confidence,
            n=dict(n or {}),
            baseline=baseline,
            controls=controls,
            power=power,
            conclusive=not doubt,
            reason=doubt,
            details=dict(details or {}),
        )

    @classmethod
    def inconclusive(
        cls,
        audit: AuditId,
        statistic: str,
        reason: str,
        *,
        scope: Mapping[str, str] | None = None,
        n: Mapping[str, int] | None = None,
        baseline: float | None = None,
    ) -> Finding:
        """A statistic that could not be measured, such as of too few patients."""
        known = cls.measured(audit, statistic, value=None, scope=scope, n=n, baseline=baseline)
        return known.doubted(reason)

    @classmethod
    def not_applicable(
        cls, audit: AuditId, statistic: str, reason: str, *, scope: Mapping[str, str] | None = None
    ) -> Finding:
        """A statistic whose evidence cannot exist, such as of a model that was not given."""
        known = cls.measured(audit, statistic, value=None, scope=scope)
        return known.model_copy(update={"applicable": False, "reason": reason})

    def doubted(self, reason: str) -> Finding:
        """The same finding, not conclusive for this reason; unchanged if the reason is ""."""
        return self.model_copy(update={"conclusive": False, "reason": reason}) if reason else self

    @property
    def key(self) -> tuple[str, str, tuple[tuple[str, str], ...]]:
        """What is unique among the findings of one run."""
        return self.audit, self.statistic, tuple(sorted(self.scope.items()))
