from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from privsyn.diffusion.batches import Augment, augmented, draw, noise_draws, rows_of_step, stratified
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.dp.generators import keyed_generator
from privsyn.recipe import find_shipped, load_recipe

CPU = torch.device("cpu")
ARROW = torch.arange(9.0).reshape(1, 3, 3)  # no two of its eight orientations are alike


def toy(*settings: str) -> DiffusionModel:
    return build_model(load_recipe(find_shipped("recipes", "toy"), settings))


def shares(images: Tensor) -> dict[tuple[float, ...], float]:
    """How often every orientation occurs."""
    found, counts = images.flatten(0, 1).flatten(1).unique(dim=0, return_counts=True)
    parts = (counts / counts.sum()).tolist()
    return {tuple(image): part for image, part in zip(found.tolist(), parts, strict=True)}


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


def test_quantiles_of_a_unit_are_spread_evenly() -> None:
    """Each of its strata has one; over many units every part of [0, 1), both ends too, is as likely."""
    quantiles = stratified(5000, 4, keyed_generator(CPU, 0))
    assert quantiles.dtype == torch.float64
    assert torch.equal((quantiles.sort(dim=1).values * 4).long(), torch.arange(4).expand(5000, 4))
    counts = torch.bincount((quantiles * 20).long().flatten(), minlength=20)
    assert len(counts) == 20
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_every_image_of_a_unit_sees_all_of_the_process() -> None:
    """A patient's two images with one draw each: neither may always get the nearly clean half of times."""
    quantiles = stratified(5000, 2, keyed_generator(CPU, 0))
    for place in (0, 1):
        counts = torch.bincount((quantiles[:, place] * 20).long(), minlength=20)
        assert (counts - 250).abs().max() < 5 * 250**0.5


def test_draws_of_one_image_share_the_image_and_nothing_else() -> None:
    """K copies with times, noise and label dropout of their own; rows of other units stay apart."""
    images = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 1), np.uint8)
    labels, rows = np.arange(6), np.array([[4, 1], [0, 5]])
    model = toy()
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


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ((), torch.int64),
        (("diffusion.continuous=true",), torch.float64),
        (("diffusion.law=normal",), torch.int64),
    ],
    ids=["discrete", "continuous", "normal"],
)
def test_times_follow_the_law_of_the_process(settings: tuple[str, ...], kind: torch.dtype) -> None:
    """Those of `draw` and of `noise_draws`, by their mean: as many standard errors off as chance allows."""
    model, many = toy(*settings), 4000
    images, labels = np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int64)
    rows = np.zeros((many, 1), np.int64)
    expected = model.process.times_at((torch.arange(100_000).double() + 0.5) / 100_000).double()
    given = draw(images, labels, rows, model, keyed_generator(CPU, 0))
    for times in (given[2], noise_draws(model, many, 1, keyed_generator(CPU, 1))[2]):
        assert times.shape == (many, 1)
        assert times.dtype == kind
        gap = times.double().mean() - expected.mean()
        assert gap.abs() < 5 * expected.std() / many**0.5


def test_without_augmentation_images_stay_and_nothing_is_drawn() -> None:
    """The generator is where it was."""
    generator = keyed_generator(CPU, 0)
    before = generator.get_state()
    images = ARROW.expand(2, 3, 1, 3, 3)
    assert torch.equal(augmented(images, (), generator), images)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("kinds", "orientations"),
    [
        (("flip",), [ARROW, ARROW.flip(2)]),
        (("flip-vertical",), [ARROW, ARROW.flip(1)]),
        (("rotate-90",), [ARROW.rot90(turns, (1, 2)) for turns in range(4)]),
        (("flip", "flip-vertical"), [ARROW, ARROW.flip(2), ARROW.flip(1), ARROW.flip(1, 2)]),
        (
            ("flip", "rotate-90"),
            [image.rot90(turns, (1, 2)) for image, turns in product((ARROW, ARROW.flip(2)), range(4))],
        ),
    ],
)
def test_every_orientation_is_as_likely(kinds: tuple[Augment, ...], orientations: list[Tensor]) -> None:
    """Each draw of each unit by itself, within five standard errors; no others occur."""
    images = ARROW.expand(50, 80, 1, 3, 3)
    found = shares(augmented(images, kinds, keyed_generator(CPU, 0)))
    assert set(found) == {tuple(image.flatten().tolist()) for image in orientations}
    chance = 1 / len(orientations)
    for share in found.values():
        assert abs(share - chance) < 5 * (chance * (1 - chance) / 4000) ** 0.5


def test_all_channels_of_an_image_turn_together() -> None:
    """A colour keeps its place."""
    images = torch.stack([ARROW[0], ARROW[0] + 100, ARROW[0] + 200]).expand(4, 5, 3, 3, 3)
    turned = augmented(images, ("flip", "rotate-90"), keyed_generator(CPU, 0))
    assert torch.equal(turned[:, :, 1] - turned[:, :, 0], torch.full((4, 5, 3, 3), 100.0))
    assert torch.equal(turned[:, :, 2] - turned[:, :, 0], torch.full((4, 5, 3, 3), 200.0))


def test_augmentation_changes_the_images_alone() -> None:
    """Labels, times and noise are those without it, and each of K copies has an orientation of its own."""
    images = np.random.default_rng(0).integers(256, size=(2, 8, 8, 1), dtype=np.uint8)
    settings: dict[str, Any] = {"multiplicity": 64, "label_dropout": 0.2}
    labels, rows, model = np.array([1, 2]), np.array([[0], [1]]), toy()
    plain = draw(images, labels, rows, model, keyed_generator(CPU, 3), **settings)
    turned = draw(images, labels, rows, model, keyed_generator(CPU, 3), **settings, augment=("rotate-90",))
    for before, after in zip(plain[1:], turned[1:], strict=True):
        assert torch.equal(before, after)
    assert len(plain[0][0].unique(dim=0)) == 1
    assert len(turned[0][0].unique(dim=0)) == 4
