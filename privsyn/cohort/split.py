"""The split: train, holdout and test never share a patient or an image, and nobody's part depends on others.

The split moves clusters: patients who share an identical image, or a near-duplicate if the recipe says so,
are one cluster, and every other patient is a cluster alone. The part of a cluster is a coin of its own, a
keyed hash against the shares. So adding or removing a cluster moves nobody else, and given how many clusters
of a stratum (a label) are in each part, every order of them is equally likely, as the permutation tests of
the audits assume. The key is secret and never leaves this machine (`home.split_key`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.errors import CohortError

SPLITS = ("train", "holdout", "test")
TRAIN = SPLITS.index("train")
_COIN_BYTES = 8


@dataclass(frozen=True, eq=False)
class Split:
    """Where every image went.

    Attributes:
        part: (n,) index into `SPLITS`.
        pinned: (n,) True for clusters that are in train because somebody in them was trained on before, and
            not, or perhaps not, by their coin.
    """

    part: NDArray[np.int8]
    pinned: NDArray[np.bool_]


def patient_strata(labels: NDArray[np.int64], patients: NDArray[Any]) -> dict[Any, int]:
    """The stratum of every patient: the most frequent label of its images; the lower label wins ties.

    Args:
        labels: (n,) of the images, >= 0.
        patients: (n,) id of each image's patient, of any sortable type.

    Returns:
        patient to label, in sorted order of the patients.
    """
    unique, member = np.unique(patients, return_inverse=True)
    return dict(zip(unique.tolist(), _most_frequent(labels, member).tolist(), strict=True))


def linked_clusters(patients: NDArray[Any], digests: NDArray[Any]) -> NDArray[np.int64]:
    """The cluster of each image: patients who share an identical image, directly or in a chain, are in one.

    Args:
        patients: (n,) patient ids.
        digests: (n,) digests of the pixels.

    Returns:
        (n,) cluster number, 0 to clusters - 1, in the order of first appearance. (The order of the ids would
        mean nothing: in a cohort they are keyed hashes, which sort differently on every machine.)
    """
    picture = numbered(digests)
    order = np.argsort(picture, kind="stable")
    same = np.flatnonzero(picture[order[1:]] == picture[order[:-1]])
    return joined_clusters(numbered(patients), order[same], order[same + 1])


def joined_clusters(
    clusters: NDArray[np.int64], some: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Join the clusters of the images `some[i]` and `others[i]`, for all i.

    Args:
        clusters: (n,) cluster number of each image, 0 to clusters - 1.
        some, others: (k,) rows of images.

    Returns:
        (n,) cluster number, in the order of first appearance.
    """
    if not len(some):
        return clusters
    from scipy.sparse import coo_matrix  # slow to import, and workers do not need it
    from scipy.sparse.csgraph import connected_components

    count = int(clusters.max()) + 1
    ones, pairs = np.ones(len(some), np.int8), (clusters[some], clusters[others])
    edges = coo_matrix((ones, pairs), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    return numbered(component[clusters])


def split_clusters(
    patients: NDArray[np.bytes_],
    clusters: NDArray[np.int64],
    *,
    key: bytes,
    shares: Sequence[float],
    trained_on: Collection[bytes] = (),
) -> Split:
    """Assign every image to a part, by the coin of its cluster.

    A cluster has the coin of its lowest patient, so it stays in its part when others join it. A patient who
    links two others splits their cluster when removed; then one of the two tosses a coin of its own.

    Args:
        patients: (n,) pseudonyms.
        clusters: (n,) of the images, as `linked_clusters` numbers them.
        key: secret.
        shares: of clusters in train, holdout and test, in expectation.
        trained_on: pseudonyms of patients of earlier trainings, whose clusters can be in train alone.

    Raises:
        CohortError: a part is empty, because there are too few clusters.
    """
    lowest = _lowest(patients, clusters)
    coin = np.array([_coin(patient, key) for patient in lowest])
    edges = list(accumulate(shares))[:-1]
    drawn = np.searchsorted(edges, coin, side="right").astype(np.int8)
    known = np.zeros(len(lowest), np.bool_)
    if trained_on:
        known[clusters[np.isin(patients, np.array(sorted(trained_on), dtype="S32"))]] = True
    # somebody's earlier coin, before others joined the cluster, may have been another than the cluster's now
    pinned = known & ((drawn != TRAIN) | _several(patients, clusters))
    part = np.where(pinned, np.int8(TRAIN), drawn)
    _need_every_part(part, pinned)
    return Split(part[clusters], pinned[clusters])


def numbered(values: NDArray[Any]) -> NDArray[np.int64]:
    """Equal values as equal numbers, 0 and up in the order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    codes: NDArray[np.int64] = rank[inverse]
    return codes


def _several(patients: NDArray[np.bytes_], clusters: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(clusters,) whether there are several patients in it."""
    _, first = np.unique(patients, return_index=True)
    several: NDArray[np.bool_] = np.bincount(clusters[first]) > 1
    return several


def _lowest(patients: NDArray[np.bytes_], clusters: NDArray[np.int64]) -> list[bytes]:
    """The lowest pseudonym of each cluster, which stands for the cluster."""
    falling = np.argsort(patients, kind="stable")[::-1]
    lowest = np.empty(int(clusters.max(initial=-1)) + 1, dtype="S32")
    lowest[clusters[falling]] = patients[falling]  # the last one written is the lowest
    whole = lowest.tobytes()  # an element of S32 would lose trailing zeros
    return [whole[start : start + 32] for start in range(0, len(whole), 32)]


def _coin(patient: bytes, key: bytes) -> float:
    """Uniform in [0, 1): 53 bits of the HMAC-SHA256 of a pseudonym."""
    drawn = hmac.digest(key, patient, hashlib.sha256)[:_COIN_BYTES]
    return (int.from_bytes(drawn, "big") >> 11) / 2**53


def _most_frequent(labels: NDArray[np.int64], member: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each member 0, 1 ...; ties go to the lower label."""
    classes = int(labels.max(initial=0)) + 1
    pairs, counts = np.unique(member * classes + labels, return_counts=True)
    owner, label = pairs // classes, pairs % classes
    order = np.lexsort((label, -counts, owner))
    _, first = np.unique(owner[order], return_index=True)
    winner: NDArray[np.int64] = label[order[first]]
    return winner


def _need_every_part(part: NDArray[np.int8], pinned: NDArray[np.bool_]) -> None:
    """Every part must have a cluster; a split is never drawn again until it pleases."""
    empty = [name for number, name in enumerate(SPLITS) if not (part == number).any()]
    if not empty:
        return
    there = "1 patient" if len(part) == 1 else f"{len(part)} patients or groups of linked patients"
    bound = f", of whom {pinned.sum()} were trained on before and can be in train alone" * bool(pinned.any())
    raise CohortError(
        f"no patient is left for {' and '.join(empty)}: the cohort has {there}{bound}, and each is assigned "
        "by a coin of its own; add patients"
    )
