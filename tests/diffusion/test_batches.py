from __future__ import annotations

import numpy as np
import torch

from privsyn.diffusion.batches import draw, rows_of_step, stratified
from privsyn.diffusion.model import build_model
from privsyn.dp.generators import keyed_generator
from privsyn.recipe import find_shipped, load_recipe

CPU = torch.device("cpu")


def test_an_epoch_shows_every_row_once_in_a_new_order() -> None:
    """Batches may straddle epochs; every row comes once before any comes twice."""
    rows = np.concatenate([rows_of_step(10, 4, step, seed=3) for step in range(5)])
    assert sorted(rows[:10].tolist()) == sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()


def test_a_batch_follows_from_seed_and_step_alone() -> None:
    """So a resumed run sees what an unbroken one would have seen."""
    np.testing.assert_array_equal(rows_of_step(100, 8, 40, seed=1), rows_of_step(100, 8, 40, seed=1))
    assert rows_of_step(100, 8, 40, seed=1).tolist() != rows_of_step(100, 8, 40, seed=2).tolist()
    assert len(rows_of_step(3, 8, 0, seed=0)) == 8


def test_timesteps_are_spread_over_all_of_the_process() -> None:
    """Each draw of a unit has its stratum; over many units every timestep, both ends too, is as likely."""
    times = stratified(5000, 4, 20, keyed_generator(CPU, 0))
    assert (times // 5 == torch.arange(4)).all()
    counts = torch.bincount(times.flatten(), minlength=20)
    assert len(counts) == 20
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_draws_of_one_image_share_the_image_and_nothing_else() -> None:
    """K copies with timesteps, noise and label dropout of their own; rows of other units stay apart."""
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    labels, rows = np.arange(6), np.array([[4, 1], [0, 5]])
    model = build_model(load_recipe(find_shipped("recipes", "toy")))
    clean, told, times, noise = draw(
        images, labels, rows, model, keyed_generator(CPU, 1), multiplicity=50, label_dropout=0.3
    )
    assert clean.shape == noise.shape == (2, 100, 1, 8, 8)
    grey = ((clean[:, :4, 0, 0, 0] + 1) * 127.5).round().tolist()
    assert grey == [[4, 1, 4, 1], [0, 5, 0, 5]]
    shown = torch.from_numpy(rows).repeat(1, 50)
    hidden = told == model.null_label
    assert ((told == shown) | hidden).all()
    assert 0.15 < hidden.float().mean() < 0.45
    assert len(times.unique()) > 150
    assert len(noise.unique()) > 0.99 * noise.numel()
