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

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Neighbours:
    """For each query, its k nearest rows of the database, nearest first.

    Attributes:
        distances: (n, k) float64, Euclidean.
        indices: (n, k) int64, rows of the database.
    """

    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


def nearest(queries: Floats, database: Floats, k: int) -> Neighbours:
    """The k nearest database rows of each query, exactly; k is cut to the size of the database."""
    k = min(k, len(database))
    centre = database.mean(axis=0)
    index = faiss.IndexFlatL2(database.shape[1])
    index.add(np.ascontiguousarray(database - centre, dtype=np.float32))
    spare = min(k + 8, len(database))  # float32 order may differ near the k-th: take some more, then recheck
    _, candidates = index.search(np.ascontiguousarray(queries - centre, dtype=np.float32), spare)
    return _recheck(queries, database, candidates, k)


def _recheck(queries: Floats, database: Floats, candidates: NDArray[np.int64], k: int) -> Neighbours:
    distances = np.empty(candidates.shape, np.float64)
    for row, found in enumerate(candidates):
        distances[row] = np.linalg.norm(
            database[found].astype(np.float64) - queries[row].astype(np.float64), axis=1
        )
    order = np.lexsort((candidates, distances), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(distances, order, 1), np.take_along_axis(candidates, order, 1))
