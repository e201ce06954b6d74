"""Does a synthetic image match a training patient, for an encoder trained to tell patients apart?

Threat: synthetic set only. A synthetic image can reveal who was in train without being a copy, just as two
chest radiographs of one patient taken years apart can be matched (Packhäuser et al., Scientific Reports 12,
2022). So an encoder is trained on the cohort's own patients (`privsyn.features.encoder`) and the test of
`privsyn.auditing.attacks.exposure` is run in its embedding.

Cross-fitted: the patients are split at random into two halves, independently of train and holdout. Each
encoder is trained on one half and embeds the other, so no patient is embedded by an encoder that was trained
on it, and train and holdout are treated alike by construction. Two spaces are judged together: the encoder's
own, centred on `test` patients, tells patients apart best; whitened on them it recognises a changed image
best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace, Index
from privsyn.auditing.attacks.exposure import ExposureTest
from privsyn.auditing.attacks.patient_verification import PatientVerification, verify, with_two_images
from privsyn.auditing.attacks.planted_leaks import STRONG
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.population import MembershipPopulation
from privsyn.bit_depth import Images
from privsyn.features.embed import FeatureRows, Whitening
from privsyn.features.encoder import EncoderTraining, train_encoder

NAME = "reidentification"
AUDIT = AuditId(NAME, "2", "synthetic-only")
REIDENTIFIED, AUC = "reidentified-patients", "verification-auc"
CONFIDENCE = 0.95  # of the verification AUC, which measures the attack and is not a leak
ENOUGH_AUC = 0.6  # for its lower bound; chance is .5 (choice)
MIN_PATIENTS_WITH_TWO_IMAGES = 20  # in test and in each half; the AUC's standard error is then below .06
CHANGED = 200  # test images, strongly changed for a control
WHITENED_COMPONENTS = 64  # of the whitened space
TRAINING = EncoderTraining()


@dataclass(frozen=True, eq=False)
class CrossFittedEncoders:
    """The cross-fitted encoders of one cohort.

    Attributes:
        identity, whitened: the population in two indexes, each embedded by the encoder trained on the other
            half.
    """

    identity: EmbeddingSpace
    whitened: EmbeddingSpace


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """How many training patients are re-identified because they were trained on, and the attack's quality."""
    missing = why_not(evidence)
    if missing:
        n = evidence.sizes()
        return [Finding.inconclusive(AUDIT, name, missing, n=n) for name in (REIDENTIFIED, AUC)]
    return judge(evidence, settings, fit(evidence, settings))


def why_not(evidence: Evidence) -> str:
    """Why no encoder can be trained and validated on this cohort, or ""."""
    there = sum(with_two_images(_numbers(part.patients)) for part in (evidence.train, evidence.holdout))
    tested = with_two_images(_numbers(evidence.test.patients))
    if there >= 2 * MIN_PATIENTS_WITH_TWO_IMAGES and tested >= MIN_PATIENTS_WITH_TWO_IMAGES:
        return ""
    if there + tested == 0:
        return "no patient has two images, so no encoder can learn to recognise patients"
    return (
        f"{there} patients of train and holdout and {tested} of test have two images; "
        f"at least {2 * MIN_PATIENTS_WITH_TWO_IMAGES} and {MIN_PATIENTS_WITH_TWO_IMAGES} are needed to train "
        "and to validate an encoder"
    )


