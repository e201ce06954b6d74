"""Does a synthetic image show the label that was asked for?

Classifiers that learnt from `train` patients read the synthetic images; what counts is how often they say the
label that the image came with, beside how often they do so for `test` patients. No generator that follows its
labels does much worse than that; one that shows its labels more clearly than patients do is overdrawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.classifier_scores import READ, REAL, Estimate, Readings
from privsyn.auditing.quality.classifiers import CLASSIFIERS
from privsyn.auditing.quality.measures import CONFIDENCE, quality_finding, seen_in_four_of_five
from privsyn.auditing.statistics.resampling import FOUR_OF_FIVE, SEEN_AT_001, numbered, random_half
from privsyn.auditing.statistics.scores import Score, balanced_accuracy, class_recall

NAME, VERSION = "conditioning", "2"

Floats = NDArray[np.float64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Agreement with the labels asked for, overall and per class."""
    if len(evidence.cohort.classes) < 2:
        why = "there is one class, so no label can be asked for"
        scope = {"classifier": "any"}
        return [
            quality_finding(
                audit=NAME,
                version=VERSION,
                statistic="label_agreement",
                scope=scope,
                applicable=False,
                reason=why,
            )
        ]
    readings = Readings(evidence, settings)
    return [finding for name in CLASSIFIERS for finding in _findings(readings, name, settings)]


def _findings(readings: Readings, classifier: str, settings: Settings) -> list[Finding]:
    evidence = readings.evidence
    controls = _controls(readings, classifier, settings)
    asked = np.unique(evidence.synthetic.labels[readings.read_rows]).tolist()
    scopes: list[tuple[dict[str, str], Score, int | None]] = [({}, balanced_accuracy, None)]
    scopes += [({"class": evidence.cohort.classes[label]}, class_recall(label), label) for label in asked]
    return [
        _finding(
            {"classifier": classifier, **scope},
            readings.estimate(classifier, READ, score, label=label),
            readings.estimate(classifier, REAL, score, label=label),
            controls,
            evidence,
        )
        for scope, score, label in scopes
    ]


def _finding(
    scope: dict[str, str], found: Estimate, real: Estimate, controls: Controls, evidence: Evidence
) -> Finding:
    reason = controls.fault("")
    interval = found.interval(CONFIDENCE, 0, 1)
    if interval is None:
        reason = "too few synthetic images to judge"
    beside = real.interval(CONFIDENCE, 0, 1)
    return quality_finding(
        audit=NAME,
        version=VERSION,
        statistic="label_agreement",
        scope=scope,
        value=found.value if np.isfinite(found.value) else None,
        interval=interval,
        baseline=real.value if np.isfinite(real.value) else None,
        n=evidence.sizes(),
        controls=controls,
        power=_power(found),
        conclusive=not reason,
        reason=reason,
        details={"real_interval": None if beside is None else list(beside)},
    )


def _power(found: Estimate) -> Power | None:
    if not np.isfinite(found.error):
        return None
    smallest = seen_in_four_of_five(found.error)
    return Power(
        smallest_leak=smallest,
        description=f"{smallest:.1%} more of wrong labels would show in 80 % of trials",
    )


def _controls(readings: Readings, classifier: str, settings: Settings) -> Controls:
    """Labels of `test` patients wronged must be seen; two halves of them must agree with theirs alike."""
    generator = readings.evidence.generator(f"{NAME}, {classifier}", settings)
    shares = _shares_right(readings, classifier)
    half = random_half(np.arange(len(shares)), generator)
    one, other = shares[half], np.delete(shares, half)
    wronged = _twice_what_is_seen(one, other)
    spoilt = one.copy()
    spoilt[generator.permutation(len(one))[:wronged]] = 0
    p_seen = float(stats.norm.sf(_apart(other, spoilt)))
    p_alike = float(2 * stats.norm.sf(abs(_apart(one, other))))
    level = settings.control_level
    what = f"labels of {wronged} of {len(one)} test patients wronged"
    alike = "two halves of the test patients"
    return Controls(
        positive=Control(passed=p_seen <= level, description=what, p_value=p_seen),
        negative=Control(passed=p_alike > level, description=alike, p_value=p_alike),
    )


def _shares_right(readings: Readings, classifier: str) -> Floats:
    """(patients,) share of the images of each that are read rightly, in the order of the images."""
    test = readings.evidence.test
    right = readings.probabilities(classifier, REAL)[0].argmax(axis=1) == test.labels
    patient = numbered(test.patients)
    shares: Floats = np.bincount(patient, weights=right) / np.bincount(patient)
    return shares


def _twice_what_is_seen(one: Floats, other: Floats) -> int:
    """Patients to wrong: twice as many as are seen at .001 in 80 % of trials, or all."""
    for count in range(1, len(one) + 1):
        left = 1 - count / len(one)
        spread = left * float((one**2).mean()) - (left * float(one.mean())) ** 2
        error = _error(spread / len(one), other)
        if (other.mean() - left * one.mean()) / error >= SEEN_AT_001 + FOUR_OF_FIVE:
            return min(len(one), 2 * count)
    return len(one)


def _apart(first: Floats, second: Floats) -> float:
    """Difference of means in standard errors."""
    return float((first.mean() - second.mean()) / _error(float(first.var()) / len(first), second))


def _error(squared: float, second: Floats) -> float:
    return float(np.sqrt(squared + second.var() / len(second))) or 1 / len(second)
