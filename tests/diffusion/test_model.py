from __future__ import annotations

import numpy as np
import pytest
import torch

from privsyn.diffusion.model import DiffusionModel, build_model, device_of, to_float, to_uint8
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe, find_shipped, load_recipe


def toy(*settings: str) -> Recipe:
    return load_recipe(find_shipped("recipes", "toy"), settings)


def weights(model: DiffusionModel) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed() -> None:
    """Same recipe, same weights; another seed, others; torch's global generator is where it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_model(toy(f"seed={seed}")) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_loss_is_the_mean_squared_error_of_the_target() -> None:
    """A fresh network predicts zero, so its loss is the mean square of v, one value per image."""
    model = build_model(toy("data.size=9", "data.channels=3"))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 9, 9, generator=generator) * 2 - 1
    noise = torch.randn(5, 3, 9, 9, generator=generator)
    times = torch.tensor([0, 10, 500, 900, 999])
    loss = model.loss(images, torch.zeros(5, dtype=torch.long), times, noise)
    v = model.process.target_of(images, noise, times)
    torch.testing.assert_close(loss, v.square().mean(dim=(1, 2, 3)))


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    """All 256 values, RGB order and axes come back; 0 is -1 and 255 is 1."""
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = images + np.array([0, 1, 2], np.uint8)
    floats = to_float(images)
    assert floats.shape == (1, 3, 16, 16)
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(to_uint8(floats), images)


def test_out_of_range_floats_are_clamped() -> None:
    """What a sampler overshoots becomes black or white, not another grey."""
    assert to_uint8(torch.tensor([[[[-7.0, 7.0]]]])).ravel().tolist() == [0, 255]


def test_a_device_that_is_not_there_is_refused() -> None:
    """The message names the setting."""
    assert device_of(toy("train.device=cpu")).type == "cpu"
    with pytest.raises(RecipeError, match=r"train\.device"):
        device_of(toy("train.device=abacus"))
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="no CUDA device"):
            device_of(toy("train.device=cuda"))
