"""Are train and holdout alike, before anybody appearance at a model or a synthetic set?

Threat: none. Where they are not, membership findings measure the difference between two groups of patients,
not a leak, and are not conclusive (`privsyn.auditing.statistics.blind_baseline`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.blind_baseline import selected, strongest
from privsyn.auditing.statistics.permutation import redrawn_members

NAME, VERSION = "blind-baseline", "2"
TOO_SMALL = "the cohort is too small: not even the strongest selection of patients is found reliably"
STRENGTHS = (0.525, 0.55, 0.575, 0.6, 0.65, 0.7, 0.8)  # AUC of the planted selection
TRIALS = 20  # per strength, for the power statement


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC of telling train patients from holdout patients by their images alone."""
    guess, level = evidence.blind_baseline, settings.alpha
    trials = _Trials(evidence, settings)
    smallest = trials.smallest(level)
    controls = Controls(
        positive=trials.planted(smallest, settings.control_level),
        negative=trials.redrawn(settings.control_level),
    )
    reason = controls.fault(TOO_SMALL)
    return [
        Finding(
            audit=NAME,
            version=VERSION,
            threat="none",
            statistic="auc",
            value=guess.auc,
            interval=guess.interval(1 - 2 * level),
            confidence=1 - 2 * level,
            n=evidence.sizes(),
            baseline=0.5,
            controls=controls,
            power=_power(smallest),
            conclusive=not reason,
            reason=reason,
        )
    ]


class _Trials:
    """The blind guess about members who were drawn anew; every kind of draw has a generator of its own.

    So what is seen at one strength does not depend on how many others a level asked for, and is kept.
    """

    def __init__(self, evidence: Evidence, settings: Settings) -> None:
        self.evidence, self.settings = evidence, settings
        self.appearance, self.population = evidence.appearance, evidence.population
        self.members = int(self.population.is_member.sum())
        self.strongest = strongest(self.members, len(self.appearance))

    def smallest(self, level: float) -> float | None:
        """Weakest selection by appearance that is found at `level` in at least 80 % of trials."""
        for strength in (each for each in STRENGTHS if each <= self.strongest):
            if (self._selected(strength, TRIALS) <= level).sum() >= 0.8 * TRIALS:
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

    def redrawn(self, level: float) -> Control:
        """Members drawn at random must not be told from the others."""
        is_member, strata = self.population.is_member, self.population.strata
        p_value = float(
            self._p_values("drawn anew", 1, lambda by: redrawn_members(is_member, strata, 1, by)[:, 1])[0]
        )
        return Control(passed=p_value > level, description="members drawn anew at random", p_value=p_value)

    def _selected(self, strength: float, trials: int) -> NDArray[np.float64]:
        what = f"{trials} selected with AUC {strength:.6g}"
        return self._p_values(what, trials, partial(selected, self.appearance, self.members, strength))

    def _p_values(
        self, what: str, trials: int, draw: Callable[[np.random.Generator], NDArray[Any]]
    ) -> NDArray[np.float64]:
        """(trials,) of members whom `draw` chose, (clusters,) each."""
        generator = self.evidence.generator(f"{NAME}, {what}", self.settings)
        drawn = np.stack([draw(generator) for _ in range(trials)], axis=1).astype(np.int8)
        return np.array(
            [self.evidence.blind_baseline.p_value(each) for each in self.evidence.blind.aucs(drawn)]
        )


def _power(smallest: float | None) -> Power:
    if smallest is None:
        return Power(
            smallest_leak=None, description="no selection of patients by their appearance is found reliably"
        )
    text = (
        f"patients selected by one component of their appearance with an AUC of {smallest:g} are told in 80 %"
    )
    return Power(smallest_leak=smallest, description=f"{text} of trials")
