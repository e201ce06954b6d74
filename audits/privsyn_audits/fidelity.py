"""Are the synthetic images like real ones, and as varied?

Fréchet and kernel distance, precision, recall, density and coverage (`privsyn.features.distances`) in the
features of lite0 and of every network that the policy names, and the structural similarity of random pairs.
The reference is `holdout` patients. The baseline is `test` patients in place of the synthetic images, in the
same number, because all of these measures depend on it. Overall and per class.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.matched_samples import (
    TOO_FEW,
    ImageSample,
    MatchedSamples,
    samples_by_scope,
)
from privsyn.auditing.quality.measures import CONFIDENCE, QualityFindings, detectable_difference
from privsyn.auditing.statistics.resampling import FOUR_OF_FIVE, HALVES, SEEN_AT_001, random_half
from privsyn.features.distances import MEASURES, Reference, SubsetPair, principal_axes
from privsyn.features.embed import FeatureRows
from privsyn.features.ssim import ms_ssim

NAME, VERSION = "fidelity", "2"
DIVERSITY = "ms_ssim_diversity"
MAX_PAIRS = 500  # of images whose similarity is averaged
REALISM = ("precision", "density")  # detect images that are unlike real ones
OTHERS = tuple(measure for measure in MEASURES if measure not in REALISM)  # detect what is missing too
RANGES = {
    "frechet_distance": (0.0, np.inf),
    "kernel_distance": (-np.inf, np.inf),  # unbiased, so it may be negative
    "density": (0.0, np.inf),
    **dict.fromkeys(("precision", "recall", "coverage"), (0.0, 1.0)),
}
MAP_POINTS = 600  # of either kind on the map
MAP_DIMENSIONS = 2

Float64s = NDArray[np.float64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Every measure in every network, and diversity, overall and per class."""
    found = []
    for scope, samples in samples_by_scope(evidence, settings):
        for network in ("lite0", *evidence.networks):
            found += _FeatureMeasures(evidence, samples, network, scope, settings).findings()
        found.append(_diversity(evidence, samples, scope, settings))
    return found


class _FeatureMeasures:
    """The measures in the features of one network, for one scope."""

    def __init__(
        self,
        evidence: Evidence,
        samples: MatchedSamples,
        network: str,
        scope: dict[str, str],
        settings: Settings,
    ) -> None:
        self.evidence, self.samples, self.settings = evidence, samples, settings
        self.network, self.scope = network, {"network": network, **scope}
        details: dict[str, JsonValue] = {"network": {**evidence.embedding_info(network)}}
        self.make = QualityFindings(NAME, VERSION, self.scope, samples.n, details)

    def findings(self) -> list[Finding]:
        if self.samples.too_few:
            return [self.make.not_measured(measure, TOO_FEW) for measure in MEASURES]
        return [self._finding(measure) for measure in MEASURES]

    def _finding(self, measure: str) -> Finding:
        low, high = RANGES[measure]
        details: dict[str, JsonValue] = {
            "bias": self._bias(measure),
            "class_shares": "of the reference" if self.samples.same_class_shares else "of each sample",
        }
        if measure == MEASURES[0] and "class" not in self.scope:
            details["map"] = self._map()
        return self.make.compared(
            measure,
            self._of_synthetic[measure],
            self._of_baseline[measure],
            Controls(positive=self._planted(measure), negative=self._equal_distributions),
            low=low,
            high=high,
            details=details,
        )

    def _bias(self, measure: str) -> str:
        if measure == "kernel_distance":
            return "none"
        count, dimensions = self._synthetic.shape
        text = f"depends on the number of images: compare with the baseline, which has {count} as well"
        if measure == "frechet_distance" and count <= dimensions:
            text += f"; {count} images leave covariances of {dimensions} dimensions without full rank"
        return text

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self._features(self.samples.reference))

    @cached_property
    def _baseline(self) -> FeatureRows:
        return self._features(self.samples.baseline)

    @cached_property
    def _synthetic(self) -> FeatureRows:
        return self._features(self.samples.synthetic)

    def _features(self, sample: ImageSample) -> FeatureRows:
        """(n, d)."""
        return self.evidence.embedding(self.network, sample.images)

    @cached_property
    def _of_synthetic(self) -> Arrays:
        return self._compared(self.samples.synthetic, self._synthetic)

    @cached_property
    def _of_baseline(self) -> Arrays:
        return self._compared(self.samples.baseline, self._baseline)

    def _compared(self, sample: ImageSample, features: FeatureRows) -> Arrays:
        """(1 + HALVES,) of each measure: the reference against a sample, then halves of both."""
        reference = self.samples.reference

        def compute() -> Arrays:
            generator = self.evidence.generator(f"{NAME}, halves", self.settings)
            halves: list[SubsetPair] = [
                (random_half(reference.patients, generator), random_half(sample.patients, generator))
                for _ in range(HALVES)
            ]
            with self.evidence.progress.stage(f"compare features ({self.network})", 1) as advance:
                found = self._reference.compare(features, halves)
                advance()
            return found

        name = f"{NAME}, halves, seed {self.settings.seed}"
        depends = features, sample.patients, self._reference.rows, reference.patients
        return self.evidence.kept(name, compute, *depends)

    def _planted(self, measure: str) -> Control:
        """`test` images with a fault that the measure must detect: outliers, or one half missing."""
        baseline = self._of_baseline[measure]
        spread = max(float(np.std(baseline[1:], ddof=1)), 1e-12)
        if measure in REALISM:
            share = min(1.0, 2 * (SEEN_AT_001 + FOUR_OF_FIVE) * spread / max(float(baseline[0]), 1e-9))
            found, what = self._with_outliers(measure, share)
        else:
            found = float(self._of_one_half[measure][0])
            what = "test images of one half of the feature space, twice"
        worse = 1 if measure.endswith("distance") else -1
        p_value = float(stats.norm.sf(worse * (found - baseline[0]) / spread))
        return Control(passed=p_value <= self.settings.control_level, description=what, p_value=p_value)

    def _with_outliers(self, measure: str, share: float) -> tuple[float, str]:
        """A measure of `test` images of which a share was moved far away, and a description."""
        rows = self._baseline.astype(np.float64)
        generator = self.evidence.generator(f"{NAME}, planted", self.settings)
        outliers = generator.permutation(len(rows))[: max(1, round(share * len(rows)))]
        rows[outliers] = rows.mean(axis=0) + 10 * (rows[outliers] - rows.mean(axis=0))
        what = f"{len(outliers)} of {len(rows)} test images made outliers"
        return float(self._measured(rows, (measure,))[measure][0]), what

    @cached_property
    def _of_one_half(self) -> Arrays:
        """`OTHERS` of the `test` images on one side along their first principal component, repeated."""
        rows = self._baseline
        along = (rows @ principal_axes(rows, 1))[:, 0]
        half = np.flatnonzero(along > np.median(along))
        return self._measured(rows[np.resize(half, len(rows))], OTHERS)

    def _measured(self, rows: NDArray[np.floating], measures: Sequence[str]) -> Arrays:
        """(1,) of each measure of the reference against features (n, d)."""

        def compute() -> Arrays:
            return self._reference.compare(rows.astype(np.float32), measures=measures)

        return self.evidence.kept(f"{NAME}, {measures}", compute, rows, self._reference.rows)

    @cached_property
    def _equal_distributions(self) -> Control:
        """`test` patients in place of the synthetic images: their unbiased distance is 0 on average."""
        baseline = self._of_baseline["kernel_distance"]
        p_value = float(stats.norm.sf(baseline[0] / max(float(np.std(baseline[1:], ddof=1)), 1e-12)))
        what = f"test patients in place of the synthetic images: kernel distance {baseline[0]:.2g}"
        return Control(passed=p_value > self.settings.control_level, description=what, p_value=p_value)

    def _map(self) -> dict[str, JsonValue]:
        """Some images of either kind on the plane of the reference's first two principal components."""
        reference = self._reference.rows.astype(np.float64)
        axes = principal_axes(reference, MAP_DIMENSIONS)
        generator = self.evidence.generator(f"{NAME}, map", self.settings)
        points: dict[str, JsonValue] = {}
        for kind, sample, rows in (
            ("real", self.samples.reference, self._reference.rows),
            ("synthetic", self.samples.synthetic, self._synthetic),
        ):
            shown = np.sort(generator.permutation(len(reference))[:MAP_POINTS])
            points[kind] = np.round((rows[shown] - reference.mean(axis=0)) @ axes, 4).tolist()
            points[f"{kind}_labels"] = sample.labels[shown].tolist()
        return points


