"""Who goes where: train, holdout and test never share a patient, nor an image.

A group of patients linked by identical images is one unit of the split. Within a stratum (a label) every
order of the units is equally likely, which is what permutation tests in the audits rely on. The split
depends on the seed and on the ids alone, not on the order of the files or on this machine's HMAC key.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

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
    return dict(zip(unique.tolist(), _most_frequent(labels, member, len(unique)).tolist(), strict=True))


def linked_groups(patients: NDArray[Any], digests: NDArray[Any]) -> NDArray[np.int64]:
    """The group of each image: patients that share an identical image, directly or in a chain, are one.

    Args:
        patients: (n,) patient ids.
        digests: (n,) digests of the pixels.

    Returns:
        (n,) group number, 0 to groups - 1, in the order of first appearance. (The order of the ids would say
        nothing: in a cohort they are keyed hashes, which sort differently on every machine.)
    """
    person, people = pd.factorize(patients)
    picture, pictures = pd.factorize(digests)
    nodes = len(people) + len(pictures)
    edges = coo_matrix((np.ones(len(person)), (person, len(people) + picture)), shape=(nodes, nodes))
    _, component = connected_components(edges, directed=False)
    return pd.factorize(component[person])[0].astype(np.int64)


def split_patients(
    labels: NDArray[np.int64],
    patients: NDArray[Any],
    digests: NDArray[Any],
    *,
    shares: Sequence[float],
    seed: int,
) -> NDArray[np.str_]:
    """The part of every image: `train`, `holdout` or `test`, by patient and stratified by label.

    Groups of many patients are dealt first, so that single ones can make up for them. Among groups of equal
    size the parts take turns, as often as they have room left, along the strata and in the order of a hash
    of seed and id within each: systematic sampling. So the whole keeps the shares to within about one
    patient if single patients suffice for it, and so does every stratum.

    Args:
        labels: (n,) labels of the images, >= 0.
        patients: (n,) patient ids, text.
        digests: (n,) digests of the pixels.
        shares: of patients in train, holdout and test.
        seed: of the order.

    Raises:
        CohortError: fewer than three groups of patients.
    """
    group = linked_groups(patients, digests)
    count = int(group.max(initial=-1)) + 1
    people, first = np.unique(patients, return_index=True)
    _need_three(len(people), count)
    home = group[first]
    names = [""] * count
    for person, number in zip(people.tolist()[::-1], home.tolist()[::-1], strict=True):
        names[number] = person  # the lowest id of a group names it
    strata = _most_frequent(labels, group, count)
    weights = np.bincount(home, minlength=count)
    order = sorted(range(count), key=lambda g: (-weights[g], strata[g], _draw(seed, names[g])))
    part = np.empty(count, dtype=np.int64)
    part[order] = _none_empty(_deal(weights[order], np.array(shares), seed))
    return np.array(SPLITS)[part[group]]


def _most_frequent(labels: NDArray[np.int64], member: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    classes = int(labels.max(initial=0)) + 1
    table = np.bincount(member * classes + labels, minlength=count * classes).reshape(count, classes)
    winner: NDArray[np.int64] = table.argmax(axis=1)  # the first maximum: ties go to the lower label
    return winner


def _draw(seed: int, name: str) -> str:
    return hmac.new(str(seed).encode(), name.encode(), hashlib.sha256).hexdigest()


def _deal(weights: NDArray[np.int64], shares: NDArray[np.float64], seed: int) -> list[int]:
    """The part of each group, given the groups' numbers of patients in falling order."""
    room = shares * weights.sum()
    dealt: list[int] = []
    for weight, groups in itertools.groupby(weights.tolist()):
        odds = room.clip(0) / room.clip(0).sum()
        lacks = _some_turns_later(odds, seed, weight)
        for _ in groups:
            lacks += odds
            fits = room > weight - 1
            chosen = int(np.where(fits, lacks, -np.inf).argmax() if fits.any() else room.argmax())
            lacks[chosen] -= 1
            room[chosen] -= weight
            dealt.append(chosen)
    return dealt


def _some_turns_later(odds: NDArray[np.float64], seed: int, weight: int) -> NDArray[np.float64]:
    """The state at a random start of the turns; from a fixed one, a lone linked pair would always train."""
    lacks = np.zeros(len(odds))
    for _ in range(int(_draw(seed, f"start {weight}"), 16) % _STARTS):
        lacks += odds
        lacks[lacks.argmax()] -= 1
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
