"""Fréchet and kernel distance, precision, recall, density and coverage of two sets of image features.

Features have shape (n, d). `Reference.compare` measures whole sets and many subsets at little extra cost,
because intervals come from halves of the patients (`privsyn.auditing.statistics.resampling`): a bootstrap,
which repeats images, would bias all of these measures.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from privsyn.features.neighbours import nearest

K = 5  # the radius of a ball is the distance of the K-th neighbour (Naeem et al. 2020, section 5)
KNOWN_NEIGHBOURS = 64  # of each row: they include the K nearest in a random half, except with chance 1e-13
MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
_IN_BALLS = ("precision", "recall", "density", "coverage")
_BLOCK = 512
_TIE = 1e-9  # relative; a distance that equals a radius up to rounding does not count as smaller

Features = NDArray[np.floating]
Indices = NDArray[np.int64]
SubsetPair = tuple[Indices, Indices]  # rows of the reference, rows of the other set


def frechet_distance(first: Features, second: Features) -> float:
    """Squared Fréchet distance of the Gaussians with the sets' means and covariances.

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` (Dowson and Landau 1982; Heusel et al. 2017,
    https://arxiv.org/abs/1706.08500). With S = A'A the trace of the root is the sum of the singular values of
    A1 A2', so no matrix root is needed and the result is exact for covariances without full rank, as with
    fewer images than dimensions. Biased upwards for small n: compare at equal n only.

    Raises:
        ValueError: a set has fewer than two rows.
    """
    return _Gaussian.of(first).distance(_Gaussian.of(second))


def kernel_distance(first: Features, second: Features) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel `(x'y / d + 1)^3`; may be negative.

    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 3.
    """
    return float(Reference(first).kernel_distances(second, [])[0])


def compare(
    real: Features, other: Features, subsets: Sequence[SubsetPair] = (), k: int = K
) -> dict[str, NDArray[np.float64]]:
    """All `MEASURES` of two sets and of subsets of them: see `Reference.compare`."""
    return Reference(real, k).compare(other, subsets)


class Reference:
    """A reference set; what is needed for every set compared with it is computed once.

    Args:
        rows: (n, d) features.
        k: the radius of a ball is the distance of the k-th neighbour.
    """

    def __init__(self, rows: Features, k: int = K) -> None:
        self.rows, self.k = rows, k
        self._roots: dict[bytes, _Root] = {}  # by subset
        self._within: dict[tuple[bytes, ...], NDArray[np.float64]] = {}  # kernel means, by subsets

    def compare(
        self, other: Features, subsets: Sequence[SubsetPair] = (), measures: Collection[str] = MEASURES
    ) -> dict[str, NDArray[np.float64]]:
        """Measures of the whole sets and of subsets of them.

        Precision and recall: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, equation 1. Density
        and coverage: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, equations 3 and 4. The ball of a
        row reaches to its k-th nearest neighbour in its own set, not counting itself; its surface is outside.

        Args:
            other: (m, d) features of the set that is measured.
            subsets: pairs of rows of the reference and rows of `other`.
            measures: a selection of `MEASURES`.

        Returns:
            (1 + subsets,) for each measure, the whole sets first.

        Raises:
            ValueError: a set or a subset has k rows or fewer.
        """
        whole = np.arange(len(self.rows)), np.arange(len(other))
        if min(len(each) for pair in (whole, *subsets) for each in pair) <= self.k:
            raise ValueError(f"{self.k} neighbours need more than {self.k} images in each set")
        found = {}
        if wanted := [name for name in _IN_BALLS if name in measures]:
            balls = _Balls(self, other)
            values = [balls.measured(some, others, wanted) for some, others in (whole, *subsets)]
            found = {name: np.array([each[name] for each in values]) for name in wanted}
        if "frechet_distance" in measures:
            halves = [self._quick_frechet_distance(some, other[others]) for some, others in subsets]
            found["frechet_distance"] = np.array([self._gaussian.distance(_Gaussian.of(other)), *halves])
        if "kernel_distance" in measures:
            found["kernel_distance"] = self.kernel_distances(other, subsets)
        return found

    @cached_property
    def near(self) -> _Neighbours:
        return _Neighbours.of(self.rows)

    @cached_property
    def _gaussian(self) -> _Gaussian:
        return _Gaussian.of(self.rows)

    def _quick_frechet_distance(self, chosen: Indices, other: Features) -> float:
        """`frechet_distance` to 1e-5, at a quarter of the cost if there are more images than dimensions.

        tr (S1 S2)^(1/2) comes from the eigenvalues of L' S2 L with S1 = L L'. The smallest ones are inexact,
        which does not matter for the spread over halves.
        """
        if min(len(chosen), len(other)) <= self.rows.shape[1]:
            return frechet_distance(self.rows[chosen], other)
        key = chosen.tobytes()
        if key not in self._roots:
            self._roots[key] = _Root.of(self.rows[chosen])
        root = self._roots[key]
        two = np.cov(other, rowvar=False, dtype=np.float64)
        values = linalg.eigvalsh(root.lower.T @ two @ root.lower, check_finite=False)
        common = np.sqrt(np.maximum(values, 0)).sum()
        difference = root.mean - other.mean(axis=0, dtype=np.float64)
        return float((difference**2).sum() + root.trace + np.trace(two) - 2 * common)

    def kernel_distances(self, other: Features, subsets: Sequence[SubsetPair]) -> NDArray[np.float64]:
        """(1 + subsets,) of the whole sets, then of subsets, in one pass over the kernel."""
        counts = [
            _counts(len(rows), [pair[side] for pair in subsets])
            for side, rows in enumerate((self.rows, other))
        ]
        first, second = self.rows.astype(np.float64), other.astype(np.float64)
        key = tuple(some.tobytes() for some, _ in subsets)
        if key not in self._within:
            self._within[key] = _kernel_within(first, counts[0])
        between = _kernel_sums(first, second, *counts) / (counts[0].sum(axis=0) * counts[1].sum(axis=0))
        distances: NDArray[np.float64] = self._within[key] + _kernel_within(second, counts[1]) - 2 * between
        return distances


def principal_axes(rows: Features, count: int) -> NDArray[np.float64]:
    """(d, count) first principal axes; the coordinate of the largest magnitude of each axis is positive."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, dtype=np.float64))
    d = len(covariance)
    axes = linalg.eigh(covariance, subset_by_index=(d - count, d - 1), check_finite=False)[1][:, ::-1]
    signs: NDArray[np.float64] = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(count)])
    return np.asarray(axes * signs, np.float64)


