"""Do measured properties of the images survive, and do classifiers treat synthetic and real images alike?

The biomarkers are intensity, texture and those that the recipe names for its modality
(`privsyn.features.texture`). Synthetic images are compared with `holdout` patients, and `test` patients in
their place are the baseline. For each biomarker there is a distance of distributions (Wasserstein-1, in
standard deviations of real images), a difference of means, and two one-sided tests of equivalence. The
Fréchet distance of all biomarkers together (after Konz et al. 2024, https://arxiv.org/abs/2412.01496, with
far fewer features and without the logarithm) needs fewer images than one of deep features. Last come F1 and
AUC per class of classifiers trained on real images and tested on synthetic ones, and the reverse.

Differences over all images include differences in class shares; the details have each class alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.classifier_scores import TRTR, TRTS, TSTR, ClassifierScores
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.matched_samples import (
    TOO_FEW,
    ImageSample,
    MatchedSamples,
    samples_by_scope,
)
from privsyn.auditing.quality.measures import CONFIDENCE, QualityFindings
from privsyn.auditing.statistics.resampling import (
    FOUR_OF_FIVE,
    HALVES,
    SEEN_AT_001,
    clustered_mean,
    equivalence_p_value,
    random_half,
)
from privsyn.auditing.statistics.scores import class_auc, class_f1
from privsyn.features.distances import SubsetPair, frechet_distance
from privsyn.features.texture import GENERAL, biomarkers

NAME, VERSION = "biomarkers", "2"
DISTRIBUTION, MEANS, EQUIVALENCE = "distribution_distance", "mean_difference", "equivalence_p_value"
FRECHET = "frechet_radiomics_distance"
ALL = "all"
CROSS_PROTOCOLS = {  # statistic -> protocol, and the protocol that is its baseline
    "real_reads_synthetic": (TRTS, TRTR),
    "synthetic_reads_real": (TSTR, TRTR),
}

Floats = NDArray[np.float64]
Distance = Callable[[Floats, Floats], float]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Each biomarker, all of them together, and scores of classifiers across real and synthetic images."""
    (_, samples), *classes = samples_by_scope(evidence, settings)
    audit = _Biomarkers(evidence, samples, settings)
    by_class = {scope["class"]: _Biomarkers(evidence, each, settings) for scope, each in classes}
    findings = [finding for name in audit.names for finding in audit.findings(name, by_class)]
    return [*findings, audit.together(), *_cross_scores(evidence, settings)]


