"""MS-SSIM is what Wang et al. define, and falls with what makes images differ."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from privsyn.features import ssim as module
from privsyn.features.ssim import ms_ssim


def pictures(count: int, side: int, channels: int = 1, seed: int = 0) -> np.ndarray:
    """Smooth random pictures with a little noise, uint8."""
    generator = np.random.default_rng(seed)
    smooth = gaussian_filter(generator.normal(size=(count, side, side, channels)), (0, 2, 2, 0)) * 300
    return np.clip(128 + smooth + generator.normal(size=smooth.shape) * 5, 0, 255).astype(np.uint8)


def disturbed(images: np.ndarray, strength: float) -> np.ndarray:
    noise = np.random.default_rng(9).normal(size=images.shape) * strength
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def naive_ms_ssim(x: np.ndarray, y: np.ndarray, taps: int, scales: int) -> float:
    """Of two grey images (H, W) in [0, 255], window by window."""
    offsets = np.arange(taps) - taps // 2
    gauss = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    gauss /= gauss.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333][:scales])
    value = 1.0
    for scale, weight in enumerate(weights / weights.sum()):
        terms = []
        for row in range(x.shape[0] - taps + 1):
            for column in range(x.shape[1] - taps + 1):
                a, b = (image[row : row + taps, column : column + taps] for image in (x, y))
                ma, mb = (gauss * a).sum(), (gauss * b).sum()
                va, vb = (gauss * (a - ma) ** 2).sum(), (gauss * (b - mb) ** 2).sum()
                cov = (gauss * (a - ma) * (b - mb)).sum()
                luminance = (2 * ma * mb + c1) / (ma**2 + mb**2 + c1)
                structure = (2 * cov + c2) / (va + vb + c2)
                terms.append(structure if scale < scales - 1 else luminance * structure)
        value *= max(np.mean(terms), 0) ** weight
        x, y = (
            np.array(
                [
                    [image[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean() for j in range(image.shape[1] // 2)]
                    for i in range(image.shape[0] // 2)
                ]
            )
            for image in (x, y)
        )
    return float(value)


@pytest.mark.parametrize(
    ("side", "taps", "scales"), [(8, 7, 1), (9, 9, 1), (16, 11, 1), (28, 11, 2), (45, 11, 3)]
)
def test_the_numbers_are_those_of_the_definition(side: int, taps: int, scales: int) -> None:
    """Loops over all windows and scales give the same; an odd size loses its last row and column."""
    x = pictures(2, side, channels=2)
    y = disturbed(x, 20)
    expected = [
        np.mean(
            [naive_ms_ssim(a[..., c].astype(float), b[..., c].astype(float), taps, scales) for c in (0, 1)]
        )
        for a, b in zip(x, y, strict=True)
    ]
    np.testing.assert_allclose(ms_ssim(x, y), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("side", "scales"), [(8, 1), (21, 1), (22, 2), (28, 2), (64, 3), (175, 4), (176, 5), (512, 5)]
)
def test_as_many_scales_as_leave_the_window_its_pixels(side: int, scales: int) -> None:
    """Up to five, and always one."""
    assert module._scales(side) == scales


@pytest.mark.parametrize("side", [8, 28, 64])
def test_equal_images_have_1(side: int) -> None:
    """To the bit, flat images included."""
    images = np.concatenate([pictures(3, side, 3), np.full((1, side, side, 3), 40, np.uint8)])
    np.testing.assert_array_equal(ms_ssim(images, images), 1)


def test_order_in_a_pair_does_not_matter() -> None:
    """The same bits either way, and less than 1 for different images."""
    x, y = pictures(6, 28), pictures(6, 28, seed=1)
    np.testing.assert_array_equal(ms_ssim(x, y), ms_ssim(y, x))
    assert (ms_ssim(x, y) < 0.9).all()


def test_it_falls_with_noise_and_with_blur() -> None:
    """Step by step for each image."""
    x = pictures(5, 64)
    noisy = [ms_ssim(x, disturbed(x, strength)) for strength in (0, 5, 15, 40)]
    blurred = [ms_ssim(x, gaussian_filter(x, (0, width, width, 0))) for width in (0, 1, 2, 4)]
    assert (np.diff(noisy, axis=0) < 0).all()
    assert (np.diff(blurred, axis=0) < 0).all()


def test_negatives_count_as_0() -> None:
    """A mean structure below 0 has no fractional power: no NaN, no warning."""
    x = pictures(3, 28)
    np.testing.assert_array_equal(ms_ssim(x, 255 - x), 0)


def test_8_and_16_bits_are_equals() -> None:
    """The same pair in either has the same number, to the bit."""
    x, y = pictures(3, 28), pictures(3, 28, seed=1)
    wide = [images.astype(np.uint16) * 257 for images in (x, y)]
    np.testing.assert_array_equal(ms_ssim(*wide), ms_ssim(x, y))


def test_a_pair_has_the_same_number_whatever_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, in another order or in other blocks: the same bits; no pairs have no numbers."""
    x, y = pictures(20, 28, 3), pictures(20, 28, 3, seed=1)
    found = ms_ssim(x, y)
    np.testing.assert_array_equal(ms_ssim(x[::-1], y[::-1]), found[::-1])
    for size in (1, 7):
        monkeypatch.setattr(module, "_BLOCK_PIXELS", size * 28 * 28 * 3)
        np.testing.assert_array_equal(ms_ssim(x, y), found)
    assert ms_ssim(x[:0], y[:0]).shape == (0,)


def test_images_that_are_not_of_one_shape_are_refused() -> None:
    """Nothing is stretched over the other."""
    with pytest.raises(ValueError, match=r"one shape, not \(4, 28, 28, 1\) and \(1, 28, 28, 1\)"):
        ms_ssim(pictures(4, 28), pictures(1, 28))
