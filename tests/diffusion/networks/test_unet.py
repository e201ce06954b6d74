from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn import functional as F

from privsyn.diffusion.networks.unet import AttentionBlock, ResidualBlock, UNet, plain_unet, sinusoids
from privsyn.dp.layers import check_supported


def unet(**changes: Any) -> UNet:
    settings: dict[str, Any] = {
        "image_channels": 1,
        "outputs": changes.get("image_channels", 1),
        "labels": 3,
        "channels": 8,
        "multipliers": (1, 2, 2),
        "blocks": (1, 1, 1),
        "attention_levels": (2,),
        "heads": lambda width: 1,  # noqa: ARG005
        "groups": 4,
        "dropout": 0.0,
        "scale_shift": False,
    }
    torch.manual_seed(0)
    return plain_unet(**{**settings, **changes})


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale_shift": {"scale_shift": True},
    "heads": {"heads": lambda width: width // 4},
    "uneven": {"blocks": (2, 1, 3), "attention_levels": (0, 2)},
}


@pytest.mark.parametrize("size", [8, 13, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_output_has_the_shape_of_the_input(size: int, channels: int) -> None:
    """Any size from 8 to 64, odd ones too, grey and RGB; twice the channels if a variance is said."""
    images, asked = torch.zeros(2, channels, size, size), (torch.tensor([0, 999]), torch.tensor([0, 2]))
    assert unet(image_channels=channels)(images, *asked).shape == images.shape
    out = unet(image_channels=channels, outputs=2 * channels)(images, *asked)
    assert out.shape == (2, 2 * channels, size, size)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_fresh_network_predicts_zero(variant: str) -> None:
    """The output convolution starts at zero, whatever the input."""
    out = unet(**VARIANTS[variant])(torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 1]))
    assert out.eq(0).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_class_and_the_time_change_the_prediction(variant: str) -> None:
    """Neither condition is ignored; times between whole steps count, too."""
    network = unet(**VARIANTS[variant])
    torch.nn.init.normal_(network.conv_out.weight)
    images = torch.ones(4, 1, 8, 8)
    out = network(images, torch.tensor([5, 5, 500, 5.5]), torch.tensor([0, 1, 0, 0]))
    for other in out[1:]:
        assert not torch.allclose(out[0], other)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("scale_shift", [False, True])
def test_structure_is_that_of_an_independent_implementation(
    blocks: int, heads: int, scale_shift: bool
) -> None:
    """As many weights as diffusers' `UNet2DModel` with the same settings: no block more, none less."""
    theirs = UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=blocks,
        norm_num_groups=4,
        attn_norm_num_groups=4,  # without it and with scale_shift, theirs leaves out the norm in the middle
        attention_head_dim=16 // heads,
        resnet_time_scale_shift="scale_shift" if scale_shift else "default",
        num_class_embeds=3,
    )
    ours = unet(
        image_channels=3,
        blocks=(blocks,) * 3,
        heads=lambda width: heads,  # noqa: ARG005
        scale_shift=scale_shift,
    )
    shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_that_of_its_formula(heads: int) -> None:
    """x + out(softmax(q k / sqrt(d)) v), pixel by pixel and head by head."""
    torch.manual_seed(1)
    block = AttentionBlock(8, groups=2, heads=heads).double()
    x = torch.randn(1, 8, 2, 3, dtype=torch.float64)
    pixels = F.group_norm(x, 2, block.norm.weight, block.norm.bias)[0].flatten(1).T  # (6, 8)
    query, key, value = block.query(pixels), block.key(pixels), block.value(pixels)
    width, mixed = 8 // heads, torch.zeros(6, 8, dtype=torch.float64)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for pixel in range(6):
            scores = [torch.dot(query[pixel, own], other[own]) / math.sqrt(width) for other in key]
            mixed[pixel, own] = torch.stack(scores).softmax(dim=0) @ value[:, own]
    torch.testing.assert_close(block(x), x + block.out(mixed).T.reshape(1, 8, 2, 3))


@pytest.mark.parametrize("scale_shift", [False, True])
def test_the_embedding_enters_a_block_as_declared(scale_shift: bool) -> None:
    """Added before the second norm, or as scale and shift after it."""
    torch.manual_seed(1)
    block = ResidualBlock(4, 6, embedding=5, groups=2, dropout=0.0, scale_shift=scale_shift).double()
    x, embedding = torch.randn(2, 4, 3, 3).double(), torch.randn(2, 5).double()

    def norm(h: Tensor) -> Tensor:
        return F.group_norm(h, 2, block.norm2.weight, block.norm2.bias)

    told = block.embed(F.silu(embedding)).reshape(2, -1, 1, 1)
    h = block.conv1(F.silu(block.norm1(x)))
    h = norm(h) * (1 + told[:, :6]) + told[:, 6:] if scale_shift else norm(h + told)
    torch.testing.assert_close(block(x, embedding), block.shortcut(x) + block.conv2(F.silu(h)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layer_can_be_trained_with_privacy(variant: str) -> None:
    """The DP engine knows every layer of the network."""
    check_supported(unet(**VARIANTS[variant], dropout=0.1))


def test_time_embedding_tells_timesteps_apart() -> None:
    """Cosines first, then sines; an odd width ends with a zero."""
    embedded = sinusoids(torch.tensor([0, 1]), 5)
    torch.testing.assert_close(embedded[0], torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))
    assert embedded[1, 0].item() == pytest.approx(0.5403, abs=1e-4)
