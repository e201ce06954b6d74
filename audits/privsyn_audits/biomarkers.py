"""Do measured properties of the images survive, and does a classifier of patients read the set alike?

Intensity, texture and what the recipe names for its modality (`privsyn.features.texture`), each as a distance
of distributions (Wasserstein-1, in standard deviations of real images) and as a difference of means with two
one-sided tests of equivalence, `holdout` patients against synthetic images, beside `test` patients in their
place. All of them together as a Fréchet distance of radiomics (after Konz et al. 2024,
https://arxiv.org/abs/2412.01496, with far fewer features and without its logarithm), which needs fewer
images than one of deep features. Last, F1 and AUC per class of classifiers of real images on synthetic ones
and the reverse.

Differences over all images include those in the shares of the classes; the details have each class alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.classifier_scores import READ, REAL, SYNTHETIC, Readings
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.matched_samples import TOO_FEW, Side, Sides, scopes
from privsyn.auditing.quality.measures import CONFIDENCE, beside_the_floor, quality_finding
from privsyn.auditing.statistics.resampling import (
    FOUR_OF_FIVE,
    HALVES,
    SEEN_AT_001,
    clustered_mean,
    equivalence_p_value,
    random_half,
)
from privsyn.auditing.statistics.scores import class_auc, class_f1
from privsyn.features.distances import frechet_distance
from privsyn.features.texture import GENERAL, biomarkers

NAME, VERSION = "biomarkers", "2"
MOST = 10_000  # images on each side
ALL = "all"
DIRECTIONS = {"real_reads_synthetic": (READ, REAL), "synthetic_reads_real": (SYNTHETIC, REAL)}

Floats = NDArray[np.float64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Each biomarker, all of them together, and what classifiers read."""
    (_, sides), *classes = scopes(evidence, settings, MOST)
    measured = _Measured(evidence, sides, settings)
    alone = {scope["class"]: _Measured(evidence, each, settings) for scope, each in classes}
    found = [finding for name in measured.names for finding in measured.findings(name, alone)]
    return [*found, measured.together(), *_readings(evidence, settings)]


