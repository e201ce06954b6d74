"""Cohorts of noise images, for which the best attack is known in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from real_cohorts import make_cohort

from privsyn.cohort.cohort import Cohort

GREY, DEVIATION = 127.5, 25.0  # so that hardly a pixel is clipped


def noise_images(count: int, size: int, generator: np.random.Generator) -> np.ndarray:
    """(count, size, size, 1) uint8 of independent normal pixels."""
    return as_images(generator.normal(0, 1, (count, size, size, 1)))


def as_images(values: np.ndarray) -> np.ndarray:
    """Standard normal values as pixels."""
    return np.clip(np.round(GREY + DEVIATION * values), 0, 255).astype(np.uint8)


def noise_cohort(folder: Path, count: int, size: int, split: str) -> Cohort:
    """A cohort of noise; every image is a patient of its own, classes alternate."""
    images = noise_images(count, size, np.random.default_rng(0))
    np.savez(folder / "noise.npz", images=images, labels=np.arange(count) % 2)
    settings = [f"data.size={size}", 'data.classes=["a", "b"]', f"data.split={split}"]
    return make_cohort(folder / "study", "toy", folder / "noise.npz", folder / "home", *settings)


def mean_revealing_set(
    cohort: Cohort, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws from N(mean of the training images of a class, I): no image is near any patient's."""
    train = cohort.part("train")
    labels = np.arange(count) % 2
    means = [(train.images[train.labels == label] - GREY).mean(axis=0) / DEVIATION for label in (0, 1)]
    size = cohort.size
    values = np.stack(means)[labels] + generator.normal(0, 1, (count, size, size, 1))
    return as_images(values), labels