def _diversity(
    evidence: Evidence, samples: MatchedSamples, scope: dict[str, str], settings: Settings
) -> Finding:
    """Mean MS-SSIM of random pairs of images of different patients; higher than real ones: less varied."""
    make = QualityFindings(NAME, VERSION, scope, samples.n)
    if samples.too_few:
        return make.not_measured(DIVERSITY, TOO_FEW)
    generator = evidence.generator(f"{NAME}, pairs", settings)
    synthetic, real = (_pair_similarity(each, generator) for each in (samples.synthetic, samples.reference))
    baseline = _pair_similarity(samples.baseline, generator)
    controls = _diversity_controls(real, baseline, generator, settings.control_level)
    mean = float(synthetic.mean())
    error, real_error = (float(np.std(each, ddof=1) / np.sqrt(len(each))) for each in (synthetic, real))
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(synthetic) - 1)) * error
    smallest = detectable_difference(float(np.hypot(error, real_error)))
    return make.measured(
        DIVERSITY,
        mean,
        interval=(mean - width, mean + width),
        baseline=float(real.mean()),
        controls=controls,
        power=Power(
            smallest_leak=smallest,
            description=f"a difference of {smallest:.3g} would be detected in 80 % of trials",
        ),
        reason=controls.fault(""),
        details={"compared": len(synthetic)},
    )


def _diversity_controls(
    real: Float64s, baseline: Float64s, generator: np.random.Generator, level: float
) -> Controls:
    """A collapse must be detected: half of the pairs of `test` images are replaced by equal images."""
    collapsed = np.where(generator.random(len(baseline)) < 0.5, 1.0, baseline)
    p_collapsed = float(stats.ttest_ind(collapsed, real, equal_var=False, alternative="greater").pvalue)
    p_equal = float(stats.ttest_ind(baseline, real, equal_var=False).pvalue)
    return Controls(
        positive=Control(
            passed=p_collapsed <= level,
            description="half of the pairs are one image twice",
            p_value=p_collapsed,
        ),
        negative=Control(passed=p_equal > level, description="pairs of test patients", p_value=p_equal),
    )


def _pair_similarity(sample: ImageSample, generator: np.random.Generator) -> Float64s:
    """(p,) MS-SSIM of pairs that share no patient, so that the pairs are independent."""
    _, first = np.unique(sample.patients, return_index=True)
    rows = generator.permutation(np.sort(first))[: 2 * MAX_PAIRS]
    half = len(rows) // 2
    similarity: Float64s = ms_ssim(sample.images[rows[:half]], sample.images[rows[half : 2 * half]])
    return similarity
