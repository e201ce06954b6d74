"""Real cohorts and honest sets for the audits' tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from homes import new_home
from sklearn.datasets import load_digits

from privsyn.cohort.cohort import Cohort, Part, load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.study import init


def make_cohort(folder: Path, recipe: str, source: Path | str, home: Path, *settings: str) -> Cohort:
    """Prepare a cohort outside any test, with a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(home))
        study = init(folder, recipe=recipe, policy="internal-review", settings=settings)
        prepare(study, source)
        return load_cohort(study.cohort)


def blends(part: Part, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images that are averages of two of one class: smooth, and not a copy of any image."""
    images, labels = [], []
    for _ in range(count):
        label = generator.choice(np.unique(part.labels))
        first, second = generator.choice(np.flatnonzero(part.labels == label), 2, replace=False)
        images.append(np.round((part.images[first].astype(float) + part.images[second]) / 2))
        labels.append(label)
    return np.stack(images).astype(np.uint8), np.array(labels)


def chest_and_fresh(
    folder: Path, source: Path, size: int = 3000, settings: Sequence[str] = ()
) -> tuple[Cohort, np.ndarray, np.ndarray]:
    """A cohort of 3,000 shuffled chest X-rays, and the images and labels of the others: an honest set."""
    with np.load(source) as arrays:
        images, labels = (
            np.concatenate([arrays[f"{part}_{kind}"] for part in ("train", "val", "test")])
            for kind in ("images", "labels")
        )
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order][..., np.newaxis], labels[order].ravel().astype(np.int64)
    np.savez(folder / "chest.npz", images=images[:size], labels=labels[:size])
    cohort = make_cohort(folder / "study", "chest-xray-28", folder / "chest.npz", folder / "home", *settings)
    return cohort, images[size:], labels[size:]


def digits_and_fresh(folder: Path, size: int = 1200) -> tuple[Cohort, np.ndarray, np.ndarray]:
    """A cohort of the first 1,200 of the shuffled digits, and the images and labels of the other 597.

    The latter are an honest set: real images of people that the cohort knows nothing of.
    """
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order], digits.target[order].astype(np.int64)
    np.savez(folder / "digits.npz", images=images[:size], labels=labels[:size])
    cohort = make_cohort(folder / "study", "digits", folder / "digits.npz", folder / "home")
    return cohort, images[size:], labels[size:]


def few_chests(file: Path, shared_data: Path, count: int) -> Path:
    """An .npz with so many images of PneumoniaMNIST."""
    with np.load(shared_data / "pneumoniamnist.npz") as of:
        images, labels = (
            np.concatenate([of[f"{split}_{kind}"] for split in ("train", "val", "test")])
            for kind in ("images", "labels")
        )
    rows = np.random.default_rng(0).permutation(len(images))[:count]
    np.savez(file, images=images[rows], labels=labels[rows].ravel())
    return file
