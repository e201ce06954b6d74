"""Biomarkers are what their definitions say, and move with what they are named for."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from privsyn.errors import PrivsynError
from privsyn.features import texture as module
from privsyn.features.texture import COLOUR, GENERAL, MODALITY, biomarkers

GLCM = ("glcm-contrast", "glcm-homogeneity", "glcm-energy", "glcm-correlation")


def measured(images: np.ndarray, name: str) -> np.ndarray:
    """One biomarker of (n, H, W) or (n, H, W, C) images in [0, 1]."""
    levels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    return biomarkers(levels if levels.ndim == 4 else levels[..., None], [name])[:, 0]


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def blobs() -> np.ndarray:
    """Four smooth RGB pictures and a noisy one, (5, 20, 24, 3) uint8."""
    rows, columns = np.mgrid[:20, :24] / 24
    waves = [np.sin(k * rows + 3 * c) * np.cos(columns * k) for k in range(1, 5) for c in range(3)]
    smooth = np.moveaxis(np.reshape(waves, (4, 3, 20, 24)), 1, -1)
    return np.concatenate([np.round(127.5 + 127.5 * smooth).astype(np.uint8), noise(1, 20, 24, 3)])


def test_the_intensity_of_a_known_histogram() -> None:
    """Half black and half white: mean and standard deviation one half, one bit; four greys: two bits."""
    image = np.zeros((2, 8, 8))
    image[0, :4] = 1
    image[1] = np.repeat([0.1, 0.3, 0.5, 0.9], 2)[:, None]
    found = biomarkers(np.round(image * 255).astype(np.uint8)[..., None], GENERAL[:3])
    np.testing.assert_allclose(found[0], [0.5, 0.5, 1], rtol=1e-12)
    assert found[1, 2] == pytest.approx(2)
    every_level = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert biomarkers(every_level, ["entropy"]).item() == pytest.approx(6)


def test_the_bins_lie_on_the_range_of_the_type_not_on_that_of_the_image() -> None:
    """Four levels that share a bin have no entropy, however far the image could be stretched."""
    faint = (noise(1, 16, 16, 1) % 4).astype(np.uint8)
    assert biomarkers(faint, ["entropy", "glcm-contrast"]).tolist() == [[0, 0]]


def test_edges_are_those_of_the_definition() -> None:
    """Steps of more than a tenth of the range count in both columns beside them, fainter ones do not."""
    step = np.zeros((3, 10, 10))
    step[:, :, 5:] = np.array([0.08, 0.12, 1.0])[:, None, None]
    np.testing.assert_allclose(measured(step, "edge-density"), [0, 2 / 8, 2 / 8])
    np.testing.assert_allclose(measured(step.transpose(0, 2, 1), "edge-density"), [0, 2 / 8, 2 / 8])


def naive_haralick(image: np.ndarray) -> list[float]:
    """Haralick's features of an 8-bit grey image (H, W), summed as he defines them."""
    levels = image // 16
    height, width = levels.shape
    features = []
    for down, across in ((0, 1), (-1, 1), (-1, 0), (-1, -1)):
        matrix = np.zeros((16, 16))
        for row, column in itertools.product(range(height), range(width)):
            if 0 <= row + down < height and 0 <= column + across < width:
                i, j = levels[row, column], levels[row + down, column + across]
                matrix[i, j] += 1
                matrix[j, i] += 1
        p = matrix / matrix.sum()
        cells = list(itertools.product(range(16), range(16)))
        mean = sum(i * p[i, j] for i, j in cells)
        variance = sum((i - mean) ** 2 * p[i, j] for i, j in cells)
        features.append(
            (
                sum(p[i, j] * (i - j) ** 2 for i, j in cells),
                sum(p[i, j] / (1 + (i - j) ** 2) for i, j in cells),
                sum(p[i, j] ** 2 for i, j in cells) ** 0.5,
                sum(p[i, j] * (i - mean) * (j - mean) for i, j in cells) / variance,
            )
        )
    return [sum(column) / 4 for column in zip(*features, strict=True)]


