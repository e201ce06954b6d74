"""Trains shadow models by the recipe of a model, and overfitted copies for positive controls. INTERNAL."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.cohort import Cohort
from privsyn.diffusion.batches import rows_of_step
from privsyn.diffusion.model import DiffusionModel, device_of
from privsyn.dp.generators import CPU, keyed_generator
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.study import Study
from privsyn.training.budget import planned_query
from privsyn.training.checkpoint import State, fresh_training, start_from
from privsyn.training.loop import run_steps
from privsyn.training.steps import step_on_images
from privsyn.training.warmup import warm_up, warm_up_queries


def finetune(
    model: DiffusionModel,
    images: Images,
    labels: NDArray[np.int64],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    seed: int,
    batch_size: int = 64,
) -> DiffusionModel:
    """A copy of the model, trained further on these images with plain Adam and WITHOUT privacy.

    For audits: a model that is known to have memorised is their positive control.

    Args:
        images: (n, H, W, C).
        labels: (n,).
        seed: of batches, timesteps and noise; the same seed gives the same copy.

    Returns:
        The copy, in eval mode; `model` is left as it was.
    """
    trained = copy.deepcopy(model).train().requires_grad_(True)
    device = next(trained.parameters()).device
    optimizer = torch.optim.Adam(trained.parameters(), lr=learning_rate)
    for step in range(steps):
        step_on_images(
            trained,
            optimizer,
            images,
            labels,
            rows_of_step(len(labels), min(batch_size, len(labels)), step, seed),
            draws=keyed_generator(device, "finetune", seed, step),
            dropout=keyed_generator(CPU, "finetune", seed, step, "dropout"),
        )
    return trained.eval().requires_grad_(False)


def train_shadow(
    recipe: Recipe,
    cohort: Cohort,
    rows: NDArray[np.int64],
    *,
    seed: int,
    root: Path = Path(),
    progress: Progress = SILENT,
) -> DiffusionModel:
    """A model trained by the same recipe on other rows of the cohort, for audits: INTERNAL.

    It lives in memory and, while it trains, in a folder within the study that is removed with it. With DP it
    trains with the same noise, so that it is what the model under audit might have been. The ledger does
    not record it: nothing of a shadow is released, and what an audit says of real patients is
    not DP with or without it.

    Args:
        rows: (n,) of the cohort, of any part.
        seed: of weights and batches; without DP the same seed gives the same model.
        root: the study folder, where `train.init_from` begins and the shadow's own folder lies.

    Returns:
        The moving average, in eval mode on the CPU.
    """
    recipe = recipe.with_settings(
        [f"seed={seed}", "train.canaries=0", f"train.checkpoint_every={recipe.train.steps}"]
    )
    part = cohort.of_rows(rows)
    training, initial = fresh_training(recipe, device_of(recipe)), recipe.train.init_from
    if initial is not None:
        start_from(root / initial, training, recipe.train)
    warm = warm_up_queries(recipe)
    queries = (*warm, planned_query(recipe)) if recipe.privacy.dp else ()
    state = State(0, recipe, cohort.digest, queries, reference="")
    with tempfile.TemporaryDirectory(prefix=".partial-shadow-", dir=root) as folder:
        study = Study(Path(folder))
        study.model.mkdir()
        if warm:
            warm_up(study.class_means, training, state, part, progress)
        run_steps(study, training, state, part, None, progress)
    return training.ema.cpu()
