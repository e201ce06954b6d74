"""Membership attacks as findings: several attacks, declared beforehand, judged together.

An attack gives every patient a score, high = member-like, computed without knowing who is a member. A finding
reports the strongest of the attacks, with an interval that holds for all of them at once (Bonferroni), so
that trying many attacks raises no false alarm. The threshold at a false positive rate is the score of a
non-member, never interpolated. Where there are fewer than 10 / FPR non-members, the TPR is not reported and
the lower bound of the AUC decides.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.roc import (
    RatePoint,
    auc,
    auc_interval,
    caught_by_chance,
    roc,
    smallest_auc,
    smallest_tpr,
    tpr_at_fpr,
)

Scores = NDArray[np.float64]
FPRS = (0.01, 0.001)


@dataclass(frozen=True, eq=False)
class AttackScores:
    """Scores of one attack, one per patient, high = member-like: members (l,), nonmembers (n,)."""

    members: Scores
    nonmembers: Scores


Attacks = Mapping[str, AttackScores]


@dataclass(frozen=True, eq=False)
class ControlTrial:
    """The attacks on an input whose answer is known, for a control."""

    attacks: Attacks
    description: str


class Statistic(Protocol):
    """A summary statistic of an attack."""

    @property
    def name(self) -> str: ...
    @property
    def baseline(self) -> float: ...
    @property
    def needed(self) -> int: ...  # least number of non-members
    def measured(self, scores: AttackScores) -> float: ...
    def interval(self, scores: AttackScores, confidence: float) -> tuple[float, float]: ...
    def smallest(self, members: int, nonmembers: int, level: float) -> float: ...
    def given_away(
        self, value: float
    ) -> float: ...  # share of members that are revealed, if the others are at chance
    def p_value(self, scores: AttackScores) -> float: ...
    def details(self, scores: AttackScores, confidence: float) -> dict[str, JsonValue]: ...
    def in_words(self, smallest: float) -> str: ...


@dataclass(frozen=True)
class Auc:
    """Probability that a member scores above a non-member."""

    name: str = "auc"
    baseline: float = 0.5
    needed: int = 0

    def measured(self, scores: AttackScores) -> float:
        return auc(scores.members, scores.nonmembers)

    def interval(self, scores: AttackScores, confidence: float) -> tuple[float, float]:
        return auc_interval(scores.members, scores.nonmembers, confidence)

    def smallest(self, members: int, nonmembers: int, level: float) -> float:
        return smallest_auc(members, nonmembers, level)

    def given_away(self, value: float) -> float:
        """A share s of members who score above all others adds s / 2 to the AUC."""
        return 2 * (value - self.baseline)

    def p_value(self, scores: AttackScores) -> float:
        """One-sided rank test (Mann & Whitney 1947)."""
        return float(stats.mannwhitneyu(scores.members, scores.nonmembers, alternative="greater").pvalue)

    def details(self, scores: AttackScores, confidence: float) -> dict[str, JsonValue]:  # noqa: ARG002 - of the protocol
        fpr, tpr = roc(scores.members, scores.nonmembers)
        return {"roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()}}

    def in_words(self, smallest: float) -> str:
        return f"an AUC of {smallest:.3f} is distinguished from chance in 80 % of trials"


@dataclass(frozen=True)
class TprAtFpr:
    """Share of members above a threshold that at most so many non-members exceed."""

    fpr: float

    @property
    def name(self) -> str:
        return f"tpr-at-{self.fpr * 100:g}%-fpr"

    @property
    def baseline(self) -> float:
        return self.fpr

    @property
    def needed(self) -> int:
        return round(10 / self.fpr)

    def measured(self, scores: AttackScores) -> float:
        return self._point(scores, 0.95).tpr

    def interval(self, scores: AttackScores, confidence: float) -> tuple[float, float]:
        return self._point(scores, confidence).tpr_interval

    def smallest(self, members: int, nonmembers: int, level: float) -> float:
        return smallest_tpr(members, nonmembers, self.fpr, level)

    def given_away(self, value: float) -> float:
        return (value - self.baseline) / (1 - self.baseline)

    def p_value(self, scores: AttackScores) -> float:
        return caught_by_chance(scores.members, scores.nonmembers, self.fpr)

    def details(self, scores: AttackScores, confidence: float) -> dict[str, JsonValue]:
        point = self._point(scores, confidence)
        return {"achieved_fpr": point.fpr, "achieved_fpr_interval": list(point.fpr_interval)}

    def in_words(self, smallest: float) -> str:
        return f"a TPR of {smallest:.1%} is distinguished from {self.fpr:g} in 80 % of trials"

    def _point(self, scores: AttackScores, confidence: float) -> RatePoint:
        point = tpr_at_fpr(scores.members, scores.nonmembers, self.fpr, confidence)
        assert point is not None  # `findings` checked `needed`
        return point


STATISTICS: tuple[Statistic, ...] = (Auc(), *(TprAtFpr(fpr) for fpr in FPRS))


@dataclass(frozen=True)
class FindingContext:
    """The audit of some findings, and the controls that they depend on.

    Attributes:
        positive: the attacks on a planted leak, of twice the smallest size if that is possible; called with
            the statistic and its smallest detectable value. None: no leak can be planted.
        negative: the attacks with patients that were never trained on in place of members.
        blind: train and holdout cannot be told apart without model and synthetic set.
    """

    audit: AuditId
    n: dict[str, int]
    positive: Callable[[Statistic, float], ControlTrial | None]
    negative: ControlTrial
    blind: Control


def findings(attacks: Attacks, context: FindingContext, settings: Settings) -> list[Finding]:
    """AUC and TPR at each FPR of the strongest attack; their levels add up to `settings.alpha`."""
    size = len(next(iter(attacks.values())).nonmembers)
    measurable = [each for each in STATISTICS if size >= each.needed]
    level = settings.alpha / len(measurable)
    known = [_finding(each, attacks, context, settings, level) for each in measurable]
    return known + [_unmeasurable(each, context, size) for each in STATISTICS if each not in measurable]


def not_applicable(audit: AuditId, reason: str) -> list[Finding]:
    """The findings of an audit whose evidence cannot exist."""
    return [Finding.not_applicable(audit, each.name, reason) for each in STATISTICS]


def family_p_value(statistic: Statistic, attacks: Attacks) -> float:
    """p-value of the strongest attack, corrected for the number of attacks (Bonferroni)."""
    return min(1.0, len(attacks) * min(statistic.p_value(scores) for scores in attacks.values()))


def _finding(
    statistic: Statistic, attacks: Attacks, context: FindingContext, settings: Settings, level: float
) -> Finding:
    confidence = 1 - 2 * level / len(attacks)
    intervals = {name: statistic.interval(scores, confidence) for name, scores in attacks.items()}
    strongest = max(intervals, key=lambda name: intervals[name][0])
    scores = attacks[strongest]
    smallest = statistic.smallest(len(scores.members), len(scores.nonmembers), level / len(attacks))
    controls = Controls(
        positive=_positive(statistic, context.positive(statistic, smallest), settings.control_level),
        negative=_negative(statistic, context.negative, settings.control_level),
    )
    table: dict[str, JsonValue] = {
        name: {"value": statistic.measured(attacks[name]), "interval": list(interval)}
        for name, interval in intervals.items()
    }
    return Finding.measured(
        context.audit,
        statistic.name,
        scope={"attack": f"strongest of {len(attacks)}"} if len(attacks) > 1 else {},
        value=statistic.measured(scores),
        interval=(intervals[strongest][0], max(high for _, high in intervals.values())),
        confidence=1 - 2 * level,
        n=context.n,
        baseline=statistic.baseline,
        controls=controls,
        power=Power(smallest_leak=smallest, description=statistic.in_words(smallest)),
        details={"strongest": strongest, "attacks": table, **statistic.details(scores, confidence)},
        doubt=_why_inconclusive(controls, context.blind),
    )


def _unmeasurable(statistic: Statistic, context: FindingContext, size: int) -> Finding:
    fpr, needed = statistic.baseline, statistic.needed
    reason = f"{size} holdout patients cannot measure a {fpr:.1%} FPR: {needed} are needed"
    return Finding.inconclusive(context.audit, statistic.name, reason, n=context.n, baseline=fpr)


def _positive(statistic: Statistic, trial: ControlTrial | None, level: float) -> Control | None:
    if trial is None:
        return None
    p_value = family_p_value(statistic, trial.attacks)
    # described by its AUC: the trial may have too few patients for a TPR
    best = max(auc(scores.members, scores.nonmembers) for scores in trial.attacks.values())
    return Control(
        passed=p_value <= level,
        description=f"{trial.description} (AUC {best:.2f})",
        p_value=p_value,
    )


def _negative(statistic: Statistic, trial: ControlTrial, level: float) -> Control:
    p_value = family_p_value(statistic, trial.attacks)
    return Control(passed=p_value > level, description=trial.description, p_value=p_value)


def _why_inconclusive(controls: Controls, blind: Control) -> str:
    if not blind.passed:
        return (
            f"train and holdout differ without the model, so membership cannot be tested: {blind.description}"
        )
    return controls.fault("the set or the cohort is too small for a positive control")
