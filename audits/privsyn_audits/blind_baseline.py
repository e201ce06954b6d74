"""Are train and holdout alike, before anybody looks at a model or a synthetic set?

Threat: none. Where they are not, membership findings measure the difference between two groups of patients,
not a leak, and are not conclusive (`privsyn.audit.blind`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privsyn.audit.blind import BlindGuess, blind_guess, selected
from privsyn.audit.contract import Control, Controls, Evidence, Finding, Power, Settings
from privsyn.audit.membership import Auc, Sides

NAME, VERSION = "blind-baseline", "1"
TOO_SMALL = "the cohort is too small: not even the strongest selection of patients is found reliably"
STRENGTHS = (0.525, 0.55, 0.575, 0.6, 0.65, 0.7, 0.8)  # AUC of the planted selection
TRIALS = 20  # per strength, for the power statement


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC of telling train patients from holdout patients by their images alone."""
    sides, level = _sides(evidence.blind_guess), settings.alpha
    trials = _Trials(evidence, evidence.generator(NAME, settings))
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
            value=Auc().measured(sides),
            interval=Auc().interval(sides, 1 - 2 * level),
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
    """The blind guess about members who were drawn anew."""

    def __init__(self, evidence: Evidence, generator: np.random.Generator) -> None:
        self.looks, self.population, self.generator = evidence.looks, evidence.population, generator

    def smallest(self, level: float) -> float | None:
        """Weakest selection by looks that is found at `level` in at least 80 % of trials."""
        for strength in STRENGTHS:
            if sum(self._selected(strength) <= level for _ in range(TRIALS)) >= 0.8 * TRIALS:
                return strength
        return None

    def planted(self, smallest: float | None, level: float) -> Control | None:
        """Twice the weakest selection must be found."""
        if smallest is None:
            return None
        strength = 2 * smallest - 0.5
        p_value = self._selected(strength)
        what = f"members selected by one component of their looks, with an AUC of {strength:.2f}"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def redrawn(self, level: float) -> Control:
        """Members drawn at random must not be told from the others."""
        p_value = self._p_value(self.generator.permutation(self.population.is_member))
        return Control(passed=p_value > level, description="members drawn anew at random", p_value=p_value)

    def _selected(self, strength: float) -> float:
        members = int(self.population.is_member.sum())
        return self._p_value(selected(self.looks, members, strength, self.generator))

    def _p_value(self, is_member: NDArray[np.bool_]) -> float:
        guess = blind_guess(self.looks, is_member, self.population.strata, self.generator)
        return Auc().p_value(_sides(guess))


def _sides(guess: BlindGuess) -> Sides:
    return Sides(guess.members, guess.nonmembers)


def _power(smallest: float | None) -> Power:
    if smallest is None:
        return Power(
            smallest_leak=None, description="no selection of patients by their looks is found reliably"
        )
    text = f"patients selected by one component of their looks with an AUC of {smallest:g} are told in 80 %"
    return Power(smallest_leak=smallest, description=f"{text} of trials")
