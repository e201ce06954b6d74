"""Distances of feature sets: equal to their definitions written out, and each sees what it should see."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import linalg
from sklearn.metrics import pairwise_distances

from privsyn.features.distances import (
    MEASURES,
    Reference,
    compare,
    frechet_distance,
    kernel_distance,
    principal_axes,
)

Rows = NDArray[np.float64]


def _sets(n: int, m: int, d: int, seed: int = 0) -> tuple[Rows, Rows]:
    generator = np.random.default_rng(seed)
    mix = generator.normal(size=(d, d)) / np.sqrt(d)
    return generator.normal(size=(n, d)) @ mix, generator.normal(0.3, 1.2, (m, d)) @ mix


def frechet_by_sqrtm(a: Rows, b: Rows) -> float:
    """As Heusel et al. write it, by the root of a matrix."""
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(linalg.sqrtm(one @ two))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one + two - 2 * root))


def kernel_by_loops(a: Rows, b: Rows) -> float:
    """As Bińkowski et al. write it, pair by pair."""

    def k(x: Rows, y: Rows) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(rows: Rows) -> float:
        n = len(rows)
        return sum(k(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))

    return within(a) + within(b) - 2 * sum(k(x, y) for x in a for y in b) / (len(a) * len(b))


def prdc_by_definition(real: Rows, fake: Rows, k: int) -> dict[str, float]:
    """As Kynkäänniemi et al. and Naeem et al. define them."""
    radius_real = np.sort(pairwise_distances(real), axis=1)[:, k]
    radius_fake = np.sort(pairwise_distances(fake), axis=1)[:, k]
    apart = pairwise_distances(real, fake)
    n, m = apart.shape
    return {
        "precision": sum(any(apart[i, j] < radius_real[i] for i in range(n)) for j in range(m)) / m,
        "recall": sum(any(apart[i, j] < radius_fake[j] for j in range(m)) for i in range(n)) / n,
        "density": sum(apart[i, j] < radius_real[i] for i in range(n) for j in range(m)) / (k * m),
        "coverage": sum(min(apart[i]) < radius_real[i] for i in range(n)) / n,
    }


@pytest.mark.parametrize(("n", "m", "d"), [(400, 300, 24), (90, 130, 40), (300, 300, 3)])
def test_the_frechet_distance_is_that_of_the_root_of_a_matrix(n: int, m: int, d: int) -> None:
    """To 1e-6, where the covariances have full rank and `sqrtm` can be trusted."""
    a, b = _sets(n, m, d)
    assert frechet_distance(a, b) == pytest.approx(frechet_by_sqrtm(a, b), rel=1e-6)


def test_covariances_without_full_rank_are_no_trouble() -> None:
    """Fewer images than dimensions: as with the root of a covariance that a little ridge makes whole."""
    a, b = _sets(20, 30, 64)
    one, two = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    ridge = 1e-9 * np.eye(64)
    root = linalg.sqrtm(one + ridge)
    common = np.sqrt(np.maximum(linalg.eigvalsh(root @ (two + ridge) @ root), 0)).sum()
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * common
    assert frechet_distance(a, b) == pytest.approx(wanted, rel=1e-3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="two rows"):
        frechet_distance(a[:1], b)


def test_the_frechet_distance_of_shifted_and_scaled_sets_is_known() -> None:
    """A shift by v adds |v|^2; a scaling by s of centred data adds (s - 1)^2 times the trace."""
    a, _ = _sets(500, 2, 8)
    a -= a.mean(axis=0)
    v = np.arange(8.0)
    assert frechet_distance(a, a + v) == pytest.approx((v**2).sum())
    assert frechet_distance(a, 1.5 * a) == pytest.approx(0.25 * np.trace(np.cov(a, rowvar=False)))


def test_the_kernel_distance_is_its_definition() -> None:
    """Pair by pair, to rounding."""
    a, b = _sets(40, 33, 7)
    assert kernel_distance(a, b) == pytest.approx(kernel_by_loops(a, b), rel=1e-9)


def test_the_kernel_distance_is_unbiased_at_any_size() -> None:
    """Over 400 pairs of equal distributions its mean is 0 within four standard errors; Fréchet's is not."""
    generator = np.random.default_rng(1)
    found = [kernel_distance(*generator.normal(size=(2, 12, 5))) for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found))
    assert (
        np.mean([frechet_distance(*generator.normal(size=(2, 12, 5))) for _ in range(50)]) > 1
    )  # which is biased


@pytest.mark.parametrize(("n", "m"), [(120, 150), (30, 31)])
def test_precision_to_coverage_are_their_definitions(n: int, m: int) -> None:
    """Recomputed naively from all pairs, with k = 3 and 5."""
    real, fake = _sets(n, m, 6)
    for k in (3, 5):
        found = compare(real, fake, k=k)
        for name, value in prdc_by_definition(real, fake, k).items():
            assert found[name] == pytest.approx(value, abs=1e-12), name


