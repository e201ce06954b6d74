"""Image biomarkers: named measurements of single images, such as contrast or lung opacity.

The `GENERAL` biomarkers apply to every image; a recipe names those of `MODALITY` that apply to its images.
They describe images and are not diagnoses. The value of an image does not depend on other images, and all
scales are constants below, so real and synthetic images are measured in the same way. Values of images of
different sizes are not comparable.

    mean-intensity     grey, 0 (black) to 1 (white)
    contrast           standard deviation of the grey, 0 to 0.5
    entropy            of a 64-bin grey histogram, 0 to 6 bits
    edge-density       share of pixels whose Sobel gradient exceeds 0.05 of the grey range per pixel
    glcm-contrast      0 to 225; this and the next three use the co-occurrence matrix of 16 grey levels
    glcm-homogeneity   0 to 1 (one level)
    glcm-energy        0.06 to 1 (one level)
    glcm-correlation   -1 to 1
    fractal-dimension  2 (smooth) to 3 (rough), to within a few hundredths

    lung-opacity       frontal chest X-ray: share of the lung field nearly as bright as the mediastinum
    layer-contrast     OCT: share of the variance that lies between rows once the layers are flat
    nuclear-density    stained cells, RGB: share of pixels dark in haematoxylin
    stain-ratio        stained tissue, RGB: haematoxylin as a share of haematoxylin and eosin
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from privsyn.bit_depth import Images, white
from privsyn.errors import PrivsynError

Floats = NDArray[np.float64]

SMALLEST = 8  # px
_BLOCK_PIXELS = 2**17  # processed at once: a few MB, which fit into the CPU cache; does not change results
_LUMA = (0.299, 0.587, 0.114)  # grey of RGB, ITU-R BT.601
_BINS = 64  # of the histogram
_EDGE = 0.05  # of the range per pixel: a step of a tenth of the range
_LEVELS = 16  # of the co-occurrence matrix

# Places are (row, column) as shares of height and width.
_LUNGS = ((0.46, 0.26), (0.46, 0.74))  # centres of two upright ellipses
_LUNG_RADII = (0.26, 0.12)
_MEDIASTINUM = ((0.3, 0.42), (0.7, 0.58))  # opposite corners of a rectangle
_OPAQUE = 0.75  # of the mediastinum's grey; a normal lung has about half of it

_DYES = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))  # haematoxylin, eosin, DAB in R, G, B
_FAINTEST = 1 / 255  # share of white: limits optical density to 2.4
_BLACK = 0.2  # darker in R, G and B: a margin or a pen, not a stain
_NUCLEUS = 0.25  # optical density of haematoxylin; separates white from red blood cells best in BCCD


def biomarkers(images: Images, names: Sequence[str]) -> Floats:
    """Measure images (n, H, W, C), grey or RGB, 8 or 16 bits, from 8 px: (n, len(names)), no NaN.

    Raises:
        PrivsynError: a name is unknown, a colour biomarker is asked of grey images, or images are under 8 px.
    """
    _check(images.shape, names)
    found = np.empty((len(images), len(names)))
    block = max(1, _BLOCK_PIXELS // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), block):
        colours = images[start : start + block] / np.float64(white(images.dtype))
        grey = _grey(colours)
        for family, measure in _FAMILIES.items():
            if wanted := [
                (column, family.index(name)) for column, name in enumerate(names) if name in family
            ]:
                columns, parts = (list(index) for index in zip(*wanted, strict=True))
                numbers = measure(colours if COLOUR.issuperset(family) else grey)
                found[start : start + block, columns] = numbers.reshape(len(grey), -1)[:, parts]
    return found


def _check(shape: tuple[int, ...], names: Sequence[str]) -> None:
    if unknown := [name for name in names if name not in GENERAL + MODALITY]:
        raise PrivsynError(
            f"no biomarker is called {unknown[0]!r}: choose from {', '.join(GENERAL + MODALITY)}"
        )
    if shape[3] != 3 and (coloured := COLOUR.intersection(names)):
        raise PrivsynError(f"{', '.join(sorted(coloured))}: needs RGB images, and these are grey")
    if min(shape[1:3]) < SMALLEST:
        raise PrivsynError(f"biomarkers need images of at least {SMALLEST} px, not {shape[1]} x {shape[2]}")


def _grey(colours: Floats) -> Floats:
    """(n, H, W) in [0, 1]."""
    if colours.shape[3] == 1:
        return colours[..., 0]
    return _weighted(colours, _LUMA)


def _weighted(colours: Floats, weights: Sequence[float]) -> Floats:
    # not a matrix product, whose rounding depends on the size of the batch
    red, green, blue = (colours[..., channel] * weight for channel, weight in enumerate(weights))
    total: Floats = red + green + blue
    return total


def _bins(grey: Floats, bins: int) -> NDArray[np.intp]:
    """Number of the bin, from 0, among equal bins of [0, 1]; the last bin includes 1."""
    return np.minimum((grey * bins).astype(np.intp), bins - 1)


def _histograms(codes: NDArray[np.intp], values: int) -> NDArray[np.intp]:
    """Counts of the codes 0 to `values` - 1 in each image: (n, ...) to (n, values)."""
    rows = codes.reshape(len(codes), -1) + values * np.arange(len(codes))[:, None]
    return np.bincount(rows.ravel(), minlength=values * len(codes)).reshape(len(codes), values)


def _intensity(grey: Floats) -> Floats:
    """Mean, standard deviation and Shannon entropy in bits, (n, 3)."""
    flat = grey.reshape(len(grey), -1)
    shares = _histograms(_bins(flat, _BINS), _BINS) / flat.shape[1]
    return np.stack([flat.mean(axis=1), flat.std(axis=1), entr(shares).sum(axis=1) / np.log(2)], axis=1)


def _edge_density(grey: Floats) -> Floats:
    """Share of inner pixels whose 3x3 Sobel gradient, in grey per pixel, exceeds `_EDGE`."""
    down, across = grey[:, 2:] - grey[:, :-2], grey[:, :, 2:] - grey[:, :, :-2]
    vertical = (down[:, :, :-2] + 2 * down[:, :, 1:-1] + down[:, :, 2:]) / 8
    horizontal = (across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]) / 8
    steep: Floats = (np.hypot(vertical, horizontal) > _EDGE).mean(axis=(1, 2))
    return steep


def _cooccurrence(grey: Floats) -> Floats:
    """Texture features of Haralick et al. 1973 (doi:10.1109/TSMC.1973.4309314), (n, 4).

    p(i, j) is how often grey levels i and j are neighbours, in both orders, at distance 1 and one angle;
    a feature is the mean over 0, 45, 90 and 135 degrees of

        contrast sum p (i - j)^2, homogeneity sum p / (1 + (i - j)^2), energy sqrt(sum p^2), and
        correlation sum p (i - m) (j - m) / s^2, which is 1 where all pixels have one level (s = 0).

    Energy is the root of Haralick's angular second moment, as in scikit-image.
    """
    levels = _bins(grey, _LEVELS)
    angles = (
        (levels[:, :, :-1], levels[:, :, 1:]),
        (levels[:, 1:, :-1], levels[:, :-1, 1:]),
        (levels[:, :-1], levels[:, 1:]),
        (levels[:, :-1, :-1], levels[:, 1:, 1:]),
    )
    means: Floats = np.mean([_haralick(first, second) for first, second in angles], axis=0)
    return means


def _haralick(first: NDArray[np.intp], second: NDArray[np.intp]) -> Floats:
    one_way = _histograms(first * _LEVELS + second, _LEVELS**2)
    counts = one_way + _histograms(second * _LEVELS + first, _LEVELS**2)
    total = 2 * first[0].size
    i, j = (index.ravel() for index in np.indices((_LEVELS, _LEVELS)))
    # integers up to here, so that the variance of a single grey level is exactly 0
    sums = (counts * i).sum(axis=1)
    variance = total * (counts * i * i).sum(axis=1) - sums**2
    covariance = total * (counts * i * j).sum(axis=1) - sums**2
    return np.stack(
        [
            (counts * (i - j) ** 2).sum(axis=1) / total,
            (counts / (1 + (i - j) ** 2)).sum(axis=1) / total,
            np.sqrt((counts**2).sum(axis=1)) / total,
            np.where(variance > 0, covariance / np.maximum(variance, 1), 1.0),
        ],
        axis=1,
    )


def _fractal_dimension(grey: Floats) -> Floats:
    """Differential box counting (Sarkar & Chaudhuri 1994, doi:10.1109/21.259692), (n,).

    The image is a surface over k x k tiles. Above each tile stands a column of boxes, each 1/k of the grey
    range high, of which the surface meets n = 1 + k (max - min). This is the mean of the paper's count over
    all heights of the lowest box, so brightness has no influence. The dimension is the slope of log sum n on
    log k for k = 2, 3, 4, 6, 8, 12 ... up to one tile for each step from pixel to pixel. Neighbouring tiles
    share the pixels of their border (Li, Du & Sun 2009), so a plane has dimension 2.

    It orders images by roughness, but is biased: the 1 in n pulls it towards 2, most in images that are small
    or have low contrast. Fractional Brownian surfaces of dimension 2.1 and 2.9, scaled to the whole grey
    range, have 2.15 and 2.34 at 28 px, 2.14 and 2.45 at 128 px; white noise has 2.70 and 2.83.
    """
    high, low = (_cells(extreme, grey) for extreme in (np.maximum, np.minimum))
    steps = min(high.shape[1:])
    tiles = np.array(sorted(k for power in range(12) for k in (2 << power, 3 << power) if k <= steps))
    met = [1 + k * (_tiles(np.maximum, high, k) - _tiles(np.minimum, low, k)).mean(axis=1) for k in tiles]
    x = np.log(tiles) - np.log(tiles).mean()
    slopes: Floats = 2 + (np.log(np.stack(met, axis=1)) * x).sum(axis=1) / (x**2).sum()
    return slopes


def _cells(extreme: np.ufunc, grey: Floats) -> Floats:
    """Maximum or minimum of each 2 x 2 neighbourhood of pixels, (n, H - 1, W - 1)."""
    rows = extreme(grey[:, :-1], grey[:, 1:])
    corners: Floats = extreme(rows[:, :, :-1], rows[:, :, 1:])
    return corners


def _tiles(extreme: np.ufunc, cells: Floats, k: int) -> Floats:
    """Maximum or minimum of each of k x k tiles, whose sides differ by one cell at most, (n, k * k)."""
    for axis in (1, 2):
        cells = extreme.reduceat(cells, np.arange(k) * cells.shape[axis] // k, axis=axis)
    return cells.reshape(len(cells), -1)


def _lung_opacity(grey: Floats) -> Floats:
    """Share of the lung field brighter than 0.75 of the mediastinum, (n,).

    This is crude: the lung field is a fixed pair of ellipses and the mediastinum a fixed rectangle, placed
    for an upright, centred, frontal image that shows bone white. Nothing is segmented, so a rotated, cropped
    or inverted image, a large heart or a tube changes the value as an opacity does; exposure (a factor) does
    not. An image of one grey counts as fully opaque, a black one as clear.
    """
    rows, columns = ((np.arange(side) + 0.5) / side for side in grey.shape[1:])
    places = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)
    lungs = np.any([(((places - at) / _LUNG_RADII) ** 2).sum(axis=-1) <= 1 for at in _LUNGS], axis=0)
    first, last = _MEDIASTINUM
    mediastinum = ((places >= first) & (places <= last)).all(axis=-1)
    reference = np.median(grey[:, mediastinum], axis=1, keepdims=True)
    opaque: Floats = (grey[:, lungs] > _OPAQUE * reference).mean(axis=1)
    return opaque


def _layer_contrast(grey: Floats) -> Floats:
    """Variance between rows as a share of all variance, after flattening the layers, (n,); 0 for one grey.

    Flattening shifts each column along a parabola, which is fitted to the heights at which the brighter parts
    of the columns are centred; pixels that leave at one edge enter at the other. About 1/W for noise.
    """
    total = grey.reshape(len(grey), -1).var(axis=1)
    moves = np.round(_bend(_bright_heights(grey))).astype(np.intp)
    rows = np.arange(grey.shape[1])[:, None] + moves[:, None, :]
    flat = np.take_along_axis(grey, rows % grey.shape[1], axis=1)
    between = flat.mean(axis=2).var(axis=1)
    return np.where(total > 1e-20, between / np.maximum(total, 1e-20), 0.0)


def _bright_heights(grey: Floats) -> Floats:
    """Centroid row of the grey above the image's mean in each column, (n, W)."""
    excess = np.maximum(grey - grey.reshape(len(grey), -1).mean(axis=1)[:, None, None], 0)
    rows = np.arange(grey.shape[1])
    mass, moment = excess.sum(axis=1), (excess * rows[:, None]).sum(axis=1)
    heights: Floats = np.where(mass > 1e-10, moment / np.maximum(mass, 1e-10), rows.mean())
    return heights


