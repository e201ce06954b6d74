"""Does a synthetic image show the label that it was generated for?

Classifiers trained on `train` patients classify the synthetic images. The statistic is the share of images
whose predicted class is their label, beside the same share of `test` patients. A generator that follows its
labels has a share that is hardly lower; a much higher share means that the images exaggerate their class.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.classifier_scores import TRTR, TRTS, ClassifierScores, ScoreEstimate
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.measures import CONFIDENCE, QualityFindings, detectable_difference
from privsyn.auditing.statistics.resampling import FOUR_OF_FIVE, SEEN_AT_001, numbered, random_half
from privsyn.auditing.statistics.scores import Score, balanced_accuracy, class_recall

NAME, VERSION = "conditioning", "2"
STATISTIC = "label_agreement"
ONE_CLASS = "there is only one class, so there are no labels to follow"

Floats = NDArray[np.float64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Agreement with the labels, overall and per class."""
    if len(evidence.cohort.classes) < 2:
        findings = QualityFindings(NAME, VERSION, {"classifier": "any"})
        return [findings.not_measured(STATISTIC, ONE_CLASS, applicable=False)]
    scores = ClassifierScores(evidence, settings)
    return [finding for name in CLASSIFIERS for finding in _findings(scores, name, settings)]


def _findings(scores: ClassifierScores, classifier: str, settings: Settings) -> list[Finding]:
    evidence = scores.evidence
    controls = _controls(scores, classifier, settings)
    labels = np.unique(evidence.synthetic.labels[scores.synthetic_rows]).tolist()
    scopes: list[tuple[dict[str, str], Score, int | None]] = [({}, balanced_accuracy, None)]
    scopes += [({"class": evidence.cohort.classes[label]}, class_recall(label), label) for label in labels]
    return [
        _finding(
            QualityFindings(NAME, VERSION, {"classifier": classifier, **scope}, evidence.sizes()),
            scores.estimate(classifier, TRTS, score, label=label),
            scores.estimate(classifier, TRTR, score, label=label),
            controls,
        )
        for scope, score, label in scopes
    ]


def _finding(
    findings: QualityFindings, synthetic: ScoreEstimate, real: ScoreEstimate, controls: Controls
) -> Finding:
    real_interval = real.interval(CONFIDENCE, 0, 1)
    return findings.estimated(
        STATISTIC,
        synthetic,
        baseline=real.value,
        controls=controls,
        power=_power(synthetic),
        reason=controls.fault(""),
        details={"real_interval": None if real_interval is None else list(real_interval)},
    )


def _power(estimate: ScoreEstimate) -> Power | None:
    if not np.isfinite(estimate.standard_error):
        return None
    smallest = detectable_difference(estimate.standard_error)
    return Power(
        smallest_leak=smallest,
        description=f"{smallest:.1%} more wrong labels would be detected in 80 % of trials",
    )


def _controls(scores: ClassifierScores, classifier: str, settings: Settings) -> Controls:
    """Wrong labels of `test` patients must be detected; two halves of these patients must agree equally."""
    generator = scores.evidence.generator(f"{NAME}, {classifier}", settings)
    shares = _correct_shares(scores, classifier)
    half = random_half(np.arange(len(shares)), generator)
    one, other = shares[half], np.delete(shares, half)
    count = _wrong_patients(one, other)
    wrong = one.copy()
    wrong[generator.permutation(len(one))[:count]] = 0
    p_wrong = float(stats.norm.sf(_z_score(other, wrong)))
    p_halves = float(2 * stats.norm.sf(abs(_z_score(one, other))))
    level = settings.control_level
    return Controls(
        positive=Control(
            passed=p_wrong <= level,
            description=f"wrong labels for {count} of {len(one)} test patients",
            p_value=p_wrong,
        ),
        negative=Control(
            passed=p_halves > level, description="two halves of the test patients", p_value=p_halves
        ),
    )


def _correct_shares(scores: ClassifierScores, classifier: str) -> Floats:
    """(patients,) share of correctly classified images of each `test` patient, in order of first image."""
    test = scores.evidence.test
    correct = scores.probabilities(classifier, TRTR)[0].argmax(axis=1) == test.labels
    patient = numbered(test.patients)
    shares: Floats = np.bincount(patient, weights=correct) / np.bincount(patient)
    return shares


def _wrong_patients(one: Floats, other: Floats) -> int:
    """Number of patients that get wrong labels: twice what is detected at .001 in 80 % of trials, or all."""
    for count in range(1, len(one) + 1):
        left = 1 - count / len(one)
        variance = left * float((one**2).mean()) - (left * float(one.mean())) ** 2
        error = _standard_error(variance / len(one), other)
        if (other.mean() - left * one.mean()) / error >= SEEN_AT_001 + FOUR_OF_FIVE:
            return min(len(one), 2 * count)
    return len(one)


def _z_score(first: Floats, second: Floats) -> float:
    """Difference of means in standard errors."""
    return float((first.mean() - second.mean()) / _standard_error(float(first.var()) / len(first), second))


def _standard_error(first_variance: float, second: Floats) -> float:
    """Of a difference of means; `first_variance` is of the first mean. Positive, to be divided by."""
    return float(np.sqrt(first_variance + second.var() / len(second))) or 1 / len(second)
