"""Does who learnt from synthetic images read real ones as well as who learnt from real ones?

Train on synthetic, test on real (TSTR; Esteban et al. 2017, https://arxiv.org/abs/1706.02633), beside train
on real (TRTR), on both (mixed), and on synthetic with a few real patients; three classifiers, three seeds,
judged on `test` patients, by whom nothing was chosen. The gap is TRTR minus TSTR in AUC, overall, per class
and per subgroup, so that who loses is visible. A policy judges its upper bound: with a limit m, a pass is a
test of non-inferiority with margin m; with a second rule on the lower bound, of equivalence.

Intervals hold for the sets that were trained on: over the patients in `test` and the seeds, not over who was
in `train` or which images were drawn.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality import classifier_scores
from privsyn.auditing.quality.classifier_scores import ARMS, REAL, SYNTHETIC, Estimate, Readings
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.measures import CONFIDENCE, quality_finding, seen_in_four_of_five
from privsyn.auditing.statistics.scores import SCORES, Score, class_auc, macro_auc

NAME, VERSION = "utility", "2"
NATURAL = 0.05  # by which one half of the training patients may seem to teach less than the other

Scopes = list[tuple[dict[str, str], Score, NDArray[np.int64] | None, int | None]]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Scores of every way of training, and the gap, for each classifier."""
    known = Readings(evidence, settings)
    return [finding for name in CLASSIFIERS for finding in _Judged(known, name, settings).findings()]


class _Judged:
    """One classifier, trained in all ways."""

    def __init__(self, known: Readings, classifier: str, settings: Settings) -> None:
        self.known, self.classifier, self.settings = known, classifier, settings
        self.evidence = known.evidence
        self.controls = Controls(positive=self._shuffled(), negative=self._halves())

    def findings(self) -> Iterator[Finding]:
        fault = self.controls.fault("")
        every = {(arm, name): self._estimate(arm, score) for arm in ARMS for name, score in SCORES.items()}
        for (arm, name), found in every.items():
            yield self._finding(f"{arm}_{name}", {}, found, fault, every[REAL, name].value)
        overall: Scopes = [({}, macro_auc, None, None)]
        for scope, score, rows, label in [*overall, *self._classes(), *self._subgroups()]:
            real, synthetic = (self._estimate(arm, score, rows, label) for arm in (REAL, SYNTHETIC))
            if scope:
                for arm, found in ((REAL, real), (SYNTHETIC, synthetic)):
                    yield self._finding(f"{arm}_auc", scope, found, fault, real.value)
            yield self._finding("utility_gap", scope, real - synthetic, fault or _nothing_to_lose(real), 0.0)

    def _finding(
        self, statistic: str, scope: dict[str, str], found: Estimate, reason: str, baseline: float
    ) -> Finding:
        gap = statistic == "utility_gap"
        interval = found.interval(CONFIDENCE, -1 if gap else 0, 1)
        if interval is None:
            reason = (
                f"too few images in test: fewer than {classifier_scores.JUDGED}, or none in some resamplings"
            )
        return quality_finding(
            audit=NAME,
            version=VERSION,
            statistic=statistic,
            scope={"classifier": self.classifier, **scope},
            value=found.value if np.isfinite(found.value) else None,
            interval=interval,
            baseline=baseline if np.isfinite(baseline) else None,
            n=self.evidence.sizes(),
            controls=self.controls,
            power=_power(found) if gap else None,
            conclusive=not reason,
            reason=reason,
            details={
                "seeds": [float(each) for each in found.seeds],
                "trained_on_at_most": classifier_scores.MOST,
                "few": f"5 % of the training patients, at least {classifier_scores.FEWEST}",
            },
        )

    def _estimate(
        self, arm: str, score: Score, rows: NDArray[np.int64] | None = None, label: int | None = None
    ) -> Estimate:
        return self.known.estimate(self.classifier, arm, score, rows, label)

    def _classes(self) -> Scopes:
        names = self.evidence.cohort.classes
        there = np.unique(self.evidence.test.labels).tolist()
        if len(names) == 2:  # the AUC of either is that of both
            return []
        return [({"class": names[label]}, class_auc(label), None, label) for label in there]

    def _subgroups(self) -> Scopes:
        groups = self.evidence.test.subgroups
        if groups is None:
            return []
        return [
            ({"subgroup": name or "unknown"}, macro_auc, np.flatnonzero(groups == name), None)
            for name in np.unique(groups).tolist()
        ]

    def _shuffled(self) -> Control:
        """Synthetic images with shuffled labels teach nothing, and must be seen to."""
        gap = self._estimate(REAL, macro_auc) - self._estimate(classifier_scores.SHUFFLED, macro_auc)
        p_value = float(stats.norm.sf(gap.value / max(gap.error, 1e-12)))
        what = f"labels of the synthetic set shuffled: a gap of {gap.value:.3f}"
        return Control(passed=p_value <= self.settings.control_level, description=what, p_value=p_value)

    def _halves(self) -> Control:
        """One half of the training patients in place of the synthetic set, the other in place of the real."""
        gap = self._estimate(classifier_scores.ONE_HALF, macro_auc) - self._estimate(
            classifier_scores.OTHER_HALF, macro_auc
        )
        z = (abs(gap.value) - NATURAL) / max(gap.error, 1e-12)
        p_value = float(min(1.0, 2 * stats.norm.sf(z)))
        what = f"halves of the training patients: a gap of {gap.value:.3f}, which may be {NATURAL} either way"
        return Control(passed=p_value > self.settings.control_level, description=what, p_value=p_value)


def _nothing_to_lose(real: Estimate) -> str:
    interval = real.interval(CONFIDENCE, 0, 1)
    if interval is None or interval[0] > 0.5:
        return ""
    return "what learnt from real patients does no better than chance, so there is nothing to lose"


def _power(found: Estimate) -> Power | None:
    if not np.isfinite(found.error):
        return None
    smallest = seen_in_four_of_five(found.error)
    text = f"a gap of {smallest:.3f} would have an interval above 0 in 80 % of trials"
    return Power(smallest_leak=smallest, description=text)