def _bend(heights: Floats) -> Floats:
    """Least-squares parabola through each row of (n, W), minus the mean of the row."""
    powers = np.vander(np.linspace(-1, 1, heights.shape[1]), 3)
    projection = powers @ np.linalg.pinv(powers)
    heights = heights - heights.mean(axis=1, keepdims=True)  # horizontal layers give exactly 0
    bend: Floats = (heights[:, None, :] * projection).sum(axis=2)
    return bend


def _stains(colours: Floats) -> Floats:
    """Nuclear density and stain ratio by colour deconvolution (Ruifrok & Johnston 2001), (n, 2).

    Optical density, -log10 of the share of white, is split into the paper's haematoxylin, eosin and DAB
    (brown); negative amounts are set to 0. Compare within one source only: other stains, such as Giemsa, also
    colour nuclei purple but on another scale, laboratories stain differently, and a grey background counts as
    a little haematoxylin. A pixel that is dark in every channel counts as unstained; an image without stain
    has a ratio of 0.5.
    """
    density = -np.log10(np.maximum(colours, _FAINTEST))
    density[colours.max(axis=3) < _BLACK] = 0
    unmix = np.linalg.inv([np.array(dye) / np.linalg.norm(dye) for dye in _DYES])
    amounts = [np.maximum(_weighted(density, weights), 0) for weights in unmix.T[:2]]
    haematoxylin, eosin = (amount.reshape(len(colours), -1) for amount in amounts)
    nuclei, blue, pink = (haematoxylin > _NUCLEUS).mean(axis=1), haematoxylin.mean(axis=1), eosin.mean(axis=1)
    stain = blue + pink
    return np.stack([nuclei, np.where(stain > 1e-10, blue / np.maximum(stain, 1e-10), 0.5)], axis=1)


_FAMILIES: dict[tuple[str, ...], Callable[[Floats], Floats]] = {  # names -> (n, H, W) to (n, names)
    ("mean-intensity", "contrast", "entropy"): _intensity,
    ("edge-density",): _edge_density,
    ("glcm-contrast", "glcm-homogeneity", "glcm-energy", "glcm-correlation"): _cooccurrence,
    ("fractal-dimension",): _fractal_dimension,
    ("lung-opacity",): _lung_opacity,
    ("layer-contrast",): _layer_contrast,
    ("nuclear-density", "stain-ratio"): _stains,
}
MODALITY = ("lung-opacity", "layer-contrast", "nuclear-density", "stain-ratio")
GENERAL = tuple(name for family in _FAMILIES for name in family if name not in MODALITY)
COLOUR = frozenset({"nuclear-density", "stain-ratio"})  # need RGB images