@dataclass(frozen=True, eq=False)
class _Neighbours:
    """(n, KNOWN_NEIGHBOURS) nearest other rows of each row of a set, and their distances."""

    indices: Indices
    distances: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Features) -> _Neighbours:
        found = nearest(rows.astype(np.float32), rows.astype(np.float32), KNOWN_NEIGHBOURS + 1)
        own = found.indices == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # among so many equal rows that it is not its own neighbour
        shape = len(rows), found.indices.shape[1] - 1
        return cls(found.indices[~own].reshape(shape), found.distances[~own].reshape(shape))

    def radii(self, chosen: Indices, k: int) -> NDArray[np.float64]:
        """Squared distance of each chosen row to its k-th nearest among the chosen, reduced by `_TIE`."""
        is_chosen = np.zeros(len(self.indices), np.bool_)
        is_chosen[chosen] = True
        place = (np.cumsum(is_chosen[self.indices[chosen]], axis=1) < k).sum(axis=1)  # of the k-th
        known = np.append(self.distances[chosen], np.full((len(chosen), 1), np.inf), axis=1)
        radii: NDArray[np.float64] = known[np.arange(len(chosen)), place] ** 2 * (1 - _TIE)
        return radii


class _Balls:
    """Squared distances (n, m) between two sets, and the balls around the rows of each."""

    def __init__(self, reference: Reference, other: Features) -> None:
        self.reference, self.other = reference, other
        centre = reference.rows.mean(axis=0, dtype=np.float64)
        first, second = reference.rows - centre, other - centre
        squares = np.einsum("ij,ij->i", second, second)
        self.squared = np.empty((len(first), len(second)))
        for start in range(0, len(first), _BLOCK):
            rows = first[start : start + _BLOCK]
            block = np.einsum("ij,ij->i", rows, rows)[:, None] + squares - 2 * rows @ second.T
            np.maximum(block, 0, out=self.squared[start : start + _BLOCK])

    @cached_property
    def _near(self) -> _Neighbours:
        return _Neighbours.of(self.other)

    def measured(self, reference: Indices, other: Indices, measures: Collection[str]) -> dict[str, float]:
        k, found = self.reference.k, {}
        whole = (len(reference), len(other)) == self.squared.shape
        squared = self.squared if whole else self.squared[np.ix_(reference, other)]
        if "recall" in measures:
            found["recall"] = float((squared < self._near.radii(other, k)).any(axis=1).mean())
        inside = squared < self.reference.near.radii(reference, k)[:, None]
        found["precision"] = float(inside.any(axis=0).mean())
        found["density"] = float(inside.sum(axis=0).mean() / k)
        found["coverage"] = float(inside.any(axis=1).mean())
        return found


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """Mean and covariance of a set; the covariance is A'A with `root` = A."""

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Features) -> _Gaussian:
        if len(rows) < 2:
            raise ValueError("a covariance needs two rows")
        mean = rows.mean(axis=0, dtype=np.float64)
        return cls(mean, _small_root((rows - mean) / np.sqrt(len(rows) - 1)))

    def distance(self, other: _Gaussian) -> float:
        small, large = sorted((self.root, other.root), key=len)
        common = linalg.svdvals(small @ large.T, overwrite_a=True, check_finite=False).sum()
        spread = sum(float(np.einsum("ij,ij->", root, root)) for root in (self.root, other.root))
        return float(((self.mean - other.mean) ** 2).sum() + spread - 2 * common)


