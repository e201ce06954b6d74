"""What classifiers that learnt from real, synthetic or both kinds of images read in others.

Shared by the quality audits: each fit is made once for a cohort and a synthetic set. Classifiers learn from
`train` patients and from the synthetic set, and are judged on `test` patients, whom nothing was chosen by.
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
from privsyn.auditing.quality.classifiers import Examples, fit
from privsyn.auditing.statistics.resampling import numbered, random_half, resampled
from privsyn.auditing.statistics.scores import Score
from privsyn.bit_depth import Images

FEATURES = "lite0"
SEEDS = 3
MOST = 4_000  # images of each kind that classifiers learn from; more cost in proportion and add little
FEW = 0.05  # share of the training patients who are "few"
FEWEST = 10  # of them
JUDGED = 30  # images of a class, or of whatever is judged: resampled scores of fewer have no valid interval
DRAWS = 200  # of the bootstrap

REAL, SYNTHETIC, MIXED, WITH_FEW = "trtr", "tstr", "mixed", "with_few_real"
ARMS = (REAL, SYNTHETIC, MIXED, WITH_FEW)
# For the controls, one seed each.
SHUFFLED, ONE_HALF, OTHER_HALF = "shuffled labels", "one half", "other half"
READ = "real reads synthetic"

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Estimate:
    """A score, averaged over the seeds of a classifier.

    Attributes:
        value: of all images.
        draws: (b,) of resampled patients; NaN where a draw left nothing to judge.
        seeds: (s,) of all images, by each seed alone.
        judged: how many images it rests on; of a class, those of it.
    """

    value: float
    draws: Floats
    seeds: Floats
    judged: int

    def __sub__(self, other: Estimate) -> Estimate:
        """The difference, draw by draw and seed by seed: on the same patients, so what both share cancels."""
        judged = min(self.judged, other.judged)
        return Estimate(self.value - other.value, self.draws - other.draws, self.seeds - other.seeds, judged)

    @property
    def error(self) -> float:
        """Standard error over the patients in `test` and the seeds; NaN if it cannot be told."""
        return float(np.sqrt(sum(self._variances)))

    def interval(self, confidence: float, low: float, high: float) -> tuple[float, float] | None:
        """Student's t, its degrees of freedom after Satterthwaite (1946), for seeds are few; cut at what is
        possible. None for fewer than `JUDGED` images: one that is read rightly would be certain."""
        patients, seeds = self._variances
        if not np.isfinite(patients) or self.judged < JUDGED:
            return None
        freedom = np.inf
        if patients + seeds > 0:
            share = seeds / (patients + seeds)
            freedom = 1 / (share**2 / max(len(self.seeds) - 1, 1) + (1 - share) ** 2 / (len(self.draws) - 1))
        width = float(stats.t.ppf((1 + confidence) / 2, freedom)) * self.error
        return max(low, self.value - width), min(high, self.value + width)

    @property
    def _variances(self) -> tuple[float, float]:
        """Of the mean over patients, NaN if it cannot be told, and over seeds."""
        if np.isfinite(self.draws).sum() < 2:
            return float("nan"), 0.0
        between = np.var(self.seeds, ddof=1) / len(self.seeds) if len(self.seeds) > 1 else 0.0
        return float(np.nanvar(self.draws, ddof=1)), float(between)


class Readings:
    """The probabilities that every classifier gives, and what they are worth."""

    def __init__(self, evidence: Evidence, settings: Settings) -> None:
        self.evidence, self.seed = evidence, settings.seed
        self.classes = len(evidence.cohort.classes)

    @cached_property
    def read_rows(self) -> Rows:
        """Rows of the synthetic set that are learnt from and read; all if there are at most MOST."""
        return self._some(len(self.evidence.synthetic.labels), "synthetic")

    @cached_property
    def _train_rows(self) -> Rows:
        return self._some(len(self.evidence.train.labels), "train")

    def probabilities(self, classifier: str, arm: str) -> NDArray[np.float32]:
        """(seeds, n, classes) of the `test` images, or of `read_rows` of the set for READ."""
        return self._fitted(classifier)[arm]

    def estimate(
        self, classifier: str, arm: str, score: Score, rows: Rows | None = None, label: int | None = None
    ) -> Estimate:
        """A score on `test` patients, or on those of some rows of `test`; of the set itself for READ.

        Args:
            label: the class that the score is about, if it is about one.
        """
        labels, weights = self._weighed(arm)
        chosen = np.arange(len(labels)) if rows is None else rows
        found = np.array(
            [
                score(each[chosen].astype(np.float64), labels[chosen], weights[:, chosen])
                for each in self.probabilities(classifier, arm)
            ]
        )
        mean = found.mean(axis=0)
        judged = len(chosen) if label is None else int((labels[chosen] == label).sum())
        return Estimate(float(mean[0]), mean[1:], found[:, 0], judged)

    def _weighed(self, arm: str) -> tuple[Rows, Floats]:
        """Labels (n,), and weights (1 + DRAWS, n): each image once, then by resampled units."""
        if arm == READ:
            return self.evidence.synthetic.labels[self.read_rows], self._synthetic_weights
        return self.evidence.test.labels, self._test_weights

    @cached_property
    def _test_weights(self) -> Floats:
        return self._weights("test", self.evidence.test.patients)

    @cached_property
    def _synthetic_weights(self) -> Floats:
        return self._weights("synthetic", np.arange(len(self.read_rows)))

    def _weights(self, name: str, units: NDArray[np.generic]) -> Floats:
        once = np.ones((1, len(units)))
        return np.concatenate([once, resampled(units, self._generator(name), DRAWS)])

    def _fitted(self, classifier: str) -> Arrays:
        return self.evidence.computed(
            f"readings of {classifier}, seed {self.seed}", lambda: self._fit(classifier)
        )

    def _fit(self, classifier: str) -> Arrays:
        training, test, read = self._training, self._test, self._synthetic
        found: dict[str, list[Floats]] = {arm: [] for arm in (*ARMS, READ)}
        with self.evidence.progress.stage(f"train {classifier}", SEEDS) as advance:
            for seed in range(SEEDS):
                for arm in ARMS:
                    reader = fit(classifier, training(arm, seed), self.classes, seed)
                    found[arm].append(reader(test))
                    if arm == REAL:
                        found[READ].append(reader(read))
                advance()
        for arm in (SHUFFLED, ONE_HALF, OTHER_HALF):
            found[arm] = [fit(classifier, training(arm, 0), self.classes, 0)(test)]
        return {arm: np.stack(each).astype(np.float32) for arm, each in found.items()}

    def _training(self, arm: str, seed: int) -> Examples:
        generator = self._generator(f"{arm}, {seed}")
        real, synthetic = self._real, self._synthetic
        patients = self.evidence.train.patients[self._train_rows]
        if arm in {ONE_HALF, OTHER_HALF}:
            half = random_half(patients, self._generator("halves"))
            chosen = half if arm == ONE_HALF else np.setdiff1d(np.arange(len(real)), half)
            return real.of(chosen)
        if arm == SHUFFLED:
            return Examples(synthetic.images, synthetic.features, generator.permutation(synthetic.labels))
        if arm == WITH_FEW:
            real = real.of(_few(patients, generator))
        if arm in {REAL, SYNTHETIC}:
            return real if arm == REAL else synthetic
        return synthetic.beside(real)

    @cached_property
    def _real(self) -> Examples:
        side, rows = self.evidence.train, self._train_rows
        return self._examples(side.images[rows], side.labels[rows])

    @cached_property
    def _test(self) -> Examples:
        return self._examples(self.evidence.test.images, self.evidence.test.labels)

    @cached_property
    def _synthetic(self) -> Examples:
        drawn, rows = self.evidence.synthetic, self.read_rows
        return self._examples(drawn.images[rows], drawn.labels[rows])

    def _examples(self, images: Images, labels: Rows) -> Examples:
        return Examples(images, self.evidence.embedding(FEATURES, images), labels)

    def _some(self, size: int, purpose: str) -> Rows:
        return np.sort(self._generator(purpose).permutation(size)[:MOST])

    def _generator(self, purpose: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *f"readings, {purpose}".encode()])


def _few(patients: NDArray[np.str_], generator: np.random.Generator) -> Rows:
    """Rows of a few patients."""
    patient = numbered(patients)
    there = int(patient.max()) + 1
    count = min(there, max(FEWEST, round(FEW * there)))
    rows: Rows = np.flatnonzero(np.isin(patient, generator.permutation(there)[:count]))
    return rows
