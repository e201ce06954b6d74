from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from privsyn.diffusion.batches import noise_draws
from privsyn.diffusion.model import DiffusionModel
from privsyn.diffusion.networks.swin_unet import RelativePositionBias, SwinBlock, SwinBlocks, swin_unet
from privsyn.diffusion.networks.unet import UNet
from privsyn.diffusion.process import Process, log_snrs
from privsyn.dp.gradients import methods_agree
from privsyn.dp.layers import check_supported

TOY: dict[str, Any] = {
    "multipliers": (1, 2, 2),
    "blocks": (1, 1, 1),
    "swin_levels": (1, 2),
    "heads": (2, 2, 4),
    "windows": (4, 4, 2),
    "groups": 4,
    "dropout": 0.0,
    "image_channels": 1,
    "outputs": 1,
    "labels": 3,
    "channels": 8,
}
REFERENCE: dict[str, Any] = {
    "multipliers": (1, 1, 2, 2, 4, 4),
    "blocks": (2, 2, 1, 1, 1, 1),
    "swin_levels": (2, 3, 4, 5),
    "heads": (4, 4, 4, 8, 16, 16),
    "windows": (4, 4, 4, 8, 8, 4),
    "groups": 32,
    "outputs": 2,
    "channels": 128,
}


def network(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return swin_unet(**{**TOY, **changes})


def block(window: int, *, shifted: bool, channels: int = 6, heads: int = 2) -> SwinBlock:
    """In float64, with biases that matter: fresh ones are too small to be seen."""
    torch.manual_seed(1)
    made = SwinBlock(channels, heads, window, shifted=shifted).double()
    for weight in made.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return made


def test_the_reference_study_has_as_many_parameters() -> None:
    """Its settings give its 116,042,570, without the class embedding that it does not have."""
    with torch.device("meta"):
        study = swin_unet(**{**TOY, **REFERENCE})
    counts = {name: weight.numel() for name, weight in study.named_parameters()}
    assert sum(counts.values()) - counts["label.weight"] == 116_042_570


@pytest.mark.parametrize("size", [8, 13, 28, 32, 50])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_goes_through(size: int, channels: int) -> None:
    """Odd sizes too, grey and RGB, with every number finite."""
    made = network(image_channels=channels, outputs=2 * channels)
    torch.nn.init.normal_(made.conv_out.weight)
    out = made(torch.randn(2, channels, size, size), torch.tensor([0, 999]), torch.tensor([0, 2]))
    assert out.shape == (2, 2 * channels, size, size)
    assert out.isfinite().all()


def test_a_fresh_network_predicts_zero() -> None:
    """The output convolution starts at zero, whatever the input."""
    out = network()(torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 1]))
    assert out.eq(0).all()


def test_the_class_and_the_time_change_the_prediction() -> None:
    """Neither condition is ignored."""
    made = network()
    torch.nn.init.normal_(made.conv_out.weight)
    out = made(torch.ones(3, 1, 8, 8), torch.tensor([5, 5, 500]), torch.tensor([0, 1, 0]))
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


def test_swin_blocks_stand_where_they_are_declared() -> None:
    """On both ways at the Swin levels and in the middle, which is like the last level; nowhere else."""

    def swins(made: UNet) -> list[bool]:
        levels = [*made.down, *made.up]
        return [any(isinstance(part, SwinBlocks) for part in level.modules()) for level in levels]

    assert swins(network(swin_levels=(1,))) == [False, True, False, False, True, False]
    middles = [network(swin_levels=levels).middle1.conv2 for levels in ((1,), (2,))]
    assert [isinstance(middle, SwinBlocks) for middle in middles] == [False, True]


# --- attention within windows ------------------------------------------------------------------------------