def test_co_occurrence_features_equal_haralicks_sums() -> None:
    """Naive loops from the definition give the same numbers, on smooth pictures and on noise."""
    images = blobs()[..., :1]
    expected = [naive_haralick(image[..., 0]) for image in images]
    np.testing.assert_allclose(biomarkers(images, GLCM), expected, rtol=1e-10)


def surface(hurst: float, side: int, seed: int) -> np.ndarray:
    """A fractional Brownian surface by spectral synthesis, stretched to [0, 1]."""
    generator = np.random.default_rng(seed)
    spectrum = np.fft.fft2(generator.normal(size=(side, side)))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = np.inf
    heights = np.fft.ifft2(spectrum * frequency ** -(hurst + 1)).real
    return (heights - heights.min()) / np.ptp(heights)


@pytest.mark.parametrize("side", [8, 28, 65])
def test_planes_and_straight_steps_have_dimension_2(side: int) -> None:
    """Flat, sloping or cut in two: the surface is smooth; sizes that tiles do not divide are no exception."""
    ramp = np.arange(side) * 900
    planes = np.stack([np.full((side, side), 4000), np.tile(ramp, (side, 1)), (ramp + ramp[:, None]) // 2])
    steps = np.where(np.arange(side) < side // 3, 0, 60_000) * np.ones((side, 1))
    images = np.stack([*planes, steps, steps.T]).astype(np.uint16)[..., None]
    np.testing.assert_allclose(biomarkers(images, ["fractal-dimension"]), 2, atol=1e-9)


@pytest.mark.parametrize("side", [8, 28, 64])
def test_the_fractal_dimension_rises_with_roughness(side: int) -> None:
    """Fractional Brownian surfaces by their Hurst exponents, then noise, all within 2 to 3."""
    means = [
        measured(np.stack([surface(hurst, side, seed) for seed in range(30)]), "fractal-dimension").mean()
        for hurst in (0.9, 0.7, 0.5, 0.3, 0.1)
    ]
    means.append(biomarkers(noise(30, side, side, 1), ["fractal-dimension"]).mean())
    assert means == sorted(means)
    assert 2 < means[0] < 2.35
    assert 2.45 < means[-1] < 3


def test_box_counts_equal_naive_ones() -> None:
    """Loops over tiles, which share the pixels of their border, and a line through the logarithms."""
    image = noise(1, 13, 17, 1)
    grey = image[0, ..., 0] / 255
    counts = []
    for k in (2, 3, 4, 6, 8, 12):
        rows, columns = ([side * t // k for t in range(k + 1)] for side in (12, 16))
        tiles = [
            grey[a : b + 1, c : d + 1]
            for a, b in itertools.pairwise(rows)
            for c, d in itertools.pairwise(columns)
        ]
        counts.append(sum(1 + (tile.max() - tile.min()) * k for tile in tiles))
    slope = np.polyfit(np.log([2, 3, 4, 6, 8, 12]), np.log(counts), 1)[0]
    assert biomarkers(image, ["fractal-dimension"]).item() == pytest.approx(slope)


def test_brightness_does_not_change_the_fractal_dimension() -> None:
    """No box border lies at a fixed grey."""
    image = noise(1, 16, 16, 1) // 2
    found = biomarkers(np.concatenate([image, image + 101]), ["fractal-dimension"])
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize("side", [8, 28, 64])
def test_an_opacity_raises_lung_opacity(side: int) -> None:
    """Dark lungs beside a bright mediastinum are clear; filled from the base up the number rises to 1."""
    film = np.full((side, side), 0.8)
    film[round(0.18 * side) : round(0.75 * side), round(0.1 * side) : round(0.41 * side)] = 0.3
    film[:, side // 2 :] = film[:, : (side + 1) // 2][:, ::-1]
    rows = np.arange(side)[:, None]
    filled = np.stack([np.where(rows >= (1 - share) * side, 0.8, film) for share in (0, 0.4, 0.6, 1)])
    found = measured(filled, "lung-opacity")
    assert found[0] < 0.2
    assert (np.diff(found) > 0).all()
    assert found[-1] == 1
    np.testing.assert_allclose(measured(filled * 0.5, "lung-opacity"), found, atol=0.02)


@pytest.mark.parametrize("side", [8, 28, 64])
def test_layers_have_layer_contrast_and_noise_has_none(side: int) -> None:
    """Horizontal stripes 1, vertical ones 0, noise about 1 / W."""
    stripes = np.tile(np.arange(side)[:, None] // 2 % 2, (1, side)).astype(np.float64)
    assert measured(stripes[None], "layer-contrast").item() == pytest.approx(1)
    assert measured(stripes.T[None], "layer-contrast").item() == pytest.approx(0)
    assert biomarkers(noise(50, side, side, 1), ["layer-contrast"]).mean() < 2 / side


def test_curved_layers_are_flattened_first() -> None:
    """A retina bent by a quarter of the picture keeps nine tenths of its contrast, and noise lowers it."""
    rows, columns = np.mgrid[:64, :64]
    depth = rows - 20 - 16 * ((columns - 32) / 32) ** 2
    retina = np.where((depth >= 0) & (depth < 20), 0.4 + 0.4 * (depth // 5 % 2), 0.1)
    noisy = retina + np.random.default_rng(0).normal(size=retina.shape) * 0.2
    found = measured(np.stack([retina, noisy]), "layer-contrast")
    bent = (retina.mean(axis=1).var() / retina.var()).item()
    assert bent < 0.6
    assert found[0] > 0.9
    assert 0.3 < found[1] < found[0]


def stained(haematoxylin: float, eosin: float) -> np.ndarray:
    """The colour of a pixel with these optical densities, on white."""
    dyes = [np.array(dye) / np.linalg.norm(dye) for dye in module._DYES[:2]]
    return 10 ** -(haematoxylin * dyes[0] + eosin * dyes[1])


def test_more_nuclei_raise_nuclear_density() -> None:
    """The share of pixels that are nuclei, whatever the eosin around them; a black margin is none."""
    tissue = np.tile(stained(0.05, 0.4), (5, 16, 16, 1))
    for count in range(5):
        tissue[count, : 2 * count, :8] = stained(0.6, 0.2)
    np.testing.assert_allclose(measured(tissue, "nuclear-density"), np.arange(5) / 16)
    tissue[:, -2:] = 0
    np.testing.assert_allclose(measured(tissue, "nuclear-density"), np.arange(5) / 16)


def test_the_stain_ratio_is_that_of_the_dyes() -> None:
    """Known amounts come back from their colours; white has a neutral ratio."""
    amounts = [(0.6, 0.0), (0.6, 0.2), (0.3, 0.3), (0.1, 0.5), (0.0, 0.6), (0.0, 0.0)]
    images = np.stack([np.tile(stained(*each), (8, 8, 1)) for each in amounts])
    found = measured(images, "stain-ratio")
    np.testing.assert_allclose(found, [1, 0.75, 0.5, 1 / 6, 0, 0.5], atol=0.02)


def test_white_blood_cells_have_the_nuclei(shared_data: object) -> None:
    """Of real cells, white ones show nuclei over a fifth of the picture and red ones none."""
    with np.load(f"{shared_data}/bccd32.npz") as file:
        images, labels, names = file["images"], file["labels"], file["class_names"].tolist()
    red, white = (
        biomarkers(images[labels == names.index(kind)][:300], ["nuclear-density"]) for kind in ("RBC", "WBC")
    )
    assert np.median(red) < 0.02
    assert np.median(white) > 0.2


def test_8_and_16_bits_are_equals() -> None:
    """The same image has the same numbers, to the bit; in 16 bits fainter differences count, too."""
    for images, names in ((blobs(), GENERAL + MODALITY), (blobs()[..., :1], GENERAL)):
        wide = images.astype(np.uint16) * 257
        np.testing.assert_array_equal(biomarkers(wide, names), biomarkers(images, names))
    flat = np.full((1, 8, 8, 1), 30_000, np.uint16)
    flat[0, 3, 3] += 1
    assert biomarkers(flat, ["contrast"]).item() == pytest.approx(np.sqrt(63) / 64 / 65_535)


def test_grey_pictures_measure_the_same_as_rgb() -> None:
    """Three equal channels are the grey they show."""
    grey = blobs()[..., :1]
    names = (*GENERAL, "lung-opacity", "layer-contrast")
    np.testing.assert_allclose(
        biomarkers(grey.repeat(3, axis=3), names), biomarkers(grey, names), rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_measures_the_same_whatever_stands_beside_it(
    channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, in another order or in other blocks: the same bits."""
    images = np.concatenate([noise(30, 20, 24, channels), blobs()[..., :channels]])
    names = [name for name in GENERAL + MODALITY if channels == 3 or name not in COLOUR]
    rows = biomarkers(images, names)
    order = np.random.default_rng(1).permutation(len(images))
    np.testing.assert_array_equal(biomarkers(images[order], names), rows[order])
    for size in (1, 7):
        monkeypatch.setattr(module, "_BLOCK_PIXELS", size * 20 * 24)
        np.testing.assert_array_equal(biomarkers(images, names), rows)


def test_columns_come_in_the_order_of_the_names() -> None:
    """Any choice, in any order, and once more if asked twice."""
    images = blobs()
    every = dict(zip(GENERAL + MODALITY, biomarkers(images, GENERAL + MODALITY).T, strict=True))
    names = ["stain-ratio", "entropy", "glcm-energy", "mean-intensity", "entropy", "lung-opacity"]
    np.testing.assert_array_equal(
        biomarkers(images, names), np.stack([every[name] for name in names], axis=1)
    )
    assert biomarkers(images, []).shape == (5, 0)
    assert biomarkers(images[:0], names).shape == (0, 6)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_constant_image_has_numbers_for_everything(level: int) -> None:
    """No warning and no NaN: the values that the docstrings promise."""
    image = np.full((1, 9, 11, 3), level, np.uint8)
    found = dict(zip(GENERAL + MODALITY, biomarkers(image, GENERAL + MODALITY)[0], strict=True))
    assert found == pytest.approx(
        {
            "mean-intensity": level / 255,
            **dict.fromkeys(("contrast", "entropy", "edge-density", "glcm-contrast", "layer-contrast"), 0),
            **dict.fromkeys(("glcm-homogeneity", "glcm-energy", "glcm-correlation"), 1),
            "fractal-dimension": 2,
            "lung-opacity": float(level > 0),
            "nuclear-density": float(level == 77),
            "stain-ratio": found["stain-ratio"] if level == 77 else 0.5,
        },
        abs=1e-12,
    )
    assert 0 <= found["stain-ratio"] <= 1


@pytest.mark.parametrize(
    ("shape", "name", "message"),
    [
        ((1, 8, 8, 1), "sharpness", "no biomarker is called 'sharpness': choose from mean-intensity, .*"),
        ((1, 8, 8, 1), "stain-ratio", "stain-ratio: needs RGB images, and these are grey"),
        ((1, 7, 9, 1), "entropy", "biomarkers need images of at least 8 px, not 7 x 9"),
    ],
)
def test_what_cannot_be_measured_is_refused(shape: tuple[int, ...], name: str, message: str) -> None:
    """The message says why, even if there are no images."""
    for count in (0, 1):
        with pytest.raises(PrivsynError, match=f"^{message}$"):
            biomarkers(np.zeros((count, *shape[1:]), np.uint8), [name])