@dataclass(frozen=True, eq=False)
class _Root:
    """Mean of a set, and Cholesky factor L and trace of its covariance L L'."""

    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    trace: float

    @classmethod
    def of(cls, rows: Features) -> _Root:
        covariance = np.cov(rows, rowvar=False, dtype=np.float64)
        trace, dimensions = float(np.trace(covariance)), rows.shape[1]
        ridge = 1e-12 * trace / dimensions
        lower = linalg.cholesky(covariance + ridge * np.eye(dimensions), lower=True, check_finite=False)
        return cls(rows.mean(axis=0, dtype=np.float64), lower, trace)


def _small_root(root: NDArray[np.float64]) -> NDArray[np.float64]:
    """A matrix with the same A'A and at most as many rows as columns."""
    if root.shape[0] <= root.shape[1]:
        return root
    upper = linalg.qr(root, mode="r", check_finite=False)[0][: root.shape[1]]
    return np.asarray(upper, np.float64)


def _kernel_within(rows: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + subsets,) mean of the kernel over all pairs of two different rows of a subset."""
    sizes = counts.sum(axis=0)
    mean: NDArray[np.float64] = (_kernel_sums(rows, rows, counts, counts) - _own(rows) @ counts) / (
        sizes * (sizes - 1)
    )
    return mean


def _counts(size: int, subsets: Sequence[Indices]) -> NDArray[np.float64]:
    """(size, 1 + subsets) how often each row occurs in the whole set and in each subset."""
    counts = np.ones((size, 1 + len(subsets)))
    for column, chosen in enumerate(subsets, 1):
        counts[:, column] = np.bincount(chosen, minlength=size)
    return counts


def _kernel_sums(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    first_counts: NDArray[np.float64],
    second_counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(1 + subsets,) sum of the kernel over all pairs of rows, one row from each set."""
    sums = np.zeros(first_counts.shape[1])
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        product = first[block] @ second.T / first.shape[1] + 1
        sums += np.einsum("ij,ij->j", first_counts[block], (product * product * product) @ second_counts)
    return sums


def _own(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) kernel of each row with itself."""
    own: NDArray[np.float64] = (np.einsum("ij,ij->i", rows, rows) / rows.shape[1] + 1) ** 3
    return own
