"""Per-unit gradients: both methods, against naive autograd and against Opacus."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from opacus import GradSampleModule
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.diffusion.batches import noise_draws
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.dp.generators import keyed_generator
from privsyn.dp.gradients import (
    PASS_FLOATS,
    Batch,
    GradientMethod,
    Pass,
    UnitGradients,
    gradients_at_once,
    gradients_in_turn,
    methods_agree,
    plan_pass,
)
from privsyn.dp.layers import check_supported
from privsyn.errors import RecipeError
from privsyn.recipe import find_shipped, load_recipe

CPU = torch.device("cpu")
METHODS = [gradients_in_turn, gradients_at_once]


class EveryLayer(nn.Module):
    """Every supported layer: strided, dilated, grouped and bias-free convolutions, Linear on three and four
    axes, both norms with and without weights, a layer used twice, embeddings, and the relative position bias
    of Swin: a table looked up by an index that every row brings along.

    With `opacus`, without what Opacus 1.6 cannot do (LayerNorm without bias) or gets wrong (`padding_idx`).
    """

    def __init__(self, channels: int = 8, size: int = 8, *, bare: bool = False, opacus: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.grouped = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=4)
        self.depthwise = nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False)
        self.down = nn.Conv2d(channels, channels, (3, 2), stride=2, padding=(1, 0))
        self.norm = nn.GroupNorm(2, channels)
        self.plain_norm = nn.GroupNorm(2, channels, affine=False)
        self.layer_norm = nn.LayerNorm(channels)
        self.unbiased_norm = nn.LayerNorm((size // 2, channels), bias=opacus)
        self.query, self.key = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels)
        self.windows = nn.Linear(channels, channels)
        self.label = nn.Embedding(5, channels, padding_idx=None if opacus else 4)
        self.position = nn.Embedding((size - 1) ** 2, 2)
        side = torch.arange(size // 2)
        places = torch.stack(torch.meshgrid(side, side, indexing="ij")).flatten(1)
        apart = places[:, :, None] - places[:, None, :] + size // 2 - 1
        self.register_buffer("index", apart[0] * (size - 1) + apart[1])
        self.temperature = nn.Parameter(torch.ones(channels)) if bare else None

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        rows = len(images)
        h = self.stem(images)
        h = h + self.depthwise(F.silu(self.norm(self.grouped(h)))) + self.label(labels)[:, :, None, None]
        h = self.plain_norm(self.down(h)) * (
            1 if self.temperature is None else self.temperature[:, None, None]
        )
        pixels = self.unbiased_norm(h.permute(0, 2, 3, 1)).flatten(1, 2)
        pixels = self.layer_norm(self.layer_norm(pixels) + 1)  # used twice
        heads = [x.unflatten(2, (2, -1)).transpose(1, 2) for x in (self.query(pixels), self.key(pixels))]
        bias = self.position(self.index.expand(rows, -1, -1)).permute(0, 3, 1, 2)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[1], attn_mask=bias)
        windows = self.windows(mixed.transpose(1, 2).flatten(2).unflatten(1, (4, 4)))  # four axes
        return (windows - h.permute(0, 2, 3, 1)).square().flatten(1).mean(dim=1)


def shaken(model: nn.Module) -> nn.Module:
    """In float64, with weights away from zero: a fresh network has zero gradients inside."""
    generator = torch.Generator().manual_seed(0)
    model = model.double()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def unet(*settings: str) -> DiffusionModel:
    model = shaken(build_model(load_recipe(find_shipped("recipes", "toy"), settings)))
    assert isinstance(model, DiffusionModel)
    return model


def batch_of(model: nn.Module, units: int, images: int, draws: int) -> Batch:
    """m images with K draws each per unit, in float64."""
    generator, rows = keyed_generator(CPU, units, images, draws), images * draws
    if isinstance(model, DiffusionModel):
        pixels, *rest = noise_draws(model, units, rows, generator)
        drawn = (pixels[:, :images].repeat(1, draws, 1, 1, 1), *rest)
        return tuple(part.double() if part.is_floating_point() else part for part in drawn)
    labels = torch.randint(5, (units, rows), generator=generator)
    return torch.randn(units, rows, 2, 8, 8, generator=generator, dtype=torch.float64), labels


def assert_same(ours: Sequence[Tensor], theirs: Sequence[Tensor], rtol: float = 1e-10) -> None:
    """Relative to each tensor; one that vanishes but for rounding, to the largest of them."""
    largest = max(float(other.norm()) for other in theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert float((mine - other).norm()) <= rtol * max(float(other.norm()), 1e-3 * largest)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("network", ["unet", "every layer"])
@pytest.mark.parametrize(("images", "draws"), [(m, K) for m in (1, 2, 3) for K in (1, 2, 3, 4)])
def test_a_units_gradient_is_that_of_its_mean_loss(
    method: GradientMethod, network: str, images: int, draws: int
) -> None:
    """Equal to naive autograd, one unit and one row at a time, to 1e-10 in float64 for every parameter."""
    model = unet() if network == "unet" else shaken(EveryLayer())
    given, parameters = batch_of(model, 3, images, draws), list(model.parameters())
    gradients, losses = method(model, parameters, given)
    for unit in range(3):
        alone = [model(*(part[unit, row, None] for part in given)) for row in range(images * draws)]
        loss = torch.cat(alone).mean()
        assert_same([mine[unit] for mine in gradients], torch.autograd.grad(loss, parameters))
        assert losses[unit].item() == pytest.approx(loss.item(), rel=1e-10)


@pytest.mark.parametrize("network", ["unet", "every layer"])
@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")  # Opacus' hooks on our input
def test_gradients_are_those_of_opacus_hooks_averaged_over_the_unit(network: str) -> None:
    """Opacus keeps one gradient per row; their mean over a unit's m x K rows is ours."""
    model = unet() if network == "unet" else shaken(EveryLayer(opacus=True))
    given, parameters = batch_of(model, 3, 2, 4), list(model.parameters())
    ours = [method(model, parameters, given)[0] for method in METHODS]
    hooked = GradSampleModule(model, strict=False)  # strict refuses any buffer
    hooked(*(part.flatten(0, 1) for part in given)).mean().backward()
    theirs = [parameter.grad_sample.reshape(3, 8, *parameter.shape).mean(dim=1) for parameter in parameters]
    for gradients in ours:
        assert_same(gradients, theirs, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wild", [float("nan"), float("inf"), 1e300])
def test_a_wild_unit_does_not_reach_its_neighbours(method: GradientMethod, wild: float) -> None:
    """Whatever one unit's pixels hold, the gradients of the others stay what they were, to the last bit."""
    model = unet()
    given, parameters = batch_of(model, 3, 1, 2), list(model.parameters())
    spoilt = tuple(part.clone() for part in given)
    spoilt[0][1] = wild
    clean, dirty = (method(model, parameters, batch)[0] for batch in (given, spoilt))
    for mine, other in zip(clean, dirty, strict=True):
        assert torch.equal(mine[[0, 2]], other[[0, 2]])
    assert not all(bool(gradient[1].isfinite().all()) for gradient in dirty)


@pytest.mark.parametrize("method", METHODS)
def test_gradients_stay_float32_under_bf16(method: GradientMethod) -> None:
    """The pass may be quick and rough; what is clipped and summed is float32, and close to the exact one."""
    model = unet("model.channels=16").float()
    exact = tuple(part.float() if part.is_floating_point() else part for part in batch_of(model, 2, 2, 2))
    parameters = list(model.parameters())
    fine, _ = method(model, parameters, exact)
    with torch.autocast("cpu", torch.bfloat16):
        rough, _ = method(model, parameters, exact)
    assert {gradient.dtype for gradient in rough} == {torch.float32}
    assert_same(rough, fine, rtol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_dropout_is_drawn_for_every_row(method: GradientMethod) -> None:
    """Units with the same content do not share a mask."""
    model = unet("model.dropout=0.5").train()
    one = batch_of(model, 1, 1, 2)
    twice = tuple(part.expand(2, *part.shape[1:]) for part in one)
    torch.manual_seed(0)
    gradients, _ = method(model, list(model.parameters()), twice)
    assert any(not torch.equal(gradient[0], gradient[1]) for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_only_the_parameters_asked_for_get_gradients(method: GradientMethod) -> None:
    """Fine-tuning the attention alone leaves the other weights out, and nothing is left on the network."""
    model = unet()
    parameters = [parameter for name, parameter in model.named_parameters() if ".query." in name]
    everything = list(model.parameters())
    given = batch_of(model, 2, 1, 2)
    ours, _ = method(model, parameters, given)
    whole, _ = method(model, everything, given)
    wanted = {id(parameter) for parameter in parameters}
    assert_same(ours, [gradient for p, gradient in zip(everything, whole, strict=True) if id(p) in wanted])
    assert all(parameter.grad is None and parameter.requires_grad for parameter in everything)


def noise_for(model: nn.Module, rows: int) -> Callable[[int], Batch]:
    def noise(units: int) -> Batch:
        parts = batch_of(model, units, 1, rows)
        return tuple(part.float() if part.is_floating_point() else part for part in parts)

    return noise


def test_the_shapes_decide_how_units_go_through_the_network() -> None:
    """Small units together, within a bound on what is held; large ones in turn; one at least."""
    model = unet().float()
    parameters = list(model.parameters())
    assert plan_pass(model, parameters, noise_for(model, 8)) == Pass(gradients_at_once, 64)
    assert plan_pass(model, parameters, noise_for(model, 64)) == Pass(gradients_in_turn, 16)
    vast = nn.Sequential(nn.Flatten(), nn.Linear(PASS_FLOATS // 2, 3))
    planned = plan_pass(vast, list(vast.parameters()), lambda units: [torch.zeros(units, 2, 1, 2**14, 2**9)])
    assert planned == Pass(gradients_in_turn, 1)


@pytest.mark.slow  # tries many shapes
def test_a_probe_can_decide_instead() -> None:
    """Measured on a CPU here, for its answer to be right wherever it runs; the speed on CUDA is unknown."""
    model = unet().float()
    parameters, noise = list(model.parameters()), noise_for(model, 2)
    planned = plan_pass(model, parameters, noise, measured=True)
    batch = noise(planned.units)
    ours, _ = planned.method(model, parameters, batch)
    theirs, _ = gradients_in_turn(model, parameters, batch)
    assert_same(ours, theirs, rtol=1e-3)
    assert planned.units >= 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_both_ways_agree_on_a_gpu() -> None:
    """In float64, to 1e-9, for whatever the probe picks."""
    model = unet().cuda()
    parameters = list(model.parameters())

    def noise(units: int) -> Batch:
        return tuple(part.cuda() for part in batch_of(model, units, 2, 2))

    planned = plan_pass(model, parameters, noise, measured=True)
    ours, _ = planned.method(model, parameters, noise(planned.units))
    theirs, _ = gradients_in_turn(model, parameters, noise(planned.units))
    assert_same(ours, theirs, rtol=1e-9)


class Elsewhere(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 3, bias=False)

    def forward(self, rows: Tensor) -> Tensor:
        return (self.layer.weight[:, 0] - rows.flatten(1)).square().sum(dim=1)


class Neighbours(nn.Module):
    """Lets every row see the next one, which the layers do not show."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return (self.layer(rows.flatten(1)) * rows.flatten(1).roll(1, dims=0)).sum(dim=1)


class Unrowed(nn.Module):
    """Looks a table up once for all rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 1)

    def forward(self, rows: Tensor) -> Tensor:
        return (rows.flatten(1) * self.table(torch.arange(3)).T).square().sum(dim=1)


@pytest.mark.parametrize("network", [Elsewhere, Neighbours, Unrowed])
def test_units_go_in_turn_where_at_once_would_be_wrong(network: type[nn.Module]) -> None:
    """Found on noise before the first step; and in turn, the gradients are right for any network."""
    model = network()
    parameters = list(model.parameters())
    batch = [torch.randn(2, 4, 1, 1, 3, generator=torch.Generator().manual_seed(0))]
    assert not methods_agree(model, parameters, batch)
    assert plan_pass(model, parameters, lambda units: [batch[0][:units]]).method is gradients_in_turn


def test_bare_parameters_are_trained_in_turn() -> None:
    """A parameter outside a layer is supported, at the price of one backward per unit."""
    model = shaken(EveryLayer(bare=True))
    check_supported(model)
    given, parameters = batch_of(model, 2, 1, 2), list(model.parameters())
    assert not methods_agree(model, parameters, given)
    gradients, _ = gradients_in_turn(model, parameters, given)
    place = next(i for i, parameter in enumerate(parameters) if parameter is model.temperature)
    assert gradients[place].abs().min() > 0


def test_the_networks_we_ship_are_supported_and_agree() -> None:
    """U-Net and every supported layer may be taken at once."""
    for model in (unet(), shaken(EveryLayer())):
        check_supported(model)
        assert methods_agree(model, list(model.parameters()), batch_of(model, 2, 2, 1))


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.PReLU(),
        nn.MultiheadAttention(4, 2),
        nn.LSTM(4, 4),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Embedding(3, 4, max_norm=1.0),
        nn.Embedding(3, 4, scale_grad_by_freq=True),
    ],
)
def test_layers_that_may_mix_units_are_refused_by_name(layer: nn.Module) -> None:
    """The message names the layer; nothing is trained."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), layer)
    with pytest.raises(RecipeError, match=f"layer '1' \\({type(layer).__name__}\\)"):
        check_supported(model)


def test_a_buffer_of_floats_is_refused() -> None:
    """It may be a running statistic, which would leave the study without noise."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("seen", torch.zeros(2))
    with pytest.raises(RecipeError, match="Sequential"):
        check_supported(model)


def test_ways_have_one_shape() -> None:
    """(units, *shape) per parameter and (units,) losses, and no graph behind them."""
    model = unet()
    for method in METHODS:
        found: UnitGradients = method(model, list(model.parameters()), batch_of(model, 2, 1, 1))
        assert [gradient.shape[1:] for gradient in found[0]] == [p.shape for p in model.parameters()]
        assert found[1].shape == (2,)
        assert not any(tensor.requires_grad for tensor in (*found[0], found[1]))