def test_a_part_is_measured_as_if_it_were_all_there_is() -> None:
    """What `compare` gives for parts is what it gives for those rows alone."""
    real, fake = _sets(150, 130, 9)
    generator = np.random.default_rng(3)
    parts = [(generator.permutation(150)[:75], generator.permutation(130)[:65]) for _ in range(3)]
    found = compare(real, fake, parts)
    for place, (some, others) in enumerate(parts, 1):
        alone = compare(real[some], fake[others])
        for name in MEASURES:
            close = 1e-5 if name == "frechet_distance" else 1e-9
            assert found[name][place] == pytest.approx(alone[name][0], rel=close), name


def test_identical_sets_and_disjoint_sets() -> None:
    """Equal: distances 0 (the kernel's below it, being unbiased), everything covered. Apart: nothing."""
    real, _ = _sets(200, 2, 8)
    same = compare(real, real)
    assert same["frechet_distance"][0] == pytest.approx(0, abs=1e-9)
    assert same["kernel_distance"][0] < 0
    assert same["precision"] == same["recall"] == same["coverage"] == 1
    assert same["density"][0] == pytest.approx(1, abs=0.15)
    far = compare(real, real + 100)
    assert far["precision"] == far["recall"] == far["density"] == far["coverage"] == 0
    assert far["frechet_distance"][0] == pytest.approx(8 * 100**2)


def test_a_lost_mode_shows_in_recall_and_coverage_alone() -> None:
    """Of two modes one is left: half of the real set is not covered, and what there is, is real."""
    generator = np.random.default_rng(4)
    real, fake = (generator.normal(size=(600, 6)) + 20 * (np.arange(600) % 2)[:, None] for _ in range(2))
    whole, half = compare(real, fake), compare(real, fake[::2])
    assert half["recall"][0] == pytest.approx(whole["recall"][0] / 2, abs=0.03)
    assert half["coverage"][0] == pytest.approx(whole["coverage"][0] / 2, abs=0.05)
    assert half["precision"][0] == pytest.approx(whole["precision"][0], abs=0.03)
    assert half["frechet_distance"][0] > 50 * whole["frechet_distance"][0]


def test_outliers_show_in_density_as_their_share() -> None:
    """5 % outliers lower density and precision by 5 %; coverage hardly moves."""
    generator = np.random.default_rng(5)
    real, fake = generator.normal(size=(2, 1000, 6))
    spoilt = fake.copy()
    spoilt[:50] += 50
    whole, found = compare(real, fake), compare(real, spoilt)
    assert found["density"][0] == pytest.approx(0.95 * whole["density"][0], abs=0.01)
    assert found["precision"][0] == pytest.approx(0.95 * whole["precision"][0], abs=0.01)
    assert found["coverage"][0] == pytest.approx(whole["coverage"][0], abs=0.02)


def test_one_real_outlier_fools_precision_and_not_density() -> None:
    """A real outlier's ball takes in false images, and only few balls do (Naeem et al., figure 1)."""
    generator = np.random.default_rng(6)
    real = generator.normal(size=(300, 2))
    real[0] = 60
    fake = generator.normal(30, 5, (300, 2))
    found = compare(real, fake)
    assert found["precision"][0] > 0.9
    assert found["density"][0] < 0.25


def test_too_few_rows_are_refused() -> None:
    """Five neighbours need six images."""
    real, fake = _sets(30, 5, 4)
    with pytest.raises(ValueError, match="more than 5 images"):
        compare(real, fake)


def test_parts_with_features_that_never_vary_are_measured_all_the_same() -> None:
    """Dead and doubled features leave covariances singular, also where images outnumber dimensions."""
    real, fake = _sets(200, 180, 8)
    real, fake = (np.hstack([each, each[:, :2], np.zeros((len(each), 3))]) for each in (real, fake))
    parts = [(np.arange(100), np.arange(90))]
    found = compare(real, fake, parts)["frechet_distance"]
    assert found[1] == pytest.approx(frechet_distance(real[:100], fake[:90]), rel=1e-5)


def test_a_reference_says_the_same_however_often_and_in_whatever_order_it_is_asked() -> None:
    """What is kept from one set to the next, and what is left out, changes no number."""
    real, fake = _sets(90, 80, 6)
    other = fake[::-1] + 0.5
    parts = [(np.arange(45), np.arange(40)), (np.arange(45, 90), np.arange(40, 80))]
    crossed = [(parts[1][0], parts[0][1]), (parts[0][0], parts[1][1])]
    reference = Reference(real)
    for rows, some in ((fake, parts), (other, crossed), (fake, ()), (other, parts), (fake, parts[:1])):
        found, alone = reference.compare(rows, some), compare(real, rows, some)
        assert {name: values.tolist() for name, values in found.items()} == {
            name: values.tolist() for name, values in alone.items()
        }
    for name in MEASURES:
        found = reference.compare(fake, parts, [name])
        assert list(found) == [name]
        assert found[name].tolist() == compare(real, fake, parts)[name].tolist()


def test_principal_axes_are_those_of_a_singular_value_decomposition() -> None:
    """But for the sign, which is fixed."""
    rows, _ = _sets(60, 2, 5)
    axes = principal_axes(rows, 2)
    expected = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[2][:2].T
    np.testing.assert_allclose(np.abs(axes.T @ expected), np.eye(2), atol=1e-9)
    assert (axes.max(axis=0) == np.abs(axes).max(axis=0)).all()
    assert principal_axes(rows[:, :1], 1).tolist() == [[1.0]]
