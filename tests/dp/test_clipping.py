from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn

from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.dp.clipping import (
    Batch,
    check_supported,
    gradients_at_once,
    gradients_in_turn,
    private_optimizer,
    private_step,
    unit_gradients,
    units_at_once,
)
from privsyn.dp.generators import keyed_generator, secret_generator
from privsyn.errors import RecipeError
from privsyn.recipe import find_shipped, load_recipe

CPU = torch.device("cpu")
C = 0.1


class Quadratic(nn.Module):
    """Loss of row x is (w - x)^2 / 2, so its gradient is w - x; at w = 0, it is -x."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(1, width, bias=False)
        nn.init.zeros_(self.layer.weight)

    def forward(self, rows: Tensor) -> Tensor:
        return (self.layer.weight[:, 0] - rows.flatten(1)).square().sum(dim=1) / 2


def rows(*units: Sequence[Sequence[float]]) -> list[Tensor]:
    """A micro-batch (units, rows, 1, 1, width) of given gradients, with the sign turned."""
    return [-torch.tensor(units)[:, :, None, None, :]]


def unnoised_sum(batches: Sequence[Batch], *, divisor: int = 1, clip_norm: float = C) -> Tensor:
    """What a step adds up before noise, in units of the clip norm: plain SGD shows it as the new weights."""
    model = Quadratic()
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = private_optimizer(model, inner, noise_multiplier=0.0, clip_norm=clip_norm, divisor=divisor)
    private_step(model, optimizer, batches, keyed_generator(CPU, 0))
    return -model.layer.weight.detach()[:, 0] * divisor


def unet(*settings: str) -> DiffusionModel:
    model = build_model(load_recipe(find_shipped("recipes", "toy"), settings)).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # a fresh network has a zero output and hence zero gradients inside
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def batch(units: int, images: int, draws: int, size: int = 8) -> Batch:
    generator, many = torch.Generator().manual_seed(1), images * draws
    pixels = torch.rand(units, images, 1, size, size, generator=generator, dtype=torch.float64) * 2 - 1
    labels = torch.randint(0, 11, (units, many), generator=generator)
    times = torch.randint(0, 1000, (units, many), generator=generator)
    noise = torch.randn(units, many, 1, size, size, generator=generator, dtype=torch.float64)
    return pixels.repeat(1, draws, 1, 1, 1), labels, times, noise


@pytest.mark.parametrize("way", [gradients_in_turn, gradients_at_once])
@pytest.mark.parametrize(("images", "draws"), [(1, 1), (1, 4), (3, 2)])
def test_a_units_gradient_is_that_of_its_mean_loss(way: object, images: int, draws: int) -> None:
    """Both ways equal a naive autograd call per unit, over its m images and K draws, to 1e-10 in float64."""
    model, given = unet(), batch(3, images, draws)
    parameters = list(model.parameters())
    gradients, losses = way(model, parameters, given)  # type: ignore[operator]
    for unit in range(3):
        alone = [model.loss(*(part[unit, row, None] for part in given)) for row in range(images * draws)]
        loss = torch.cat(alone).mean()
        naive = torch.autograd.grad(loss, parameters)
        for ours, theirs in zip(gradients, naive, strict=True):
            torch.testing.assert_close(ours[unit], theirs, rtol=1e-10, atol=1e-12)
        assert losses[unit].item() == pytest.approx(loss.item(), rel=1e-10)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # Opacus' hooks on our input
def test_gradients_are_those_of_opacus_hooks() -> None:
    """With one row per unit, Opacus' own per-sample gradients are the same."""
    model, given = unet(), batch(4, 1, 1)
    ours, _ = unit_gradients(model, list(model.parameters()), given)
    hooked = GradSampleModule(model)
    hooked(*(part[:, 0] for part in given)).mean().backward()
    for mine, parameter in zip(ours, model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad_sample, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", [gradients_in_turn, gradients_at_once])
def test_dropout_is_drawn_for_every_row(way: object) -> None:
    """Units with the same content do not share a mask."""
    model = unet("model.dropout=0.5").train()
    one = batch(1, 1, 2)
    twice = tuple(part.expand(2, *part.shape[1:]) for part in one)
    torch.manual_seed(0)
    gradients, _ = way(model, list(model.parameters()), twice)  # type: ignore[operator]
    assert any(not torch.equal(gradient[0], gradient[1]) for gradient in gradients)


def test_one_unit_adds_at_most_the_clip_norm() -> None:
    """A long gradient is cut to C, a short one is left, and the images of a unit are clipped together."""
    long, short = unnoised_sum([rows([[30.0, 0.0, 40.0]])]), unnoised_sum([rows([[0.03, 0.0, 0.04]])])
    torch.testing.assert_close(long, torch.tensor([0.6, 0.0, 0.8]), rtol=1e-4, atol=0)
    torch.testing.assert_close(short, torch.tensor([0.3, 0.0, 0.4]), rtol=1e-4, atol=0)
    many_images = unnoised_sum([rows([[7.0, 0.0, 0.0]] * 100)])
    assert many_images.norm() <= 1 + 1e-6


@pytest.mark.parametrize("wild", [1e4, 1e18, 1e30, math.inf, -math.inf, math.nan])
def test_no_unit_changes_the_sum_by_more_than_the_clip_norm(wild: float) -> None:
    """Adding a unit with huge, infinite or undefined gradients changes the sum by at most C, and no other."""
    others = [[[1.0, 2.0, 3.0]], [[-1.0, 0.0, 0.5]]]
    without, with_it = unnoised_sum([rows(*others)]), unnoised_sum([rows(*others, [[wild, 1.0, -wild]])])
    assert with_it.isfinite().all()
    assert (with_it - without).norm() <= 1 + 1e-5


def test_a_unit_that_is_not_finite_counts_as_zero_and_is_counted() -> None:
    """It is dropped from the mean loss too, but the steps go on."""
    model = Quadratic()
    optimizer = private_optimizer(
        model, torch.optim.SGD(model.parameters(), lr=1.0), noise_multiplier=1.0, clip_norm=C, divisor=2
    )
    units = rows([[math.nan, 0.0, 0.0]], [[1.0, 0.0, 0.0]])
    facts = private_step(model, optimizer, [units], secret_generator(CPU))
    assert (facts.units, facts.dropped, facts.loss) == (2, 1, 0.5)
    assert model.layer.weight.isfinite().all()


@pytest.mark.parametrize("cut", [[6], [2, 4], [1] * 6, [0, 6]])
def test_micro_batches_change_nothing(cut: list[int]) -> None:
    """However a sample is cut, the sum is the same and the divisor is exactly the public one."""
    units = torch.randn(6, 1, 1, 1, 3, generator=torch.Generator().manual_seed(3))
    whole = torch.nn.functional.normalize(-units[:, 0, 0, 0], dim=1).sum(0)
    pieces = [[part] for part in units.split(cut)]
    found = unnoised_sum(pieces, divisor=5, clip_norm=1e-3)
    torch.testing.assert_close(found, whole, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(
        found, unnoised_sum([[units]], divisor=5, clip_norm=1e-3), rtol=1e-5, atol=1e-6
    )


def test_units_of_different_sizes_share_a_step() -> None:
    """Micro-batches may hold units with other numbers of rows."""
    one, two = rows([[3.0, 0.0, 0.0]]), rows([[0.0, 1.0, 0.0], [0.0, 5.0, 0.0]])
    torch.testing.assert_close(unnoised_sum([one, two]), torch.tensor([1.0, 1.0, 0.0]), rtol=1e-4, atol=0)


def test_noise_has_the_scale_that_is_accounted_for() -> None:
    """On empty samples every step is noise: sigma * C / divisor before rescaling, fresh in every step."""
    width, sigma, divisor, steps = 2000, 1.7, 4, 20
    model = Quadratic(width)
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = private_optimizer(model, inner, noise_multiplier=sigma, clip_norm=1e-3, divisor=divisor)
    path = [model.layer.weight.detach().clone()]
    for _ in range(steps):
        facts = private_step(model, optimizer, [], secret_generator(CPU))
        assert facts.units == 0
        path.append(model.layer.weight.detach().clone())
    noise = torch.cat(path, dim=1).diff(dim=1) * divisor / sigma
    number = noise.numel()
    assert abs(noise.mean().item()) < 5 / math.sqrt(number)
    assert abs(noise.std().item() - 1) < 5 / math.sqrt(2 * number)
    correlation = torch.corrcoef(noise.T).fill_diagonal_(0)
    assert correlation.abs().max() < 6 / math.sqrt(width)
    assert len(noise.unique()) > 0.99 * number


def test_noise_is_added_once_per_step_whatever_the_micro_batches() -> None:
    """Virtual steps add none."""
    width = 4000
    model = Quadratic(width)
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = private_optimizer(model, inner, noise_multiplier=1.0, clip_norm=1.0, divisor=1)
    nothing = [torch.zeros(1, 1, 1, 1, width)]
    private_step(model, optimizer, [nothing] * 5, secret_generator(CPU))
    assert model.layer.weight.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * width))


