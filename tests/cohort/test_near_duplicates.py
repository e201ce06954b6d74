"""Near-duplicates of different patients: planted ones are found, strangers are left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from privsyn.auditing.attacks.planted_leaks import jpeg
from privsyn.cohort.cohort import clusters_of_parts, load_cohort
from privsyn.cohort.near_duplicates import correlation
from privsyn.cohort.prepare import check, prepare
from privsyn.study import Study, init

Images = NDArray[np.uint8]


def _study(folder: Path, size: int, channels: int, mode: str) -> Study:
    settings = [f"data.size={size}", f"data.channels={channels}", 'data.classes=["a", "b", "c"]']
    settings.append(f"data.near_duplicates={mode}")
    return init(folder, recipe="toy", policy="internal-review", settings=settings)


def _shifted(image: Images) -> Images:
    return np.roll(image, (1, 2), axis=(0, 1))


CHANGES: dict[str, Callable[[Images], Images]] = {
    "jpeg": lambda image: np.asarray(jpeg(image, 60), np.uint8),
    "brighter": lambda image: np.clip(image * 1.1 + 4, 0, 255).astype(np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "shifted": _shifted,
}


@pytest.mark.parametrize(("name", "size", "channels"), [("pneumoniamnist", 28, 1), ("bccd32", 32, 3)])
def test_planted_near_duplicates_are_found_and_strangers_left_alone(
    shared_data: Path, tmp_path: Path, name: str, size: int, channels: int
) -> None:
    """Of 80 copies of real images, 20 disturbed in each of four ways, at least 80 % are found.

    Measured: 76 among chest X-rays, and no other pair; 67 among blood cells, where JPEG changes a small crop
    more than strangers differ, with 13 other images in pairs.

    What was not planted is a real near-duplicate or resembles one as much: at most 2 % of images.
    """
    with np.load(shared_data / f"{name}.npz") as archive:
        images = archive["train_images" if name == "pneumoniamnist" else "images"]
    images = images[:: len(images) // 700][:700].reshape(-1, size, size, channels)
    planted = [CHANGES[change](images[20 * i + j]) for i, change in enumerate(CHANGES) for j in range(20)]
    together = np.concatenate([images, np.stack(planted)])
    np.savez(tmp_path / "a.npz", images=together, labels=np.arange(len(together)) % 3)
    report = check(_study(tmp_path / "study", size, channels, "report"), tmp_path / "a.npz")
    rows = [tuple(int(where.split("[")[1][:-1]) for where in (pair.one, pair.other)) for pair in report.near]
    hits = {max(pair) for pair in rows if abs(pair[0] - pair[1]) and max(pair) - 700 == min(pair)}
    others = {image for pair in rows for image in pair if max(pair) - 700 != min(pair)}
    assert len(hits) >= 0.8 * len(planted)
    assert len(others) <= 0.02 * len(together)


def test_linked_near_duplicates_stay_in_one_part(shared_data: Path, tmp_path: Path) -> None:
    """And without `link` some are torn apart."""
    with np.load(shared_data / "pneumoniamnist.npz") as archive:
        images = archive["train_images"][:120, ..., None]
    copies = np.stack([CHANGES["brighter"](image) for image in images])
    np.savez(tmp_path / "a.npz", images=np.concatenate([images, copies]), labels=np.arange(240) % 3)
    torn = {}
    for mode in ("report", "link"):
        cohort = prepare(_study(tmp_path / mode, 28, 1, mode), tmp_path / "a.npz")
        parts = dict(zip((image.tobytes() for image in cohort.images), cohort.records["split"], strict=True))
        torn[mode] = sum(
            parts[one.tobytes()] != parts[other.tobytes()] for one, other in zip(images, copies, strict=True)
        )
        assert cohort.document.near_duplicates.looked_for == mode
        assert cohort.document.near_duplicates.pairs >= 110
        train, holdout = load_cohort(cohort.folder).part("train"), cohort.part("holdout")
        units = clusters_of_parts(train, holdout)
        assert units[0] == 0
        assert not set(units[: len(train.labels)]) & set(units[len(train.labels) :])
        unit = dict(zip((image.tobytes() for image in train.images), units, strict=False))
        one = [(image.tobytes(), copy.tobytes()) for image, copy in zip(images, copies, strict=True)]
        together = [unit[image] == unit[copy] for image, copy in one if image in unit and copy in unit]
        assert np.mean(together) > 0.9 if mode == "link" else not any(together)
    assert torn["report"] > 30
    assert torn["link"] <= 10


def test_the_correlation_is_that_of_numpy_at_the_best_shift() -> None:
    """1 for equal images and affine changes of brightness, also mirrored and shifted; 0 for flat ones."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 200, (28, 28, 1), dtype=np.uint8)
    other = generator.integers(0, 200, (28, 28, 1), dtype=np.uint8)
    assert correlation(image, image // 2 + 20) > 0.999
    assert correlation(image, image[:, ::-1]) == pytest.approx(1)
    assert correlation(image, np.roll(image, (2, 1), axis=(0, 1))) == pytest.approx(1)
    assert correlation(image, np.full_like(image, 9)) == 0
    naive = max(
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for mirrored in (other, other[:, ::-1])
        for down in range(-2, 3)
        for right in range(-2, 3)
        for a in [image[max(0, down) : 28 + min(0, down), max(0, right) : 28 + min(0, right)]]
        for b in [mirrored[max(0, -down) : 28 + min(0, -down), max(0, -right) : 28 + min(0, -right)]]
    )
    assert correlation(image, other) == pytest.approx(naive, abs=1e-12)