def window_of(place: int, length: int, window: int, *, shifted: bool) -> int:
    """The window along one axis that a pixel lies in: cut at 0, w, 2 w..., or w // 2 further.

    Liu et al. 2021, section 3.2. The part before the first cut is a window by itself, for the wrap-around is
    masked; an axis of one window is not shifted (as in the authors' code).
    """
    return (place - (window // 2 if shifted and length > window else 0)) // window


def naive_attention(made: SwinBlock, x: Tensor) -> Tensor:
    """Eq. 4 for every pixel by itself, over the real pixels of its window; nothing is padded or rolled."""
    height, width, channels = x.shape
    side, each = made.window, channels // made.heads
    query, key, value = made.qkv(x).split(channels, dim=-1)
    mixed = torch.zeros_like(x)
    places = [(r, c) for r in range(height) for c in range(width)]

    def window(r: int, c: int) -> tuple[int, int]:
        return tuple(
            window_of(place, length, side, shifted=made.shift > 0)
            for place, length in ((r, height), (c, width))
        )  # type: ignore[return-value]

    for r, c in places:
        seen = [place for place in places if window(*place) == window(r, c)]
        ways = [(r - other[0] + side - 1) * (2 * side - 1) + c - other[1] + side - 1 for other in seen]
        for head in range(made.heads):
            own = slice(head * each, (head + 1) * each)
            keys = torch.stack([key[other][own] for other in seen])
            values = torch.stack([value[other][own] for other in seen])
            scores = keys @ query[r, c, own] / math.sqrt(each) + made.bias.table.weight[ways, head]
            mixed[r, c, own] = scores.softmax(dim=0) @ values
    return made.out(mixed)  # type: ignore[no-any-return]


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("window", [2, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (9, 6), (5, 4), (3, 7), (2, 2)])
def test_a_block_is_that_of_its_paper(size: tuple[int, int], window: int, shifted: bool) -> None:
    """Attention, then the MLP, each after a norm and with a residual connection, for two images at once.

    Sizes with and without padding, with one window along an axis, and smaller than a window.
    """
    made = block(window, shifted=shifted)
    x = torch.randn(2, *size, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    expected = []
    for image in x:
        normed = F.layer_norm(image, (6,), made.norm1.weight, made.norm1.bias)
        image = image + naive_attention(made, normed)
        normed = F.layer_norm(image, (6,), made.norm2.weight, made.norm2.bias)
        first, _, second = made.mlp
        hidden = F.linear(normed, first.weight, first.bias)
        hidden = hidden * (1 + torch.erf(hidden / math.sqrt(2))) / 2
        expected.append(image + F.linear(hidden, second.weight, second.bias))
    torch.testing.assert_close(made(x), torch.stack(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shifted", [False, True])
def test_a_pixel_is_seen_in_its_window_alone(shifted: bool) -> None:
    """Not over the edge of a window, and not across the wrap-around: pixel (0, 0) of 8 x 8 reaches the first
    window, or, shifted by half a window, the corner of 2 x 2 that the first cut leaves."""
    made, x = block(4, shifted=shifted), torch.zeros(1, 8, 8, 6, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 0, 0] = 1
    changed = (made(moved) - made(x)).abs().amax(dim=-1)[0] > 0
    reach = 2 if shifted else 4
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:reach, :reach] = True
    assert torch.equal(changed, expected)


def test_plain_and_shifted_blocks_together_see_further() -> None:
    """What shifting is for: through a pair of blocks a pixel reaches neighbouring windows."""
    torch.manual_seed(0)
    pair = SwinBlocks(6, 2, 4).double()
    x = torch.zeros(1, 6, 12, 12, dtype=torch.float64)
    moved = x.clone()
    moved[0, 0, 5, 5] = 1
    changed = (pair(moved) - pair(x)).abs().amax(dim=1)[0] > 0
    assert changed.any(dim=0).nonzero().flatten().tolist() == list(
        range(2, 10)
    )  # windows 2-5 and 6-9 touch 4-7


def test_relative_positions_count_from_query_to_key() -> None:
    """One number for every way (dr, dc) and head, the same wherever in the window it starts."""
    made = RelativePositionBias(3, heads=2)
    made.table.weight.data = torch.arange(50.0).reshape(25, 2)
    bias = made(images=2)
    assert bias.shape == (2, 2, 9, 9)
    for query in range(9):
        for key in range(9):
            down, across = query // 3 - key // 3, query % 3 - key % 3
            way = (down + 2) * 5 + across + 2
            assert bias[:, :, query, key].tolist() == [[2 * way, 2 * way + 1]] * 2


# --- privacy -----------------------------------------------------------------------------------------------


def test_every_layer_can_be_trained_with_privacy() -> None:
    """The DP engine knows every layer of the network."""
    check_supported(network(dropout=0.1))


@pytest.mark.parametrize("size", [8, 13])
@pytest.mark.parametrize("learned_variance", [False, True])
def test_gradients_of_units_at_once_are_right(size: int, learned_variance: bool) -> None:
    """Per-unit gradients from one backward pass equal those of a pass for each unit."""
    process = Process(log_snrs("cosine", 100), "v", learned_variance=learned_variance)
    made = network(outputs=2 if learned_variance else 1)
    model = DiffusionModel(made, process, (1, size, size))
    batch = noise_draws(model, 3, 2, torch.Generator().manual_seed(0))
    assert methods_agree(model, list(model.parameters()), batch)
