"""What one optimiser step does: with differential privacy, and without.

A step's randomness follows from the recipe's seed and the step's number alone, so a killed run resumes to
bit-identical weights without any generator's state being stored. With differential privacy it comes from
the operating system instead, afresh for every step, and is stored nowhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from privsyn.checkpoint import State, Training
from privsyn.cohort.cohort import Part
from privsyn.diffusion.batches import Draws, draw, noise_draws, rows_of_step
from privsyn.diffusion.model import DiffusionModel, device_of
from privsyn.dp.accounting import Mechanism
from privsyn.dp.clipping import StepFacts, private_optimizer, private_step
from privsyn.dp.generators import CPU, keyed_generator, secret_generator
from privsyn.dp.gradients import Found, Pass, plan_pass
from privsyn.dp.sampling import Rows, capped, poisson_sample, units_of
from privsyn.errors import PrivsynError
from privsyn.recipe import Recipe

TakeStep = Callable[[int], StepFacts]


def plain_steps(training: Training, state: State, part: Part) -> TakeStep:
    """Without privacy: batches that walk through the images, epoch after epoch."""
    recipe, device = state.recipe, device_of(state.recipe)

    def take(step: int) -> StepFacts:
        rows = rows_of_step(len(part.labels), recipe.train.batch_size, step, recipe.seed)
        loss = step_on_images(
            training.model,
            training.optimizer,
            part.images,
            part.labels,
            rows,
            draws=randomness(recipe, step, "draws", device),
            dropout=randomness(recipe, step, "dropout", CPU),
            label_dropout=recipe.train.label_dropout,
        )
        if not math.isfinite(loss):
            raise PrivsynError(f"the loss is no longer finite at step {step + 1}: lower train.learning_rate")
        return StepFacts(loss, len(rows), 0)

    return take


def private_steps(training: Training, state: State, part: Part) -> TakeStep:
    """With privacy: Poisson samples of units, one clipped gradient each, noise for their sum."""
    recipe, device = state.recipe, device_of(state.recipe)
    units = units_of(part.patients, recipe.privacy.unit)
    optimizer = private_optimizer(
        training.model,
        training.optimizer,
        noise_multiplier=state.history[-1].noise_multiplier,
        clip_norm=recipe.privacy.clip_norm,
        divisor=recipe.train.batch_size,
    )
    planned = planned_passes(training.model, recipe, device)

    def take(step: int) -> StepFacts:
        sample = sampled(units, recipe, state.history[-1], randomness(recipe, step, "units", CPU))
        passes = _passes(sample, part, training, recipe, planned, randomness(recipe, step, "draws", device))
        with global_randomness(randomness(recipe, step, "dropout", CPU)):
            return private_step(optimizer, passes, randomness(recipe, step, "noise", device))

    return take


def planned_passes(model: DiffusionModel, recipe: Recipe, device: torch.device) -> Callable[[int], Pass]:
    """How units with so many images go through the network; decided once for each number, on noise."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    measured = device.type == "cuda" and recipe.privacy.insecure_seed is None  # timings do not repeat

    @cache
    def planned(images: int) -> Pass:
        rows = images * recipe.privacy.noise_multiplicity

        def noise(units: int) -> Draws:
            return noise_draws(model, units, rows, keyed_generator(device, "probe", units, rows))

        return plan_pass(model, parameters, noise, measured=measured)

    return planned


def sampled(
    units: Sequence[Rows], recipe: Recipe, mechanism: Mechanism, generator: torch.Generator
) -> list[Rows]:
    """Image rows of the units in this step, at most the cap of each."""
    chosen = poisson_sample(len(units), mechanism.sample_rate, generator)
    return [capped(units[unit], recipe.privacy.max_images_per_unit, generator) for unit in chosen]


def _passes(
    sample: Sequence[Rows],
    part: Part,
    training: Training,
    recipe: Recipe,
    planned: Callable[[int], Pass],
    generator: torch.Generator,
) -> Iterator[Found]:
    """Gradients of the units in a step: those with equally many images together, as planned."""
    parameters = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    for images, group in groupby(sorted(sample, key=len), key=len):
        rows, plan = np.stack(list(group)), planned(images)
        for start in range(0, len(rows), plan.units):
            draws = draw(
                part.images,
                part.labels,
                rows[start : start + plan.units],
                training.model,
                generator,
                multiplicity=recipe.privacy.noise_multiplicity,
                label_dropout=recipe.train.label_dropout,
            )
            yield plan.way(training.model, parameters, draws)


def step_on_images(
    model: DiffusionModel,
    optimizer: torch.optim.Optimizer,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    rows: Rows,
    *,
    draws: torch.Generator,
    dropout: torch.Generator,
    label_dropout: float = 0.0,
) -> float:
    """One plain step on these rows of some images; returns its mean loss.

    Args:
        draws: of timesteps, noise and label dropout, on the model's device.
        dropout: what the dropout layers draw from.
    """
    one_unit = rows[None]  # so that the timesteps of a batch are spread evenly
    batch = draw(images, labels, one_unit, model, draws, label_dropout=label_dropout)
    with global_randomness(dropout):
        return plain_step(model, optimizer, batch)


def plain_step(model: DiffusionModel, optimizer: torch.optim.Optimizer, batch: Draws) -> float:
    """One step of plain gradient descent on a batch of one "unit"; returns its mean loss."""
    images, labels, timesteps, noise = (part[0] for part in batch)
    optimizer.zero_grad(set_to_none=True)
    loss = model.loss(images, labels, timesteps, noise).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.item()


def randomness(recipe: Recipe, step: int, purpose: str, device: torch.device) -> torch.Generator:
    """The generator of one purpose in one step; only without privacy does the recipe's seed decide it."""
    if not recipe.privacy.dp:
        return keyed_generator(device, recipe.seed, step, purpose)
    if recipe.privacy.insecure_seed is not None:
        return keyed_generator(device, "insecure", recipe.privacy.insecure_seed, step, purpose)
    return secret_generator(device)


@contextmanager
def global_randomness(generator: torch.Generator) -> Iterator[None]:
    """Dropout layers draw from torch's global generators only: lend them a seed, then put them back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
