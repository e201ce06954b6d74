"""Does the synthetic set contain rare classes, beyond copies of the few patients who have them?

Generators reproduce rare classes worst, or memorise them. For each rare class the audit first sets aside
synthetic images that lie closer to an image of a training patient than all but a few `test` images do. It
reports their share, and how well the others cover the `holdout` images of the class (coverage: Naeem et al.
2020, see `privsyn.features.distances`). Copies alone thus have coverage 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.matched_samples import MatchedSamples, samples_by_scope
from privsyn.auditing.quality.measures import CONFIDENCE, QualityFindings
from privsyn.auditing.statistics.resampling import HALVES, halves_interval, random_half
from privsyn.bit_depth import Images, levels_in_one, to_levels
from privsyn.features.distances import K, compare
from privsyn.features.embed import FeatureRows
from privsyn.features.neighbours import nearest

NAME, VERSION = "coverage-of-rare", "1"
COVERAGE, COPIES = "rare_coverage", "rare_copies"
RARE = 0.1  # a class with a smaller share of the patients is rare (choice)
MIN_CLASS_IMAGES = 2 * (K + 1)  # half of them must have K neighbours
TEST_COPIES_SHARE = 0.05  # share of the `test` images that count as copies, by definition of the threshold
NONE_RARE = f"no class has less than {RARE:.0%} of the patients"
TOO_FEW_OF_CLASS = f"fewer than {MIN_CLASS_IMAGES} images of this class in one of the samples"

Float64s = NDArray[np.float64]
Bools = NDArray[np.bool_]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Coverage and share of copies of each rare class."""
    rare = _rare_classes(evidence)
    found = []
    for scope, samples in samples_by_scope(evidence, settings):
        if scope.get("class") in rare:
            found += _RareClass(evidence, scope["class"], samples, settings).findings()
    if found:
        return found
    none = QualityFindings(NAME, VERSION, {"class": "none"})
    return [none.not_measured(statistic, NONE_RARE, applicable=False) for statistic in (COVERAGE, COPIES)]


def _rare_classes(evidence: Evidence) -> frozenset[str]:
    train = evidence.train
    patients = len(np.unique(train.patients))
    return frozenset(
        name
        for label, name in enumerate(evidence.cohort.classes)
        if len(np.unique(train.patients[train.labels == label])) < RARE * patients
    )


class _RareClass:
    """Findings about one rare class."""

    def __init__(self, evidence: Evidence, name: str, samples: MatchedSamples, settings: Settings) -> None:
        self.evidence, self.samples, self.settings = evidence, samples, settings
        self.label = evidence.cohort.classes.index(name)
        self.train_images = evidence.train.images[evidence.train.labels == self.label]
        self.synthetic_images = evidence.synthetic.images[evidence.synthetic.labels == self.label]
        n = samples.n | {"synthetic_images": len(self.synthetic_images)}
        self.make = QualityFindings(NAME, VERSION, {"class": name}, n)

    def findings(self) -> list[Finding]:
        samples = self.samples.reference, self.samples.baseline, self.synthetic_images, self.train_images
        if min(map(len, samples)) < MIN_CLASS_IMAGES:
            return [self.make.not_measured(statistic, TOO_FEW_OF_CLASS) for statistic in (COVERAGE, COPIES)]
        features = self._features(self.synthetic_images)
        copied = self._is_copy(features)
        coverage = self._coverage(features[~copied])
        baseline = self._coverage(self._features(self.samples.baseline.images))
        controls = self._controls(baseline)
        reason = controls.fault("")
        interval = halves_interval(float(coverage[0]), coverage[1:], CONFIDENCE, 0, 1)
        return [
            self.make.measured(
                COVERAGE,
                float(coverage[0]),
                interval=interval,
                baseline=float(baseline[0]),
                controls=controls,
                power=_power(interval),
                reason=reason,
            ),
            self.make.measured(
                COPIES,
                float(copied.mean()),
                baseline=TEST_COPIES_SHARE,
                controls=controls,
                reason=reason,
            ),
        ]

    def _controls(self, baseline: Float64s) -> Controls:
        """Noisy copies must not cover the class; `test` patients must."""
        copies = self._coverage_of_noisy_copies()
        return Controls(
            positive=Control(
                passed=copies < 0.5 * baseline[0],
                description=f"only training images with slight noise: coverage {copies:.2f}",
            ),
            negative=Control(
                passed=baseline[0] > 0.5,
                description=f"test patients in place of the synthetic images: coverage {baseline[0]:.2f}",
            ),
        )

    def _features(self, images: Images) -> FeatureRows:
        return self.evidence.representation("lite0-mid")(images)

    def _is_copy(self, features: FeatureRows) -> Bools:
        """(n,) which images lie closer to a training image of the class than most `test` images do."""
        test = self.evidence.test
        train = self._features(self.train_images)
        usual = nearest(self._features(test.images[test.labels == self.label]), train, 1).distances[:, 0]
        distances = nearest(features, train, 1).distances[:, 0]
        close: Bools = distances < np.quantile(usual, TEST_COPIES_SHARE)
        return close

    def _coverage(self, features: FeatureRows) -> Float64s:
        """(1 + HALVES,) coverage of the reference, then of halves of it, by at most as many images."""
        if len(features) < MIN_CLASS_IMAGES:
            return np.zeros(1 + HALVES)
        generator = self.evidence.generator(f"{NAME}, halves of {self.label}", self.settings)
        reference = self._features(self.samples.reference.images)
        features = features[np.sort(generator.permutation(len(features))[: len(reference)])]
        parts = []
        for _ in range(HALVES):
            half = random_half(self.samples.reference.patients, generator)
            enough = half if len(half) > K else np.arange(len(reference))
            parts.append((enough, random_half(np.arange(len(features)), generator)))
        return np.asarray(compare(reference, features, parts)["coverage"], np.float64)

    def _coverage_of_noisy_copies(self) -> float:
        """Coverage by training images with noise of one grey level in 255, after copies are set aside."""
        copies = self.train_images[np.resize(np.arange(len(self.train_images)), len(self.samples.reference))]
        generator = self.evidence.generator(f"{NAME}, grain for {self.label}", self.settings)
        noise = generator.normal(0, levels_in_one(copies.dtype), copies.shape)
        features = self._features(to_levels(copies + noise, copies.dtype))
        return float(self._coverage(features[~self._is_copy(features)])[0])


def _power(interval: tuple[float, float]) -> Power:
    half_width = (interval[1] - interval[0]) / 2
    return Power(smallest_leak=half_width, description=f"coverage is known to within {half_width:.2g}")
