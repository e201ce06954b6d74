"""Real and synthetic images at equal size, for measures that depend on how many images there are.

The reference are `holdout` patients; `test` patients, in place of the synthetic images, show what is natural.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.statistics.resampling import numbered
from privsyn.bit_depth import Images

FEWEST = 30  # images, and patients: with fewer, no halves are worth comparing
TOO_FEW = f"fewer than {FEWEST} images or patients on one side"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """Images of one kind (n, H, W, C), the units that they come from and their labels."""

    images: Images
    units: Ints
    labels: Ints

    def of(self, rows: Ints) -> Side:
        return Side(self.images[rows], self.units[rows], self.labels[rows])

    def some(self, count: int, generator: np.random.Generator) -> Side:
        """`count` images at random, so of many units, each with the share that it has among the images."""
        return self.of(np.sort(_shuffled(np.arange(len(self)), generator)[:count]))

    def mixed(self, counts: Mapping[int, int], generator: np.random.Generator) -> Side:
        """So many images of each class."""
        rows = []
        for label, count in counts.items():
            rows.append(_shuffled(np.flatnonzero(self.labels == label), generator)[:count])
        return self.of(np.sort(np.concatenate(rows)))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Sides:
    """Three sides of equal size: the reference, a second sample of real images, and what is measured.

    Attributes:
        alike: all have the classes in the shares of the reference; else each has its own.
    """

    real: Side
    floor: Side
    synthetic: Side
    alike: bool

    @property
    def n(self) -> dict[str, int]:
        """For `Finding.n`."""
        return {
            "synthetic_images": len(self.synthetic),
            "holdout_images": len(self.real),
            "holdout_patients": len(np.unique(self.real.units)),
            "test_images": len(self.floor),
            "test_patients": len(np.unique(self.floor.units)),
        }

    @property
    def too_few(self) -> bool:
        return min(self.n.values()) < FEWEST


def _shuffled(rows: Ints, generator: np.random.Generator) -> Ints:
    shuffled: Ints = rows[np.argsort(generator.permutation(len(rows)))]
    return shuffled


def scopes(evidence: Evidence, settings: Settings, most: int) -> Iterator[tuple[dict[str, str], Sides]]:
    """Everything, then each class if there are several; at most `most` images on each side."""
    holdout, test, drawn = evidence.holdout, evidence.test, evidence.synthetic
    real = Side(holdout.images, numbered(holdout.patients), holdout.labels)
    floor = Side(test.images, numbered(test.patients), test.labels)
    synthetic = Side(drawn.images, np.arange(len(drawn.labels)), drawn.labels)
    classes = evidence.cohort.classes
    every = (real, floor, synthetic)
    yield {}, _equal(every, most, evidence.generator("sides", settings))
    for label, name in enumerate(classes) if len(classes) > 1 else ():
        sides = [side.of(np.flatnonzero(side.labels == label)) for side in every]
        yield {"class": name}, _equal(sides, most, evidence.generator(f"sides, class {label}", settings))


def _equal(sides: Sequence[Side], most: int, generator: np.random.Generator) -> Sides:
    count = min(most, *map(len, sides))
    if mix := _common_mix(sides, count):
        sides = [side.mixed(mix, generator) for side in sides]
        count = min(map(len, sides))
    real, floor, synthetic = (side.some(count, generator) for side in sides)
    return Sides(real, floor, synthetic, alike=bool(mix))


def _common_mix(sides: Sequence[Side], count: int) -> dict[int, int]:
    """Images of each class, in the shares of the reference, that all sides have; empty where few are left.

    A set drawn with other shares, such as balanced ones, is not to be called unlike for that alone; one that
    lacks a class is.
    """
    labels, of = np.unique(sides[0].labels, return_counts=True)
    shares = dict(zip(labels.tolist(), of / of.sum(), strict=True))
    there = [(np.sum(side.labels == label), share) for side in sides for label, share in shares.items()]
    most = min(has / share for has, share in there)
    total = min(count, int(most))
    return {label: round(total * share) for label, share in shares.items()} if 2 * total >= count else {}
