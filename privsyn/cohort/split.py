"""The split: train, holdout and test never share a patient or an image.

The split moves clusters: patients who share an identical image, or a near-duplicate if the recipe says so,
are one cluster, and every other patient is a cluster alone. Within a stratum (a label) every order of the
clusters is equally likely, as permutation tests in the audits assume. The split depends on the seed and on
the ids, not on the order of the files or on this machine's HMAC key.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.errors import CohortError

SPLITS = ("train", "holdout", "test")
_STARTS = 1000


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
    picture = _codes(digests)
    order = np.argsort(picture, kind="stable")
    same = np.flatnonzero(picture[order[1:]] == picture[order[:-1]])
    return joined_clusters(_codes(patients), order[same], order[same + 1])


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
    return _codes(component[clusters])


def split_patients(
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    clusters: NDArray[np.int64],
    *,
    draws: NDArray[np.bytes_],
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.int8]:
    """Assign every image to a split, by cluster and stratified by label.

    Clusters of many patients are dealt first, so that single patients can make up for them. Among clusters of
    equal size the splits take turns, in proportion to their room, along the strata and in the order of the
    draws within each (systematic sampling). So the shares are kept to within about one patient, overall and
    in every stratum, if there are enough single patients.

    Args:
        labels: (n,) labels of the images, >= 0.
        patients: (n,) patient ids, of any sortable type.
        clusters: (n,) of the images, as `linked_clusters` numbers them.
        draws: (n,) `draw(seed, id)` of each image's patient.
        shares: of patients in train, holdout and test.
        seed: of the turns.

    Returns:
        (n,) index into `SPLITS`.

    Raises:
        CohortError: there are fewer than three clusters.
    """
    count = int(clusters.max(initial=-1)) + 1
    _, first = np.unique(patients, return_index=True)
    _need_three(len(first), count)
    home, strata = clusters[first], _most_frequent(labels, clusters)
    weights = np.bincount(home, minlength=count)
    order = np.argsort(_lowest_draws(home, draws[first], count), kind="stable")
    order = order[np.lexsort((strata[order], -weights[order]))]
    part = np.empty(count, dtype=np.int8)
    part[order] = _none_empty(_deal(weights[order], shares, seed))
    return part[clusters]


def _lowest_draws(home: NDArray[np.int64], draws: NDArray[np.bytes_], count: int) -> NDArray[np.bytes_]:
    """(count,) lowest draw of the patients of each cluster, which stands for the cluster."""
    falling = np.argsort(draws, kind="stable")[::-1]
    lowest = np.empty(count, dtype=draws.dtype)
    lowest[home[falling]] = draws[falling]  # the last one written is the lowest
    return lowest


def draw(seed: int, name: str) -> bytes:
    """A pseudorandom number that orders patients: HMAC-SHA256 of the name under the seed, 32 bytes."""
    return hmac.digest(str(seed).encode(), name.encode(), hashlib.sha256)


def _codes(values: NDArray[Any]) -> NDArray[np.int64]:
    """Equal values as equal numbers, 0 and up in the order of first appearance."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    codes: NDArray[np.int64] = rank[inverse]
    return codes


def _most_frequent(labels: NDArray[np.int64], member: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent label of each member 0, 1 ...; ties go to the lower label."""
    classes = int(labels.max(initial=0)) + 1
    pairs, counts = np.unique(member * classes + labels, return_counts=True)
    owner, label = pairs // classes, pairs % classes
    order = np.lexsort((label, -counts, owner))
    _, first = np.unique(owner[order], return_index=True)
    winner: NDArray[np.int64] = label[order[first]]
    return winner


def _deal(weights: NDArray[np.int64], shares: Sequence[float], seed: int) -> list[int]:
    """The split of each cluster, given the clusters' numbers of patients in falling order."""
    total = int(weights.sum())
    room = [share * total for share in shares]
    parts = range(len(room))
    dealt: list[int] = []
    for weight, equals in itertools.groupby(weights.tolist()):
        left = [max(each, 0.0) for each in room]
        odds = [each / sum(left) for each in left]
        lacks = _some_turns_later(odds, seed, weight)
        for _ in equals:
            chosen = -1
            for part in parts:
                lacks[part] += odds[part]
                if room[part] > weight - 1 and (chosen < 0 or lacks[part] > lacks[chosen]):
                    chosen = part
            if chosen < 0:
                chosen = max(parts, key=room.__getitem__)
            lacks[chosen] -= 1
            room[chosen] -= weight
            dealt.append(chosen)
    return dealt


def _some_turns_later(odds: Sequence[float], seed: int, weight: int) -> list[float]:
    """The state of the turns at a random start; from a fixed start, a lone pair would always be in train."""
    lacks = [0.0] * len(odds)
    for _ in range(int.from_bytes(draw(seed, f"start {weight}"), "big") % _STARTS):
        lacks = [lack + odd for lack, odd in zip(lacks, odds, strict=True)]
        lacks[max(range(len(lacks)), key=lacks.__getitem__)] -= 1
    return lacks


def _none_empty(dealt: list[int]) -> list[int]:
    for empty in set(range(len(SPLITS))) - set(dealt):
        largest = max(dealt, key=dealt.count)
        last = len(dealt) - 1 - dealt[::-1].index(largest)
        dealt[last] = empty
    return dealt


def _need_three(patients: int, clusters: int) -> None:
    if clusters >= len(SPLITS):
        return
    there = "1 patient" if patients == 1 else f"{patients} patients"
    if clusters < patients:
        there += f", linked by identical images into {clusters} cluster{'s' * (clusters > 1)}"
    raise CohortError(f"the cohort has {there}: train, holdout and test need different patients, at least 3")
