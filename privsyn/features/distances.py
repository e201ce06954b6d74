"""How far two sets of images are apart in a feature space: Fréchet, kernel, precision to coverage.

All take rows (n, d) of features. `compare` measures whole sets and many parts of them at a bearable cost:
intervals come from halves of the patients (`privsyn.audit.halves`), since drawing with repeats would bias
every one of these measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from privsyn.features.neighbours import nearest

K = 5  # neighbours that make a ball (Naeem et al. 2020, section 5)
SEEN = 64  # neighbours known of each row: among them lie the nearest K of any half, but for a chance of 1e-13
MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
_BLOCK = 512
_TIE = 1e-9  # a distance that equals a radius but for rounding is no smaller

Rows = NDArray[np.floating]
Chosen = NDArray[np.int64]
Part = tuple[Chosen, Chosen]  # rows of one set, rows of the other


def frechet_distance(first: Rows, second: Rows) -> float:
    """Squared Fréchet distance of the Gaussians with the sets' means and covariances.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` (Dowson and Landau 1982; Heusel et al. 2017,
    https://arxiv.org/abs/1706.08500). With S = A'A the trace of the root is the sum of the singular values of
    A1 A2', which needs no root of a matrix and is exact for covariances without full rank, as those of fewer
    images than dimensions are. Biased upwards at small n: compare at equal n only.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    if min(len(first), len(second)) < 2:
        raise ValueError("a covariance needs two rows")
    means = first.mean(axis=0, dtype=np.float64), second.mean(axis=0, dtype=np.float64)
    roots = [
        (rows - mean) / np.sqrt(len(rows) - 1) for rows, mean in zip((first, second), means, strict=True)
    ]
    spread = sum(float(np.einsum("ij,ij->", root, root)) for root in roots)
    small, large = sorted((_small_root(root) for root in roots), key=len)
    common = linalg.svdvals(small @ large.T, overwrite_a=True, check_finite=False).sum()
    return float(((means[0] - means[1]) ** 2).sum() + spread - 2 * common)


