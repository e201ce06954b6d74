"""Scores of classifiers trained on real, synthetic or mixed images.

All quality audits share these scores, so each classifier is trained once per cohort and synthetic set. The
training sets are `train` patients and the synthetic set; the scores are of `test` patients, on whom nothing
was tuned. A *protocol* names a training set and an evaluation set, as in TSTR: train on synthetic, test on
real (Esteban et al. 2017, https://arxiv.org/abs/1706.02633).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.quality.classifiers import Classifier, LabelledImages, train_classifier
from privsyn.auditing.statistics.resampling import numbered, random_half, resampled
from privsyn.auditing.statistics.scores import Score
from privsyn.bit_depth import Images

CLASSIFIER_FEATURES = "lite0"
SEEDS = 3  # of each classifier and protocol
MAX_TRAINING_IMAGES = (
    4_000  # of each kind, real and synthetic; more take proportionally longer and add little
)
FEW_PATIENTS_SHARE = 0.05  # of the training patients, in `WITH_FEW_REAL`
MIN_FEW_PATIENTS = 10
MIN_SCORED_IMAGES = 30  # with fewer, the bootstrap gives no valid interval
BOOTSTRAP_DRAWS = 200

# Protocols: training set, then `test` patients; TRTS alone evaluates on the synthetic set.
TRTR, TSTR, MIXED, WITH_FEW_REAL = "trtr", "tstr", "mixed", "with_few_real"
PROTOCOLS = (TRTR, TSTR, MIXED, WITH_FEW_REAL)
TRTS = "trts"
# Protocols of the controls, with one seed each.
SHUFFLED_LABELS, ONE_HALF, OTHER_HALF = "shuffled labels", "one half", "other half"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ScoreEstimate:
    """A score, averaged over the seeds of a classifier.

    Attributes:
        value: score of all images.
        draws: (b,) scores of resampled patients; NaN where a draw has no image to score.
        seeds: (s,) score of all images for each seed.
        images: number of scored images; for a score of one class, those of the class.
    """

    value: float
    draws: Floats
    seeds: Floats
    images: int

    def __sub__(self, other: ScoreEstimate) -> ScoreEstimate:
        """The paired difference: draws and seeds are subtracted one by one, so shared variation cancels."""
        return ScoreEstimate(
            self.value - other.value,
            self.draws - other.draws,
            self.seeds - other.seeds,
            min(self.images, other.images),
        )

    @property
    def standard_error(self) -> float:
        """Over the patients in `test` and the seeds; NaN if fewer than two draws are finite."""
        return float(np.sqrt(sum(self._variances)))

    def interval(self, confidence: float, low: float, high: float) -> tuple[float, float] | None:
        """Student's t interval, clipped to [low, high]; None for fewer than `MIN_SCORED_IMAGES` images.

        The degrees of freedom follow Satterthwaite (1946), because there are few seeds. There is no interval
        for few images because resampling one correctly classified image finds no variation.
        """
        patients, seeds = self._variances
        if not np.isfinite(patients) or self.images < MIN_SCORED_IMAGES:
            return None
        freedom = np.inf
        if patients + seeds > 0:
            share = seeds / (patients + seeds)
            freedom = 1 / (share**2 / max(len(self.seeds) - 1, 1) + (1 - share) ** 2 / (len(self.draws) - 1))
        width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * self.standard_error
        return max(low, self.value - width), min(high, self.value + width)

    @property
    def _variances(self) -> tuple[float, float]:
        """Variance of the score over patients (NaN if fewer than two draws are finite) and over seeds."""
        if np.isfinite(self.draws).sum() < 2:
            return float("nan"), 0.0
        of_seeds = np.var(self.seeds, ddof=1) / len(self.seeds) if len(self.seeds) > 1 else 0.0
        return float(np.nanvar(self.draws, ddof=1)), float(of_seeds)


class ClassifierScores:
    """Class probabilities by every classifier and protocol, and their scores."""

    def __init__(self, evidence: Evidence, settings: Settings) -> None:
        self.evidence, self.seed = evidence, settings.seed
        self.classes = len(evidence.cohort.classes)

    @cached_property
    def synthetic_rows(self) -> Ints:
        """Rows of the synthetic set that classifiers are trained and evaluated on."""
        return self._random_rows(len(self.evidence.synthetic.labels), "synthetic")

    @cached_property
    def _train_rows(self) -> Ints:
        return self._random_rows(len(self.evidence.train.labels), "train")

    def probabilities(self, classifier: str, protocol: str) -> NDArray[np.float32]:
        """(seeds, n, classes) for the `test` images, or for `synthetic_rows` if the protocol is `TRTS`."""
        return self._all_probabilities(classifier)[protocol]

    def estimate(
        self, classifier: str, protocol: str, score: Score, rows: Ints | None = None, label: int | None = None
    ) -> ScoreEstimate:
        """Estimate a score on `test` patients, or on the synthetic set if the protocol is `TRTS`.

        Args:
            rows: of `test`, to score these alone.
            label: the class, for a score of one class.
        """
        labels, weights = self._labels_and_weights(protocol)
        chosen = np.arange(len(labels)) if rows is None else rows
        scores = np.array(
            [
                score(probabilities[chosen].astype(np.float64), labels[chosen], weights[:, chosen])
                for probabilities in self.probabilities(classifier, protocol)
            ]
        )
        mean = scores.mean(axis=0)
        images = len(chosen) if label is None else int((labels[chosen] == label).sum())
        return ScoreEstimate(float(mean[0]), mean[1:], scores[:, 0], images)

    def _labels_and_weights(self, protocol: str) -> tuple[Ints, Floats]:
        """Labels (n,) and weights (1 + BOOTSTRAP_DRAWS, n): first all ones, then by resampled patients."""
        if protocol == TRTS:
            return self.evidence.synthetic.labels[self.synthetic_rows], self._synthetic_weights
        return self.evidence.test.labels, self._test_weights

    @cached_property
    def _test_weights(self) -> Floats:
        return self._weights("test", self.evidence.test.patients)

    @cached_property
    def _synthetic_weights(self) -> Floats:
        return self._weights("synthetic", np.arange(len(self.synthetic_rows)))

    def _weights(self, name: str, patients: NDArray[np.generic]) -> Floats:
        ones = np.ones((1, len(patients)))
        return np.concatenate([ones, resampled(patients, self._generator(name), BOOTSTRAP_DRAWS)])

    def _all_probabilities(self, classifier: str) -> Arrays:
        """By protocol."""
        name = f"classifier scores of {classifier}, seed {self.seed}"
        return self.evidence.computed(name, lambda: self._train_all(classifier))

    def _train_all(self, classifier: str) -> Arrays:
        found: dict[str, list[Floats]] = {protocol: [] for protocol in (*PROTOCOLS, TRTS)}
        with self.evidence.progress.stage(f"train {classifier}", SEEDS) as advance:
            for seed in range(SEEDS):
                for protocol in PROTOCOLS:
                    predict = self._trained(classifier, protocol, seed)
                    found[protocol].append(predict(self._test))
                    if protocol == TRTR:
                        found[TRTS].append(predict(self._synthetic))
                advance()
        for protocol in (SHUFFLED_LABELS, ONE_HALF, OTHER_HALF):
            found[protocol] = [self._trained(classifier, protocol, seed=0)(self._test)]
        return {protocol: np.stack(each).astype(np.float32) for protocol, each in found.items()}

    def _trained(self, classifier: str, protocol: str, seed: int) -> Classifier:
        return train_classifier(classifier, self._training_set(protocol, seed), self.classes, seed)

    def _training_set(self, protocol: str, seed: int) -> LabelledImages:
        real, synthetic = self._real, self._synthetic
        if protocol in {TRTR, TSTR}:
            return real if protocol == TRTR else synthetic
        if protocol == MIXED:
            return synthetic.concatenate(real)
        if protocol in {ONE_HALF, OTHER_HALF}:
            half = random_half(self._train_patients, self._generator("halves"))
            return real.take(half if protocol == ONE_HALF else np.setdiff1d(np.arange(len(real)), half))
        generator = self._generator(f"{protocol}, {seed}")
        if protocol == WITH_FEW_REAL:
            return synthetic.concatenate(real.take(_rows_of_few(self._train_patients, generator)))
        if protocol == SHUFFLED_LABELS:
            shuffled = generator.permutation(synthetic.labels)
            return LabelledImages(synthetic.images, synthetic.features, shuffled)
        raise ValueError(f"no protocol is called {protocol!r}")

    @property
    def _train_patients(self) -> NDArray[np.str_]:
        return self.evidence.train.patients[self._train_rows]

    @cached_property
    def _real(self) -> LabelledImages:
        train, rows = self.evidence.train, self._train_rows
        return self._labelled_images(train.images[rows], train.labels[rows])

    @cached_property
    def _test(self) -> LabelledImages:
        return self._labelled_images(self.evidence.test.images, self.evidence.test.labels)

    @cached_property
    def _synthetic(self) -> LabelledImages:
        synthetic, rows = self.evidence.synthetic, self.synthetic_rows
        return self._labelled_images(synthetic.images[rows], synthetic.labels[rows])

    def _labelled_images(self, images: Images, labels: Ints) -> LabelledImages:
        return LabelledImages(images, self.evidence.embedding(CLASSIFIER_FEATURES, images), labels)

    def _random_rows(self, size: int, purpose: str) -> Ints:
        """All rows, or `MAX_TRAINING_IMAGES` at random."""
        return np.sort(self._generator(purpose).permutation(size)[:MAX_TRAINING_IMAGES])

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *f"readings, {purpose}".encode()])


def _rows_of_few(patients: NDArray[np.str_], generator: np.random.Generator) -> Ints:
    """Rows of `FEW_PATIENTS_SHARE` of the patients, of `MIN_FEW_PATIENTS` at least."""
    patient = numbered(patients)
    total = int(patient.max()) + 1
    count = min(total, max(MIN_FEW_PATIENTS, round(FEW_PATIENTS_SHARE * total)))
    rows: Ints = np.flatnonzero(np.isin(patient, generator.permutation(total)[:count]))
    return rows
