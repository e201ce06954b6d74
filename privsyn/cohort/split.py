"""Who goes where: train, holdout and test never share a patient, nor an image.

A group of linked patients (who share an identical image, or a near-duplicate if the recipe says so) is one
unit of the split. Within a stratum (a label) every order of the units is equally likely, which is what
permutation tests in the audits rely on. The split depends on the seed and on the ids alone, not on the order
of the files or on this machine's HMAC key.
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
    """The stratum of every patient: the most frequent label of its images, ties to the lower label.

    Args:
        labels: (n,) of the images, >= 0.
        patients: (n,) id of each image's patient, of any sortable type.

    Returns:
        patient to label, in sorted order of the patients.
    """
    unique, member = np.unique(patients, return_inverse=True)
    return dict(zip(unique.tolist(), _most_frequent(labels, member).tolist(), strict=True))


def linked_clusters(patients: NDArray[Any], digests: NDArray[Any]) -> NDArray[np.int64]:
    """The group of each image: patients that share an identical image, directly or in a chain, are one.

    Args:
        patients: (n,) patient ids.
        digests: (n,) digests of the pixels.

    Returns:
        (n,) group number, 0 to groups - 1, in the order of first appearance. (The order of the ids would say
        nothing: in a cohort they are keyed hashes, which sort differently on every machine.)
    """
    picture = _codes(digests)
    order = np.argsort(picture, kind="stable")
    same = np.flatnonzero(picture[order[1:]] == picture[order[:-1]])
    return joined_clusters(_codes(patients), order[same], order[same + 1])


def joined_clusters(
    groups: NDArray[np.int64], some: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.int64]:
    """The groups that are left when `some[i]` and `others[i]`, rows of images, belong together for all i.

    Args:
        groups: (n,) group number of each image, 0 to groups - 1.

    Returns:
        (n,) group number, in the order of first appearance.
    """
    if not len(some):
        return groups
    from scipy.sparse import coo_matrix  # half of the time in which a worker starts, and it needs none of it
    from scipy.sparse.csgraph import connected_components

    count = int(groups.max()) + 1
    edges = coo_matrix((np.ones(len(some), np.int8), (groups[some], groups[others])), shape=(count, count))
    _, component = connected_components(edges, directed=False)
    return _codes(component[groups])


def split_patients(
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    groups: NDArray[np.int64],
    *,
    draws: NDArray[np.bytes_],
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.int8]:
    """The part of every image, by patient and stratified by label.

    Groups of many patients are dealt first, so that single ones can make up for them. Among groups of equal
    size the parts take turns, as often as they have room left, along the strata and in the order of the
    patients' draws within each: systematic sampling. So the whole keeps the shares to within about one
    patient if single patients suffice for it, and so does every stratum.

    Args:
        labels: (n,) labels of the images, >= 0.
        patients: (n,) patient ids, of any sortable type.
        groups: (n,) of the images, as `linked_clusters` numbers them.
        draws: (n,) `draw(seed, id)` of each image's patient.
        shares: of patients in train, holdout and test.
        seed: of the turns.

    Returns:
        (n,) index into `SPLITS`.

    Raises:
        CohortError: fewer than three groups of patients.
    """
    count = int(groups.max(initial=-1)) + 1
    _, first = np.unique(patients, return_index=True)
    _need_three(len(first), count)
    home, drawn = groups[first], draws[first]
    by_draw = np.argsort(drawn, kind="stable")[::-1]
    names = np.empty(count, dtype=draws.dtype)
    names[home[by_draw]] = drawn[by_draw]  # written last, the lowest draw of a group stands for it
    strata = _most_frequent(labels, groups)
    weights = np.bincount(home, minlength=count)
    order = np.argsort(names, kind="stable")
    order = order[np.lexsort((strata[order], -weights[order]))]
    part = np.empty(count, dtype=np.int8)
    part[order] = _none_empty(_deal(weights[order], shares, seed))
    return part[groups]


def draw(seed: int, name: str) -> bytes:
    """What orders patients at random: HMAC-SHA256 of the name under the seed, 32 bytes."""
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
    """The part of each group, given the groups' numbers of patients in falling order."""
    total = int(weights.sum())
    room = [share * total for share in shares]
    parts = range(len(room))
    dealt: list[int] = []
    for weight, groups in itertools.groupby(weights.tolist()):
        left = [max(each, 0.0) for each in room]
        odds = [each / sum(left) for each in left]
        lacks = _some_turns_later(odds, seed, weight)
        for _ in groups:
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
    """The state at a random start of the turns; from a fixed one, a lone linked pair would always train."""
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


def _need_three(patients: int, groups: int) -> None:
    if groups >= len(SPLITS):
        return
    there = "1 patient" if patients == 1 else f"{patients} patients"
    if groups < patients:
        there += f", linked by identical images into {groups} group{'s' * (groups > 1)}"
    raise CohortError(f"the cohort has {there}: train, holdout and test need different patients, at least 3")
