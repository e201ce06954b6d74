from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from privsyn.diffusion.model import DiffusionModel, build_model, build_process, device_of, to_float, to_pixels
from privsyn.diffusion.networks.swin_unet import SwinBlocks
from privsyn.diffusion.posterior import variational_bound
from privsyn.diffusion.process import SamplingLaw
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe, find_shipped, load_recipe

TIMES = torch.tensor([0, 10, 500, 900, 999])
SWIN = ("model.network=swin-unet", "model.heads=[2, 4]", "model.windows=[4, 4]")


def toy(*settings: str) -> Recipe:
    return load_recipe(find_shipped("recipes", "toy"), settings)


def weights(model: DiffusionModel) -> Tensor:
    return torch.cat([parameter.flatten() for parameter in model.parameters()])


def trained(*settings: str) -> DiffusionModel:
    """A model whose network says something: random weights instead of the zeros that it starts with."""
    model = build_model(toy(*settings))
    torch.nn.init.normal_(model.network.conv_out.weight, std=0.3, generator=torch.Generator().manual_seed(1))
    return model


def batch(channels: int = 1, size: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Five images of 8 bits with labels, times and noise."""
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(256, (5, channels, size, size), generator=generator)
    noise = torch.randn(grey.shape, generator=generator)
    return grey / 127.5 - 1, torch.arange(5), TIMES, noise


def test_the_seed_decides_the_weights_and_nothing_else_is_disturbed() -> None:
    """Same recipe, same weights; another seed, others; torch's global generator is where it was."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = (build_model(toy(f"seed={seed}")) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("target", ["v", "epsilon", "x0", "edm"])
def test_loss_is_the_mean_squared_error_of_the_target(target: str) -> None:
    """A fresh network predicts zero, so its loss is the mean square of the target, one value per image."""
    model = build_model(toy("data.size=9", "data.channels=3", f"diffusion.target={target}"))
    images, labels, times, noise = batch(3, 9)
    loss = model.loss(images, labels, times, noise)
    expected = model.process.target_of(images, noise, times)
    torch.testing.assert_close(loss, expected.square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(model(images, labels, times, noise), loss)


def test_edm_loss_is_that_of_its_paper() -> None:
    """lambda(s) |D(y; s) - x_0|^2 with D = c_skip y + c_out F(c_in y): Karras et al. 2022, eq. 7 and 8.

    In their sigma space: y = x_0 + s noise with s = sigma / alpha, and x_t = alpha y.
    """
    model, data = trained("diffusion.target=edm", "diffusion.sigma_data=0.3"), 0.3
    images, labels, times, noise = batch()
    abar = model.process.log_snrs.sigmoid()[times]
    s = ((1 - abar) / abar).sqrt().float()[:, None, None, None]
    noisy = images + s * noise
    said = model.network(noisy / (s**2 + data**2).sqrt(), times, labels)
    denoised = data**2 / (s**2 + data**2) * noisy + s * data / (s**2 + data**2).sqrt() * said
    weight = (s**2 + data**2) / (s * data) ** 2
    expected = (weight * (denoised - images).square()).mean(dim=(1, 2, 3))
    torch.testing.assert_close(model.loss(images, labels, times, noise), expected, rtol=1e-3, atol=1e-4)


def test_min_snr_loss_is_that_of_its_paper() -> None:
    """min(snr, g) times the error of x_0: Hang et al. 2023, eq. 4."""
    model = trained("diffusion.min_snr=5")
    images, labels, times, noise = batch()
    process = model.process
    noisy = process.add_noise(images, noise, times)
    clean = process.denoise(model.network(noisy, times, labels), noisy, times)
    abar = process.log_snrs.sigmoid()[times]
    weight = (abar / (1 - abar)).clamp(max=5)
    expected = weight * (clean - images).double().square().mean(dim=(1, 2, 3))
    torch.testing.assert_close(
        model.loss(images, labels, times, noise).double(), expected, rtol=1e-3, atol=1e-6
    )


@pytest.mark.parametrize(("channels", "bits", "white"), [(1, 8, 255), (3, 8, 255), (1, 16, 65_535)])
def test_loss_with_learned_variance_adds_the_bound(channels: int, bits: int, white: int) -> None:
    """L_simple + T / 1000 x L_vlb of one step: Nichol & Dhariwal 2021, eq. 17. The target is said first."""
    model = trained(
        "diffusion.learned_variance=true",
        f"data.channels={channels}",
        f"data.bit_depth={bits}",
        "diffusion.timesteps=2000",
    )
    process, (images, labels, times, noise) = model.process, batch(channels)
    noisy = process.add_noise(images, noise, times)
    said = model.network(noisy, times, labels)
    target, share = said[:, :channels], said[:, channels:]
    assert share.shape == target.shape == images.shape
    simple = (target - process.target_of(images, noise, times)).square().mean(dim=(1, 2, 3))
    clean = process.denoise(target, noisy, times)
    expected = simple + 2 * variational_bound(process, images, noisy, clean, share, times, white)
    torch.testing.assert_close(model.loss(images, labels, times, noise), expected)


def test_the_bound_does_not_teach_the_target() -> None:
    """What the target half learns is what it learns without a variance; the other learns from the bound."""
    model = trained("diffusion.learned_variance=true")
    images, labels, times, noise = batch()
    last = model.network.conv_out.weight
    (both,) = torch.autograd.grad(model.loss(images, labels, times, noise).sum(), last)
    said, _ = model.predict(model.process.add_noise(images, noise, times), times, labels)
    simple = (said - model.process.target_of(images, noise, times)).square().mean(dim=(1, 2, 3)).sum()
    (alone,) = torch.autograd.grad(simple, last)
    torch.testing.assert_close(both[:1], alone[:1])
    assert alone[1:].eq(0).all()
    assert both[1:].abs().max() > 0


def test_loss_in_half_precision_is_near_and_in_full() -> None:
    """bfloat16 is for the passes through the network in training mode; the loss is float32 either way."""
    model = trained("diffusion.learned_variance=true")
    full = model.loss(*batch())
    model.precision = torch.bfloat16
    half = model.loss(*batch())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.05, atol=0.05)
    assert not torch.equal(half, full)
    assert torch.equal(model.eval().loss(*batch()), full)


@pytest.mark.parametrize(
    ("settings", "shift"),
    [
        ((), 1.0),
        (("privacy.dp=true", "privacy.epsilon=8"), (10 / 8) ** 0.25),
        (("privacy.dp=true", "privacy.epsilon=0.625"), 2.0),
        (("privacy.dp=true", "privacy.epsilon=10"), 1.0),
        (("privacy.dp=true", "privacy.epsilon=100"), 1.0),
        (("privacy.dp=true", "privacy.epsilon=1", "diffusion.noise_shift=1"), 1.0),
        (("diffusion.noise_shift=3",), 3.0),
    ],
)
def test_noise_shift_follows_from_epsilon_unless_declared(settings: tuple[str, ...], shift: float) -> None:
    """1 without privacy; with it max(1, (10 / epsilon)^(1/4)); what the recipe says comes first."""
    assert build_process(toy(*settings)).law.shift == pytest.approx(shift)


def test_the_process_is_what_the_recipe_declares() -> None:
    """Every setting of [diffusion] arrives."""
    process = build_process(
        toy(
            "diffusion.timesteps=50",
            "diffusion.schedule=linear",
            "diffusion.target=edm",
            "diffusion.continuous=true",
            "diffusion.sigma_data=0.25",
            "diffusion.min_snr=4",
            "diffusion.law=normal",
            "diffusion.law_mean=1.5",
            "diffusion.law_std=2.5",
        )
    )
    assert process.timesteps == 50
    assert process.log_snrs.sigmoid()[0].item() == pytest.approx(1 - 20 * 1e-4)
    assert (process.target, process.continuous, process.sigma_data) == ("edm", True, 0.25)
    assert (process.min_snr, process.learned_variance) == (4, False)
    assert process.law == SamplingLaw("normal", 1.5, 2.5)
    assert build_process(toy("diffusion.learned_variance=true")).learned_variance


def test_the_network_is_what_the_recipe_declares() -> None:
    """Swin blocks with swin-unet; heads of the width asked for; two outputs a channel with a variance."""
    swin = build_model(toy(*SWIN, "data.channels=3", "diffusion.learned_variance=true")).network
    assert any(isinstance(module, SwinBlocks) for module in swin.modules())
    assert swin.conv_out.out_channels == 6
    plain = build_model(toy("model.head_channels=4", "model.scale_shift=true", "model.blocks=[2, 1]")).network
    assert plain.middle_attention.heads == 4
    assert plain.middle1.scale_shift
    assert [len(level.blocks) for level in plain.down] == [2, 1]
    assert build_model(toy()).network.middle_attention.heads == 1


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    """All 256 values, RGB order and axes come back; 0 is -1 and 255 is 1."""
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = images + np.array([0, 1, 2], np.uint8)
    floats = to_float(images)
    assert floats.shape == (1, 3, 16, 16)
    assert (floats.min(), floats.max()) == (-1, 1)
    np.testing.assert_array_equal(to_pixels(floats, 8), images)


def test_16_bits_survive_the_way_to_floats_and_back() -> None:
    """All 65,536 values come back, in order, from floats that are all different; 0 is -1 and 65535 is 1."""
    images = np.arange(65_536, dtype=np.uint16).reshape(1, 256, 256, 1)
    floats = to_float(images)
    assert (floats.min(), floats.max(), floats.dtype) == (-1, 1, torch.float32)
    assert (floats.ravel().diff() > 0).all()
    back = to_pixels(floats, 16)
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back, images)


def test_out_of_range_floats_are_clamped() -> None:
    """What a sampler overshoots becomes black or white, not another grey."""
    wild = torch.tensor([[[[-7.0, 7.0]]]])
    assert to_pixels(wild, 8).ravel().tolist() == [0, 255]
    assert to_pixels(wild, 16).ravel().tolist() == [0, 65_535]


def test_a_device_that_is_not_there_is_refused() -> None:
    """The message names the setting."""
    assert device_of(toy("train.device=cpu")).type == "cpu"
    with pytest.raises(RecipeError, match=r"train\.device"):
        device_of(toy("train.device=abacus"))
    if not torch.cuda.is_available():
        with pytest.raises(RecipeError, match="no CUDA device"):
            device_of(toy("train.device=cuda"))
