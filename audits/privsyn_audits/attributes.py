"""Can what is missing be inferred for a training patient better than for one who was held out?

Threat: synthetic set only. An attacker knows an image but not its label, or half of an image, looks up the
most similar synthetic image and takes what is missing from there. What can be learnt of strangers in that
way is the use of the set; what can be learnt of its patients beyond that is a leak (Giomi et al. 2023, see
`privsyn.audit.rates`). One image of each patient is attacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privsyn.audit.contract import Control, Controls, Evidence, Finding, Power, Settings
from privsyn.audit.plant import LIGHT
from privsyn.audit.rates import Hits, exact_p_value, residual_risk, risk_interval
from privsyn.features.embed import Floats, Images
from privsyn.features.neighbours import nearest

NAME, VERSION = "attributes", "1"
ATTRIBUTES = ("label", "masked half")
POOL = 1024  # planted copies prepared; the positive control cannot be larger
TRIALS = 50  # per leak size, for the power statement
TOO_SMALL = "the set or the cohort is too small: not even the largest planted leak is found reliably"
LUCKY = 0.05  # share of `test` patients whose half is guessed as well as counts for a success


@dataclass(frozen=True, eq=False)
class Targets:
    """One image of each patient of a part, with its label."""

    images: Images
    labels: NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Residual risk of either attribute."""
    attack = _Attack(evidence, evidence.generator(NAME, settings))
    return [_finding(attribute, attack, settings) for attribute in ATTRIBUTES]


def _finding(attribute: str, attack: _Attack, settings: Settings) -> Finding:
    level = settings.alpha / len(ATTRIBUTES)
    right = {part: attack.right(attribute, part, attack.known) for part in ("train", "holdout")}
    members, others = (_hits(each) for each in right.values())
    confidence = 1 - 2 * level
    attacked, control = members.rate(confidence), others.rate(confidence)
    leak = _Planted.of(attack, attribute, right["train"], right["holdout"])
    smallest = leak.smallest(level)
    controls = Controls(
        positive=leak.found(smallest, settings.control_level),
        negative=attack.placebo(right["holdout"], settings.control_level),
    )
    reason = controls.fault(TOO_SMALL)
    return Finding(
        audit=NAME,
        version=VERSION,
        threat="synthetic-only",
        statistic="risk",
        scope={"attribute": attribute},
        value=residual_risk(attacked, control).value,
        interval=risk_interval(members, others, level),
        confidence=confidence,
        n={"train_patients": members.attempts, "holdout_patients": others.attempts},
        baseline=0.0,
        controls=controls,
        power=_power(smallest, members.attempts),
        conclusive=not reason,
        reason=reason,
        details={
            "attack": list(attacked.interval),
            "control": list(control.interval),
            "guessing": attack.guessing(attribute),
        },
    )


class _Attack:
    """What the attacker looks up, and how well that goes for the patients of each part."""

    def __init__(self, evidence: Evidence, generator: np.random.Generator) -> None:
        self.evidence, self.generator = evidence, generator
        self.targets = {part: self._one_each(part) for part in ("train", "holdout", "test")}
        self.known = Targets(evidence.synthetic.images, evidence.synthetic.labels)

    def right(self, attribute: str, part: str, known: Targets) -> NDArray[np.bool_]:
        """(patients,) whether what is missing was inferred."""
        targets = self.targets[part]
        if attribute == "label":
            return np.asarray(self._guessed_labels(targets, known) == targets.labels)
        return np.asarray(_errors(targets.images, known.images) < self._lucky)

    def guessing(self, attribute: str) -> float:
        """Success without any set: the most frequent label; what `test` patients show."""
        labels = self.targets["holdout"].labels
        return LUCKY if attribute == "masked half" else float(np.bincount(labels).max() / len(labels))

    def placebo(self, right: NDArray[np.bool_], level: float) -> Control:
        """Half of the holdout against the other half must show nothing."""
        order = self.generator.permutation(len(right))
        half = len(right) // 2
        p_value = exact_p_value(_hits(right[order[:half]]), _hits(right[order[half:]]))
        what = f"{half} holdout patients in place of the members"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    def with_copies(self, rows: NDArray[np.int64], without: NDArray[np.int64] | None = None) -> Targets:
        """The set with copies of these training patients, and `without` some that are there."""
        targets, keep = self.targets["train"], np.ones(len(self.known.labels), np.bool_)
        if without is not None:
            keep[without] = False
        copies = LIGHT.plant(targets.images[rows])
        return Targets(
            np.concatenate([self.known.images[keep], copies]),
            np.concatenate([self.known.labels[keep], targets.labels[rows]]),
        )

    @cached_property
    def _lucky(self) -> float:
        """The error below which so few `test` patients' halves are guessed from the set under audit."""
        return float(np.quantile(_errors(self.targets["test"].images, self.known.images), LUCKY))

    def _guessed_labels(self, targets: Targets, known: Targets) -> NDArray[np.int64]:
        embed = self.evidence.representation("lite0-mid")
        query, there = (embed(each.images) for each in (targets, known))
        labels: NDArray[np.int64] = known.labels[nearest(query, there, 1).indices[:, 0]]
        return labels

    def _one_each(self, part: str) -> Targets:
        side = getattr(self.evidence, part)
        _, first = np.unique(side.patients, return_index=True)
        rows = np.sort(first)  # in the order of the images: the ids are keyed and sort by chance
        return Targets(side.images[rows], side.labels[rows])


