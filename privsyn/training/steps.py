"""One optimiser step, with differential privacy and without.

A step's randomness follows from the recipe's seed and the step's number alone, so a killed run resumes to
bit-identical weights without any generator's state being stored. With differential privacy it comes from
the operating system instead, afresh for every step, and is stored nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.claim.document import Mechanism
from privsyn.cohort.cohort import Part
from privsyn.diffusion.batches import Augment, Draws, draw, noise_draws, rows_of_step
from privsyn.diffusion.model import DiffusionModel, device_of
from privsyn.dp.adam import AdamBC
from privsyn.dp.cipher_stream import CipherStream, keyed_stream, secret_stream
from privsyn.dp.clipping import StepFacts, private_optimizer, private_step
from privsyn.dp.dirac_canaries import with_canary_gradients
from privsyn.dp.generators import CPU, keyed_generator, secret_generator
from privsyn.dp.gradients import Pass, UnitGradients, plan_pass
from privsyn.dp.sampling import ImageRows, capped, poisson_sample, units_of
from privsyn.recipe import Recipe
from privsyn.training.checkpoint import State, Training

TakeStep = Callable[[int], StepFacts]
LONG_RUN = 500  # steps that make up for the minute or so that torch.compile takes


def plain_steps(training: Training, state: State, part: Part) -> TakeStep:
    """Without privacy: batches that walk through the images, epoch after epoch."""
    recipe, device = state.recipe, device_of(state.recipe)
    if to_compile(recipe, device):
        training.model.compile_network()

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
            augment=recipe.train.augment,
            parts=recipe.train.accumulate,
        )
        return StepFacts(loss, len(rows), 0)

    return take


def private_steps(
    training: Training,
    state: State,
    part: Part,
    watch: Callable[[Sequence[torch.Tensor]], None] | None = None,
) -> TakeStep:
    """With privacy: Poisson samples of units, one clipped gradient each, noise for their sum.

    Args:
        watch: see `private_optimizer`.
    """
    recipe, device = state.recipe, device_of(state.recipe)
    units = units_of(part.units(recipe.privacy.unit))
    noise_multiplier, divisor = state.dp_sgd.noise_multiplier, recipe.train.batch_size
    optimizer = private_optimizer(
        training.model,
        training.optimizer,
        noise_multiplier=noise_multiplier,
        clip_norm=recipe.privacy.clip_norm,
        divisor=divisor,
        watch=watch,
    )
    if isinstance(training.optimizer, AdamBC):
        training.optimizer.noise_variance = (noise_multiplier / divisor) ** 2
    planned = planned_passes(training.model, recipe, device)

    def take(step: int) -> StepFacts:
        sample = sampled(units, recipe, state.dp_sgd, protecting(recipe, step, "units"))
        passes = _passes(sample, part, training, recipe, planned, randomness(recipe, step, "draws", device))
        with global_randomness(randomness(recipe, step, "dropout", CPU)):
            return private_step(optimizer, passes, protecting(recipe, step, "noise"))

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
    units: Sequence[ImageRows], recipe: Recipe, mechanism: Mechanism, stream: CipherStream
) -> list[ImageRows]:
    """Image rows of the units in this step, at most the cap of each."""
    chosen = poisson_sample(len(units), mechanism.sample_rate, stream)
    return [capped(units[unit], recipe.privacy.max_images_per_unit, stream) for unit in chosen]


def _passes(
    sample: Sequence[ImageRows],
    part: Part,
    training: Training,
    recipe: Recipe,
    planned: Callable[[int], Pass],
    generator: torch.Generator,
) -> Iterator[UnitGradients]:
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
                augment=recipe.train.augment,
            )
            gradients, losses = plan.method(training.model, parameters, draws)
            if training.canary_weights is not None:
                canary = -1 - part.rows[rows[start : start + plan.units, 0]]
                gradients = with_canary_gradients(
                    gradients, canary, training.canary_weights, recipe.privacy.clip_norm
                )
            yield gradients, losses


def step_on_images(
    model: DiffusionModel,
    optimizer: torch.optim.Optimizer,
    images: Images,
    labels: NDArray[np.int64],
    rows: ImageRows,
    *,
    draws: torch.Generator,
    dropout: torch.Generator,
    label_dropout: float = 0.0,
    augment: Sequence[Augment] = (),
    parts: int = 1,
) -> float:
    """One plain step on these rows of some images; returns its mean loss.

    Args:
        draws: of times, noise, augmentation and label dropout, on the model's device.
        dropout: what the dropout layers draw from.
        parts: in which the batch goes through the network one after the other, to save memory.
    """
    one_unit = rows[None]  # so that the times of a batch are spread evenly
    batch = draw(images, labels, one_unit, model, draws, label_dropout=label_dropout, augment=augment)
    with global_randomness(dropout):
        return plain_step(model, optimizer, batch, parts)


def plain_step(
    model: DiffusionModel, optimizer: torch.optim.Optimizer, batch: Draws, parts: int = 1
) -> float:
    """One step of plain gradient descent on a batch of one "unit"; returns its mean loss."""
    rows = batch[0].shape[1]
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for some in zip(*(values[0].chunk(parts) for values in batch), strict=True):
        loss = model.loss(*some).sum() / rows
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    optimizer.step()
    return total


def to_compile(recipe: Recipe, device: torch.device) -> bool:
    """Whether `torch.compile` pays: on CUDA, for long runs; not on a CPU (docs/measurements/speed.md)."""
    wanted = recipe.train.compile
    return device.type == "cuda" and recipe.train.steps >= LONG_RUN if wanted == "auto" else wanted


def randomness(recipe: Recipe, step: int, purpose: str, device: torch.device) -> torch.Generator:
    """The generator of one purpose in one step; only without privacy does the recipe's seed decide it.

    For times, diffusion noise, augmentation and dropout, which belong to the query. What protects patients
    comes from `protecting`.
    """
    if not recipe.privacy.dp:
        return keyed_generator(device, recipe.seed, step, purpose)
    if recipe.privacy.insecure_seed is not None:
        return keyed_generator(device, "insecure", recipe.privacy.insecure_seed, step, purpose)
    return secret_generator(device)


def protecting(recipe: Recipe, step: int, purpose: str) -> CipherStream:
    """The stream of what protects patients in one step, coins or noise; fresh, unless the recipe voids it."""
    if recipe.privacy.insecure_seed is not None:
        return keyed_stream("insecure", recipe.privacy.insecure_seed, step, purpose)
    return secret_stream()


@contextmanager
def global_randomness(generator: torch.Generator) -> Iterator[None]:
    """Dropout layers draw from torch's global generators only: lend them a seed, then put them back."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
