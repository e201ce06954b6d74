"""A warm-up on noisy class means before DP-SGD: a query of the patients, paid for by the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from privsyn.checkpoint import State, Training
from privsyn.cohort.cohort import Part
from privsyn.diffusion.batches import rows_of_step
from privsyn.diffusion.model import device_of, to_float, to_uint8
from privsyn.dp.accounting import Mechanism
from privsyn.dp.central import central_images, contribution, noisy_sum
from privsyn.dp.generators import CPU, keyed_generator
from privsyn.dp.sampling import Rows, units_of
from privsyn.files import whole_file
from privsyn.progress import Progress
from privsyn.recipe import Recipe
from privsyn.steps import randomness, sampled, step_on_images

KEY = "means"  # (images, classes, C, H, W) uint8


def queries(recipe: Recipe) -> tuple[Mechanism, ...]:
    """What the warm-up spends: a Gaussian mechanism on a Poisson sample of the units per mean; or nothing."""
    warmup, expected = recipe.warmup, recipe.privacy.expected_units
    if not (recipe.privacy.dp and warmup.images and expected):
        return ()
    rate = (warmup.expected_units or expected) / expected
    return (Mechanism(warmup.noise_multiplier, rate, warmup.images),)


def warm_up(file: Path, training: Training, state: State, part: Part, progress: Progress) -> None:
    """Train the fresh network on the noisy means in `file`, which are asked for only if it is not there.

    A run that is killed before the file is whole has shown the means to nobody, so asking again spends
    nothing more; once it is there, a resumed run starts from the same means.
    """
    recipe = state.recipe
    if not file.exists():
        units = units_of(part.patients, recipe.privacy.unit)
        means = [_means(recipe, part, units, number) for number in range(recipe.warmup.images)]
        with whole_file(file) as partial:
            save_file({KEY: torch.from_numpy(np.stack(means))}, partial)
    _train_on(load_file(file)[KEY], training, recipe, progress)
    training.ema.load_state_dict(training.model.state_dict())


def _means(recipe: Recipe, part: Part, units: Sequence[Rows], number: int) -> NDArray[np.uint8]:
    """One noisy mean per class, (classes, H, W, C) uint8."""
    (mechanism,) = queries(recipe)
    sample = sampled(units, recipe, mechanism, randomness(recipe, -1 - number, "central units", CPU))
    classes, size, channels = len(recipe.data.classes), recipe.data.size, recipe.data.channels
    like = torch.zeros(classes, channels * size**2 + 1)
    total = noisy_sum(
        (_contribution(part, rows, classes) for rows in sample),
        like,
        mechanism.noise_multiplier,
        randomness(recipe, -1 - number, "central noise", CPU),
    )
    return to_uint8(central_images(total, (channels, size, size), mechanism.noise_multiplier))


def _contribution(part: Part, rows: Rows, classes: int) -> Tensor:
    return contribution(to_float(part.images[rows]), torch.from_numpy(part.labels[rows]), classes)


def _train_on(means: Tensor, training: Training, recipe: Recipe, progress: Progress) -> None:
    """Plain steps on what is no longer private; DP-SGD begins with an optimiser without memory."""
    pictures = means.flatten(0, 1).numpy()
    labels = np.tile(np.arange(means.shape[1]), means.shape[0])
    optimizer = torch.optim.AdamW(training.model.parameters(), lr=recipe.train.learning_rate)
    device = device_of(recipe)
    training.model.train()
    with progress.stage("warm up", recipe.warmup.steps) as advance:
        for step in range(recipe.warmup.steps):
            step_on_images(
                training.model,
                optimizer,
                pictures,
                labels,
                rows_of_step(len(labels), recipe.train.batch_size, step, recipe.seed),
                draws=keyed_generator(device, recipe.seed, step, "warm-up"),
                dropout=keyed_generator(CPU, recipe.seed, step, "warm-up dropout"),
                label_dropout=recipe.train.label_dropout,
            )
            advance()
