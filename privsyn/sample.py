"""Model to synthetic set: the same bytes for the same seed, whatever the batch size.

Image i has random numbers of its own, keyed by (seed, i), and the network always sees batches of one fixed
size at fixed places, because kernels round differently for other batch shapes and one flipped rounding
would be another image.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privsyn import __version__
from privsyn.checkpoint import load_model
from privsyn.diffusion.model import DiffusionModel, device_of, to_uint8
from privsyn.diffusion.samplers import Predict, ddim, guided
from privsyn.errors import PrivsynError, RecipeError
from privsyn.files import read_json
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.study import Study, as_study
from privsyn.synthetic import SyntheticSet, read_synthetic, write_synthetic

COMPUTE_BATCH = 32  # images the network sees at once, always; another number would draw other images


def sample(
    study: Study | Path | str,
    *,
    count: int | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
) -> SyntheticSet:
    """Draw the study's synthetic set from its finished model and write it.

    Args:
        count: images; default `sample.count` of the recipe.
        settings: `section.key=value` changes of the recipe; only `seed` and `[sample]` matter here.
        force: replace the synthetic set that the study has.

    Raises:
        StudyError: there is no finished model.
        RecipeError: `[data]` is not what the model was trained on.
        PrivsynError: there is a synthetic set already.
    """
    study = as_study(study)
    recipe = study.recipe(settings)
    claim = read_json(study.need(study.privacy_file, "train"))
    model, trained, weights_digest = load_model(study.model)
    if recipe.data.classes != trained.data.classes:
        raise RecipeError("data.classes is not what the model was trained on: restore it, or train again")
    if study.synthetic.exists() and not force:
        raise PrivsynError(f"{study.synthetic} already exists: pass --force to replace it")
    number, wanted = recipe.sample.count if count is None else count, recipe.sample
    labels = balanced_labels(number, wanted.class_weights or (1.0,) * len(recipe.data.classes))
    images = draw(
        model,
        labels,
        seed=recipe.seed,
        steps=wanted.steps,
        eta=wanted.eta,
        guidance_scale=wanted.guidance_scale,
        batch_size=wanted.batch_size,
        device=str(device_of(recipe)),
        progress=progress,
    )
    provenance = _provenance(recipe, trained, weights_digest, number)
    write_synthetic(
        study.synthetic,
        images,
        labels,
        trained.data.classes,
        name=study.name,
        claim=claim,
        provenance=provenance,
        force=force,
    )
    data = trained.data
    return read_synthetic(study.synthetic, size=data.size, channels=data.channels, classes=data.classes)


def draw(
    model: DiffusionModel,
    labels: NDArray[np.int64],
    *,
    seed: int,
    steps: int,
    eta: float,
    guidance_scale: float,
    batch_size: int,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> NDArray[np.uint8]:
    """Draw one image per label.

    Args:
        labels: (N,) int64; `model.null_label` draws from all classes.
        seed: with the place of an image in `labels`, decides its random numbers.
        steps: denoising steps, at most the T of the process.
        eta: 0 is DDIM, 1 DDPM.
        guidance_scale: 1 is plain conditional.
        batch_size: images in flight, rounded up to `COMPUTE_BATCH`; cannot change the result.

    Returns:
        (N, H, W, C) uint8.
    """
    model = model.to(device).eval()
    in_flight = -(-batch_size // COMPUTE_BATCH) * COMPUTE_BATCH
    total = -(-len(labels) // COMPUTE_BATCH) * steps
    drawn = [np.empty((0, *model.image_shape[1:], model.image_shape[0]), np.uint8)]
    with progress.stage("sample", total) as advance:
        for first in range(0, len(labels), in_flight):
            told = torch.tensor(labels[first : first + in_flight], device=device)
            numbers = [_numbers_of(seed, first + i) for i in range(len(told))]
            noise = partial(_noise, numbers, model, device)
            images = ddim(
                _predictor(model, told, guidance_scale),
                model.process,
                noise(),
                steps=steps,
                eta=eta,
                draw_noise=noise,
                on_step=partial(advance, -(-len(told) // COMPUTE_BATCH)),
            )
            drawn.append(to_uint8(images))
    return np.concatenate(drawn)


def balanced_labels(count: int, weights: Sequence[float]) -> NDArray[np.int64]:
    """`count` labels in the proportions of `weights` by largest remainder, evenly interleaved.

    With equal weights, label i is i modulo the number of classes, however many are drawn.
    """
    shares = np.array(weights) / sum(weights) * count
    counts = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: count - counts.sum()]] += 1
    places = np.concatenate([(np.arange(number) + 0.5) / number for number in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]


def _predictor(model: DiffusionModel, labels: Tensor, guidance_scale: float) -> Predict:
    null = torch.full_like(labels, model.null_label)

    def told(x: Tensor, timesteps: Tensor) -> Tensor:
        return _in_fixed_batches(model, x, timesteps, labels)

    def untold(x: Tensor, timesteps: Tensor) -> Tensor:
        return _in_fixed_batches(model, x, timesteps, null)

    return guided(told, untold, guidance_scale)


def _in_fixed_batches(model: DiffusionModel, *arguments: Tensor) -> Tensor:
    """The network on `COMPUTE_BATCH` images at a time, the last of them filled up with copies."""
    number = len(arguments[0])
    filled = torch.arange(-(-number // COMPUTE_BATCH) * COMPUTE_BATCH, device=arguments[0].device) % number
    parts = [
        model.network(*(part[rows] for part in arguments)) for rows in torch.split(filled, COMPUTE_BATCH)
    ]
    return torch.cat(parts)[:number]


def _numbers_of(seed: int, image: int) -> np.random.Generator:
    """The random numbers of one image; keyed with all bits, unlike a seeded torch generator."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, image])))


def _noise(numbers: Sequence[np.random.Generator], model: DiffusionModel, device: str) -> Tensor:
    noise = [generator.standard_normal(model.image_shape, dtype=np.float32) for generator in numbers]
    return torch.from_numpy(np.stack(noise)).to(device)


def _provenance(recipe: Recipe, trained: Recipe, weights_digest: str, count: int) -> dict[str, Any]:
    return {
        "generator": "privsyn",
        "version": __version__,
        "model_sha256": weights_digest,
        "recipe_sha256": trained.digest,
        "seed": recipe.seed,
        "steps": recipe.sample.steps,
        "eta": recipe.sample.eta,
        "guidance_scale": recipe.sample.guidance_scale,
        "count": count,
    }
