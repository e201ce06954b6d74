"""Tests whether a synthetic set exposes training patients more often than held-out patients.

A synthetic image exposes the patient whose image is nearest to it, the more so the more that neighbour stands
out: exposure = log(median distance to 50 neighbours / distance to the nearest), the adaptive ratio of Carlini
et al. (2023, https://arxiv.org/abs/2301.13188) on a log scale. A merely smooth generator does not raise it,
because its images are closer to all patients. Thresholds are calibrated on `test` patients. Train and holdout
are searched together; if the generator does not depend on the assignment to train and holdout, all
permutations of it are equally likely (`privsyn.auditing.statistics.permutation.Enrichment`, exact).

Limit: many copies of one patient count as one observation.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import JsonValue

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace, Matches
from privsyn.auditing.attacks.null_hypothesis import NullHypothesis
from privsyn.auditing.attacks.planted_leaks import LIGHT, Leak
from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.permutation import Enrichment
from privsyn.bit_depth import Images
from privsyn.features.neighbours import nearest

MAX_EXPOSURE_COPIES = 256  # copies; the positive control cannot be larger
EXPOSURE_TRIALS = 20  # per leak size, for the power statement
PAIRS = 12  # shown to the reviewer
EXPOSURE_QUANTILES = (1.0, 0.99, 0.95, 0.8)  # of test patients; each is a threshold of the test

Scores = NDArray[np.float64]


class ExposureTest:
    """The exposure test of a synthetic set, in one or several embedding spaces judged together.

    Args:
        spaces: embeddings of the population of `evidence`.
        group: (clusters,) the clusters under test; all if None. It must not depend on who is in train.
        leak: what the controls plant, and what the power is stated for.
    """

    def __init__(
        self,
        evidence: Evidence,
        spaces: Sequence[EmbeddingSpace],
        generator: np.random.Generator,
        group: NDArray[np.bool_] | None = None,
        leak: Leak = LIGHT,
    ) -> None:
        self.evidence, self.spaces, self.generator = evidence, tuple(spaces), generator
        self.leak = leak
        population = evidence.population
        self.group = np.ones(len(population.is_member), np.bool_) if group is None else group
        self.synthetic = self.match(evidence.synthetic.images)
        self.fresh = self.match(evidence.test.images)
        thresholds = [[*np.quantile(fresh.exposure, EXPOSURE_QUANTILES), -np.inf] for fresh in self.fresh]
        self.test = Enrichment(NullHypothesis(evidence).member_labels, np.array(thresholds))

    def among(self, group: NDArray[np.bool_]) -> ExposureTest:
        """The same test of another group (clusters,); the matches of set and test patients are kept."""
        other = copy.copy(self)
        for about_others in ("found", "pool"):
            other.__dict__.pop(about_others, None)
        other.group = group
        return other

    @cached_property
    def pool(self) -> list[Matches]:
        """Matches of the copies that may be planted; the same at every level."""
        return self.match(self.leak.plant(self._training_images(self.generator.spawn(1)[0])))

    def match(self, images: Images) -> list[Matches]:
        """The nearest patients to images in each space; cached by the content of images and space."""
        return [self._match(space, images) for space in self.spaces]

    def _match(self, space: EmbeddingSpace, images: Images) -> Matches:
        found = self.evidence.kept(
            f"matches in {space.name}",
            lambda: vars(space.match(images)),
            images,
            *(index.content for index in space.indexes),
        )
        return Matches(**found)

    def scores(self, matches: Sequence[Matches]) -> Scores:
        """(spaces, clusters) exposures; -inf outside of the group."""
        scores = np.stack([each.per_cluster(len(self.group)) for each in matches])
        scores[:, ~self.group] = -np.inf
        return scores

    @cached_property
    def found(self) -> Scores:
        """The scores of the set under audit."""
        return self.scores(self.synthetic)

    def finding(
        self,
        audit: AuditId,
        statistic: str,
        settings: Settings,
        *,
        scope: Mapping[str, str],
        n: Mapping[str, int] | None = None,
    ) -> Finding:
        """How many training patients of the group are exposed because they were trained on.

        Args:
            n: sizes beyond those of the set and the parts.
        """
        level, control_level = settings.alpha, settings.control_level
        smallest = self.smallest_leak(level, control_level)
        controls = Controls(
            positive=self._positive(smallest, control_level), negative=self._negative(control_level)
        )
        low, high = self.test.lower_bound(self.found, level), self.test.upper_bound(self.found, level)
        return Finding.measured(
            audit,
            statistic,
            scope=scope,
            value=min(max(self.test.excess(self.found), low), high),  # never below what is proven
            interval=(low, high),
            confidence=1 - 2 * level,
            n=self.evidence.sizes() | dict(n or {}),
            baseline=0.0,
            controls=controls,
            power=self._power(smallest),
            doubt=_why_inconclusive(controls),
            details={"p_value": self.test.p_value(self.found), "pairs": self.pairs()},
        )

    def smallest_leak(self, level: float, control_level: float) -> int | None:
        """Fewest planted copies that are found at `level` in at least 80 % of trials.

        Twice as many must be found at `control_level` in every trial, because the positive control plants
        them.
        """
        thorough, most = self.test.near(self.found), len(self.pool[0].cluster)
        quick = self.test.quick(max(999, int(10 / level))).near(self.found)
        sizes = np.unique(np.round(4 * 2.0 ** (np.arange(24) / 2)).astype(int))
        for size in sizes[sizes <= most].tolist():
            seen = self._trials_found(quick, size, level) >= 0.8 * EXPOSURE_TRIALS
            if seen and (
                2 * size > most or self._trials_found(thorough, 2 * size, control_level) == EXPOSURE_TRIALS
            ):
                return int(size)
        return None

    def _trials_found(self, test: Enrichment, size: int, level: float) -> int:
        return sum(test.p_value(self._planted(size)) <= level for _ in range(EXPOSURE_TRIALS))

    def pairs(self) -> list[JsonValue]:
        """The most exposed training patients, each in the space with the highest exposure."""
        placed = [index.content for space in self.spaces for index in space.indexes]
        fresh = self.evidence.test.images  # they calibrate the exposure
        found = self.evidence.computed("exposed pairs", self._pairs, self.group, fresh, *placed)
        pairs: list[JsonValue] = json.loads(found["json"].tobytes())
        return pairs

    def _pairs(self) -> Arrays:
        is_member = self.evidence.population.is_member & self.group
        ranked = []
        for number, (matches, fresh) in enumerate(zip(self.synthetic, self.fresh, strict=True)):
            beyond = matches.exposure / max(float(np.quantile(fresh.exposure, 0.99)), 1e-9)
            images, indexes = np.nonzero(is_member[matches.cluster])
            ranked += [(-beyond[i, j], int(i), number, int(j)) for i, j in zip(images, indexes, strict=True)]
        chosen: dict[int, tuple[int, int]] = {}
        for _, image, space, index in sorted(ranked):
            if len(chosen) < PAIRS:
                chosen.setdefault(image, (space, index))
        pairs = [self._pair(image, space, index) for image, (space, index) in chosen.items()]
        return {"json": np.frombuffer(json.dumps(pairs).encode(), np.uint8)}

    def _planted(self, size: int) -> Scores:
        """Scores of the synthetic set with `size` images replaced by copies drawn from the pool."""
        copies = self.generator.choice(len(self.pool[0].cluster), size, replace=False)
        places = self.generator.choice(len(self.synthetic[0].cluster), size, replace=False)
        pairs = zip(self.synthetic, self.pool, strict=True)
        return self.scores([there.with_planted(pool.of(copies), places) for there, pool in pairs])

    def _positive(self, smallest: int | None, level: float) -> Control | None:
        """Twice the smallest leak must be found."""
        if smallest is None or 2 * smallest > len(self.pool[0].cluster):
            return None
        p_value = self.test.p_value(self._planted(2 * smallest))
        what = f"{2 * smallest} {self.leak.name} planted into the set"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def _negative(self, level: float) -> Control:
        """Real test patients in place of the synthetic set must raise no alarm."""
        size = min(len(self.fresh[0].cluster), len(self.synthetic[0].cluster))
        some = np.sort(self.generator.choice(len(self.fresh[0].cluster), size, replace=False))
        p_value = self.test.p_value(self.scores([fresh.of(some) for fresh in self.fresh]))
        what = f"{size} images of test patients in place of the synthetic set"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    def _power(self, smallest: int | None) -> Power:
        disturbed = ", ".join(self.leak.ways)
        if smallest is None:
            most = len(self.pool[0].cluster)
            return Power(
                smallest_leak=None, description=f"no leak up to {most} copies ({disturbed}) is found reliably"
            )
        share = smallest / len(self.evidence.synthetic.images)
        return Power(
            smallest_leak=float(smallest),
            description=f"copies of {smallest} patients ({share:.1%} of the set; {disturbed}) are found in "
            "80 % of trials",
        )

    def _pair(self, image: int, space: int, index: int) -> JsonValue:
        """A synthetic image, its nearest training image, and for comparison its nearest held-out one."""
        mirrored = bool(self.synthetic[space].mirrored[image, index])
        pixels = self.evidence.synthetic.images[image : image + 1]
        there, boundary = self.spaces[space].indexes[index], len(self.evidence.train.images)
        query = there.embed(pixels[:, :, ::-1] if mirrored else pixels)
        of_train = there.images < boundary
        train = nearest(query, there.rows[of_train], 1)
        holdout = nearest(query, there.rows[~of_train], 1)
        rows = self.evidence.population.rows
        return {
            "synthetic": image,
            "representation": self.spaces[space].name,
            "train": int(rows[there.images[of_train][train.indices[0, 0]]]),
            "train_distance": float(train.distances[0, 0]),
            "holdout": int(rows[there.images[~of_train][holdout.indices[0, 0]]]),
            "holdout_distance": float(holdout.distances[0, 0]),
            "mirrored": mirrored,
        }

    def _training_images(self, generator: np.random.Generator) -> Images:
        """One image each of MAX_EXPOSURE_COPIES training patients of the group, or as many as there are."""
        images, patients = self.evidence.train.images, self.evidence.train.patients
        rows = np.flatnonzero(~pd.Series(patients).duplicated())
        rows = rows[self.group[self.evidence.population.cluster[rows]]]
        most = min(MAX_EXPOSURE_COPIES, len(rows), len(self.evidence.synthetic.images))
        chosen: Images = images[generator.choice(rows, most, replace=False)]
        return chosen


def _why_inconclusive(controls: Controls) -> str:
    if controls.positive is None:
        return "the set or the cohort is too small: the largest planted leak is not found reliably"
    if not controls.positive.passed:
        return f"the positive control was missed: {controls.positive.description}"
    if controls.negative is None or not controls.negative.passed:
        return "the negative control raised an alarm: test patients look like copies"
    return ""