class _Measured:
    """The biomarkers of three sides, in standard deviations of the reference around its mean."""

    def __init__(self, evidence: Evidence, sides: Sides, settings: Settings) -> None:
        self.evidence, self.sides, self.settings = evidence, sides, settings
        self.names = (*GENERAL, *evidence.biomarkers)
        if not sides.too_few:
            real, floor, drawn = (self._rows(side) for side in (sides.real, sides.floor, sides.synthetic))
            centre, spread = real.mean(axis=0), real.std(axis=0)
            spread[spread == 0] = 1
            self.real, self.floor, self.drawn = ((each - centre) / spread for each in (real, floor, drawn))

    def findings(self, name: str, classes: dict[str, _Measured]) -> list[Finding]:
        place = self.names.index(name)
        if self.sides.too_few:
            statistics = ("distribution_distance", "mean_difference", "equivalence_p_value")
            return [self._finding(each, name, conclusive=False, reason=TOO_FEW) for each in statistics]
        return [self._distribution(name, place), *self._means(name, place, classes)]

    def together(self) -> Finding:
        """Fréchet distance over all biomarkers."""
        statistic = "frechet_radiomics_distance"
        if self.sides.too_few:
            return self._finding(statistic, ALL, conclusive=False, reason=TOO_FEW)
        parts = self._halves("together")
        drawn, floor = (
            np.array(
                [
                    frechet_distance(self.real, rows),
                    *(frechet_distance(self.real[a], rows[b]) for a, b in part),
                ]
            )
            for rows, part in zip((self.drawn, self.floor), parts, strict=True)
        )
        lost = np.resize(self.floor[self.floor[:, 0] > np.median(self.floor[:, 0])], self.floor.shape)
        planted = frechet_distance(self.real, lost)
        alike = min(1.0, len(self.names) * min(self._alike(place) for place in range(len(self.names))))
        what = "test images brighter than their median, twice"
        return self._beside_the_floor(statistic, ALL, drawn, floor, planted, what, alike)

    def difference(self, place: int, rows: Floats, units: NDArray[np.int64]) -> tuple[float, float]:
        """Of the means, rows less reference, and its standard error over units."""
        mean, error = clustered_mean(rows[:, place], units)
        real, real_error = clustered_mean(self.real[:, place], self.sides.real.units)
        return mean - real, float(np.hypot(error, real_error))

    def _distribution(self, name: str, place: int) -> Finding:
        parts = self._halves(name)
        drawn, floor = (
            np.array(
                [_apart(self.real, rows, place), *(_apart(self.real[a], rows[b], place) for a, b in part)]
            )
            for rows, part in zip((self.drawn, self.floor), parts, strict=True)
        )
        shift = self._twice(floor)
        planted = _apart(self.real, self.floor + shift, place)
        what = f"test images shifted by {shift:.2g} standard deviations"
        alike = self._alike(place)
        return self._beside_the_floor("distribution_distance", name, drawn, floor, planted, what, alike)

    def _means(self, name: str, place: int, classes: dict[str, _Measured]) -> list[Finding]:
        """The difference of means, and the p-value of its being below the margin."""
        margin = self.settings.margin
        drawn, error = self.difference(place, self.drawn, self.sides.synthetic.units)
        floor, floor_error = self.difference(place, self.floor, self.sides.floor.units)
        p_value = equivalence_p_value(drawn, error, margin)
        p_floor = equivalence_p_value(floor, floor_error, margin)
        p_shifted = equivalence_p_value(floor + margin, floor_error, margin)
        level = self.settings.control_level
        controls = Controls(
            positive=Control(
                passed=p_shifted > level,
                description=f"test images shifted by the margin of {margin:g} are not called equivalent",
                p_value=p_shifted,
            ),
            negative=Control(
                passed=p_floor <= 1 - CONFIDENCE,
                description="test patients in place of the synthetic images are called equivalent",
                p_value=p_floor,
            ),
        )
        reason = controls.fault("")
        width = float(stats.norm.ppf(CONFIDENCE)) * error  # a 90 % interval within the margin is TOST at .05
        known: dict[str, Any] = {"controls": controls, "conclusive": not reason, "reason": reason}
        return [
            self._finding(
                "mean_difference",
                name,
                value=drawn,
                interval=(drawn - width, drawn + width),
                confidence=2 * CONFIDENCE - 1,
                baseline=floor,
                power=Power(smallest_leak=2 * width, description=f"{2 * width:.2g} standard deviations"),
                details={"margin": margin, "classes": self._classes(place, classes)},
                **known,
            ),
            self._finding(
                "equivalence_p_value",
                name,
                value=p_value,
                baseline=p_floor,
                details={"margin": margin},
                **known,
            ),
        ]

    def _classes(self, place: int, classes: dict[str, _Measured]) -> dict[str, list[float] | None]:
        """Difference of means and standard error in each class, in standard deviations within it."""
        return {
            name: None
            if each.sides.too_few
            else [round(x, 4) for x in each.difference(place, each.drawn, each.sides.synthetic.units)]
            for name, each in classes.items()
        }

    def _alike(self, place: int) -> float:
        """p-value of `test` and `holdout` patients having one mean of a biomarker, normal errors."""
        difference, error = self.difference(place, self.floor, self.sides.floor.units)
        return 1.0 if error == 0 else float(2 * stats.norm.sf(abs(difference) / error))

    def _beside_the_floor(
        self,
        statistic: str,
        name: str,
        drawn: Floats,
        floor: Floats,
        planted: float,
        what: str,
        p_alike: float,
    ) -> Finding:
        spread = max(float(np.std(floor[1:], ddof=1)), 1e-12)
        p_seen = float(stats.norm.sf((planted - floor[0]) / spread))
        level = self.settings.control_level
        alike = "means of test patients in place of the synthetic images"
        controls = Controls(
            positive=Control(passed=p_seen <= level, description=what, p_value=p_seen),
            negative=Control(passed=p_alike > level, description=alike, p_value=p_alike),
        )
        return self._finding(statistic, name, **beside_the_floor(drawn, floor, controls, low=0))

    def _twice(self, floor: Floats) -> float:
        """Standard deviations of a shift that is twice what could be seen."""
        return float(2 * (SEEN_AT_001 + FOUR_OF_FIVE) * np.std(floor[1:], ddof=1) + floor[0])

    def _halves(self, purpose: str) -> list[list[tuple[NDArray[np.int64], NDArray[np.int64]]]]:
        """For the synthetic images and the floor: rows of halves of the reference and of them."""
        generator = self.evidence.generator(f"{NAME}, {purpose}", self.settings)
        real = self.sides.real.units
        return [
            [(random_half(real, generator), random_half(units, generator)) for _ in range(HALVES)]
            for units in (self.sides.synthetic.units, self.sides.floor.units)
        ]

    def _rows(self, side: Side) -> Floats:
        def compute() -> Arrays:
            with self.evidence.progress.stage("measure biomarkers", 1) as advance:
                found = {"rows": biomarkers(side.images, self.names)}
                advance()
            return found

        return self.evidence.kept(f"{NAME} {self.names}", compute, side.images)["rows"]

    def _finding(self, statistic: str, name: str, **known: Any) -> Finding:
        scope = {"biomarker": name}
        return quality_finding(
            audit=NAME, version=VERSION, statistic=statistic, scope=scope, n=self.sides.n, **known
        )


def _apart(real: Floats, other: Floats, place: int) -> float:
    return float(stats.wasserstein_distance(real[:, place], other[:, place]))


def _readings(evidence: Evidence, settings: Settings) -> list[Finding]:
    """F1 and AUC per class: of who learnt from patients on the set, and the reverse."""
    if len(evidence.cohort.classes) < 2:
        return []
    known, found = Readings(evidence, settings), []
    for classifier in CLASSIFIERS:
        for label in np.unique(evidence.test.labels).tolist():
            for direction, (arm, beside) in DIRECTIONS.items():
                for name, score in (("auc", class_auc(label)), ("f1", class_f1(label))):
                    value = known.estimate(classifier, arm, score, label=label)
                    interval = value.interval(CONFIDENCE, 0, 1)
                    real = known.estimate(classifier, beside, score).value
                    found.append(
                        quality_finding(
                            audit=NAME,
                            version=VERSION,
                            statistic=f"{direction}_{name}",
                            scope={"classifier": classifier, "class": evidence.cohort.classes[label]},
                            value=value.value if np.isfinite(value.value) else None,
                            interval=interval,
                            baseline=real if np.isfinite(real) else None,
                            n=evidence.sizes(),
                            conclusive=interval is not None,
                            reason="" if interval else "too few images of this class",
                        )
                    )
    return found
