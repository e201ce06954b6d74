"""Train and holdout as one population, without a copy of their images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from parts import selected

from privsyn.auditing.population import MembershipPopulation
from privsyn.auditing.statistics.permutation import permuted_members
from privsyn.cohort.cohort import Cohort


def test_the_images_are_a_view_of_the_memory_map(digits_cohort: Cohort) -> None:
    """`prepare` writes train and holdout one after the other, so no image is read before it is used."""
    train, holdout = (digits_cohort.part(name) for name in ("train", "holdout"))
    population = MembershipPopulation.of(digits_cohort.images, train, holdout)
    assert np.shares_memory(population.images, digits_cohort.images)
    assert not population.images.flags.writeable
    np.testing.assert_array_equal(population.images, np.concatenate([train.images, holdout.images]))


def test_parts_in_another_order_are_copied(digits_cohort: Cohort) -> None:
    """Where the rows are not contiguous, images and clusters still follow the order of the parts."""
    train, holdout = (digits_cohort.part(name) for name in ("train", "holdout"))
    mixed = selected(train, np.random.default_rng(0).permutation(len(train.rows)))
    population = MembershipPopulation.of(digits_cohort.images, mixed, holdout)
    assert not np.shares_memory(population.images, digits_cohort.images)
    np.testing.assert_array_equal(population.images, digits_cohort.images[population.rows])
    np.testing.assert_array_equal(population.rows, np.concatenate([mixed.rows, holdout.rows]))
    assert population.is_member[population.cluster[: len(train.rows)]].all()
    assert not population.is_member[population.cluster[len(train.rows) :]].any()


def test_images_that_were_replaced_are_used(digits_cohort: Cohort) -> None:
    """Other images in place of a part's own are not overlooked in favour of those on disk."""
    train, holdout = (digits_cohort.part(name) for name in ("train", "holdout"))
    population = MembershipPopulation.of(
        digits_cohort.images, train, replace(holdout, images=255 - holdout.images)
    )
    np.testing.assert_array_equal(population.images[len(train.rows) :], 255 - holdout.images)


def test_who_is_pinned_has_strata_of_their_own(digits_cohort: Cohort) -> None:
    """So every permutation leaves them in train; their labels stay known."""
    train, holdout = (digits_cohort.part(name) for name in ("train", "holdout"))
    pinned = np.arange(len(train.rows)) % 5 == 0
    population = MembershipPopulation.of(digits_cohort.images, replace(train, pinned=pinned), holdout)
    plain = MembershipPopulation.of(digits_cohort.images, train, holdout)
    np.testing.assert_array_equal(population.labels, plain.labels)
    np.testing.assert_array_equal(plain.strata, plain.labels)
    assert population.is_pinned.sum() >= pinned.sum()
    assert population.is_member[population.is_pinned].all()
    redrawn = permuted_members(population.is_member, population.strata, 50, np.random.default_rng(0))
    assert redrawn[population.is_pinned].all()
    assert not redrawn[~population.is_pinned].all(axis=1).all()
