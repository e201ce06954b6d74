"""Warm-up before DP-SGD on noisy class means and covariance, paid for by the same privacy budget."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from privsyn.bit_depth import Images
from privsyn.claim.document import Mechanism, Query, mechanisms
from privsyn.cohort.cohort import Part
from privsyn.diffusion.batches import rows_of_step
from privsyn.diffusion.model import device_of, to_float, to_pixels
from privsyn.dp import class_means, covariance
from privsyn.dp.generators import CPU, keyed_generator
from privsyn.dp.sampling import units_of
from privsyn.files import whole_file
from privsyn.progress import Progress
from privsyn.recipe import Recipe
from privsyn.training.checkpoint import State, Training
from privsyn.training.steps import protecting, sampled, step_on_images

CLASS_MEANS, CLASS_COVARIANCE = "central-images", "class-covariance"  # names of the queries in a claim
MEANS = "means"  # (images, classes, H, W, C) of the images' bit depth
COUNTS = "counts"  # (images, classes) float32: noisy number of units of each class in each sample
DIRECTIONS = "directions"  # (k, C, side, side) float32; only where the covariance was asked for
Contribution = Callable[[Tensor, Tensor], Tensor]  # of a unit's images and labels
DRAWN = 256  # pictures of each class, where they are drawn from a Gaussian


def warm_up_queries(recipe: Recipe) -> tuple[Query, ...]:
    """What the warm-up spends: Gaussian mechanisms on Poisson samples of the units; or nothing."""
    warmup, expected = recipe.warmup, recipe.privacy.expected_units
    if not (recipe.privacy.dp and warmup.images and expected):
        return ()
    rate = (warmup.expected_units or expected) / expected
    means = Query(CLASS_MEANS, Mechanism(warmup.noise_multiplier, rate, warmup.images))
    if warmup.covariance_noise is None:
        return (means,)
    return (means, Query(CLASS_COVARIANCE, Mechanism(warmup.covariance_noise, rate, 1)))


def warm_up(
    file: Path,
    training: Training,
    state: State,
    part: Part,
    progress: Progress,
    *,
    before_writing: Callable[[], None] = lambda: None,
) -> None:
    """Train the fresh network on the noisy moments in `file`, computed only if it does not exist.

    Until they are written nothing is released, so a run that is killed before computes them again at no cost.
    Once the file exists, a resumed run reads it.

    Args:
        before_writing: called when they are computed, before a byte of them is on the disk.
    """
    recipe = state.recipe
    if not file.exists():
        moments = noisy_moments(recipe, part)
        before_writing()
        with whole_file(file) as partial:
            save_file(moments, partial)
    _train_on(*pictures_of(load_file(file), recipe), training, recipe, progress)
    training.ema.load_state_dict(training.model.state_dict())


def noisy_moments(recipe: Recipe, part: Part) -> dict[str, Tensor]:
    """Noisy means and counts, and directions of the noisy covariance around the means if the recipe wants it.

    The covariance is divided by the noisy counts, never by the declared number of units: both samples are
    drawn at the same rate, and the counts are paid for.
    """
    units, warmup = units_of(part.units(recipe.privacy.unit)), recipe.warmup
    of_means, *of_covariance = mechanisms(warm_up_queries(recipe))
    classes, channels, size = len(recipe.data.classes), recipe.data.channels, recipe.data.size

    def summed(number: int, mechanism: Mechanism, like: Tensor, one: Contribution) -> Tensor:
        sample = sampled(units, recipe, mechanism, protecting(recipe, -1 - number, "central units"))
        noise = protecting(recipe, -1 - number, "central noise")
        parts = (one(to_float(part.images[rows]), torch.from_numpy(part.labels[rows])) for rows in sample)
        return class_means.noisy_sum(parts, like, mechanism.noise_multiplier, noise)

    like = torch.zeros(classes, channels * size**2 + 1)
    totals = [
        summed(number, of_means, like, partial(class_means.contribution, classes=classes))
        for number in range(warmup.images)
    ]
    shape, noise = (channels, size, size), of_means.noise_multiplier
    shown = [
        to_pixels(class_means.noisy_class_means(total, shape, noise), recipe.data.bit_depth)
        for total in totals
    ]
    means = torch.from_numpy(np.stack(shown))
    counts = torch.stack([class_means.noisy_class_counts(each) for each in totals])
    moments = {MEANS: means, COUNTS: counts}
    if not of_covariance:
        return moments

    (mechanism,) = of_covariance
    side, spread = warmup.covariance_size, warmup.spread
    around = covariance.coarse(_average(means), side)
    total = summed(
        warmup.images,
        mechanism,
        torch.zeros(around.shape[1], around.shape[1]),
        partial(covariance.second_moment, means=around, spread=spread),
    )
    in_sample = float(counts.sum(dim=1).mean())
    found = covariance.directions(total, in_sample, mechanism.noise_multiplier, spread)
    return {**moments, DIRECTIONS: found.reshape(-1, channels, side, side)}


def noisy_units(file: Path, recipe: Recipe) -> float | None:
    """Noisy number of training units, to four digits, at least 0; the means query paid for it. None without
    one."""
    counts = noisy_proportions(file)
    if counts is None:
        return None
    rate = warm_up_queries(recipe)[0].mechanism.sample_rate
    return float(f"{sum(counts) / rate:.4g}")


def noisy_proportions(file: Path) -> list[float] | None:
    """Noisy number of units of each class, never negative; the means query paid for it. None without one."""
    moments = load_file(file) if file.exists() else {}
    return moments[COUNTS].mean(dim=0).clamp(min=0).tolist() if COUNTS in moments else None


def pictures_of(moments: dict[str, Tensor], recipe: Recipe) -> tuple[Images, NDArray[np.int64]]:
    """What the steps are on, with labels: the means, or draws from a Gaussian around the average of each."""
    means = moments[MEANS]
    if DIRECTIONS not in moments:
        return means.flatten(0, 1).numpy(), np.tile(np.arange(means.shape[1]), means.shape[0])
    labels = torch.arange(means.shape[1]).repeat(DRAWN)
    directions = moments[DIRECTIONS]
    weights = torch.randn(
        len(labels), len(directions), generator=keyed_generator(CPU, recipe.seed, "gaussian")
    )
    coarse = torch.tensordot(weights, directions, dims=1)
    around = covariance.finer(coarse, recipe.data.size)
    return to_pixels(_average(means)[labels] + around, recipe.data.bit_depth), labels.numpy()


def _average(means: Tensor) -> Tensor:
    """(classes, C, H, W) in [-1, 1], with less noise than each of the means."""
    several = [to_float(each.numpy()) for each in means]
    return torch.stack(several).mean(dim=0)


def _train_on(
    pictures: Images,
    labels: NDArray[np.int64],
    training: Training,
    recipe: Recipe,
    progress: Progress,
) -> None:
    """Ordinary steps on images from the noisy Gaussian; DP-SGD begins with a new optimiser state."""
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=recipe.train.learning_rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.warmup.steps)
    device = device_of(recipe)
    training.model.train()
    with progress.stage("warm up", recipe.warmup.steps) as advance:
        for step in range(recipe.warmup.steps):
            step_on_images(
                training.model,
                optimizer,
                pictures,
                labels,
                rows_of_step(len(labels), recipe.warmup.batch_size, step, recipe.seed),
                draws=keyed_generator(device, recipe.seed, step, "warm-up"),
                dropout=keyed_generator(CPU, recipe.seed, step, "warm-up dropout"),
                label_dropout=recipe.train.label_dropout,
            )
            falling.step()
            advance()
