"""Exact nearest neighbours: the only importer of faiss.

A flat index is the only one that guarantees exact results (faiss wiki, "Guidelines to choose an index").
Its float32 distances are differences of large numbers, so rows are centred first and the candidates'
distances are computed again in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

FeatureRows = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """For each query, its k nearest rows of the database, nearest first.

    Attributes:
        distances: (n, k) float64, Euclidean.
        indices: (n, k) int64, rows of the database.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


def nearest(queries: FeatureRows, database: FeatureRows, k: int) -> Neighbours:
    """The k nearest database rows of each query, exactly; k is cut to the size of the database."""
    k = min(k, len(database))
    centre = database.mean(axis=0)
    index = faiss.IndexFlatL2(database.shape[1])
    index.add(np.ascontiguousarray(database - centre, dtype=np.float32))
    spare = min(k + 8, len(database))  # float32 order may differ near the k-th: take some more, then recheck
    _, candidates = index.search(np.ascontiguousarray(queries - centre, dtype=np.float32), spare)
    return _recheck(queries, database, candidates, k)


def nearest_after(
    found: Neighbours,
    queries: FeatureRows,
    database: FeatureRows,
    without: NDArray[np.int64],
    added: FeatureRows,
) -> Neighbours:
    """The nearest row of each query after some rows were removed from the database and others added.

    The same result as a full search, at a cost that grows with the change alone.

    Args:
        found: of the same queries in `database`, k = 1.
        without: rows of the database that left.
        added: (m, d) that came; in the result they count on from the end of the database.
    """
    distances, indices = found.distances[:, :1].copy(), found.indices[:, :1].copy()
    gone = np.zeros(len(database), np.bool_)
    gone[without] = True
    left = np.flatnonzero(~gone)
    orphans = np.flatnonzero(gone[indices[:, 0]])
    if len(orphans) and len(left):
        again = nearest(queries[orphans], database[left], 1)
        distances[orphans], indices[orphans] = again.distances, left[again.indices]
    elif len(orphans):
        distances[orphans], indices[orphans] = np.inf, len(database) + len(added)
    if len(added):
        rivals = _rivals(queries, added, distances[:, 0])
        closer = nearest(queries[rivals], added, 1)
        better = closer.distances[:, 0] < distances[rivals, 0]
        distances[rivals[better]] = closer.distances[better]
        indices[rivals[better]] = len(database) + closer.indices[better]
    return Neighbours(distances, indices)


def _rivals(queries: FeatureRows, added: FeatureRows, distances: NDArray[np.float64]) -> NDArray[np.int64]:
    """Queries that may be nearer to an added row, as far as float32 can tell."""
    centre = added.mean(axis=0)
    index = faiss.IndexFlatL2(added.shape[1])
    index.add(np.ascontiguousarray(added - centre, dtype=np.float32))
    centred = np.ascontiguousarray(queries - centre, dtype=np.float32)
    squared, _ = index.search(centred, 1)
    # the error of |q|^2 - 2 q a + |a|^2 in float32 is some 1e-7 of its terms
    slack = 1e-5 * (1 + 4 * (centred**2).sum(axis=1))
    rivals: NDArray[np.int64] = np.flatnonzero(squared[:, 0] <= distances**2 + slack)
    return rivals


def _recheck(
    queries: FeatureRows, database: FeatureRows, candidates: NDArray[np.int64], k: int
) -> Neighbours:
    distances = np.empty(candidates.shape, np.float64)
    for row, found in enumerate(candidates):
        apart = database[found].astype(np.float64)
        apart -= queries[row]
        distances[row] = np.sqrt(np.einsum("ij,ij->i", apart, apart))
    order = np.lexsort((candidates, distances), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1))
