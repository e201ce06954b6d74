"""Can a missing attribute be inferred better for a training patient than for a held-out one?

Threat: synthetic set only. An attacker knows an image but not its label, or half of an image, looks up the
most similar synthetic image and takes the missing attribute from it, if that image is much nearer than images
of other patients; otherwise the attacker abstains. What can be inferred of held-out patients in that way is
the use of the set; what can be inferred of its patients beyond that is a leak (Giomi et al. 2023, see
`privsyn.auditing.statistics.rates`). One image of each cluster of patients is attacked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.rates import Hits, exact_p_value, residual_risk, risk_interval
from privsyn.bit_depth import Images
from privsyn.features.embed import FeatureRows, pixels
from privsyn.features.neighbours import Neighbours, nearest, nearest_after

NAME = "attributes"
AUDIT = AuditId(NAME, "2", "synthetic-only")
ATTRIBUTES = ("label", "masked half")
MAX_ATTRIBUTE_COPIES = 1024  # planted copies prepared; the positive control cannot be larger
ATTRIBUTE_TRIALS = 50  # per leak size, for the power statement
_SAME = 1e-6  # nearer images are the same
NO_LEAK_FOUND = "the set or the cohort is too small: the largest planted leak is not found reliably"
ANSWERED = 0.1  # share of `test` patients; for all others the attacker abstains
CHANCE_SUCCESS = 0.05  # share of `test` patients whose masked half counts as inferred


@dataclass(frozen=True, eq=False)
class Targets:
    """One image of each patient of a part, with its label."""

    images: Images
    labels: NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Residual risk of either attribute."""
    attack = _Attack(evidence, settings)
    return [_finding(attribute, attack, settings) for attribute in ATTRIBUTES]


def _finding(attribute: str, attack: _Attack, settings: Settings) -> Finding:
    level = settings.alpha / len(ATTRIBUTES)
    right = {part: attack.right(attribute, part) for part in ("train", "holdout")}
    members, others = (_hits(each) for each in right.values())
    confidence = 1 - 2 * level
    attacked, control = members.rate(confidence), others.rate(confidence)
    leak = _CopyLeak.of(attack, attribute, right["train"], right["holdout"])
    smallest = leak.smallest(level, settings.control_level)
    controls = Controls(
        positive=leak.found(smallest, settings.control_level),
        negative=attack.placebo(attribute, right["holdout"], settings.control_level),
    )
    return Finding.measured(
        AUDIT,
        "risk",
        scope={"attribute": attribute},
        value=residual_risk(attacked, control).value,
        interval=risk_interval(members, others, level),
        confidence=confidence,
        n={"train_patients": members.attempts, "holdout_patients": others.attempts},
        baseline=0.0,
        controls=controls,
        power=_power(smallest, members.attempts),
        doubt=controls.fault(NO_LEAK_FOUND),
        details={
            "attack": list(attacked.interval),
            "control": list(control.interval),
            "guessing": attack.guessing(attribute),
        },
    )