class _Biomarkers:
    """Biomarkers of matched samples, standardised by mean and standard deviation of the reference."""

    def __init__(self, evidence: Evidence, samples: MatchedSamples, settings: Settings) -> None:
        self.evidence, self.samples, self.settings = evidence, samples, settings
        self.names = (*GENERAL, *evidence.biomarkers)
        if not samples.too_few:
            reference, baseline, synthetic = (
                self._measured(sample) for sample in (samples.reference, samples.baseline, samples.synthetic)
            )
            mean, deviation = reference.mean(axis=0), reference.std(axis=0)
            deviation[deviation == 0] = 1
            self.reference, self.baseline, self.synthetic = (
                (each - mean) / deviation for each in (reference, baseline, synthetic)
            )

    def findings(self, name: str, by_class: Mapping[str, _Biomarkers]) -> list[Finding]:
        """The findings about one biomarker."""
        if self.samples.too_few:
            return [
                self._make(name).not_measured(statistic, TOO_FEW)
                for statistic in (DISTRIBUTION, MEANS, EQUIVALENCE)
            ]
        column = self.names.index(name)
        return [self._distribution(name, column), *self._means(name, column, by_class)]

    def together(self) -> Finding:
        """Fréchet distance over all biomarkers."""
        if self.samples.too_few:
            return self._make(ALL).not_measured(FRECHET, TOO_FEW)
        synthetic, baseline = self._with_halves(frechet_distance, "together")
        bright = self.baseline[self.baseline[:, 0] > np.median(self.baseline[:, 0])]
        planted = frechet_distance(self.reference, np.resize(bright, self.baseline.shape))
        columns = range(len(self.names))
        controls = self._controls(
            baseline,
            planted,
            "test images brighter than their median, twice",
            p_equal_means=min(1.0, len(columns) * min(map(self._p_equal_means, columns))),
        )
        return self._make(ALL).compared(FRECHET, synthetic, baseline, controls, low=0)

    def mean_difference(self, column: int, sample: ImageSample, rows: Floats) -> tuple[float, float]:
        """Mean of `rows` of a sample minus that of the reference, and its standard error over patients."""
        mean, error = clustered_mean(rows[:, column], sample.patients)
        of_reference = clustered_mean(self.reference[:, column], self.samples.reference.patients)
        return mean - of_reference[0], float(np.hypot(error, of_reference[1]))

    def _of_synthetic(self, column: int) -> tuple[float, float]:
        return self.mean_difference(column, self.samples.synthetic, self.synthetic)

    def _of_baseline(self, column: int) -> tuple[float, float]:
        return self.mean_difference(column, self.samples.baseline, self.baseline)

    def _distribution(self, name: str, column: int) -> Finding:
        def distance(reference: Floats, rows: Floats) -> float:
            return float(stats.wasserstein_distance(reference[:, column], rows[:, column]))

        synthetic, baseline = self._with_halves(distance, name)
        shift = 2 * (SEEN_AT_001 + FOUR_OF_FIVE) * np.std(baseline[1:], ddof=1) + baseline[0]
        controls = self._controls(
            baseline,
            distance(self.reference, self.baseline + shift),
            f"test images shifted by {shift:.2g} standard deviations",
            p_equal_means=self._p_equal_means(column),
        )
        return self._make(name).compared(DISTRIBUTION, synthetic, baseline, controls, low=0)

    def _means(self, name: str, column: int, by_class: Mapping[str, _Biomarkers]) -> list[Finding]:
        """The difference of means, and the p-value of the test that it is below the margin."""
        margin, make = self.settings.margin, self._make(name)
        difference, error = self._of_synthetic(column)
        baseline, baseline_error = self._of_baseline(column)
        controls = self._equivalence_controls(baseline, baseline_error)
        reason = controls.fault("")
        width = float(stats.norm.ppf(CONFIDENCE)) * error  # a 90 % interval within the margin is TOST at .05
        return [
            make.measured(
                MEANS,
                difference,
                interval=(difference - width, difference + width),
                confidence=2 * CONFIDENCE - 1,
                baseline=baseline,
                controls=controls,
                power=Power(smallest_leak=2 * width, description=f"{2 * width:.2g} standard deviations"),
                reason=reason,
                details={"margin": margin, "classes": _differences(column, by_class)},
            ),
            make.measured(
                EQUIVALENCE,
                equivalence_p_value(difference, error, margin),
                baseline=equivalence_p_value(baseline, baseline_error, margin),
                controls=controls,
                reason=reason,
                details={"margin": margin},
            ),
        ]

    def _equivalence_controls(self, baseline: float, error: float) -> Controls:
        margin = self.settings.margin
        p_shifted = equivalence_p_value(baseline + margin, error, margin)
        p_baseline = equivalence_p_value(baseline, error, margin)
        return Controls(
            positive=Control(
                passed=p_shifted > self.settings.control_level,
                description=f"test images shifted by the margin of {margin:g} must not test as equivalent",
                p_value=p_shifted,
            ),
            negative=Control(
                passed=p_baseline <= 1 - CONFIDENCE,
                description="test patients in place of the synthetic images must test as equivalent",
                p_value=p_baseline,
            ),
        )

    def _controls(self, baseline: Floats, planted: float, what: str, p_equal_means: float) -> Controls:
        """For a distance.

        Args:
            baseline: (1 + HALVES,) distance of all `test` images, then of halves.
            planted: distance of `test` images with a fault, which `what` describes.
            p_equal_means: p-value of `test` and `holdout` patients having equal means.
        """
        spread = max(float(np.std(baseline[1:], ddof=1)), 1e-12)
        p_planted = float(stats.norm.sf((planted - baseline[0]) / spread))
        level = self.settings.control_level
        return Controls(
            positive=Control(passed=p_planted <= level, description=what, p_value=p_planted),
            negative=Control(
                passed=p_equal_means > level,
                description="means of test patients in place of the synthetic images",
                p_value=p_equal_means,
            ),
        )

    def _p_equal_means(self, column: int) -> float:
        """p-value of `test` and `holdout` patients having equal means of a biomarker, normal errors."""
        difference, error = self._of_baseline(column)
        return 1.0 if error == 0 else float(2 * stats.norm.sf(abs(difference) / error))

    def _with_halves(self, distance: Distance, purpose: str) -> tuple[Floats, Floats]:
        """(1 + HALVES,) distances from the reference, all images, then halves: synthetic and baseline."""
        generator = self.evidence.generator(f"{NAME}, {purpose}", self.settings)
        reference = self.samples.reference.patients

        def distances(sample: ImageSample, rows: Floats) -> Floats:
            halves: list[SubsetPair] = [
                (random_half(reference, generator), random_half(sample.patients, generator))
                for _ in range(HALVES)
            ]
            of_halves = [distance(self.reference[one], rows[other]) for one, other in halves]
            return np.array([distance(self.reference, rows), *of_halves])

        synthetic = distances(self.samples.synthetic, self.synthetic)
        return synthetic, distances(self.samples.baseline, self.baseline)

    def _measured(self, sample: ImageSample) -> Floats:
        """(n, biomarkers), not standardised."""

        def compute() -> Arrays:
            with self.evidence.progress.stage("measure biomarkers", 1) as advance:
                found = {"rows": biomarkers(sample.images, self.names)}
                advance()
            return found

        return self.evidence.kept(f"{NAME} {self.names}", compute, sample.images)["rows"]

    def _make(self, name: str) -> QualityFindings:
        return QualityFindings(NAME, VERSION, {"biomarker": name}, self.samples.n)


def _differences(column: int, by_class: Mapping[str, _Biomarkers]) -> dict[str, JsonValue]:
    """Difference of means and standard error in each class, in standard deviations within the class."""
    return {
        name: None if each.samples.too_few else [round(x, 4) for x in each._of_synthetic(column)]
        for name, each in by_class.items()
    }


def _cross_scores(evidence: Evidence, settings: Settings) -> list[Finding]:
    """F1 and AUC per class of classifiers trained on patients and tested on the set, and the reverse."""
    if len(evidence.cohort.classes) < 2:
        return []
    scores, found = ClassifierScores(evidence, settings), []
    for classifier in CLASSIFIERS:
        for label in np.unique(evidence.test.labels).tolist():
            scope = {"classifier": classifier, "class": evidence.cohort.classes[label]}
            make = QualityFindings(NAME, VERSION, scope, evidence.sizes())
            for statistic, (protocol, baseline) in CROSS_PROTOCOLS.items():
                for name, score in (("auc", class_auc(label)), ("f1", class_f1(label))):
                    estimate = scores.estimate(classifier, protocol, score, label=label)
                    real = scores.estimate(classifier, baseline, score).value
                    found.append(make.estimated(f"{statistic}_{name}", estimate, baseline=real))
    return found
