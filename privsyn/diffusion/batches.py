"""Training batches: images with labels, times and noise, drawn from one generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privsyn.bit_depth import Images
from privsyn.diffusion.model import DiffusionModel, to_float

Draws = tuple[Tensor, Tensor, Tensor, Tensor]
Augment = Literal["flip", "flip-vertical", "rotate-90"]

VARIANTS: Mapping[str, Sequence[Callable[[Tensor], Tensor]]] = {
    "flip": (lambda images: images.flip(-1),),
    "flip-vertical": (lambda images: images.flip(-2),),
    "rotate-90": tuple(partial(torch.rot90, k=turns, dims=(-2, -1)) for turns in (1, 2, 3)),
}


def draw(
    images: Images,
    labels: NDArray[np.int64],
    rows: NDArray[np.int64],
    model: DiffusionModel,
    generator: torch.Generator,
    *,
    multiplicity: int = 1,
    label_dropout: float = 0.0,
    augment: Sequence[Augment] = (),
) -> Draws:
    """Images of some units, each `multiplicity` times with a time, noise and augmentation of its own.

    Args:
        images, labels: (N, H, W, C) and (N,), of which `rows` are taken.
        rows: (units, m).
        generator: its device is where the result lies.

    Returns:
        The arguments of `DiffusionModel.loss`, with R = m * multiplicity: images (units, R, C, H, W), labels
        (units, R), times (units, R), noise like images.
    """
    device = generator.device
    units, per_unit = rows.shape
    clean = to_float(images[rows.ravel()]).to(device)
    clean = clean.reshape(units, per_unit, *clean.shape[1:])
    clean = clean.repeat(1, multiplicity, 1, 1, 1)
    classes = torch.from_numpy(labels[rows]).to(device).repeat(1, multiplicity)
    hidden = torch.rand(classes.shape, generator=generator, device=device) < label_dropout
    times = model.process.times_at(stratified(units, per_unit * multiplicity, generator))
    noise = torch.randn(clean.shape, generator=generator, device=device)
    clean = augmented(clean, augment, generator)
    return clean, classes.masked_fill(hidden, model.null_label), times, noise


def noise_draws(model: DiffusionModel, units: int, rows: int, generator: torch.Generator) -> Draws:
    """Arguments of `DiffusionModel.loss` for units of `rows` rows, like those of `draw`, without any data."""
    device, many = generator.device, (units, rows)
    images = torch.rand(*many, *model.image_shape, generator=generator, device=device) * 2 - 1
    labels = torch.randint(model.null_label + 1, many, generator=generator, device=device)
    times = model.process.times_at(stratified(units, rows, generator))
    return images, labels, times, torch.randn(images.shape, generator=generator, device=device)


def augmented(images: Tensor, kinds: Sequence[Augment], generator: torch.Generator) -> Tensor:
    """Images (units, R, C, H, W), each flipped with chance 1/2, or turned by 0 to 270 degrees, as named."""
    for kind in kinds:
        variants = [images, *(turn(images) for turn in VARIANTS[kind])]
        chosen = torch.randint(len(variants), images.shape[:2], generator=generator, device=images.device)
        for number, turned in enumerate(variants):
            images = torch.where((chosen == number)[..., None, None, None], turned, images)
    return images


def stratified(units: int, draws: int, generator: torch.Generator) -> Tensor:
    """Quantiles (units, draws) float64: uniform over [0, 1), those of one unit spread over `draws` strata.

    Reduces variance at no extra cost: Kingma et al. 2021, "Variational Diffusion Models", appendix I.1,
    https://arxiv.org/abs/2107.00630
    """
    device = generator.device
    offsets = torch.rand(units, draws, generator=generator, device=device, dtype=torch.float64)
    # in random order, or the same images of a unit would always get the same strata
    strata = torch.rand(units, draws, generator=generator, device=device).argsort(dim=1)
    return (strata + offsets) / draws


def rows_of_step(number: int, batch_size: int, step: int, seed: int) -> NDArray[np.int64]:
    """Rows (batch_size,) of a step that walks through a new permutation of `number` rows in every epoch.

    It follows from step and seed alone, so a run can resume anywhere.
    """
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, number)
    orders = {int(epoch): np.random.default_rng([seed, epoch]).permutation(number) for epoch in set(epochs)}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs, places, strict=True)])
