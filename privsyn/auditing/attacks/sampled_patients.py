"""The patients that audits of a model attack, and one membership score per patient and attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privsyn.auditing.attacks.denoising import ATTACKS, Grid, ModelQueries
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.statistics.blind_baseline import appearance_components
from privsyn.bit_depth import Images
from privsyn.diffusion.model import DiffusionModel, to_float

# Scored at most; more cost time and narrow the intervals little.
PATIENTS_PER_PART = {"train": 1_000, "holdout": 1_500, "test": 500}
IMAGES_EACH = 4
OVERFIT_PATIENTS, OVERFIT_STEPS = 16, 600  # enough for a small, hardly trained network
MIN_OVERFIT_PATIENTS = 8
PARTS = tuple(PATIENTS_PER_PART)
_BATCH = 128

Scores = NDArray[np.float64]
Attack = Callable[[ModelQueries], Tensor]


@dataclass(frozen=True, eq=False)
class SampledPatients:
    """Some clusters of one part of the cohort, in random order, with their images.

    Attributes:
        images: (n, H, W, C).
        labels: (n,).
        owner: (n,) row in `cluster` of each image, 0 to k - 1, ascending.
        cluster: (k,) which cluster of the population each is (of `test`: of the test patients).
    """

    images: Images
    labels: NDArray[np.int64]
    owner: NDArray[np.int64]
    cluster: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.cluster)

    def select(self, chosen: NDArray[np.bool_]) -> SampledPatients:
        """Those marked in `chosen` (k,), in the same order."""
        rows = chosen[self.owner]
        number = np.cumsum(chosen) - 1
        return SampledPatients(
            self.images[rows], self.labels[rows], number[self.owner[rows]], self.cluster[chosen]
        )

    def first(self, number: int) -> SampledPatients:
        """The first `number`."""
        return self.select(np.arange(len(self)) < number)

    def concatenated_with(self, others: SampledPatients) -> SampledPatients:
        """These, then the others, which may be of another part."""
        return SampledPatients(
            np.concatenate([self.images, others.images]),
            np.concatenate([self.labels, others.labels]),
            np.concatenate([self.owner, others.owner + len(self)]),
            np.concatenate([self.cluster, others.cluster]),
        )


class ModelAttackContext:
    """A model and the patients of all parts that are attacked, on one grid; several audits share the scores.

    Attributes:
        patients: by part, at most `PATIENTS_PER_PART` random clusters with at most `IMAGES_EACH` random
            images each.
        grid: noise levels and noises; determined by the model's process and the seed.
    """

    def __init__(self, evidence: Evidence, model: DiffusionModel, settings: Settings) -> None:
        self.evidence, self.model, self.seed = evidence, model, settings.seed
        generator = evidence.generator("examined", settings)
        self.patients = {part: _chosen(evidence, part, generator) for part in PARTS}
        self.grid = Grid.declared(model, settings.seed)

    def scores(self, part: str) -> dict[str, Scores]:
        """(k,) scores of the patients of a part by every attack, computed once."""
        return self.evidence.kept(
            f"denoising attacks, seed {self.seed}, {part}",
            lambda: patient_scores(self.evidence, self.model, self.patients[part], self.grid, ATTACKS),
        )

    @cached_property
    def appearance(self) -> dict[str, Scores]:
        """(k, d) principal components of the patients of each part, common to all parts."""
        pooled = (
            self.patients["train"]
            .concatenated_with(self.patients["holdout"])
            .concatenated_with(self.patients["test"])
        )
        rows = appearance_components(self.evidence.embedding("lite0-mid", pooled.images), pooled.owner)
        ends = np.cumsum([len(self.patients[part]) for part in PARTS])
        return dict(zip(PARTS, np.split(rows, ends[:-1]), strict=True))

    def sizes(self) -> dict[str, int]:
        """Patients of each part, for `Finding.n`."""
        return {f"{part}_patients": len(patients) for part, patients in self.patients.items()}


def patient_scores(
    evidence: Evidence,
    model: DiffusionModel,
    patients: SampledPatients,
    grid: Grid,
    attacks: Mapping[str, Attack],
) -> dict[str, Scores]:
    """(k,) scores by every attack: the mean over a patient's images."""
    images, counts = len(patients.images), np.bincount(patients.owner)
    total = {name: np.zeros(images) for name in attacks}
    with evidence.progress.stage(f"query the model about {images} images", images) as advance:
        for start in range(0, images, _BATCH):
            batch = slice(start, start + _BATCH)
            for name, scores in _scores(model, patients, batch, grid, attacks).items():
                total[name][batch] = scores
            advance(len(patients.labels[batch]))
    return {name: np.bincount(patients.owner, weights=each) / counts for name, each in total.items()}


@torch.inference_mode()
def _scores(
    model: DiffusionModel, patients: SampledPatients, rows: slice, grid: Grid, attacks: Mapping[str, Attack]
) -> dict[str, Scores]:
    queries = ModelQueries(
        model, to_float(patients.images[rows]), torch.from_numpy(patients.labels[rows]), grid
    )
    return {name: attack(queries).numpy().astype(np.float64) for name, attack in attacks.items()}


def _chosen(evidence: Evidence, part: str, generator: np.random.Generator) -> SampledPatients:
    side, cluster = evidence.part(part), evidence.clusters(part)
    by_chance = cluster[~side.pinned]  # a comparison with holdout is of those whom a coin put into train
    some = generator.permutation(np.unique(by_chance))[: PATIENTS_PER_PART[part]]
    place = {number: index for index, number in enumerate(some.tolist())}
    seen = np.zeros(len(some), np.int64)
    rows = []
    for row in generator.permutation(len(cluster)):
        index = place.get(int(cluster[row]))
        if index is not None and seen[index] < IMAGES_EACH:
            seen[index] += 1
            rows.append((index, row))
    owner, row = np.array(sorted(rows), dtype=np.int64).T
    return SampledPatients(side.images[row], side.labels[row], owner, some)
