"""Does a synthetic image match a training patient, to an encoder that learned to tell these patients apart?

Threat: synthetic set only. A synthetic image can give away who was in train without being a copy, as chest
radiographs taken years apart still do (Packhäuser et al., Scientific Reports 12, 2022). So an encoder is
trained on the cohort's own patients (`privsyn.features.encoder`) and the test of
`privsyn.auditing.attacks.exposure` is asked in its space.

Cross-fitted: the patients are dealt into two halves without a look at who is in train, each encoder is
trained on one half and embeds the other, so that no patient is embedded by an encoder that knows it, and
train and holdout are treated alike by construction. Two spaces are judged together: the encoder's own,
centred on `test` patients, tells patients apart best; whitened on them it recognises a changed image best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privsyn.auditing.attacks.exposure import ExposureTest, Shelf, Space
from privsyn.auditing.attacks.planted_leaks import STRONG
from privsyn.auditing.attacks.verification import Verification, verify, with_two_images
from privsyn.auditing.evidence import Evidence, Population
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.bit_depth import Images
from privsyn.features.embed import Floats, Whitening
from privsyn.features.encoder import EncoderTraining, train_encoder

NAME, VERSION = "reidentification", "2"
CONFIDENCE = 0.95  # of the verification AUC, which says how good the attack is and accuses nobody
ENOUGH_AUC = 0.6  # lower bound; chance is .5. Choice: below it three of five comparisons are not even won
FEWEST = 20  # patients with two images in test and in each half; the AUC's standard error is then below .06
CHANGED = 200  # test images that are changed strongly for a control
COMPONENTS = 64  # of the whitened space


@dataclass(frozen=True, eq=False)
class Fitted:
    """The cross-fitted encoders of one cohort.

    Attributes:
        identity, whitened: the population on two shelves, each embedded by the encoder trained on the other.
    """

    identity: Space
    whitened: Space


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """How many training patients are re-identified because they were trained on, and can the attack do it."""
    missing = why_not(evidence)
    if missing:
        n = evidence.sizes()
        return [_finding(name, n=n, conclusive=False, reason=missing) for name in (REIDENTIFIED, AUC)]
    return judge(evidence, settings, fit(evidence, settings))


def why_not(evidence: Evidence) -> str:
    """Why no encoder can be trained and validated on this cohort, or ""."""
    there = sum(with_two_images(_numbers(part.patients)) for part in (evidence.train, evidence.holdout))
    tested = with_two_images(_numbers(evidence.test.patients))
    if there >= 2 * FEWEST and tested >= FEWEST:
        return ""
    if there + tested == 0:
        return "no patient has two images, so nothing shows what makes two images one patient's"
    return (
        f"{there} patients of train and holdout and {tested} of test have two images; "
        f"at least {2 * FEWEST} and {FEWEST} are needed to learn to tell patients apart and to show it"
    )


def halves(population: Population, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(units,) one half of every stratum, drawn without a look at who is in train."""
    first = np.zeros(len(population.strata), np.bool_)
    for stratum in np.unique(population.strata):
        units = generator.permutation(np.flatnonzero(population.strata == stratum))
        first[units[: len(units) // 2]] = True
    return first


def fit(evidence: Evidence, settings: Settings, training: EncoderTraining = EncoderTraining()) -> Fitted:  # noqa: B008
    """Train both encoders and lay out the population."""
    generator = evidence.generator(NAME, settings)
    population = evidence.population
    first = halves(population, generator)[population.unit]
    pairs = [_shelves(evidence, ~half, half, generator, training) for half in (first, ~first)]
    identity, whitened = zip(*pairs, strict=True)
    return Fitted(Space("encoder", identity), Space("encoder, whitened", whitened))


def judge(evidence: Evidence, settings: Settings, fitted: Fitted) -> list[Finding]:
    """Both findings, from encoders that were trained before; they do not depend on the synthetic set."""
    generator = evidence.generator(f"{NAME}, judged", settings)
    verified = _verify(evidence, fitted.identity, generator)
    weak = verified.reason
    judged = ExposureTest(evidence, [fitted.identity, fitted.whitened], generator, leak=STRONG)
    measured = judged.measured(settings)
    if weak:
        measured |= {"conclusive": False, "reason": weak}
    scope = {"representation": " + ".join(space.name for space in judged.spaces)}
    exposed = _finding(REIDENTIFIED, scope=scope, **measured)
    return [exposed, verified]


REIDENTIFIED, AUC = "reidentified-patients", "verification-auc"


def _finding(statistic: str, **known: object) -> Finding:
    named = {"audit": NAME, "version": VERSION, "threat": "synthetic-only", "statistic": statistic}
    return Finding.model_validate(named | known)


def _shelves(
    evidence: Evidence,
    trains: NDArray[np.bool_],
    lies_here: NDArray[np.bool_],
    generator: np.random.Generator,
    training: EncoderTraining,
) -> tuple[Shelf, Shelf]:
    """The images of one half as the encoder trained on the other sees them: as it is, and whitened."""
    population = evidence.population
    encoder = train_encoder(
        population.images[trains], population.unit[trains], generator, training, evidence.progress
    )
    reference = encoder(evidence.test.images)
    whitening, centre = Whitening.fit(reference, COMPONENTS), reference.mean(axis=0)

    def centred(images: Images) -> Floats:
        rows = encoder(images) - centre
        unit: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return unit

    def whitened(images: Images) -> Floats:
        return whitening(encoder(images))

    here = np.flatnonzero(lies_here)
    images, units = population.images[here], population.unit[here]
    return Shelf(here, units, centred(images), centred), Shelf(here, units, whitened(images), whitened)


def _verify(evidence: Evidence, space: Space, generator: np.random.Generator) -> Finding:
    """The attack's own quality, on `test` patients, whom neither encoder was trained on."""
    test = evidence.test
    images, labels, patients = test.images, test.labels, _numbers(test.patients)
    rows = [shelf.embed(images) for shelf in space.shelves]
    verification = verify(rows, patients, labels)
    interval = verification.interval(CONFIDENCE)
    shuffled = patients.copy()
    for label in np.unique(labels):
        shuffled[labels == label] = generator.permutation(patients[labels == label])
    controls = Controls(
        positive=_recognises_changed(evidence, space, rows, generator),
        negative=_clean(verify(rows, shuffled, labels)),
    )
    reason = _why_weak(interval, controls)
    return _finding(
        AUC,
        value=verification.value,
        interval=interval,
        confidence=CONFIDENCE,
        n=evidence.sizes() | {"verified_patients": len(verification.wins)},
        baseline=0.5,
        controls=controls,
        power=_power(verification),
        conclusive=not reason,
        reason=reason,
    )


def _recognises_changed(
    evidence: Evidence, space: Space, rows: Sequence[Floats], generator: np.random.Generator
) -> Control:
    """An image and its strongly changed self must be closer than two images of different patients."""
    some = generator.permutation(len(evidence.test.images))[:CHANGED]
    changed = STRONG.plant(evidence.test.images[some])
    both = [
        np.concatenate([row[some], shelf.embed(changed)])
        for row, shelf in zip(rows, space.shelves, strict=True)
    ]
    labels = np.tile(evidence.test.labels[some], 2)
    verification = verify(both, np.tile(np.arange(len(some)), 2), labels)
    passed = verification.interval(0.998)[0] > ENOUGH_AUC
    what = f"{len(some)} strongly changed test images find themselves (AUC {verification.value:.3f})"
    return Control(passed=passed, description=what)


def _clean(verification: Verification) -> Control:
    low, high = verification.interval(0.998)
    what = f"patients' images shuffled among them (AUC {verification.value:.3f})"
    return Control(passed=low <= 0.5 <= high, description=what)


def _why_weak(interval: tuple[float, float], controls: Controls) -> str:
    if interval[0] <= ENOUGH_AUC:
        return (
            f"the encoder may not re-identify real patients: the lower bound of its verification AUC, "
            f"{interval[0]:.3f}, is not above {ENOUGH_AUC:g}"
        )
    for control in (controls.positive, controls.negative):
        if control is not None and not control.passed:
            return f"a control of the encoder failed: {control.description}"
    return ""


def _power(verification: Verification) -> Power:
    low, _ = verification.interval(CONFIDENCE)
    smallest = min(1.0, ENOUGH_AUC + verification.value - low)
    return Power(
        smallest_leak=smallest,
        description=f"at this precision an AUC of {smallest:.2f} is what shows more than {ENOUGH_AUC:g}",
    )


def _numbers(patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """(n,) number of each image's patient, in the order of first appearance."""
    numbers: NDArray[np.int64] = pd.factorize(patients)[0].astype(np.int64)
    return numbers
