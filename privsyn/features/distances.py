"""How far two sets of images are apart in a feature space: Fréchet, kernel, precision to coverage.

All take rows (n, d) of features. `compare` measures whole sets and many parts of them at a bearable cost:
intervals come from halves of the patients (`privsyn.auditing.statistics.resampling`), since drawing with
repeats would bias every one of these measures.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from privsyn.features.neighbours import nearest

K = 5  # neighbours that make a ball (Naeem et al. 2020, section 5)
SEEN = 64  # neighbours known of each row: among them lie the nearest K of any half, but for a chance of 1e-13
MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
_IN_BALLS = ("precision", "recall", "density", "coverage")
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
    return _Gaussian.of(first).distance(_Gaussian.of(second))


def kernel_distance(first: Rows, second: Rows) -> float:
    """Unbiased squared maximum mean discrepancy with the kernel `(x'y / d + 1)^3`; may be below 0.

    Bińkowski et al. 2018, https://arxiv.org/abs/1801.01401, section 3.
    """
    return float(Reference(first)._kernel_distances(second, [])[0])


def compare(
    real: Rows, other: Rows, parts: Sequence[Part] = (), k: int = K
) -> dict[str, NDArray[np.float64]]:
    """Every one of `MEASURES` of two sets and of parts of them: see `Reference.compare`."""
    return Reference(real, k).compare(other, parts)


class Reference:
    """A set that others are compared with; what is the same for all of them is computed once.

    Args:
        rows: (n, d).
        k: neighbours that make a ball.
    """

    def __init__(self, rows: Rows, k: int = K) -> None:
        self.rows, self.k = rows, k
        self._roots: dict[bytes, _Root] = {}  # of parts
        self._within: dict[tuple[bytes, ...], NDArray[np.float64]] = {}  # of the whole and some parts

    def compare(
        self, other: Rows, parts: Sequence[Part] = (), measures: Collection[str] = MEASURES
    ) -> dict[str, NDArray[np.float64]]:
        """Measures of the whole sets and of parts of them.

        Precision and recall: Kynkäänniemi et al. 2019, https://arxiv.org/abs/1904.06991, equation 1. Density
        and coverage: Naeem et al. 2020, https://arxiv.org/abs/2002.09797, equations 3 and 4. A ball around a
        row reaches to its k-th nearest neighbour in its own set, itself not counted, and what lies on it is
        outside.

        Args:
            other: (m, d) what is measured.
            parts: rows of the reference and rows of `other`, each.
            measures: those that are wanted.

        Returns:
            (1 + parts,) for each measure, the whole sets first.

        Raises:
            ValueError: a set or a part of one has not more than k rows.
        """
        whole = np.arange(len(self.rows)), np.arange(len(other))
        if min(len(each) for part in (whole, *parts) for each in part) <= self.k:
            raise ValueError(f"{self.k} neighbours need more than {self.k} images on either side")
        found = {}
        if wanted := [name for name in _IN_BALLS if name in measures]:
            balls = _Balls(self, other)
            values = [balls.measured(some, others, wanted) for some, others in (whole, *parts)]
            found = {name: np.array([each[name] for each in values]) for name in wanted}
        if "frechet_distance" in measures:
            halves = [self._quick_frechet_distance(some, other[others]) for some, others in parts]
            found["frechet_distance"] = np.array([self._gaussian.distance(_Gaussian.of(other)), *halves])
        if "kernel_distance" in measures:
            found["kernel_distance"] = self._kernel_distances(other, parts)
        return found

    @cached_property
    def near(self) -> _Near:
        return _Near.of(self.rows)

    @cached_property
    def _gaussian(self) -> _Gaussian:
        return _Gaussian.of(self.rows)

    def _quick_frechet_distance(self, chosen: Chosen, other: Rows) -> float:
        """As `frechet_distance`, to 1e-5 and at a quarter of the cost where images outnumber dimensions.

        tr (S1 S2)^(1/2) from the eigenvalues of L' S2 L with S1 = L L', which loses the digits of the
        smallest ones: enough for the spread over halves.
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
        apart = root.mean - other.mean(axis=0, dtype=np.float64)
        return float((apart**2).sum() + root.trace + np.trace(two) - 2 * common)

    def _kernel_distances(self, other: Rows, parts: Sequence[Part]) -> NDArray[np.float64]:
        """(1 + parts,) of the whole sets and of parts, all in one pass over the kernel."""
        counts = [
            _counts(len(rows), [part[side] for part in parts]) for side, rows in enumerate((self.rows, other))
        ]
        first, second = self.rows.astype(np.float64), other.astype(np.float64)
        key = tuple(some.tobytes() for some, _ in parts)
        if key not in self._within:
            self._within[key] = _kernel_within(first, counts[0])
        between = _kernel_sums(first, second, *counts) / (counts[0].sum(axis=0) * counts[1].sum(axis=0))
        distances: NDArray[np.float64] = self._within[key] + _kernel_within(second, counts[1]) - 2 * between
        return distances