def test_a_small_clip_norm_does_not_vanish_under_adams_eps() -> None:
    """Gradients come to Adam in units of C, so C = 1e-8 takes the same first step as C = 1."""
    moved = []
    for clip_norm in (1.0, 1e-8):
        model = Quadratic()
        inner = torch.optim.AdamW(model.parameters(), lr=0.1)
        optimizer = private_optimizer(model, inner, noise_multiplier=1.0, clip_norm=clip_norm, divisor=10)
        private_step(model, optimizer, [], keyed_generator(CPU, 4))
        moved.append(model.layer.weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=0)
    assert moved[0].abs().min() > 0.09


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False, track_running_stats=False), nn.PReLU()]
)
def test_layers_that_may_mix_units_are_refused_by_name(layer: nn.Module) -> None:
    """The message names the layer; nothing is trained."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer)
    with pytest.raises(RecipeError, match=f"layer '1' \\({type(layer).__name__}\\)"):
        check_supported(model)


def test_an_embedding_that_rewrites_its_weights_is_refused() -> None:
    """`max_norm` would change weights by which labels were looked up, beside the noisy gradient."""
    check_supported(nn.Embedding(3, 4))
    with pytest.raises(RecipeError, match="Embedding"):
        check_supported(nn.Sequential(nn.Embedding(3, 4, max_norm=1.0)))


def test_memory_is_bounded() -> None:
    """A micro-batch holds at most 256 MiB of gradients, and always at least one unit."""
    model = nn.Linear(1000, 1000)
    assert units_at_once(model, pixels=10**6) == 2**26 // 1_001_000
    assert units_at_once(model, pixels=1024) == 16
    assert units_at_once(nn.Linear(10_000, 10_000), pixels=64) == 1