@dataclass(frozen=True, eq=False)
class _Planted:
    """Copies of training patients of whom the set does not tell what is missing: those who can be given away.

    Attributes:
        right, others: (patients,) what is inferred of train and holdout without copies.
        rows: (k,) training patients whose copies may be planted.
        given_away: (k,) whether the copy of each gives it away.
    """

    attack: _Attack
    attribute: str
    right: NDArray[np.bool_]
    others: NDArray[np.bool_]
    rows: NDArray[np.int64]
    given_away: NDArray[np.bool_]

    @classmethod
    def of(
        cls, attack: _Attack, attribute: str, right: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> _Planted:
        missed = np.flatnonzero(~right)
        most = min(POOL, len(missed), len(attack.known.labels))
        rows = attack.generator.choice(missed, most, replace=False)
        with_all = attack.with_copies(rows)
        return cls(attack, attribute, right, others, rows, attack.right(attribute, "train", with_all)[rows])

    def smallest(self, level: float) -> int | None:
        """Fewest copies that are found at `level` in at least 80 % of trials."""
        sizes = np.unique(np.round(4 * 2.0 ** (np.arange(24) / 2)).astype(int))
        for size in sizes[sizes <= len(self.rows)]:
            if sum(self._trial(int(size)) <= level for _ in range(TRIALS)) >= 0.8 * TRIALS:
                return int(size)
        return None

    def found(self, smallest: int | None, level: float) -> Control | None:
        """Twice as many copies in the set, and the attack run again, must be found."""
        if smallest is None or 2 * smallest > len(self.rows):
            return None
        rows = self.attack.generator.choice(self.rows, 2 * smallest, replace=False)
        places = self.attack.generator.choice(len(self.attack.known.labels), len(rows), replace=False)
        known = self.attack.with_copies(rows, places)
        p_value = exact_p_value(
            *(_hits(self.attack.right(self.attribute, part, known)) for part in ("train", "holdout"))
        )
        what = f"{len(rows)} {LIGHT.name} planted into the set"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def _trial(self, size: int) -> float:
        chosen = self.attack.generator.choice(len(self.rows), size, replace=False)
        right = self.right.copy()
        right[self.rows[chosen]] = self.given_away[chosen]
        return exact_p_value(_hits(right), _hits(self.others))


def _errors(images: Images, known: Images) -> NDArray[np.float64]:
    """(n,) error of the right half that the most similar left half suggests, by that of a mean image."""
    width = images.shape[2] // 2
    left, right = _flat(images[:, :, :width]), _flat(images[:, :, width:])
    guess = _flat(known[:, :, width:])[nearest(left, _flat(known[:, :, :width]), 1).indices[:, 0]]
    naive = np.linalg.norm(right - _flat(known[:, :, width:]).mean(axis=0), axis=1)
    errors: NDArray[np.float64] = np.linalg.norm(right - guess, axis=1) / np.maximum(naive, 1e-9)
    return errors


def _flat(images: Images) -> Floats:
    return (images.reshape(len(images), -1) / np.float32(255)).astype(np.float32)


def _hits(right: NDArray[np.bool_]) -> Hits:
    return Hits(len(right), int(right.sum()))


def _power(smallest: int | None, members: int) -> Power:
    if smallest is None:
        return Power(smallest_leak=None, description="no number of copies in the set is found reliably")
    text = f"copies of {smallest} patients, of whom the set tells nothing yet, are found in 80 % of trials"
    return Power(smallest_leak=smallest / members, description=text)
