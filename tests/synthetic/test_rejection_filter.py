from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from digits_study import copied, in_16_bits, prepared
from sklearn.datasets import load_digits

from privsyn import ledger
from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.errors import PrivsynError, Refused
from privsyn.study import Study, init
from privsyn.synthetic.rejection_filter import TEST_SHARE, NearCopies
from privsyn.synthetic.sampling import COMPUTE_BATCH, _unlike, sample
from privsyn.training.loop import train


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("near"), "train.steps=20", "sample.steps=2")


@pytest.fixture(scope="module")
def cohort(study: Study) -> Cohort:
    return load_cohort(study.cohort)


@pytest.fixture(scope="module")
def near(cohort: Cohort) -> NearCopies:
    return NearCopies.of(cohort)


def test_copies_are_near_and_fresh_patients_are_not(cohort: Cohort, near: NearCopies) -> None:
    """Exact and mirrored training images always, disturbed ones mostly; holdout images as rarely as test."""
    some = cohort.part("train").images[:64]
    assert near.among(some).all()
    assert near.among(some[:, :, ::-1]).all()
    assert near.among(LIGHT.plant(some)).mean() > 0.5
    holdout = cohort.part("holdout").images
    # two representations, each image and its mirror image: four looks of which each may hit by nature
    assert near.among(holdout).mean() <= 4 * TEST_SHARE + 3 * np.sqrt(4 * TEST_SHARE / len(holdout))


def test_copies_are_near_in_16_bits(tmp_path: Path) -> None:
    """Exact, mirrored, or with every level moved by less than one of 8 bits."""
    digits, own = load_digits(), init(tmp_path / "study", recipe="toy", policy="internal-review")
    images = np.round(digits.images[:200] * (255 / 16)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", images=images, labels=digits.target[:200])
    prepare(own, tmp_path / "digits.npz")
    cohort = load_cohort(in_16_bits(own).cohort)
    near, some = NearCopies.of(cohort), cohort.part("train").images[:32]
    assert some.dtype == np.uint16
    for copies in (some, some[:, :, ::-1], some // 257 * 257):
        assert near.among(copies).all()
    assert near.among(cohort.part("holdout").images).mean() < 0.2


def test_what_is_rejected_is_drawn_again_elsewhere(cohort: Cohort, near: NearCopies) -> None:
    """Only rejected images change, and what takes their place has places of its own; no end is an error."""
    copies = cohort.part("train").images
    fresh = np.random.default_rng(0).integers(0, 256, copies.shape, dtype=np.uint8)
    firsts = []

    def draw(labels: np.ndarray, first: int = 0) -> np.ndarray:
        firsts.append(first)
        if first:
            return fresh[: len(labels)]
        return np.concatenate([fresh[: len(labels) - 3], copies[:3]])

    images = _unlike(near, np.zeros(40, np.int64), draw)
    assert firsts == [0, 2 * COMPUTE_BATCH]
    np.testing.assert_array_equal(images[:37], fresh[:37])
    np.testing.assert_array_equal(images[37:], fresh[:3])
    with pytest.raises(PrivsynError, match="memorises"):
        _unlike(near, np.zeros(4, np.int64), lambda labels, first=0: copies[: len(labels)].copy())  # noqa: ARG005


def test_rejecting_is_recorded_and_voids_the_claim(study: Study, tmp_path: Path) -> None:
    """The set says so, its claim is void, the ledger has an entry without a bound, a grant forbids it."""
    own = copied(study, tmp_path)
    claim = train(own, dp=True)
    (before,) = ledger.populations()
    drawn = sample(own, count=12, reject_near_copies=True)
    assert "No valid bound is claimed" in (own.synthetic / "README.md").read_text()
    assert drawn.provenance is not None
    assert drawn.provenance.near_copies_rejected is True
    told = claim.of_set(near_copies_rejected=True)
    assert not told.is_valid
    assert told.bound is not None
    assert "near copies" in told.bound.invalid
    (after,) = ledger.populations()
    assert len(after.entries) == len(before.entries) + 1
    assert "near copies rejected" in after.entries[-1].unbounded
    again = sample(own, count=12, force=True).provenance
    assert again is not None
    assert claim.of_set(near_copies_rejected=again.near_copies_rejected) == claim
    ledger.grant(after.id, unit="patient", epsilon=100.0, delta=1e-3)
    with pytest.raises(Refused):
        sample(own, count=12, force=True, reject_near_copies=True)
