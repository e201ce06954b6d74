"""The re-identification audit: training patients at another visit are recognised, held-out ones are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from privsyn_audits.reidentification import CrossFittedEncoders, fit, halves, judge, run
from real_cohorts import blends, make_cohort
from scipy import ndimage

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace
from privsyn.auditing.attacks.exposure import ExposureTest
from privsyn.auditing.attacks.planted_leaks import STRONG
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.cohort.cohort import Cohort, Part
from privsyn.features.encoder import EncoderTraining
from privsyn.synthetic.dataset import SyntheticSet

SHORT = EncoderTraining(steps=80)  # a quarter of what the audit trains: enough for these patients
COUNT = 300


def visit(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A patient on another day: turned, nearer to the detector, exposed otherwise, noisy."""
    scale, angle = generator.uniform(0.8, 1), np.deg2rad(generator.uniform(-10, 10))
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (len(image) - 1) / 2)
    offset = centre + generator.uniform(-1.5, 1.5, 2) - matrix @ centre
    moved = ndimage.affine_transform(image.astype(float), matrix, offset, order=1, mode="reflect")
    graded = (moved - 127.5) * generator.uniform(0.75, 1.25) + 127.5 + generator.uniform(-20, 20)
    return np.clip(graded + generator.normal(0, 6, graded.shape), 0, 255).round().astype(np.uint8)


class Visits:
    """600 real radiographs as patients with two visits each in the cohort, and a third that is in no file."""

    def __init__(self, folder: Path, source: Path) -> None:
        generator = np.random.default_rng(0)
        with np.load(source) as file:
            rows = generator.permutation(len(file["train_images"]))[:600]
            images, labels = file["train_images"][rows], file["train_labels"].ravel()[rows]
        seen = [np.stack([visit(image, generator) for image in images]) for _ in range(3)]
        self.third = seen[2][..., None]
        self.owner = {image.tobytes(): k for two in seen[:2] for k, image in enumerate(two)}
        path = folder / "visits.npz"
        known = {"labels": np.tile(labels, 2), "groups": np.tile(np.arange(600), 2)}
        np.savez(path, images=np.concatenate(seen[:2]), **known)
        split = "data.split=[0.45, 0.35, 0.2]"
        self.cohort = make_cohort(folder / "study", "chest-xray-28", path, folder / "home", split)

    def of(self, part: Part, count: int) -> np.ndarray:
        """The third visit of some patients of a part."""
        who = np.unique([self.owner[image.tobytes()] for image in part.images])
        return self.third[np.random.default_rng(1).permutation(who)[:count]]


