"""Are rare classes there, beyond copies of the few patients who have them?

A generator serves a rare class worst, or by heart. For each rare class: the coverage (Naeem et al. 2020, see
`privsyn.features.distances`) of its `holdout` images by the synthetic images of that label, after those are
set aside that lie closer to an image of a training patient than all but a few `test` images do; and the share
of the images that were set aside. Copies alone thus cover nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.matched_samples import Sides, scopes
from privsyn.auditing.quality.measures import CONFIDENCE, quality_finding
from privsyn.auditing.statistics.resampling import HALVES, halves_interval, random_half
from privsyn.bit_depth import Images, levels_in_one, to_levels
from privsyn.features.distances import K, compare
from privsyn.features.embed import Floats
from privsyn.features.neighbours import nearest

NAME, VERSION = "coverage-of-rare", "1"
RARE = 0.1  # a class with a smaller share of the patients is rare (choice)
FEWEST = 2 * (K + 1)  # images: half of them must have neighbours
NATURAL = 0.05  # share of the `test` images that lie so close to a training image by nature
MOST = 10_000
NONE_RARE = f"no class has less than {RARE:.0%} of the patients"

Rows = NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Coverage and share of copies of each rare class."""
    rare = _rare(evidence)
    every = [(scope["class"], sides) for scope, sides in scopes(evidence, settings, MOST) if "class" in scope]
    found = [
        each
        for name, sides in every
        if name in rare
        for each in _Class(evidence, name, sides, settings).findings()
    ]
    if found:
        return found
    return [
        _finding(statistic, {"class": "none"}, applicable=False, reason=NONE_RARE)
        for statistic in ("rare_coverage", "rare_copies")
    ]


def _rare(evidence: Evidence) -> frozenset[str]:
    train = evidence.train
    patients = len(np.unique(train.patients))
    return frozenset(
        name
        for label, name in enumerate(evidence.cohort.classes)
        if len(np.unique(train.patients[train.labels == label])) < RARE * patients
    )


class _Class:
    """One rare class."""

    def __init__(self, evidence: Evidence, name: str, sides: Sides, settings: Settings) -> None:
        self.evidence, self.sides, self.settings = evidence, sides, settings
        self.label = evidence.cohort.classes.index(name)
        self.scope = {"class": name}

    def findings(self) -> list[Finding]:
        drawn = np.flatnonzero(self.evidence.synthetic.labels == self.label)
        n = self.sides.n | {"synthetic_images": len(drawn)}
        known = int(np.sum(self.evidence.train.labels == self.label))
        if min(len(self.sides.real), len(self.sides.floor), len(drawn), known) < FEWEST:
            why = f"fewer than {FEWEST} images of this class on one side"
            return [
                _finding(statistic, self.scope, n=n, conclusive=False, reason=why)
                for statistic in ("rare_coverage", "rare_copies")
            ]
        rows = self._place(self.evidence.synthetic.images[drawn])
        copied = self._copied(rows)
        covered = self._coverage(rows[~copied])
        floor = self._coverage(self._place(self.sides.floor.images))
        planted = self._planted()
        controls = Controls(
            positive=Control(
                passed=planted < 0.5 * floor[0],
                description=f"training images with a grain alone: coverage {planted:.2f}",
            ),
            negative=Control(
                passed=floor[0] > 0.5,
                description=f"test patients in place of the synthetic images: coverage {floor[0]:.2f}",
            ),
        )
        reason = controls.fault("")
        width = halves_interval(float(covered[0]), covered[1:], CONFIDENCE, 0, 1)
        power = Power(
            smallest_leak=(width[1] - width[0]) / 2,
            description=f"coverage is told to within {(width[1] - width[0]) / 2:.2g}",
        )
        common = {"controls": controls, "conclusive": not reason, "reason": reason, "n": n}
        return [
            _finding(
                "rare_coverage",
                self.scope,
                value=float(covered[0]),
                interval=width,
                baseline=float(floor[0]),
                power=power,
                **common,
            ),
            _finding("rare_copies", self.scope, value=float(copied.mean()), baseline=NATURAL, **common),
        ]

    def _place(self, images: Images) -> Floats:
        return self.evidence.representation("lite0-mid")(images)

    def _copied(self, rows: Floats) -> NDArray[np.bool_]:
        """(n,) which rows lie closer to a training image of this class than nature has it."""
        train, test = self.evidence.train, self.evidence.test
        there = self._place(train.images[train.labels == self.label])
        natural = nearest(self._place(test.images[test.labels == self.label]), there, 1).distances[:, 0]
        close: NDArray[np.bool_] = nearest(rows, there, 1).distances[:, 0] < np.quantile(natural, NATURAL)
        return close

    def _coverage(self, rows: Floats) -> NDArray[np.float64]:
        """(1 + HALVES,) of the reference by at most as many rows as it has, and of halves of it."""
        if len(rows) < FEWEST:
            return np.zeros(1 + HALVES)
        generator = self.evidence.generator(f"{NAME}, halves of {self.label}", self.settings)
        real = self._place(self.sides.real.images)
        rows = rows[np.sort(generator.permutation(len(rows))[: len(real)])]
        parts = []
        for _ in range(HALVES):
            some = random_half(self.sides.real.units, generator)
            parts.append(
                (
                    some if len(some) > K else np.arange(len(real)),
                    random_half(np.arange(len(rows)), generator),
                )
            )
        found: Arrays = compare(real, rows, parts)
        return np.asarray(found["coverage"], np.float64)

    def _planted(self) -> float:
        """Coverage by training images with a grain of one grey level in 255, once copies are aside."""
        train = self.evidence.train
        mine = np.resize(np.flatnonzero(train.labels == self.label), len(self.sides.real))
        generator = self.evidence.generator(f"{NAME}, grain for {self.label}", self.settings)
        grain = generator.normal(0, levels_in_one(train.images.dtype), train.images[mine].shape)
        rows = self._place(to_levels(train.images[mine] + grain, train.images.dtype))
        return float(self._coverage(rows[~self._copied(rows)])[0])


def _finding(statistic: str, scope: dict[str, str], **known: object) -> Finding:
    return quality_finding(audit=NAME, version=VERSION, statistic=statistic, scope=scope, **known)
