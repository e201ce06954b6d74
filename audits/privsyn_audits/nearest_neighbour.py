"""Do synthetic images sit on training patients more than on held-out ones?

Threat: synthetic set only. A synthetic image exposes the patient whose image is nearest to it, and the more
so the more that neighbour stands out: exposure = log(median distance to 50 neighbours / distance to the
nearest), the adaptive ratio of Carlini et al. (2023, arXiv:2301.13188) on a log scale, which a merely smooth
generator does not raise because it sits closer to everybody. What exposure is natural is calibrated on
`test` patients. Train and holdout patients are searched together; were the generator ignorant of who was in
train, every permutation of the two would be as likely (`privsyn.audit.stats.Enrichment`, exact). Two
independent representations are judged together, each image queried with its mirror image.

What it cannot see: many copies of ONE patient are one observation, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import JsonValue

from privsyn.audit.contract import Control, Controls, Evidence, Finding, Population, Power, Settings
from privsyn.audit.plant import PERTURBATIONS, planted_copies
from privsyn.audit.stats import Enrichment
from privsyn.features.embed import Floats, Images, Whitening
from privsyn.features.neighbours import nearest

NAME, VERSION = "nearest-neighbour", "1"
NEIGHBOURS = 50
PERMUTATIONS = 9_999
POOL = 256  # planted copies prepared; the positive control cannot be larger
TRIALS = 20  # per leak size, for the power statement
PAIRS = 12  # shown to the reviewer
REPRESENTATIONS = ("pixels", "lite0-mid")
NATURAL = (1.0, 0.99, 0.95, 0.8)  # quantiles of the test patients' exposure above which the tails begin

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matches:
    """Per queried image: how much it exposes a unit of the population, and which.

    Attributes:
        exposure: (m,) log ratio of distances, high = suspicious.
        unit, index: (m,) the nearest unit, and the nearest image among the population's.
        mirrored: (m,) the mirror image was the nearer one.
    """

    exposure: Scores
    unit: NDArray[np.int64]
    index: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> Matches:
        return Matches(self.exposure[rows], self.unit[rows], self.index[rows], self.mirrored[rows])

    def with_planted(self, planted: Matches, places: NDArray[np.int64]) -> Matches:
        """These matches with those of planted images in some places."""
        columns = []
        for field in ("exposure", "unit", "index", "mirrored"):
            column = getattr(self, field).copy()
            column[places] = getattr(planted, field)
            columns.append(column)
        return Matches(*columns)

    def per_unit(self, units: int) -> Scores:
        """(units,) the highest exposure of each unit; -inf where no image is nearest to it."""
        scores = np.full(units, -np.inf)
        np.maximum.at(scores, self.unit, self.exposure)
        return scores


@dataclass(frozen=True, eq=False)
class Space:
    """One representation, with the population embedded in it."""

    name: str
    population: Population
    rows: Floats
    embed: Callable[[Images], Floats]

    @classmethod
    def of(cls, name: str, evidence: Evidence) -> Space:
        """Pixels as they are; lite0 features whitened on test patients, who are neither side of the test."""

        def plain(images: Images) -> Floats:
            return evidence.embedding(name, images)

        embed = plain
        if name == "lite0-mid":
            whitening = Whitening.fit(plain(evidence.test.images))

            def embed(images: Images) -> Floats:
                return whitening(plain(images))

        return cls(name, evidence.population, embed(evidence.population.images), embed)

    def match(self, images: Images) -> Matches:
        """Find whom each image (m, H, W, C), or its mirror image, exposes."""
        straight = nearest(self.embed(images), self.rows, NEIGHBOURS)
        turned = nearest(self.embed(images[:, :, ::-1]), self.rows, NEIGHBOURS)
        mirrored = turned.distances[:, 0] < straight.distances[:, 0]
        distances = np.where(mirrored[:, None], turned.distances, straight.distances)
        indices = np.where(mirrored[:, None], turned.indices, straight.indices)
        units = self.population.unit[indices]
        # other images of the same patient are as near as the first and would hide it
        others = np.where(units == units[:, :1], np.nan, distances)
        others[np.isnan(others).all(axis=1)] = distances[:, -1:][np.isnan(others).all(axis=1)]
        exposure = np.log(np.nanmedian(others, axis=1) / np.maximum(distances[:, 0], 1e-9) + 1e-12)
        return Matches(exposure, units[:, 0], indices[:, 0], mirrored)


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """How many training patients are exposed because they were trained on."""
    audit = _Audit(evidence, evidence.generator(NAME, settings))
    level = settings.alpha
    scores, smallest = audit.scores(audit.synthetic), audit.smallest_leak(level)
    controls = Controls(
        positive=audit.positive_control(smallest, settings.control_level),
        negative=audit.negative_control(settings.control_level),
    )
    reason = _why_inconclusive(controls)
    return [
        Finding(
            audit=NAME,
            version=VERSION,
            threat="synthetic-only",
            statistic="copied-patients",
            scope={"representation": " + ".join(REPRESENTATIONS)},
            value=audit.test.excess(scores),
            interval=(audit.test.lower_bound(scores, level), audit.test.upper_bound(scores, level)),
            confidence=1 - 2 * level,
            n=evidence.sizes(),
            baseline=0.0,
            controls=controls,
            power=_power(smallest, len(evidence.synthetic.images)),
            conclusive=not reason,
            reason=reason,
            details={"p_value": audit.test.p_value(scores), "pairs": audit.pairs()},
        )
    ]


class _Audit:
    """The evidence matched in every representation, and the test that judges it."""

    def __init__(self, evidence: Evidence, generator: np.random.Generator) -> None:
        self.evidence, self.generator = evidence, generator
        self.spaces = [Space.of(name, evidence) for name in REPRESENTATIONS]
        self.synthetic = self.match(evidence.synthetic.images)
        self.fresh = self.match(evidence.test.images)
        self.pool = self.match(planted_copies(self._training_images()))
        thresholds = [[*np.quantile(fresh.exposure, NATURAL), -np.inf] for fresh in self.fresh]
        population = evidence.population
        self.test = Enrichment.of(
            population.is_member, population.strata, np.array(thresholds), PERMUTATIONS, generator
        )

    def match(self, images: Images) -> list[Matches]:
        return [space.match(images) for space in self.spaces]

    def scores(self, matches: list[Matches]) -> Scores:
        """(representations, units) exposures."""
        units = len(self.evidence.population.is_member)
        return np.stack([each.per_unit(units) for each in matches])

    def planted(self, size: int) -> Scores:
        """Scores of the synthetic set in which `size` images gave way to copies drawn from the pool."""
        copies = self.generator.choice(len(self.pool[0].unit), size, replace=False)
        places = self.generator.choice(len(self.synthetic[0].unit), size, replace=False)
        pairs = zip(self.synthetic, self.pool, strict=True)
        return self.scores([there.with_planted(pool.of(copies), places) for there, pool in pairs])

    def smallest_leak(self, level: float) -> int | None:
        """Fewest planted copies that are found at `level` in at least 80 % of trials."""
        quick = self.test.quick(max(999, int(10 / level)))
        sizes = np.unique(np.round(4 * 2.0 ** (np.arange(24) / 2)).astype(int))
        for size in sizes[sizes <= len(self.pool[0].unit)]:
            found = sum(quick.p_value(self.planted(int(size))) <= level for _ in range(TRIALS))
            if found >= 0.8 * TRIALS:
                return int(size)
        return None

    def positive_control(self, smallest: int | None, level: float) -> Control | None:
        """Twice the smallest leak must be found."""
        if smallest is None or 2 * smallest > len(self.pool[0].unit):
            return None
        p_value = self.test.p_value(self.planted(2 * smallest))
        what = f"{2 * smallest} lightly disturbed copies of training images planted into the set"
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def negative_control(self, level: float) -> Control:
        """Real test patients in place of the synthetic set must come out clean."""
        size = min(len(self.fresh[0].unit), len(self.synthetic[0].unit))
        some = np.sort(self.generator.choice(len(self.fresh[0].unit), size, replace=False))
        p_value = self.test.p_value(self.scores([fresh.of(some) for fresh in self.fresh]))
        what = f"{size} images of test patients in place of the synthetic set"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    def pairs(self) -> list[JsonValue]:
        """The most exposed training patients, in whichever representation shows them best."""
        ranked = []
        for space, matches, fresh in zip(self.spaces, self.synthetic, self.fresh, strict=True):
            is_member = self.evidence.population.is_member[matches.unit]
            beyond = matches.exposure / max(float(np.quantile(fresh.exposure, 0.99)), 1e-9)
            ranked += [
                (-beyond[i], int(i), space, bool(matches.mirrored[i])) for i in np.flatnonzero(is_member)
            ]
        chosen: dict[int, tuple[Space, bool]] = {}
        for _, image, space, mirrored in sorted(ranked, key=lambda entry: entry[:2]):
            if len(chosen) < PAIRS:
                chosen.setdefault(image, (space, mirrored))
        return [self._pair(image, space, mirrored) for image, (space, mirrored) in chosen.items()]

    def _pair(self, image: int, space: Space, mirrored: bool) -> JsonValue:
        """A synthetic image, its nearest training image, and as a control its nearest held-out one."""
        pixels = self.evidence.synthetic.images[image : image + 1]
        query = space.embed(pixels[:, :, ::-1] if mirrored else pixels)
        boundary = len(self.evidence.train.images)
        train, holdout = nearest(query, space.rows[:boundary], 1), nearest(query, space.rows[boundary:], 1)
        return {
            "synthetic": image,
            "representation": space.name,
            "train": int(self.evidence.train.rows[train.indices[0, 0]]),
            "train_distance": float(train.distances[0, 0]),
            "holdout": int(self.evidence.holdout.rows[holdout.indices[0, 0]]),
            "holdout_distance": float(holdout.distances[0, 0]),
            "mirrored": mirrored,
        }

    def _training_images(self) -> Images:
        """One image each of up to POOL training patients, at most as many as the set has images."""
        train = self.evidence.train
        one_each = np.flatnonzero(~pd.Series(train.patients).duplicated())
        size = min(POOL, len(one_each), len(self.evidence.synthetic.images))
        images: Images = train.images[self.generator.choice(one_each, size, replace=False)]
        return images


def _why_inconclusive(controls: Controls) -> str:
    if controls.positive is None:
        return "the set or the cohort is too small: not even the largest planted leak is found reliably"
    if not controls.positive.passed:
        return f"the positive control was missed: {controls.positive.description}"
    if controls.negative is None or not controls.negative.passed:
        return "the negative control raised an alarm: fresh test patients look like copies"
    return ""


def _power(smallest: int | None, images: int) -> Power:
    disturbed = ", ".join(PERTURBATIONS)
    if smallest is None:
        return Power(
            smallest_leak=None, description=f"no leak up to {POOL} copies ({disturbed}) is found reliably"
        )
    share = smallest / images
    text = f"copies of {smallest} patients ({share:.1%} of the set; {disturbed}) are found in 80 % of trials"
    return Power(smallest_leak=float(smallest), description=text)
