"""Digests and clusters of a cohort's images come from its records."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privsyn.cohort.cohort import clusters_of_parts
from privsyn.cohort.prepare import prepare
from privsyn.cohort.split import SPLITS, linked_clusters
from privsyn.study import Study

MakeStudy = Callable[..., Study]


def _npz(path: Path, images: NDArray[np.uint8 | np.uint16]) -> Path:
    np.savez(path, images=images, labels=np.arange(len(images)) % 2)
    return path


@pytest.mark.parametrize("bits", [8, 16])
def test_digests_are_those_of_the_pixels(make_study: MakeStudy, tmp_path: Path, bits: int) -> None:
    """The digest of an image is the sha256 of its bytes, in 8 and in 16 bits."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 2**bits, (24, 8, 8)).astype(f"uint{bits}")
    cohort = prepare(make_study(f"data.bit_depth={bits}"), _npz(tmp_path / "a.npz", images))
    for split in SPLITS:
        part = cohort.part(split)
        digests = cohort.records["sha256"].to_numpy()[part.rows].tolist()
        assert digests == [hashlib.sha256(image.tobytes()).hexdigest() for image in part.images]


def test_clusters_are_found_without_reading_images(
    make_study: MakeStudy, tmp_path: Path, noise: Callable[..., NDArray[np.uint8]]
) -> None:
    """The digests come from the records: clusters are those of the pixels, and no image is touched."""
    images = noise(12, 8, 8)
    images[6:] = images[:6]
    cohort = prepare(make_study(), _npz(tmp_path / "a.npz", images))
    parts = [cohort.part(split) for split in SPLITS]
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for part in parts for image in part.images]
    expected = linked_clusters(np.concatenate([part.patients for part in parts]), np.array(digests))
    assert expected.max() == 5
    untouchable = [replace(part, images=_Untouchable()) for part in parts]
    np.testing.assert_array_equal(clusters_of_parts(*untouchable), expected)


class _Untouchable:
    """Stands for images, and fails when they are read."""

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        raise AssertionError("images were read")
