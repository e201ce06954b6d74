"""Train and holdout together: the population of membership tests and their permutations."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.cohort import Part, clusters_of_parts
from privsyn.cohort.split import patient_strata

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MembershipPopulation:
    """Train and holdout together: members and non-members.

    Attributes:
        images: (n, H, W, C) read-only; first all of train, then all of holdout. A view of the cohort's memory
            map where the rows are contiguous, as `privsyn prepare` writes them.
        rows: (n,) row of each image in the cohort.
        cluster: (n,) cluster of each image, 0 to clusters - 1. A cluster is what the split moved together: a
            patient, or several who share an image.
        is_member: (clusters,) True in train.
        labels: (clusters,) most frequent label of its images.
        strata: (clusters,) within which members were drawn at random: the label, or one of its own for those
            who are in train because of an earlier training, whom every permutation so leaves in train.
        is_pinned: (clusters,) True for the latter.
    """

    images: Images
    rows: Ints
    cluster: Ints
    is_member: NDArray[np.bool_]
    labels: Ints
    strata: Ints
    is_pinned: NDArray[np.bool_]

    @classmethod
    def of(cls, cohort: Images, train: Part, holdout: Part) -> MembershipPopulation:
        """The population of two parts of the cohort's images (N, H, W, C)."""
        labels = np.concatenate([train.labels, holdout.labels])
        cluster = clusters_of_parts(train, holdout)
        is_member = np.zeros(cluster.max() + 1, dtype=np.bool_)
        is_member[cluster[: len(train.rows)]] = True
        is_pinned = np.zeros(len(is_member), dtype=np.bool_)
        is_pinned[cluster[: len(train.rows)][train.pinned]] = True
        label = np.array(list(patient_strata(labels, cluster).values()), dtype=np.int64)
        return cls(
            images=_images(cohort, train, holdout),
            rows=np.concatenate([train.rows, holdout.rows]),
            cluster=cluster,
            is_member=is_member,
            labels=label,
            strata=np.where(is_pinned, -1 - label, label),
            is_pinned=is_pinned,
        )


def _images(cohort: Images, train: Part, holdout: Part) -> Images:
    """One slice of the memory map if both parts are adjacent slices of it, else a copy."""
    whole = cohort[train.rows[0] : holdout.rows[-1] + 1]
    slices, parts = np.split(whole, [len(train.rows)]), (train.images, holdout.images)
    if all(_is_same_memory(*pair) for pair in zip(slices, parts, strict=True)):
        return whole
    images = np.concatenate(parts)
    images.flags.writeable = False
    return images


def _is_same_memory(one: Images, other: Images) -> bool:
    return one.shape == other.shape and one.ctypes.data == other.ctypes.data
