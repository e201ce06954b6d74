"""Train and holdout as one population, without a copy of their images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from privsyn.auditing.population import MembershipPopulation
from privsyn.cohort.cohort import Cohort, Part


def reordered(part: Part, order: np.ndarray) -> Part:
    assert part.digests is not None
    return Part(
        part.images[order],
        part.labels[order],
        part.patients[order],
        part.rows[order],
        digests=part.digests[order],
    )


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
    mixed = reordered(train, np.random.default_rng(0).permutation(len(train.rows)))
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