def principal_axes(rows: Rows, count: int) -> NDArray[np.float64]:
    """(d, count) directions of the largest variance, in order; the largest number of each is positive."""
    covariance = np.atleast_2d(np.cov(rows, rowvar=False, dtype=np.float64))
    d = len(covariance)
    axes = linalg.eigh(covariance, subset_by_index=(d - count, d - 1), check_finite=False)[1][:, ::-1]
    signs: NDArray[np.float64] = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(count)])
    return np.asarray(axes * signs, np.float64)


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


class _Balls:
    """Squared distances (n, m) between two sets, and the balls around the rows of each."""

    def __init__(self, reference: Reference, other: Rows) -> None:
        self.reference, self.other = reference, other
        centre = reference.rows.mean(axis=0, dtype=np.float64)
        first, second = reference.rows - centre, other - centre
        squares = np.einsum("ij,ij->i", second, second)
        self.apart = np.empty((len(first), len(second)))
        for start in range(0, len(first), _BLOCK):
            rows = first[start : start + _BLOCK]
            block = np.einsum("ij,ij->i", rows, rows)[:, None] + squares - 2 * rows @ second.T
            np.maximum(block, 0, out=self.apart[start : start + _BLOCK])

    @cached_property
    def _near(self) -> _Near:
        return _Near.of(self.other)

    def measured(self, real: Chosen, other: Chosen, measures: Collection[str]) -> dict[str, float]:
        k, found = self.reference.k, {}
        whole = (len(real), len(other)) == self.apart.shape
        apart = self.apart if whole else self.apart[np.ix_(real, other)]
        if "recall" in measures:
            found["recall"] = float((apart < self._near.radii(other, k)).any(axis=1).mean())
        inside = apart < self.reference.near.radii(real, k)[:, None]
        found["precision"] = float(inside.any(axis=0).mean())
        found["density"] = float(inside.sum(axis=0).mean() / k)
        found["coverage"] = float(inside.any(axis=1).mean())
        return found


@dataclass(frozen=True, eq=False)
class _Gaussian:
    """Mean and covariance of a set, the latter as a small A of A'A."""

    mean: NDArray[np.float64]
    root: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows) -> _Gaussian:
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
    """Mean of a set, and L and the trace of its covariance L L'."""

    mean: NDArray[np.float64]
    lower: NDArray[np.float64]
    trace: float

    @classmethod
    def of(cls, rows: Rows) -> _Root:
        covariance = np.cov(rows, rowvar=False, dtype=np.float64)
        trace, dimensions = float(np.trace(covariance)), rows.shape[1]
        ridge = 1e-12 * trace / dimensions
        lower = linalg.cholesky(covariance + ridge * np.eye(dimensions), lower=True, check_finite=False)
        return cls(rows.mean(axis=0, dtype=np.float64), lower, trace)


def _small_root(root: NDArray[np.float64]) -> NDArray[np.float64]:
    """A with the same A'A and no more rows than columns."""
    if root.shape[0] <= root.shape[1]:
        return root
    upper = linalg.qr(root, mode="r", check_finite=False)[0][: root.shape[1]]
    return np.asarray(upper, np.float64)


def _kernel_within(rows: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(parts,) mean of the kernel over all pairs of two rows of a part."""
    sizes = counts.sum(axis=0)
    mean: NDArray[np.float64] = (_kernel_sums(rows, rows, counts, counts) - _own(rows) @ counts) / (
        sizes * (sizes - 1)
    )
    return mean


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
