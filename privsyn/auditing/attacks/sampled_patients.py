"""Whom the model audits ask about, and how one score per person comes of a model and their images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privsyn.auditing.attacks.denoising import ATTACKS, Asked, Grid
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.statistics.blind_baseline import appearance
from privsyn.bit_depth import Images
from privsyn.diffusion.model import DiffusionModel, to_float

MOST = {"train": 1_000, "holdout": 1_500, "test": 500}  # scored; more costs time and shrinks little
IMAGES_EACH = 4
OVERFIT_PATIENTS, OVERFIT_STEPS = 16, 600  # enough for a small network that has hardly learned anything
FEWEST_OVERFIT = 8
PARTS = tuple(MOST)
_BATCH = 128

Scores = NDArray[np.float64]
Attack = Callable[[Asked], Tensor]


@dataclass(frozen=True, eq=False)
class People:
    """Some units of one part of the cohort, in random order, with their images.

    Attributes:
        images: (n, H, W, C).
        labels: (n,).
        owner: (n,) 0 to k - 1, ascending.
        unit: (k,) which unit of the population each is (of `test`: of the test patients).
    """

    images: Images
    labels: NDArray[np.int64]
    owner: NDArray[np.int64]
    unit: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.unit)

    def only(self, few: NDArray[np.bool_]) -> People:
        """Those marked in `few` (k,), in the same order."""
        rows = few[self.owner]
        number = np.cumsum(few) - 1
        return People(self.images[rows], self.labels[rows], number[self.owner[rows]], self.unit[few])

    def first(self, number: int) -> People:
        """The first so many."""
        return self.only(np.arange(len(self)) < number)

    def beside(self, others: People) -> People:
        """These, then the others; they may be of different parts."""
        return People(
            np.concatenate([self.images, others.images]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate([self.owner, others.owner + len(self)]),
            np.concatenate([self.unit, others.unit]),
        )


class Inquiry:
    """One model, asked about people of all parts at one grid; several audits share its answers.

    Attributes:
        people: by part, at most `MOST` random units with at most `IMAGES_EACH` random images each.
        grid: where they are looked at; follows from the model's process and the seed.
    """

    def __init__(self, evidence: Evidence, model: DiffusionModel, settings: Settings) -> None:
        self.evidence, self.model, self.seed = evidence, model, settings.seed
        generator = evidence.generator("examined", settings)
        self.people = {part: _chosen(evidence, part, generator) for part in PARTS}
        self.grid = Grid.declared(model, settings.seed)

    def scores(self, part: str) -> dict[str, Scores]:
        """(k,) scores of the people of a part by every attack, computed once."""
        return self.evidence.kept(
            f"denoising attacks, seed {self.seed}, {part}",
            lambda: person_scores(self.evidence, self.model, self.people[part], self.grid, ATTACKS),
        )

    @cached_property
    def looks(self) -> dict[str, Scores]:
        """(k, d) what the people of each part look like, in components common to all parts."""
        crowd = self.people["train"].beside(self.people["holdout"]).beside(self.people["test"])
        rows = appearance(self.evidence.embedding("lite0-mid", crowd.images), crowd.owner)
        ends = np.cumsum([len(self.people[part]) for part in PARTS])
        return dict(zip(PARTS, np.split(rows, ends[:-1]), strict=True))

    def sizes(self) -> dict[str, int]:
        """For `Finding.n`."""
        return {f"{part}_patients": len(people) for part, people in self.people.items()}


def person_scores(
    evidence: Evidence, model: DiffusionModel, people: People, grid: Grid, attacks: Mapping[str, Attack]
) -> dict[str, Scores]:
    """(k,) scores by every attack: the mean over a person's images."""
    images, counts = len(people.images), np.bincount(people.owner)
    total = {name: np.zeros(images) for name in attacks}
    with evidence.progress.stage(f"ask the model about {images} images", images) as advance:
        for start in range(0, images, _BATCH):
            batch = slice(start, start + _BATCH)
            for name, scores in _scores(model, people, batch, grid, attacks).items():
                total[name][batch] = scores
            advance(len(people.labels[batch]))
    return {name: np.bincount(people.owner, weights=each) / counts for name, each in total.items()}


@torch.inference_mode()
def _scores(
    model: DiffusionModel, people: People, rows: slice, grid: Grid, attacks: Mapping[str, Attack]
) -> dict[str, Scores]:
    asked = Asked(model, to_float(people.images[rows]), torch.from_numpy(people.labels[rows]), grid)
    return {name: attack(asked).numpy().astype(np.float64) for name, attack in attacks.items()}


def _chosen(evidence: Evidence, part: str, generator: np.random.Generator) -> People:
    side, unit = getattr(evidence, part), evidence.units(part)
    some = generator.permutation(np.unique(unit))[: MOST[part]]
    place = {number: index for index, number in enumerate(some.tolist())}
    seen = np.zeros(len(some), np.int64)
    rows = []
    for row in generator.permutation(len(unit)):
        index = place.get(int(unit[row]))
        if index is not None and seen[index] < IMAGES_EACH:
            seen[index] += 1
            rows.append((index, row))
    owner, row = np.array(sorted(rows), dtype=np.int64).T
    return People(side.images[row], side.labels[row], owner, some)