@pytest.fixture(scope="module")
def visits(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Visits:
    return Visits(tmp_path_factory.mktemp("visits"), shared_data / "pneumoniamnist.npz")


def about(cohort: Cohort, images: np.ndarray) -> SyntheticSet:
    return SyntheticSet(images, np.zeros(len(images), np.int64), cohort.classes, None, "0" * 64)


@pytest.fixture(scope="module")
def evidence(visits: Visits) -> Evidence:
    return Evidence(visits.cohort, about(visits.cohort, visits.cohort.part("test").images))


@pytest.fixture(scope="module")
def fitted(evidence: Evidence) -> CrossFittedEncoders:
    """Trained once: the encoders do not depend on the synthetic set."""
    return fit(evidence, Settings(), SHORT)


def findings(evidence: Evidence, fitted: CrossFittedEncoders, images: np.ndarray) -> tuple[Finding, Finding]:
    exposed, verified = judge(evidence.about(about(evidence.cohort, images)), Settings(), fitted)
    return exposed, verified


def with_some(evidence: Evidence, images: np.ndarray, seed: int = 2) -> np.ndarray:
    """Honest blends of test images, the first of which give way to others."""
    honest, _ = blends(evidence.test, COUNT, np.random.default_rng(seed))
    honest[: len(images)] = images
    return honest


def test_training_patients_are_recognised_at_another_visit(
    visits: Visits, evidence: Evidence, fitted: CrossFittedEncoders
) -> None:
    """60 training patients at a visit that no file holds are found; 60 held-out patients raise no alarm."""
    exposed, _ = findings(evidence, fitted, with_some(evidence, visits.of(evidence.train, 60)))
    assert exposed.interval is not None
    assert exposed.interval[0] > 0
    others, _ = findings(evidence, fitted, with_some(evidence, visits.of(evidence.holdout, 60)))
    assert others.interval is not None
    assert others.interval[0] == 0


def test_an_honest_set_is_clean(evidence: Evidence, fitted: CrossFittedEncoders) -> None:
    """Blends of test patients match no training patient, and the encoder can distinguish test patients."""
    exposed, verified = findings(evidence, fitted, with_some(evidence, evidence.test.images[:0]))
    assert exposed.interval is not None
    assert exposed.interval[0] == 0
    assert verified.conclusive, verified.reason
    assert verified.interval is not None
    assert verified.interval[0] > 0.9
    assert verified.n["verified_patients"] == len(np.unique(evidence.test.patients))


def test_strongly_changed_images_are_found_more_surely_than_by_pixels(
    evidence: Evidence, fitted: CrossFittedEncoders
) -> None:
    """60 strongly changed training images: found, with a smaller p-value than the nearest pixels give."""
    rows = np.random.default_rng(3).permutation(len(evidence.train.images))[:60]
    images = with_some(evidence, STRONG.plant(evidence.train.images[rows]))
    exposed, _ = findings(evidence, fitted, images)
    assert exposed.interval is not None
    assert exposed.interval[0] > 0
    of_them = evidence.about(about(evidence.cohort, images))
    pixels = ExposureTest(of_them, [EmbeddingSpace.of("pixels", of_them)], np.random.default_rng(0))
    p_value = exposed.details["p_value"]
    assert isinstance(p_value, float)
    assert p_value < pixels.test.p_value(pixels.found)


def test_the_halves_do_not_know_who_is_in_train(evidence: Evidence) -> None:
    """With everybody's membership turned over the halves are the same, and each stratum is cut in two."""
    population = evidence.population
    turned = replace(population, is_member=~population.is_member)
    first = halves(population, np.random.default_rng(4))
    np.testing.assert_array_equal(first, halves(turned, np.random.default_rng(4)))
    for stratum in np.unique(population.strata):
        there = population.strata == stratum
        assert first[there].sum() == there.sum() // 2


def test_nobody_is_embedded_by_an_encoder_that_knows_them(
    evidence: Evidence, fitted: CrossFittedEncoders
) -> None:
    """The indexes share no patient and together hold every image."""
    for space in (fitted.identity, fitted.whitened):
        one, other = space.indexes
        assert not set(one.clusters) & set(other.clusters)
        together = np.sort(np.concatenate([one.images, other.images]))
        np.testing.assert_array_equal(together, np.arange(len(evidence.population.images)))


def test_without_two_images_of_anybody_it_says_so_and_trains_nothing(chest_cohort: Cohort) -> None:
    """PneumoniaMNIST has one image per patient: both findings are inconclusive, with the reason."""
    evidence = Evidence(chest_cohort, about(chest_cohort, chest_cohort.part("test").images[:50]))
    for finding in run(evidence, Settings()):
        assert not finding.conclusive
        assert finding.value is None
        assert "no patient has two images" in finding.reason


@pytest.mark.slow
def test_honest_sets_raise_alarms_at_the_nominal_rate(evidence: Evidence) -> None:
    """Over 20 seeds, each with its own halves, encoders and set: at most 5 % plus 2 standard errors."""
    alarms = 0
    for seed in range(20):
        settings = Settings(seed=seed)
        encoders = fit(evidence, settings, EncoderTraining(steps=30))
        images = with_some(evidence, evidence.test.images[:0], seed=100 + seed)
        exposed, _ = judge(evidence.about(about(evidence.cohort, images)), settings, encoders)
        assert exposed.interval is not None
        alarms += exposed.interval[0] > 0
    assert alarms / 20 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 20)


@pytest.mark.slow
def test_blood_smears_are_told_apart_and_changed_cells_found(tmp_path: Path, shared_data: Path) -> None:
    """On BCCD (a patient is a smear) the audit is fit, an honest set clean, 60 changed images are found."""
    split = "data.split=[0.45, 0.35, 0.2]"
    cohort = make_cohort(
        tmp_path / "study", "blood-cells-32", shared_data / "bccd32.npz", tmp_path / "home", split
    )
    evidence = Evidence(cohort, about(cohort, cohort.part("test").images))
    encoders = fit(evidence, Settings())
    honest = with_some(evidence, evidence.test.images[:0])
    clean, verified = findings(evidence, encoders, honest)
    assert verified.conclusive, verified.reason
    assert clean.interval is not None
    assert clean.interval[0] == 0
    first = np.unique(evidence.train.patients, return_index=True)[1]
    changed = STRONG.plant(evidence.train.images[np.random.default_rng(5).permutation(first)[:60]])
    leaky, _ = findings(evidence, encoders, with_some(evidence, changed))
    assert leaky.interval is not None
    assert leaky.interval[0] > 0
