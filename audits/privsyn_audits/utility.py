"""Do classifiers trained on synthetic images do as well on real patients as those trained on real ones?

Train on synthetic, test on real (TSTR; Esteban et al. 2017, https://arxiv.org/abs/1706.02633), beside train
on real, test on real (TRTR), train on both (mixed), and train on synthetic and a few real patients; three
classifiers with three seeds each, tested on `test` patients, on whom nothing was tuned. The gap is the AUC of
TRTR minus that of TSTR, overall, per class and per subgroup. A policy judges its upper bound: with a limit m,
a pass is a test of non-inferiority with margin m; with a second rule on the lower bound, of equivalence.

Intervals are conditional on the training sets: they cover the variation over `test` patients and seeds, not
over the patients in `train` or the synthetic images that were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from scipy import stats

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.classifier_scores import (
    MAX_TRAINING_IMAGES,
    MIN_FEW_PATIENTS,
    ONE_HALF,
    OTHER_HALF,
    PROTOCOLS,
    SHUFFLED_LABELS,
    TRTR,
    TSTR,
    ClassifierScores,
    ScoreEstimate,
)
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.measures import CONFIDENCE, QualityFindings, detectable_difference
from privsyn.auditing.statistics.scores import SCORES, Score, class_auc, macro_auc

NAME, VERSION = "utility", "2"
GAP = "utility_gap"
HALVES_MARGIN = 0.05  # gap between classifiers trained on halves of the patients that is no fault

Ints = NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Scores of every protocol, and the gap, for each classifier."""
    scores = ClassifierScores(evidence, settings)
    return [finding for name in CLASSIFIERS for finding in _Utility(scores, name, settings).findings()]


@dataclass(frozen=True, eq=False)
class _Slice:
    """What the AUC is computed on: all images, one class against the others, or a subgroup.

    Attributes:
        rows: of `test`; None for all.
        label: index of the class; None for all.
    """

    scope: dict[str, str]
    score: Score = macro_auc
    rows: Ints | None = None
    label: int | None = None


class _Utility:
    """Findings about one classifier."""

    def __init__(self, scores: ClassifierScores, classifier: str, settings: Settings) -> None:
        self.scores, self.classifier, self.settings = scores, classifier, settings
        self.evidence = scores.evidence
        self.controls = Controls(positive=self._shuffled_labels(), negative=self._halves())
        self.fault = self.controls.fault("")

    def findings(self) -> Iterator[Finding]:
        estimates = {
            (protocol, name): self._estimate(protocol, score)
            for protocol in PROTOCOLS
            for name, score in SCORES.items()
        }
        for (protocol, name), estimate in estimates.items():
            yield self._score(f"{protocol}_{name}", {}, estimate, estimates[TRTR, name])
        yield self._gap({}, estimates[TRTR, "auc"], estimates[TSTR, "auc"])
        for part in (*self._classes(), *self._subgroups()):
            real, synthetic = (
                self._estimate(protocol, part.score, part.rows, part.label) for protocol in (TRTR, TSTR)
            )
            yield self._score(f"{TRTR}_auc", part.scope, real, real)
            yield self._score(f"{TSTR}_auc", part.scope, synthetic, real)
            yield self._gap(part.scope, real, synthetic)

    def _score(
        self, statistic: str, scope: dict[str, str], estimate: ScoreEstimate, real: ScoreEstimate
    ) -> Finding:
        return self._findings(scope).estimated(
            statistic,
            estimate,
            baseline=real.value,
            controls=self.controls,
            reason=self.fault,
            details=_seeds(estimate),
        )

    def _gap(self, scope: dict[str, str], real: ScoreEstimate, synthetic: ScoreEstimate) -> Finding:
        gap = real - synthetic
        return self._findings(scope).estimated(
            GAP,
            gap,
            low=-1,
            baseline=0.0,
            controls=self.controls,
            power=_power(gap),
            reason=self.fault or _chance_level(real),
            details=_seeds(gap),
        )

    def _findings(self, scope: dict[str, str]) -> QualityFindings:
        details: dict[str, JsonValue] = {
            "trained_on_at_most": MAX_TRAINING_IMAGES,
            "few": f"5 % of the training patients, at least {MIN_FEW_PATIENTS}",
        }
        full_scope = {"classifier": self.classifier, **scope}
        return QualityFindings(NAME, VERSION, full_scope, self.evidence.sizes(), details)

    def _estimate(
        self, protocol: str, score: Score, rows: Ints | None = None, label: int | None = None
    ) -> ScoreEstimate:
        return self.scores.estimate(self.classifier, protocol, score, rows, label)

    def _classes(self) -> list[_Slice]:
        """Each class in `test`; none of two classes, whose AUC is the overall one."""
        names = self.evidence.cohort.classes
        if len(names) == 2:
            return []
        labels = np.unique(self.evidence.test.labels).tolist()
        return [_Slice({"class": names[label]}, class_auc(label), label=label) for label in labels]

    def _subgroups(self) -> list[_Slice]:
        groups = self.evidence.test.subgroups
        if groups is None:
            return []
        return [
            _Slice({"subgroup": name or "unknown"}, rows=np.flatnonzero(groups == name))
            for name in np.unique(groups).tolist()
        ]

    def _shuffled_labels(self) -> Control:
        """Classifiers trained on shuffled labels learn nothing, so a gap must be detected."""
        gap = self._estimate(TRTR, macro_auc) - self._estimate(SHUFFLED_LABELS, macro_auc)
        p_value = float(stats.norm.sf(gap.value / max(gap.standard_error, 1e-12)))
        what = f"labels of the synthetic set shuffled: a gap of {gap.value:.3f}"
        return Control(passed=p_value <= self.settings.control_level, description=what, p_value=p_value)

    def _halves(self) -> Control:
        """One half of the training patients in place of the real images, the other of the synthetic ones."""
        gap = self._estimate(ONE_HALF, macro_auc) - self._estimate(OTHER_HALF, macro_auc)
        z = (abs(gap.value) - HALVES_MARGIN) / max(gap.standard_error, 1e-12)
        p_value = float(min(1.0, 2 * stats.norm.sf(z)))
        what = f"two halves of the training patients: a gap of {gap.value:.3f}, tolerance {HALVES_MARGIN}"
        return Control(passed=p_value > self.settings.control_level, description=what, p_value=p_value)


def _seeds(estimate: ScoreEstimate) -> dict[str, JsonValue]:
    return {"seeds": [float(each) for each in estimate.seeds]}


def _chance_level(real: ScoreEstimate) -> str:
    """Why the gap is not conclusive where training on real patients does not work either; "" if it does."""
    interval = real.interval(CONFIDENCE, 0, 1)
    if interval is None or interval[0] > 0.5:
        return ""
    return "the classifier trained on real patients is not better than chance, so no gap can be measured"


def _power(gap: ScoreEstimate) -> Power | None:
    if not np.isfinite(gap.standard_error):
        return None
    smallest = detectable_difference(gap.standard_error)
    text = f"a gap of {smallest:.3f} would be detected in 80 % of trials"
    return Power(smallest_leak=smallest, description=text)
