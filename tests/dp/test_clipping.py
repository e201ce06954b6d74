from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from opacus.optimizers.optimizer import DPOptimizer
from torch import Tensor, nn

from privsyn.dp.cipher_stream import keyed_stream, secret_stream
from privsyn.dp.clipping import StepFacts, private_optimizer, private_step
from privsyn.dp.gradients import Batch, gradients_in_turn

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


def stepped(model: nn.Module, optimizer: DPOptimizer, batches: Sequence[Batch], seed: int) -> StepFacts:
    """A private step over micro-batches."""
    passes = (gradients_in_turn(model, list(model.parameters()), batch) for batch in batches)
    return private_step(optimizer, passes, keyed_stream(seed))


def unnoised_sum(batches: Sequence[Batch], *, divisor: int = 1, clip_norm: float = C) -> Tensor:
    """What a step adds up before noise, in units of the clip norm: plain SGD shows it as the new weights."""
    model = Quadratic()
    inner = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer = private_optimizer(model, inner, noise_multiplier=0.0, clip_norm=clip_norm, divisor=divisor)
    stepped(model, optimizer, batches, 0)
    return -model.layer.weight.detach()[:, 0] * divisor


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
    facts = stepped(model, optimizer, [units], 1)
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
        facts = private_step(optimizer, [], secret_stream())
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
    stepped(model, optimizer, [nothing] * 5, 2)
    assert model.layer.weight.std().item() == pytest.approx(1, abs=5 / math.sqrt(2 * width))


def test_a_small_clip_norm_does_not_vanish_under_adams_eps() -> None:
    """Gradients come to Adam in units of C, so C = 1e-8 takes the same first step as C = 1."""
    moved = []
    for clip_norm in (1.0, 1e-8):
        model = Quadratic()
        inner = torch.optim.AdamW(model.parameters(), lr=0.1)
        optimizer = private_optimizer(model, inner, noise_multiplier=1.0, clip_norm=clip_norm, divisor=10)
        private_step(optimizer, [], keyed_stream(4))
        moved.append(model.layer.weight.detach().clone())
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-4, atol=0)
    assert moved[0].abs().min() > 0.09