def halves(population: MembershipPopulation, generator: np.random.Generator) -> NDArray[np.bool_]:
    """(clusters,) a random half of every stratum, independent of who is in train."""
    first = np.zeros(len(population.strata), np.bool_)
    for stratum in np.unique(population.strata):
        clusters = generator.permutation(np.flatnonzero(population.strata == stratum))
        first[clusters[: len(clusters) // 2]] = True
    return first


def fit(evidence: Evidence, settings: Settings, training: EncoderTraining = TRAINING) -> CrossFittedEncoders:
    """Train both encoders and index the population."""
    generator = evidence.generator(NAME, settings)
    population = evidence.population
    first = halves(population, generator)[population.cluster]
    pairs = [_indexes(evidence, ~half, half, generator, training) for half in (first, ~first)]
    identity, whitened = zip(*pairs, strict=True)
    return CrossFittedEncoders(
        EmbeddingSpace("encoder", identity), EmbeddingSpace("encoder, whitened", whitened)
    )


def judge(evidence: Evidence, settings: Settings, fitted: CrossFittedEncoders) -> list[Finding]:
    """Both findings, from encoders that were trained before; they do not depend on the synthetic set."""
    generator = evidence.generator(f"{NAME}, judged", settings)
    verified = _verify(evidence, fitted.identity, generator)
    test = ExposureTest(evidence, [fitted.identity, fitted.whitened], generator, leak=STRONG)
    scope = {"representation": " + ".join(space.name for space in test.spaces)}
    exposed = test.finding(AUDIT, REIDENTIFIED, settings, scope=scope)
    return [exposed.doubted(verified.reason), verified]


def _indexes(
    evidence: Evidence,
    trains: NDArray[np.bool_],
    lies_here: NDArray[np.bool_],
    generator: np.random.Generator,
    training: EncoderTraining,
) -> tuple[Index, Index]:
    """The images of one half as the encoder trained on the other sees them: as it is, and whitened."""
    population = evidence.population
    encoder = train_encoder(
        population.images[trains], population.cluster[trains], generator, training, evidence.progress
    )
    reference = encoder(evidence.test.images)
    whitening, centre = Whitening.fit(reference, WHITENED_COMPONENTS), reference.mean(axis=0)

    def centred(images: Images) -> FeatureRows:
        rows = encoder(images) - centre
        directions: FeatureRows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return directions

    def whitened(images: Images) -> FeatureRows:
        return whitening(encoder(images))

    here = np.flatnonzero(lies_here)
    images, clusters = population.images[here], population.cluster[here]
    return Index(here, clusters, centred(images), centred), Index(here, clusters, whitened(images), whitened)


def _verify(evidence: Evidence, space: EmbeddingSpace, generator: np.random.Generator) -> Finding:
    """How well the encoders tell `test` patients apart; neither was trained on them."""
    test = evidence.test
    images, labels, patients = test.images, test.labels, _numbers(test.patients)
    rows = [index.embed(images) for index in space.indexes]
    verification = verify(rows, patients, labels)
    interval = verification.interval(CONFIDENCE)
    shuffled = patients.copy()
    for label in np.unique(labels):
        shuffled[labels == label] = generator.permutation(patients[labels == label])
    controls = Controls(
        positive=_recognises_changed(evidence, space, rows, generator),
        negative=_clean(verify(rows, shuffled, labels)),
    )
    return Finding.measured(
        AUDIT,
        AUC,
        value=verification.value,
        interval=interval,
        confidence=CONFIDENCE,
        n=evidence.sizes() | {"verified_patients": len(verification.wins)},
        baseline=0.5,
        controls=controls,
        power=_power(verification),
        doubt=_why_weak(interval, controls),
    )


def _recognises_changed(
    evidence: Evidence, space: EmbeddingSpace, rows: Sequence[FeatureRows], generator: np.random.Generator
) -> Control:
    """An image and its strongly changed self must be closer than two images of different patients."""
    some = generator.permutation(len(evidence.test.images))[:CHANGED]
    changed = STRONG.plant(evidence.test.images[some])
    both = [
        np.concatenate([row[some], index.embed(changed)])
        for row, index in zip(rows, space.indexes, strict=True)
    ]
    labels = np.tile(evidence.test.labels[some], 2)
    verification = verify(both, np.tile(np.arange(len(some)), 2), labels)
    passed = verification.interval(0.998)[0] > ENOUGH_AUC
    what = f"{len(some)} strongly changed test images find themselves (AUC {verification.value:.3f})"
    return Control(passed=passed, description=what)


def _clean(verification: PatientVerification) -> Control:
    low, high = verification.interval(0.998)
    what = f"patients' images shuffled among them (AUC {verification.value:.3f})"
    return Control(passed=low <= 0.5 <= high, description=what)


def _why_weak(interval: tuple[float, float], controls: Controls) -> str:
    if interval[0] <= ENOUGH_AUC:
        return (
            f"the encoder is not shown to re-identify patients: the lower bound of its verification AUC, "
            f"{interval[0]:.3f}, is not above {ENOUGH_AUC:g}"
        )
    for control in (controls.positive, controls.negative):
        if control is not None and not control.passed:
            return f"a control of the encoder failed: {control.description}"
    return ""


def _power(verification: PatientVerification) -> Power:
    low, _ = verification.interval(CONFIDENCE)
    smallest = min(1.0, ENOUGH_AUC + verification.value - low)
    return Power(
        smallest_leak=smallest,
        description=f"at this precision an AUC of {smallest:.2f} is needed to show more than {ENOUGH_AUC:g}",
    )


def _numbers(patients: NDArray[np.str_]) -> NDArray[np.int64]:
    """(n,) number of each image's patient, in the order of first appearance."""
    numbers: NDArray[np.int64] = pd.factorize(patients)[0].astype(np.int64)
    return numbers
