"""The split by cluster: coins of a secret key, which move nobody else, and the tests that rest on them."""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.statistics.permutation import Enrichment
from privsyn.cohort.split import (
    SPLITS,
    joined_clusters,
    linked_clusters,
    patient_strata,
    split_clusters,
)
from privsyn.errors import CohortError

SHARES = (0.6, 0.2, 0.2)
Row = tuple[int, int]  # patient, picture

rows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 400)), min_size=20, max_size=120)
shares = st.sampled_from([SHARES, (0.8, 0.1, 0.1), (1 / 3, 1 / 3, 1 / 3)])


def _pseudonyms(names: list[str] | range) -> NDArray[np.bytes_]:
    return np.array([hashlib.sha256(str(name).encode()).digest() for name in names], dtype="S32")


def _key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def _parts(
    patients: NDArray[np.bytes_],
    clusters: NDArray[np.int64],
    key: int = 0,
    wanted: tuple[float, ...] = SHARES,
) -> NDArray[np.int8]:
    return split_clusters(patients, clusters, key=_key(key), shares=wanted).part


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(table=rows, wanted=shares, key=st.integers(0, 2**62), shuffle=st.randoms(use_true_random=False))
def test_the_laws_of_the_split(
    table: list[Row], wanted: tuple[float, ...], key: int, shuffle: object
) -> None:
    """No shared patient and no shared picture; the order of the source has no influence."""
    patients, pictures = _pseudonyms([f"p{row[0]}" for row in table]), np.array([row[1] for row in table])
    clusters = linked_clusters(patients, pictures)
    try:
        part = _parts(patients, clusters, key, wanted)
    except CohortError:
        assume(False)
    for ids in (patients, pictures):
        assert len(set(zip(ids.tolist(), part.tolist(), strict=True))) == len(set(ids.tolist()))
    order = list(range(len(table)))
    shuffle.shuffle(order)  # type: ignore[attr-defined]
    again = _parts(patients[order], linked_clusters(patients[order], pictures[order]), key, wanted)
    np.testing.assert_array_equal(again, part[order])


def test_ten_thousand_removals_move_nobody_else() -> None:
    """Of 100 patients, some of whom share pictures, any cluster is removed: all others stay."""
    generator = np.random.default_rng(0)
    patients, pictures = _pseudonyms(range(100)), generator.integers(0, 300, 100)
    moved = removals = 0
    for key in range(120):
        clusters = linked_clusters(patients, pictures)
        part = _parts(patients, clusters, key)
        for cluster in range(clusters.max() + 1):
            rest = clusters != cluster
            left = np.unique(clusters[rest], return_inverse=True)[1]
            moved += int((_parts(patients[rest], left, key) != part[rest]).sum())
            removals += 1
    assert removals >= 10_000
    assert moved == 0


