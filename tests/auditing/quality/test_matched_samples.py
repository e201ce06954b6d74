"""Measures that depend on the number of images compare equal numbers, of equal classes where that is fair."""

from __future__ import annotations

import numpy as np
import pytest
from parts import selected

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.quality.matched_samples import ImageSample, samples_by_scope
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet


def _evidence(cohort: Cohort, labels: np.ndarray) -> Evidence:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    return Evidence(cohort, SyntheticSet(images, labels.astype(np.int64), cohort.classes, None, "0" * 64))


def test_all_samples_have_equally_many_images(digits_cohort: Cohort) -> None:
    """Overall and in each class; the reference is holdout, the baseline test, and neither is train."""
    evidence = _evidence(digits_cohort, np.arange(400) % 10)
    found = list(samples_by_scope(evidence, Settings(), 10_000))
    assert [scope for scope, _ in found] == [{}, *({"class": name} for name in digits_cohort.classes)]
    for _, samples in found:
        assert len(samples.reference) == len(samples.baseline) == len(samples.synthetic)
        for side, part in ((samples.reference, evidence.holdout), (samples.baseline, evidence.test)):
            there = {image.tobytes() for image in part.images}
            assert all(image.tobytes() in there for image in side.images)
    assert all(samples.too_few == (len(samples.reference) < 30) for _, samples in found)


def test_a_balanced_set_is_compared_in_the_shares_of_the_reference(digits_cohort: Cohort) -> None:
    """Other class shares are adjusted; a missing class is not, and stays visible."""
    generator = np.random.default_rng(1)
    unequal = generator.choice(10, 2000, p=np.array([3, 1, 1, 1, 1, 1, 1, 1, 1, 1]) / 12)
    _, samples = next(samples_by_scope(_evidence(digits_cohort, unequal), Settings(), 10_000))
    assert samples.same_class_shares
    shares = [
        np.bincount(side.labels, minlength=10) / len(side) for side in (samples.reference, samples.synthetic)
    ]
    assert shares[0] == pytest.approx(shares[1], abs=0.02)
    _, samples = next(samples_by_scope(_evidence(digits_cohort, np.arange(2000) % 9), Settings(), 10_000))
    assert not samples.same_class_shares
    assert (samples.synthetic.labels != 9).all()


def test_few_images_are_of_many_patients_each_with_its_share() -> None:
    """Whole patients would be few, and halves of few tell little; one of each would be another mixture."""
    units = np.repeat(np.arange(100), [5, 35] * 50)
    sample = ImageSample(np.arange(len(units))[:, None, None, None], units, np.arange(len(units)) % 2)
    generator = np.random.default_rng(0)
    drawn = [sample.random_subset(200, generator) for _ in range(50)] + [
        sample.stratified_subset({0: 120, 1: 80}, generator)
    ]
    assert all(len(some) == 200 and len(np.unique(some.patients)) > 50 for some in drawn)
    shares = [np.isin(some.patients, np.arange(1, 100, 2)).mean() for some in drawn[:50]]
    assert np.mean(shares) == pytest.approx(35 / 40, abs=3 * np.std(shares) / np.sqrt(50))
    assert np.bincount(drawn[-1].labels).tolist() == [120, 80]


def test_the_choice_is_the_seeds_alone(digits_cohort: Cohort) -> None:
    """One seed, one choice; another seed, another."""
    evidence = _evidence(digits_cohort, np.arange(150) % 10)
    one, again, other = (
        next(samples_by_scope(evidence, Settings(seed=seed), 100))[1].reference.images.tobytes()
        for seed in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_a_class_that_the_reference_lacks_has_too_few_images(
    digits_cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The split may leave a rare class without a holdout patient: that class is not measured, others are."""
    evidence = _evidence(digits_cohort, np.arange(400) % 10)
    part = evidence.holdout
    rows = np.flatnonzero(part.labels != 3)
    without = selected(part, rows)
    monkeypatch.setattr(evidence, "holdout", without)
    found = {scope.get("class"): samples for scope, samples in samples_by_scope(evidence, Settings())}
    lacking = found.pop(digits_cohort.classes[3])
    assert lacking.too_few
    assert len(lacking.reference) == len(lacking.baseline) == len(lacking.synthetic) == 0
    assert all(len(samples.reference) > 0 for samples in found.values())
