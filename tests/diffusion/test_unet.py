from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from privsyn.diffusion.unet import UNet, sinusoids
from privsyn.dp.clipping import check_supported


def unet(**changes: Any) -> UNet:
    settings: dict[str, Any] = {
        "image_channels": 1,
        "labels": 3,
        "channels": 8,
        "multipliers": (1, 2, 2),
        "blocks": 1,
        "attention_levels": (2,),
        "groups": 4,
        "dropout": 0.0,
    }
    torch.manual_seed(0)
    return UNet(**{**settings, **changes})


@pytest.mark.parametrize("size", [8, 13, 28, 32, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_output_has_the_shape_of_the_input(size: int, channels: int) -> None:
    """Any size from 8 to 64, odd ones too, grey and RGB."""
    images = torch.zeros(2, channels, size, size)
    out = unet(image_channels=channels)(images, torch.tensor([0, 999]), torch.tensor([0, 2]))
    assert out.shape == images.shape


def test_a_fresh_network_predicts_zero() -> None:
    """The output convolution starts at zero, whatever the input."""
    out = unet()(torch.randn(2, 1, 8, 8), torch.tensor([3, 900]), torch.tensor([0, 1]))
    assert out.eq(0).all()


def test_the_class_and_the_timestep_change_the_prediction() -> None:
    """Neither condition is ignored."""
    network = unet()
    torch.nn.init.normal_(network.conv_out.weight)
    images = torch.ones(3, 1, 8, 8)
    out = network(images, torch.tensor([5, 5, 500]), torch.tensor([0, 1, 0]))
    assert not torch.allclose(out[0], out[1])
    assert not torch.allclose(out[0], out[2])


@pytest.mark.parametrize("blocks", [1, 2])
def test_structure_is_that_of_an_independent_implementation(blocks: int) -> None:
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
        attention_head_dim=None,
        num_class_embeds=3,
    )
    ours = unet(image_channels=3, blocks=blocks)
    shapes = [sorted(tuple(p.shape) for p in network.parameters()) for network in (ours, theirs)]
    assert shapes[0] == shapes[1]


def test_every_layer_can_be_trained_with_privacy() -> None:
    """The DP engine knows every layer of the network."""
    check_supported(unet(dropout=0.1))


def test_time_embedding_tells_timesteps_apart() -> None:
    """Cosines first, then sines; an odd width ends with a zero."""
    embedded = sinusoids(torch.tensor([0, 1]), 5)
    torch.testing.assert_close(embedded[0], torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0]))
    assert embedded[1, 0].item() == pytest.approx(0.5403, abs=1e-4)
