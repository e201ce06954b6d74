"""The split by patient, as laws that hold for any cohort."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from privsyn.cohort.split import (
    SPLITS,
    draw,
    joined_clusters,
    linked_clusters,
    patient_strata,
    split_patients,
)
from privsyn.errors import CohortError

SHARES = (0.6, 0.2, 0.2)
Row = tuple[int, int, int]  # label, patient, picture

rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 400)), min_size=3, max_size=120
)
shares = st.sampled_from([SHARES, (0.8, 0.1, 0.1), (0.98, 0.01, 0.01), (1 / 3, 1 / 3, 1 / 3)])


def _split(
    labels: NDArray[np.int64],
    patients: NDArray[np.str_],
    pictures: NDArray[np.generic],
    *,
    shares: tuple[float, ...] = SHARES,
    seed: int,
) -> NDArray[np.str_]:
    """The name of every image's part, as `prepare` comes to it."""
    draws = np.array([draw(seed, patient) for patient in patients.tolist()], dtype="S32")
    groups = linked_clusters(patients, pictures)
    return np.array(SPLITS)[split_patients(labels, patients, groups, draws=draws, shares=shares, seed=seed)]


def _arrays(table: list[Row]) -> tuple[NDArray[np.int64], NDArray[np.str_], NDArray[np.str_]]:
    labels = np.array([label for label, _, _ in table], dtype=np.int64)
    patients = np.array([f"patient {patient:03}" for _, patient, _ in table])
    return labels, patients, np.array([f"{picture:064x}" for _, _, picture in table])


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(table=rows, wanted=shares, seed=st.integers(0, 2**62), shuffle=st.randoms(use_true_random=False))
def test_the_laws_of_the_split(
    table: list[Row], wanted: tuple[float, ...], seed: int, shuffle: object
) -> None:
    """No shared patient, no shared picture, no empty part, shares kept, source order without influence."""
    labels, patients, digests = _arrays(table)
    groups = linked_clusters(patients, digests)
    assume(len(set(groups)) >= 3)
    part = _split(labels, patients, digests, shares=wanted, seed=seed)

    for ids in (patients, digests):
        assert len(set(zip(ids, part, strict=True))) == len(set(ids))
    count = {name: len(set(patients[part == name])) for name in SPLITS}
    assert min(count.values()) > 0
    total, heaviest = (
        len(set(patients)),
        max(Counter(dict(set(zip(patients, groups, strict=True))).values()).values()),
    )
    for name, share in zip(SPLITS, wanted, strict=True):
        assert abs(count[name] - share * total) <= heaviest + 2

    order = list(range(len(table)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    again = _split(labels[order], patients[order], digests[order], shares=wanted, seed=seed)
    np.testing.assert_array_equal(again, part[order])


@pytest.mark.parametrize("count", [5, 10, 100, 1797])
def test_shares_are_kept_in_the_whole_and_in_every_stratum(count: int) -> None:
    """Of single images with ten labels, each part has its share to within two patients."""
    labels = np.arange(count) % 10
    ids = np.array([f"{number:05}" for number in range(count)])
    for seed in range(20):
        part = _split(labels, ids, ids, seed=seed)
        for name, share in zip(SPLITS, SHARES, strict=True):
            chosen = part == name
            assert abs(chosen.sum() - share * count) <= 2
            assert chosen.any()
            for label in range(10):
                assert abs((chosen & (labels == label)).sum() - share * (labels == label).sum()) <= 2


def test_seeds_differ_and_every_patient_is_trained_on_as_often_as_its_share() -> None:
    """Over 400 seeds each of 12 patients, a linked pair among them, is in train about 60 % of the time."""
    ids = np.array([f"{number:05}" for number in range(12)])
    pictures = ids.copy()
    pictures[1] = pictures[0]
    trained = np.zeros(12)
    for seed in range(400):
        trained += _split(np.zeros(12, dtype=int), ids, pictures, seed=seed) == "train"
    assert np.abs(trained / 400 - 0.6).max() < 0.1


def test_huge_clusters_do_not_upset_the_shares() -> None:
    """Two black frames, each shared by 20 of 100 patients: the others make up for them, in every stratum."""
    ids = np.array([f"{number:05}" for number in range(100)])
    pictures = np.where(np.arange(100) < 40, np.arange(100) // 20, np.arange(100))
    labels = np.arange(100) % 2
    for seed in range(20):
        part = _split(labels, ids, pictures, seed=seed)
        assert len(set(part[:20])) == len(set(part[20:40])) == 1
        for name, share in zip(SPLITS, SHARES, strict=True):
            assert abs((part == name).sum() - share * 100) <= 1
            singles = [(part[40:][labels[40:] == label] == name).sum() for label in (0, 1)]
            assert abs(singles[0] - singles[1]) <= 2


def test_patients_are_linked_along_chains() -> None:
    """A shares a picture with B and B another with C: the three are one group."""
    patients = np.array(["A", "B", "B", "C", "D"])
    groups = linked_clusters(patients, np.array(["1", "1", "2", "2", "3"]))
    assert len(set(groups[:4])) == 1
    assert groups[4] not in groups[:4]


def test_the_stratum_is_the_most_frequent_label_and_the_lower_of_two() -> None:
    """What audits permute within."""
    labels = np.array([2, 1, 1, 3, 0])
    assert patient_strata(labels, np.array(["y", "y", "y", "x", "x"])) == {"x": 0, "y": 1}


def test_fewer_than_three_groups_cannot_be_split() -> None:
    """The message says why, and whether identical images are the reason."""
    labels = np.zeros(4, dtype=int)
    pictures = np.array(["1", "2", "3", "4"])
    with pytest.raises(CohortError, match=r"has 1 patient: train, holdout and test need different patients"):
        _split(labels, np.array(["A"] * 4), pictures, seed=0)
    with pytest.raises(CohortError, match=r"has 2 patients:"):
        _split(labels, np.array(["A", "A", "B", "B"]), pictures, seed=0)
    with pytest.raises(CohortError, match=r"has 4 patients, linked by identical images into 2 clusters:"):
        _split(labels, np.array(["A", "B", "C", "D"]), np.array(["1", "1", "1", "2"]), seed=0)


def test_rows_that_belong_together_join_their_groups() -> None:
    """Also in a chain; the groups are numbered by first appearance, and nothing else changes."""
    groups = np.array([0, 1, 2, 1, 3])
    np.testing.assert_array_equal(
        joined_clusters(groups, np.array([0, 3]), np.array([1, 4])), np.array([0, 0, 1, 0, 0])
    )
    empty = np.empty(0, np.int64)
    np.testing.assert_array_equal(joined_clusters(groups, empty, empty), groups)
