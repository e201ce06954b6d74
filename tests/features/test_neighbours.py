"""Exact neighbours against scikit-learn's brute force, also where float32 is not enough."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from privsyn.features.neighbours import nearest, nearest_after


@pytest.mark.parametrize("k", [1, 5, 50])
def test_neighbours_equal_brute_force(k: int) -> None:
    """Indices and distances are those of an independent exact search in float64."""
    generator = np.random.default_rng(0)
    database = generator.normal(size=(300, 64)).astype(np.float32)
    queries = generator.normal(size=(40, 64)).astype(np.float32)
    found = nearest(queries, database, k)
    search = NearestNeighbors(algorithm="brute").fit(database.astype(np.float64))
    distances, indices = search.kneighbors(queries.astype(np.float64), k)
    np.testing.assert_array_equal(found.indices, indices)
    np.testing.assert_allclose(found.distances, distances, rtol=1e-9)


def test_the_nearest_after_a_change_are_those_of_a_search_anew() -> None:
    """Rows left and came, copies of queries and doubles among them: distances and indices are the same."""
    generator = np.random.default_rng(2)
    queries, database, added = (generator.random((count, 64)).astype(np.float32) for count in (300, 200, 40))
    database[5], queries[3], added[:10] = database[7], database[7], queries[:10]
    without = generator.choice(200, 60, replace=False)
    found = nearest_after(nearest(queries, database, 1), queries, database, without, added)
    there = np.append(np.setdiff1d(np.arange(200), without), 200 + np.arange(40))
    anew = nearest(queries, np.concatenate([database, added])[there], 1)
    np.testing.assert_array_equal(found.indices, there[anew.indices])
    np.testing.assert_array_equal(found.distances, anew.distances)


def test_the_nearest_after_all_left_are_those_that_came() -> None:
    """A database can be replaced as a whole, and nothing may be added."""
    generator = np.random.default_rng(3)
    queries, database, added = (generator.random((30, 8)).astype(np.float32) for _ in range(3))
    before, everything = nearest(queries, database, 1), np.arange(30)
    found = nearest_after(before, queries, database, everything, added)
    np.testing.assert_array_equal(found.indices - 30, nearest(queries, added, 1).indices)
    same = nearest_after(before, queries, database, everything[:0], added[:0])
    np.testing.assert_array_equal(same.indices, before.indices)


def test_tiny_distances_far_from_the_origin_are_exact() -> None:
    """A copy at distance 1e-4 among vectors of norm 1,000 is told from one at 2e-4, and from itself."""
    generator = np.random.default_rng(1)
    database = (1000 + generator.normal(size=(200, 16))).astype(np.float32)
    query = database[:1].copy()
    database[1] = query[0]
    database[2, :] = query[0]
    database[2, 0] = np.nextafter(database[2, 0], np.float32(np.inf))
    found = nearest(query, database, 3)
    assert found.distances[0, 0] == found.distances[0, 1] == 0
    assert found.indices[0].tolist() == [0, 1, 2]
    assert 0 < found.distances[0, 2] < 1e-3


def test_a_small_database_gives_all_it_has() -> None:
    """k is cut to the number of rows."""
    rows = np.eye(3, dtype=np.float32)
    assert nearest(rows, rows, 10).indices.shape == (3, 3)