def test_a_part_is_the_keyed_hash_of_the_lowest_patient_against_the_shares() -> None:
    """By an implementation in three lines."""
    patients = _pseudonyms(range(300))
    clusters = linked_clusters(patients, np.arange(300) // 2)
    part = _parts(patients, clusters, key=7)
    for cluster in range(150):
        lowest = min(patients[clusters == cluster].tolist()).ljust(32, b"\0")
        coin = int.from_bytes(hmac.digest(_key(7), lowest, "sha256")[:8], "big") / 2**64
        expected = 0 if coin < 0.6 else 1 if coin < 0.8 else 2
        assert set(part[clusters == cluster].tolist()) == {expected}


def test_coins_keep_to_the_shares_and_are_independent() -> None:
    """Over 2,000 keys: the shares of 50 patients, and the counts of pairs, by chi-square tests."""
    patients, clusters = _pseudonyms(range(50)), np.arange(50)
    drawn = np.array([_parts(patients, clusters, key) for key in range(2000)])
    counts = np.array([[(column == part).sum() for part in range(3)] for column in drawn.T])
    assert stats.chisquare(counts.sum(axis=0), np.array(SHARES) * counts.sum()).pvalue > 0.001
    per_patient = ((counts - 2000 * np.array(SHARES)) ** 2 / (2000 * np.array(SHARES))).sum()
    assert 0.001 < stats.chi2.cdf(per_patient, df=100) < 0.999
    pair = np.array([[((drawn[:, 0] == a) & (drawn[:, 1] == b)).sum() for b in range(3)] for a in range(3)])
    assert stats.chi2_contingency(pair).pvalue > 0.001


@pytest.mark.parametrize("count", [100, 1000])
def test_what_independent_coins_cost_in_balance(count: int) -> None:
    """The share in train varies as a binomial does: by 4.9 % points of 100 patients, 1.5 of 1,000."""
    patients = _pseudonyms(range(count))
    found = [(_parts(patients, np.arange(count), key) == 0).mean() for key in range(400)]
    expected = np.sqrt(0.6 * 0.4 / count)
    assert abs(np.std(found) / expected - 1) < 0.15
    assert abs(np.mean(found) - 0.6) < 4 * expected / 20


@pytest.mark.parametrize("history", ["none", "the same patients", "before pairs were linked"])
def test_the_exact_test_keeps_its_level_on_200_null_cohorts(history: str) -> None:
    """Scores depend on who somebody is and not on any coin; the cohort may have been trained on before.

    Then with a larger share in train, or before some patients turned out to be linked. Of 200 p-values at
    most 5 % may lie below .05, give or take what 200 draws allow.
    """
    generator = np.random.default_rng(1)
    small = 0
    for cohort in range(200):
        patients = _pseudonyms([f"{cohort} {number}" for number in range(200)])
        pairs = np.where(np.arange(200) < 100, np.arange(200) // 2, np.arange(200))
        clusters = linked_clusters(patients, pairs)
        earlier = _parts(patients, clusters, cohort, (0.7, 0.15, 0.15))
        if history == "before pairs were linked":
            earlier = _parts(patients, np.arange(200), cohort)
        known = [] if history == "none" else patients[earlier == 0].tolist()
        split = split_clusters(patients, clusters, key=_key(cohort), shares=SHARES, trained_on=known)
        first = np.unique(clusters, return_index=True)[1]
        first = first[split.part[first] < 2]
        members, pinned = split.part[first] == 0, split.pinned[first]
        labels = generator.integers(0, 2, len(first))
        scores = generator.normal(size=len(first)) + 2 * labels + 3 * (first < 100)
        strata = np.where(pinned, -1 - labels, labels)
        levels = np.quantile(scores, [0.95, 0.9, 0.5])[None]
        test = Enrichment.of(members, strata, levels, 199, generator)
        small += test.p_value(scores[None]) <= 0.05
    assert stats.binom.sf(small - 1, 200, 0.05) > 0.001


def test_who_was_trained_on_stays_in_train_and_is_known_as_pinned() -> None:
    """With the whole cluster; single patients whose coin says train are there by chance."""
    patients = _pseudonyms(range(200))
    clusters = linked_clusters(patients, np.arange(200) // 2)
    before = _parts(patients, clusters)
    known = patients[::4].tolist()
    split = split_clusters(patients, clusters, key=_key(0), shares=SHARES, trained_on=known)
    of_known = np.isin(clusters, clusters[::4])
    assert (split.part[of_known] == 0).all()
    np.testing.assert_array_equal(split.pinned, of_known)  # pairs, whose earlier coins are not known
    alone = split_clusters(patients, np.arange(200), key=_key(0), shares=SHARES, trained_on=known)
    overruled = np.isin(patients, patients[::4]) & (_parts(patients, np.arange(200)) != 0)
    np.testing.assert_array_equal(alone.pinned, overruled)
    np.testing.assert_array_equal(split.part[~of_known], before[~of_known])
    assert split.pinned.sum() > 20


def test_a_cluster_stays_in_its_part_when_others_join_it() -> None:
    """Its lowest patient decides, so only a lower newcomer can move it; that is one cluster, and no other."""
    patients = _pseudonyms(range(100))
    alone = _parts(patients, np.arange(100))
    order = np.argsort(patients)
    clusters = np.arange(100)
    clusters[order[50]] = clusters[order[10]]  # the higher joins the lower
    joined = _parts(patients, np.unique(clusters, return_inverse=True)[1])
    changed = np.flatnonzero(joined != alone)
    assert set(changed.tolist()) <= {int(order[50])}
    assert joined[order[50]] == joined[order[10]] == alone[order[10]]


def test_a_part_without_a_patient_is_an_error_and_never_drawn_again() -> None:
    """The message says which part, how many there are, and whether earlier trainings are the reason."""
    with pytest.raises(CohortError, match=r"no patient is left for .*: the cohort has 1 patient,"):
        _parts(_pseudonyms(range(1)), np.zeros(1, dtype=int))
    patients = _pseudonyms(range(40))
    with pytest.raises(CohortError, match=r"left for holdout and test: .*of whom \d+ were trained on before"):
        split_clusters(patients, np.arange(40), key=_key(0), shares=SHARES, trained_on=patients.tolist())
    assert set(_parts(patients, np.arange(40)).tolist()) == set(range(len(SPLITS)))


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


def test_rows_that_belong_together_join_their_groups() -> None:
    """Also in a chain; the groups are numbered by first appearance, and nothing else changes."""
    groups = np.array([0, 1, 2, 1, 3])
    np.testing.assert_array_equal(
        joined_clusters(groups, np.array([0, 3]), np.array([1, 4])), np.array([0, 0, 1, 0, 0])
    )
    empty = np.empty(0, np.int64)
    np.testing.assert_array_equal(joined_clusters(groups, empty, empty), groups)
