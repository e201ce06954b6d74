"""Can train be told from holdout without looking at a model or a synthetic set?

Threat: none. Where it can, membership findings measure the difference between two groups of patients, not a
leak, and are not conclusive (`privsyn.auditing.statistics.blind_baseline`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.attacks.null_hypothesis import NullHypothesis
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.blind_baseline import selected, strongest
from privsyn.auditing.statistics.permutation import permuted_members

NAME = "blind-baseline"
AUDIT = AuditId(NAME, "2", "none")
NO_SELECTION_FOUND = "the cohort is too small: the strongest selection of patients is not found reliably"
STRENGTHS = (0.525, 0.55, 0.575, 0.6, 0.65, 0.7, 0.8)  # AUC of the planted selection
SELECTION_TRIALS = 20  # per strength, for the power statement

Draw = Callable[[np.random.Generator], NDArray[np.bool_] | NDArray[np.int8]]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC of telling train patients from holdout patients by their images alone."""
    null, level = NullHypothesis(evidence), settings.alpha
    baseline, trials = null.blind_baseline, _Trials(null, settings)
    smallest = trials.smallest(level)
    controls = Controls(
        positive=trials.planted(smallest, settings.control_level),
        negative=trials.permuted(settings.control_level),
    )
    return [
        Finding.measured(
            AUDIT,
            "auc",
            value=baseline.auc,
            interval=baseline.interval(1 - 2 * level),
            confidence=1 - 2 * level,
            n=evidence.sizes(),
            baseline=0.5,
            controls=controls,
            power=_power(smallest),
            doubt=controls.fault(NO_SELECTION_FOUND),
        )
    ]


class _Trials:
    """The blind baseline for other assignments of members; every kind of draw has its own generator.

    So the result at one strength does not depend on how many others were tried, and can be cached.
    """

    def __init__(self, null: NullHypothesis, settings: Settings) -> None:
        self.null, self.settings, self.population = null, settings, null.population
        self.members = int(self.population.is_member.sum())
        self.strongest = strongest(self.members, len(null.appearance))

    def smallest(self, level: float) -> float | None:
        """Weakest selection by appearance that is found at `level` in at least 80 % of trials."""
        for strength in (each for each in STRENGTHS if each <= self.strongest):
            if (self._selected(strength, SELECTION_TRIALS) <= level).sum() >= 0.8 * SELECTION_TRIALS:
                return strength
        return None

    def planted(self, smallest: float | None, level: float) -> Control | None:
        """Twice the weakest selection must be found."""
        if smallest is None:
            return None
        strength = min(2 * smallest - 0.5, self.strongest)
        p_value = float(self._selected(strength, 1)[0])
        what = f"members selected by one component of their appearance, with an AUC of {strength:.2f}"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def permuted(self, level: float) -> Control:
        """Members drawn at random must not be told from the others."""
        is_member, strata = self.population.is_member, self.population.strata
        p_value = float(
            self._p_values("drawn anew", 1, lambda by: permuted_members(is_member, strata, 1, by)[:, 1])[0]
        )
        what = "members drawn again at random"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    def _selected(self, strength: float, trials: int) -> NDArray[np.float64]:
        what = f"{trials} selected with AUC {strength:.6g}"
        return self._p_values(what, trials, partial(selected, self.null.appearance, self.members, strength))

    def _p_values(self, what: str, trials: int, draw: Draw) -> NDArray[np.float64]:
        """(trials,) p-values for the members (clusters,) of each draw; `what` seeds it."""
        generator = self.null.evidence.generator(f"{NAME}, {what}", self.settings)
        drawn = np.stack([draw(generator) for _ in range(trials)], axis=1).astype(np.int8)
        return np.array([self.null.blind_baseline.p_value(each) for each in self.null.classifier.aucs(drawn)])


def _power(smallest: float | None) -> Power:
    if smallest is None:
        return Power(
            smallest_leak=None, description="no selection of patients by their appearance is found reliably"
        )
    text = (
        f"patients selected by one component of their appearance with an AUC of {smallest:g} are found in "
        "80 % of trials"
    )
    return Power(smallest_leak=smallest, description=text)