class _Attack:
    """The attack on the patients of each part."""

    def __init__(self, evidence: Evidence, settings: Settings) -> None:
        self.evidence, self.settings = evidence, settings
        self.targets = {part: self._one_each(part) for part in ("train", "holdout", "test")}
        self.known = Targets(evidence.synthetic.images, evidence.synthetic.labels)

    def generator(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose, so that its draws depend on no other."""
        return self.evidence.generator(f"{NAME}, {purpose}", self.settings)

    def right(self, attribute: str, part: str, copies: PlantedCopies | None = None) -> NDArray[np.bool_]:
        """(clusters,) whether the attribute was inferred, from the set or from one with planted copies."""
        by = f"{copies.name}, seed {self.settings.seed}" if copies else "the set"

        def compute() -> Arrays:
            found = self._looked_up(attribute, part, copies)
            sure = self._nearness(attribute, part, found) > self._threshold(attribute, copies, by)
            if attribute == "masked half":
                return {"right": sure & (self._errors(part, copies, found) < self._success_error)}
            known = self.known.labels if copies is None else np.append(self.known.labels, copies.labels)
            return {"right": sure & (known[found.indices[:, 0]] == self.targets[part].labels)}

        return self.evidence.computed(f"{NAME}, {attribute} of {part} by {by}", compute)["right"]

    def guessing(self, attribute: str) -> float:
        """Success rate without the set: of the most frequent label, or of `test` patients."""
        labels = self.targets["holdout"].labels
        return ANSWERED * (
            CHANCE_SUCCESS if attribute == "masked half" else float(np.bincount(labels).max() / len(labels))
        )

    def placebo(self, attribute: str, right: NDArray[np.bool_], level: float) -> Control:
        """Half of the holdout against the other half must show no difference."""
        order = self.generator(f"{attribute}, placebo").permutation(len(right))
        half = len(right) // 2
        p_value = exact_p_value(_hits(right[order[:half]]), _hits(right[order[half:]]))
        what = f"{half} holdout patients in place of the members"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    @cached_property
    def _success_error(self) -> float:
        """The error below which a masked half counts as inferred: a quantile of `test` patients."""
        found = self._looked_up("masked half", "test", None)
        return float(np.quantile(self._errors("test", None, found), CHANCE_SUCCESS))

    def _errors(self, part: str, copies: PlantedCopies | None, found: Neighbours) -> NDArray[np.float64]:
        """(n,) error of the inferred right half, divided by the error of the mean image."""
        right, known = (_half(each.images, 1) for each in (self.targets[part], self.known))
        present = known
        if copies is not None:
            present = np.concatenate([np.delete(known, copies.without, axis=0), _half(copies.images, 1)])
            known = np.concatenate([known, _half(copies.images, 1)])
        guess = known[found.indices[:, 0]]
        naive = np.linalg.norm(right - present.mean(axis=0), axis=1)
        errors: NDArray[np.float64] = np.linalg.norm(right - guess, axis=1) / np.maximum(naive, 1e-9)
        return errors

    def _threshold(self, attribute: str, copies: PlantedCopies | None, by: str) -> float:
        """The nearness above which the attacker answers: a quantile of `test` patients."""

        def compute() -> Arrays:
            nearness = self._nearness(attribute, "test", self._looked_up(attribute, "test", copies))
            return {"threshold": np.quantile(nearness, [1 - ANSWERED])}

        return float(self.evidence.computed(f"{NAME}, {attribute} sure by {by}", compute)["threshold"][0])

    def _nearness(self, attribute: str, part: str, found: Neighbours) -> NDArray[np.float64]:
        """(clusters,) log of the distance to the most similar `test` patient over that to the match."""

        def compute() -> Arrays:
            query, references = (self._embed(attribute)(self.targets[side].images) for side in (part, "test"))
            near = nearest(
                query, references, 2 if part == "test" else 1
            )  # the first is the patient's own image
            return {"logs": np.log(np.maximum(near.distances[:, -1], _SAME))}

        references = self.evidence.kept(f"{NAME}, {attribute}, references nearest to {part}", compute)["logs"]
        nearness: NDArray[np.float64] = references - np.log(np.maximum(found.distances[:, 0], _SAME))
        return nearness

    def _embed(self, attribute: str) -> Callable[[Images], FeatureRows]:
        return self.evidence.representation("lite0-mid") if attribute == "label" else partial(_half, side=0)

    def _looked_up(self, attribute: str, part: str, copies: PlantedCopies | None) -> Neighbours:
        """The image of the set that is most similar to each patient; copies are numbered after the set."""
        embed = self._embed(attribute)
        query, there = embed(self.targets[part].images), embed(self.known.images)

        def compute() -> Arrays:
            return vars(nearest(query, there, 1))

        found = Neighbours(**self.evidence.computed(f"{NAME}, {attribute} looked up for {part}", compute))
        if copies is not None:
            added = embed(copies.pool)[copies.chosen]
            found = nearest_after(found, query, there, copies.without, added)
        return found

    def _one_each(self, part: str) -> Targets:
        side = self.evidence.part(part)
        _, first = np.unique(self.evidence.clusters(part), return_index=True)
        rows = np.sort(first)  # in the order of the images: the ids are keyed and sort by chance
        return Targets(side.images[rows], side.labels[rows])


@dataclass(frozen=True, eq=False)
class PlantedCopies:
    """Copies that are added to the set or replace images of it.

    Attributes:
        name: says how many.
        pool: (p, H, W, C) the copies that were prepared.
        chosen: (k,) which of them are planted; `labels` (k,) theirs.
        without: (j,) rows of the set that are removed.
    """

    name: str
    pool: Images
    chosen: NDArray[np.int64]
    labels: NDArray[np.int64]
    without: NDArray[np.int64]

    @property
    def images(self) -> Images:
        return self.pool[self.chosen]


@dataclass(frozen=True, eq=False)
class _CopyLeak:
    """Copies of training patients whose attribute the set does not reveal yet.

    Attributes:
        right, others: (clusters,) whether the attribute is inferred of train and holdout without copies.
        rows: (k,) training patients whose copies may be planted; `pool` (k, H, W, C) the copies.
        reveals: (k,) whether the copy of each reveals its attribute.
    """

    attack: _Attack
    attribute: str
    right: NDArray[np.bool_]
    others: NDArray[np.bool_]
    rows: NDArray[np.int64]
    pool: Images
    reveals: NDArray[np.bool_]

    @classmethod
    def of(
        cls, attack: _Attack, attribute: str, right: NDArray[np.bool_], others: NDArray[np.bool_]
    ) -> _CopyLeak:
        missed = np.flatnonzero(~right)
        most = min(MAX_ATTRIBUTE_COPIES, len(missed), len(attack.known.labels))
        rows = attack.generator(f"{attribute}, pool").choice(missed, most, replace=False)
        targets, none = attack.targets["train"], np.zeros(0, np.int64)
        pool = LIGHT.plant(targets.images[rows])
        all_copies = PlantedCopies(f"all {most} copies", pool, np.arange(most), targets.labels[rows], none)
        reveals = attack.right(attribute, "train", all_copies)[rows]
        return cls(attack, attribute, right, others, rows, pool, reveals)

    def smallest(self, level: float, control_level: float) -> int | None:
        """Fewest copies found at `level` in at least 80 % of trials, and also when they are really planted.

        Twice as many must be found at `control_level`, because the positive control plants them. Trials add
        up what each copy reveals by itself; copies that are really planted also affect other patients, and
        replace images.
        """
        sizes = np.unique(np.round(4 * 2.0 ** (np.arange(24) / 2)).astype(int))
        generator = self.attack.generator(f"{self.attribute}, trials")
        for size in sizes[2 * sizes <= len(self.rows)].tolist():
            seen = (
                sum(self._trial(size, generator) <= level for _ in range(ATTRIBUTE_TRIALS))
                >= 0.8 * ATTRIBUTE_TRIALS
            )
            if seen and self._planted(size) <= level and self._planted(2 * size) <= control_level:
                return int(size)
        return None

    def found(self, smallest: int | None, level: float) -> Control | None:
        """Twice as many copies in the set, and the attack run again, must be found."""
        if smallest is None:
            return None
        p_value = self._planted(2 * smallest)
        what = f"{2 * smallest} {LIGHT.name} planted into the set"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def _planted(self, count: int) -> float:
        """The p-value of the attack on a set with so many copies in place of other images."""
        generator = self.attack.generator(f"{self.attribute}, positive control")
        chosen, places = (
            generator.permutation(each)[:count] for each in (len(self.rows), len(self.attack.known.labels))
        )
        labels = self.attack.targets["train"].labels[self.rows[chosen]]
        copies = PlantedCopies(f"{count} copies in place of others", self.pool, chosen, labels, places)
        right = (self.attack.right(self.attribute, part, copies) for part in ("train", "holdout"))
        return exact_p_value(*map(_hits, right))

    def _trial(self, size: int, generator: np.random.Generator) -> float:
        chosen = generator.choice(len(self.rows), size, replace=False)
        right = self.right.copy()
        right[self.rows[chosen]] = self.reveals[chosen]
        return exact_p_value(_hits(right), _hits(self.others))


def _half(images: Images, side: int) -> FeatureRows:
    """(n, d) the left half (0) or the right one (1)."""
    width = images.shape[2] // 2
    return pixels(images[:, :, width:] if side else images[:, :, :width])


def _hits(right: NDArray[np.bool_]) -> Hits:
    return Hits(len(right), int(right.sum()))


def _power(smallest: int | None, members: int) -> Power:
    if smallest is None:
        return Power(smallest_leak=None, description="no number of copies in the set is found reliably")
    text = f"copies of {smallest} patients, whose attribute is not revealed yet, are found in 80 % of trials"
    return Power(smallest_leak=smallest / members, description=text)
