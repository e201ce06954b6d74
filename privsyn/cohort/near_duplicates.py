"""Near-duplicates across patients: one person under two ids, or one image stored twice.

Candidates are nearest neighbours of the image and of its mirror image in whitened mid-level features (which
are robust to shifts, JPEG and brightness). Each is rechecked on the pixels: after small shifts, and with
brightness and contrast fitted, the two must correlate almost perfectly. No threshold suits all cohorts, so
the correlation must also exceed that of random pairs of this cohort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.index import ImageIndex, IndexRecords
from privsyn.errors import CohortError
from privsyn.features.embed import FeatureRows, Whitening, embed
from privsyn.features.neighbours import nearest
from privsyn.progress import Progress

SEARCHED_NEIGHBOURS = 16  # nearest neighbours of each image and of its mirror image, some of its own patient
CANDIDATE_NEIGHBOURS = 3  # of these, the nearest of other patients, which are rechecked
MIN_CORRELATION = 0.98  # of the pixels at the best shift; a choice
RANDOM_PAIRS = 500  # pairs of unrelated images, for the correlation that occurs by chance
GAP_SHARE = 0.5  # of the gap from the best random pair to a perfect correlation, that may remain; a choice
MAX_SHIFT = 1 / 14  # of the image's size
COMPARED_SIDE = 48  # pixels
MAX_DISTANCE_SHARE = 0.75  # of the distance to the farthest searched neighbour; candidates are nearer
WHITENING_IMAGES = 5_000  # images that the whitening is fitted to
_BATCH = 512


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of images of different patients.

    Attributes:
        some, others: (k,) rows of the records, some[i] < others[i].
        correlation: (k,) of their pixels, 1 for the same up to brightness and contrast.
    """

    some: NDArray[np.int64]
    others: NDArray[np.int64]
    correlation: NDArray[np.float64]


def near_duplicates(
    index: ImageIndex, records: IndexRecords, *, seed: int, progress: Progress
) -> NearDuplicates:
    """Find near-duplicates; memory holds 512 bytes per image, and every image is compared with every other.

    Raises:
        CohortError: there are too few images to estimate what is near.
    """
    if len(records) < 2 * SEARCHED_NEIGHBOURS:
        raise CohortError("too few images to look for near-duplicates: set data.near_duplicates = off")
    generator = np.random.default_rng(seed)
    order = np.argsort(records["sha256"], kind="stable")
    sample = order[np.sort(generator.permutation(len(records))[:WHITENING_IMAGES])]
    whitening = Whitening.fit(embed("lite0-mid", index.read(records["row"][sample]), progress))
    upright, mirrored = _features(index, records, whitening, progress)
    _, patient = np.unique(records["patient"], return_inverse=True)
    patient[records["patient"] == b""] = -1 - np.arange((records["patient"] == b"").sum())
    pairs = _candidates(upright, mirrored, patient)
    limit = _limit(index, records, sample, generator)
    found = np.zeros(len(pairs))
    with progress.stage("recheck pixels", len(pairs)) as advance:
        for row, pair in enumerate(pairs):
            found[row] = correlation(*index.read(records["row"][pair]))
            advance()
    near = np.flatnonzero(found > limit)
    return NearDuplicates(pairs[near, 0], pairs[near, 1], found[near])


def correlation(one: Images, other: Images) -> float:
    """The highest correlation of two square images (H, W, C) over small shifts and the mirror image, -1 to 1.

    Over all channels at once, on the part that both show, at a side of at most `COMPARED_SIDE` pixels.
    """
    first, upright = _reduced(one), _reduced(other)
    most = max(1, round(MAX_SHIFT * len(first)))
    best = -1.0
    for second in (upright, upright[:, ::-1]):
        for down in range(-most, most + 1):
            for right in range(-most, most + 1):
                best = max(best, _pearson(_cut(first, down, right), _cut(second, -down, -right)))
    return best


def _reduced(image: Images) -> NDArray[np.float64]:
    """Means of blocks, at most `COMPARED_SIDE` a side; a remainder at the edges is cut off."""
    block = -(-image.shape[0] // COMPARED_SIDE)
    side = image.shape[0] // block
    blocks = image[: side * block, : side * block].reshape(side, block, side, block, -1)
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return means


def _cut(image: NDArray[np.float64], down: int, right: int) -> NDArray[np.float64]:
    height, width = image.shape[:2]
    return image[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]


def _pearson(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    a, b = one.ravel() - one.mean(), other.ravel() - other.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else 0.0  # a flat image matches nothing


def _limit(
    index: ImageIndex, records: IndexRecords, sample: NDArray[np.int64], generator: np.random.Generator
) -> float:
    """The limit that a pair must exceed: half-way from the best random pairs to a perfect correlation."""
    count = min(len(sample), RANDOM_PAIRS)
    some = generator.permutation(sample)[:count]
    others = np.roll(some, 1)
    images = index.read(records["row"][np.concatenate([some, others])])
    same = records["patient"][some] == records["patient"][others]
    same &= records["patient"][some] != b""
    reached = [
        correlation(images[i], images[count + i])
        for i in range(count)
        if not same[i] and records["sha256"][some[i]] != records["sha256"][others[i]]
    ]
    best = float(np.quantile(reached, 0.99)) if reached else 1.0
    return max(MIN_CORRELATION, 1 - GAP_SHARE * (1 - best))


def _features(
    index: ImageIndex, records: IndexRecords, whitening: Whitening, progress: Progress
) -> tuple[FeatureRows, FeatureRows]:
    """Whitened features of every image and of its mirror image, (n, d) each."""
    sides: tuple[list[FeatureRows], list[FeatureRows]] = ([], [])
    with progress.stage("embed images for near-duplicates", len(records)) as advance:
        for images in _batches(index, records):
            for side, some in zip(sides, (images, images[:, :, ::-1]), strict=True):
                side.append(whitening(embed("lite0-mid", some)))
            advance(len(images))
    return np.concatenate(sides[0]), np.concatenate(sides[1])


def _batches(index: ImageIndex, records: IndexRecords) -> Iterator[Images]:
    for start in range(0, len(records), _BATCH):
        yield index.read(records["row"][start : start + _BATCH])


def _candidates(upright: FeatureRows, mirrored: FeatureRows, patient: NDArray[np.int64]) -> NDArray[np.int64]:
    """(k, 2) rows of different patients, the lower one first, each pair once."""
    pairs = [np.empty((0, 2), np.int64)]
    for queries in (upright, mirrored):
        near = nearest(queries, upright, SEARCHED_NEIGHBOURS)
        foreign = patient[near.indices] != patient[:, None]
        foreign &= near.distances < MAX_DISTANCE_SHARE * near.distances[:, -1:]
        foreign &= foreign.cumsum(axis=1) <= CANDIDATE_NEIGHBOURS
        row, column = np.nonzero(foreign)
        pairs.append(np.sort(np.stack([row, near.indices[row, column]], axis=1), axis=1))
    return np.unique(np.concatenate(pairs), axis=0)