def kernel_distance(first: Rows, second: Rows) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel `(x'y / d + 1)^3`; may be below 0.

    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 3.
    """
    return float(_kernel_distances(first, second, [])[0])


def compare(
    real: Rows, other: Rows, parts: Sequence[Part] = (), k: int = K
) -> dict[str, NDArray[np.float64]]:
    """Every one of `MEASURES`, of the whole sets and of parts of them.

    Precision and recall: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, equation 1. Density and
    coverage: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, equations 3 and 4. A ball around a row
    reaches to its k-th nearest neighbour in its own set, itself not counted, and what lies on it is outside.

    Args:
        real: (n, d) the reference.
        other: (m, d) what is measured.
        parts: rows of `real` and rows of `other`, each.

    Returns:
        (1 + parts,) for each measure, the whole sets first.

    Raises:
        ValueError: a set or a part of one has not more than k rows.
    """
    whole = np.arange(len(real)), np.arange(len(other))
    if min(len(each) for part in (whole, *parts) for each in part) <= k:
        raise ValueError(f"{k} neighbours need more than {k} images on either side")
    balls = _Balls.of(real, other, k)
    values = [balls.measured(some, others) for some, others in (whole, *parts)]
    frechet = [_quick_frechet_distance(real[some], other[others]) for some, others in parts]
    return {
        **{name: np.array([each[name] for each in values]) for name in values[0]},
        "frechet_distance": np.array([frechet_distance(real, other), *frechet]),
        "kernel_distance": _kernel_distances(real, other, parts),
    }


@dataclass(frozen=True, eq=False)
class _Near:
    """(n, SEEN) other rows of a set that are nearest to each, and their distances."""

    indices: Chosen
    distances: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows) -> _Near:
        found = nearest(rows.astype(np.float32), rows.astype(np.float32), SEEN + 1)
        own = found.indices == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # among so many equals that it does not see itself
        shape = len(rows), found.indices.shape[1] - 1
        return cls(found.indices[~own].reshape(shape), found.distances[~own].reshape(shape))

    def radii(self, chosen: Chosen, k: int) -> NDArray[np.float64]:
        """Squared distance of each chosen row to its k-th nearest among the chosen, less what is rounding."""
        there = np.zeros(len(self.indices), np.bool_)
        there[chosen] = True
        place = (np.cumsum(there[self.indices[chosen]], axis=1) < k).sum(axis=1)  # of the k-th
        known = np.append(self.distances[chosen], np.full((len(chosen), 1), np.inf), axis=1)
        radii: NDArray[np.float64] = known[np.arange(len(chosen)), place] ** 2 * (1 - _TIE)
        return radii


@dataclass(frozen=True, eq=False)
class _Balls:
    """Squared distances (n, m) between two sets, and the neighbours within each."""

    apart: NDArray[np.float64]
    real: _Near
    other: _Near
    k: int

    @classmethod
    def of(cls, real: Rows, other: Rows, k: int) -> _Balls:
        centre = real.mean(axis=0, dtype=np.float64)
        first, second = real - centre, other - centre
        squares = np.einsum("ij,ij->i", second, second)
        apart = np.empty((len(first), len(second)))
        for start in range(0, len(first), _BLOCK):
            rows = first[start : start + _BLOCK]
            block = np.einsum("ij,ij->i", rows, rows)[:, None] + squares - 2 * rows @ second.T
            np.maximum(block, 0, out=apart[start : start + _BLOCK])
        return cls(apart, _Near.of(real), _Near.of(other), k)

    def measured(self, real: Chosen, other: Chosen) -> dict[str, float]:
        whole = (len(real), len(other)) == self.apart.shape
        apart = self.apart if whole else self.apart[np.ix_(real, other)]
        in_real = apart < self.real.radii(real, self.k)[:, None]
        in_other = apart < self.other.radii(other, self.k)
        return {
            "precision": float(in_real.any(axis=0).mean()),
            "recall": float(in_other.any(axis=1).mean()),
            "density": float(in_real.sum(axis=0).mean() / self.k),
            "coverage": float(in_real.any(axis=1).mean()),
        }


def _quick_frechet_distance(first: Rows, second: Rows) -> float:
    """As `frechet_distance`, to 1e-5 and at a quarter of the cost where images outnumber dimensions.

    tr (S1 S2)^(1/2) from the eigenvalues of L' S2 L with S1 = L L', which loses the digits of the smallest
    ones: enough for the spread over halves.
    """
    dimensions = first.shape[1]
    if min(len(first), len(second)) <= dimensions:
        return frechet_distance(first, second)
    one, two = (np.cov(rows, rowvar=False, dtype=np.float64) for rows in (first, second))
    ridge = 1e-12 * float(np.trace(one)) / dimensions
    root = linalg.cholesky(one + ridge * np.eye(dimensions), lower=True, check_finite=False)
    values = linalg.eigvalsh(root.T @ two @ root, check_finite=False)
    common = np.sqrt(np.maximum(values, 0)).sum()
    apart = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    return float((apart**2).sum() + np.trace(one) + np.trace(two) - 2 * common)


def _small_root(root: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with the same A'A and no more rows than columns."""
    if root.shape[0] <= root.shape[1]:
        return root
    upper = linalg.qr(root, mode="r", check_finite=False)[0][: root.shape[1]]
    return np.asarray(upper, np.float64)


def _kernel_distances(first: Rows, second: Rows, parts: Sequence[Part]) -> NDArray[np.float64]:
    """(1 + parts,) of the whole sets and of parts, all in one pass over the kernel."""
    counts = [
        _counts(len(first), [some for some, _ in parts]),
        _counts(len(second), [some for _, some in parts]),
    ]
    a, b = first.astype(np.float64), second.astype(np.float64)
    within = [
        (_kernel_sums(rows, rows, count, count) - _own(rows) @ count)
        / (count.sum(axis=0) * (count.sum(axis=0) - 1))
        for rows, count in zip((a, b), counts, strict=True)
    ]
    between = _kernel_sums(a, b, *counts) / (counts[0].sum(axis=0) * counts[1].sum(axis=0))
    distances: NDArray[np.float64] = within[0] + within[1] - 2 * between
    return distances


def _counts(size: int, parts: Sequence[Chosen]) -> NDArray[np.float64]:
    """(size, 1 + parts) how often each row is in the whole and in each part."""
    counts = np.ones((size, 1 + len(parts)))
    for column, chosen in enumerate(parts, 1):
        counts[:, column] = np.bincount(chosen, minlength=size)
    return counts


def _kernel_sums(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    some: NDArray[np.float64],
    others: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(parts,) sum of the kernel over all pairs of a part."""
    sums = np.zeros(some.shape[1])
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        product = first[block] @ second.T / first.shape[1] + 1
        sums += np.einsum("ij,ij->j", some[block], (product * product * product) @ others)
    return sums


def _own(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) kernel of each row with itself."""
    own: NDArray[np.float64] = (np.einsum("ij,ij->i", rows, rows) / rows.shape[1] + 1) ** 3
    return own
