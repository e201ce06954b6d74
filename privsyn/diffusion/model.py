"""The network and the process together: what is trained, checkpointed, sampled and attacked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from privsyn.bit_depth import DTYPES, Images, white
from privsyn.diffusion.check import check_recipe
from privsyn.diffusion.networks import find_network
from privsyn.diffusion.networks.declaration import DenoisingNetwork, Frame
from privsyn.diffusion.posterior import variational_bound
from privsyn.diffusion.process import Process, SamplingLaw, log_snrs
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe

VARIANCE_WEIGHT = 1e-3  # of the bound, summed over all T steps: Nichol & Dhariwal 2021, eq. 17


class DiffusionModel(nn.Module):
    """A class-conditional diffusion model.

    Attributes:
        network: predicts `process.target`, and a learned variance, from (noisy images, times, labels).
        process: the noise it is trained on.
        image_shape: (C, H, W) of one image.
        bit_depth: of the images that it learns and draws, 8 or 16.
        precision: of the passes through the network in training mode; losses are always float32 or better.
    """

    def __init__(
        self,
        network: DenoisingNetwork,
        process: Process,
        image_shape: tuple[int, int, int],
        bit_depth: int = 8,
    ) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.image_shape = image_shape
        self.bit_depth = bit_depth
        self.precision: torch.dtype = torch.float32
        self._compiled: Callable[..., Tensor] | None = None

    @property
    def null_label(self) -> int:
        """The label that stands for "class not given", `len(classes)`."""
        return self.network.label.num_embeddings - 1

    def compile_network(self) -> None:
        """Let `torch.compile` make the passes in training mode; state and names of the weights stay."""
        self._compiled = torch.compile(self.network.forward)

    def predict(self, noisy: Tensor, times: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction at x_t: the target (B, C, H, W), and the share of the variance or None."""
        given = noisy * self.process.coefficients(times, noisy).input
        reduced = self.training and self.precision != torch.float32
        with torch.autocast(noisy.device.type, self.precision, enabled=reduced):
            network = self._compiled if self.training and self._compiled else self.network
            prediction = network(given, times, labels)
        prediction = prediction.to(noisy.dtype)
        if not self.process.learned_variance:
            return prediction, None
        target, share = prediction.chunk(2, dim=1)
        return target, share

    def loss(self, images: Tensor, labels: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the target over channels and pixels; plus the bound, if variance is learned.

        Args:
            images: (B, C, H, W) in [-1, 1].
            labels: (B,) int64, `null_label` where the class is hidden.
            times: (B,) in [0, T - 1].
            noise: standard normal, like `images`.

        Returns:
            (B,) one loss per image.
        """
        process = self.process
        noisy = process.add_noise(images, noise, times)
        prediction, share = self.predict(noisy, times, labels)
        error = (prediction - process.target_of(images, noise, times)).square().flatten(1).mean(dim=1)
        loss: Tensor = process.weight(times).to(error) * error
        if share is not None:
            clean = process.denoise(prediction.detach(), noisy, times)
            weight = VARIANCE_WEIGHT * process.timesteps
            highest = white(DTYPES[self.bit_depth])
            loss = loss + weight * variational_bound(
                process, images, noisy, clean, share, times, white=highest
            )
        return loss

    def forward(self, images: Tensor, labels: Tensor, times: Tensor, noise: Tensor) -> Tensor:
        """The same as `loss`, so that `torch.func.functional_call` reaches it."""
        return self.loss(images, labels, times, noise)


def build_model(recipe: Recipe) -> DiffusionModel:
    """A fresh model; its weights follow from `recipe.seed`, and the global generator is left alone.

    Raises:
        RecipeError: it names a network or a sampler that does not exist, or settings that do not fit.
    """
    check_recipe(recipe)
    with torch.random.fork_rng(devices=[]):  # torch initialises layers from the global generator only
        torch.manual_seed(recipe.seed)
        network = _network(recipe)
    data = recipe.data
    return DiffusionModel(
        network, build_process(recipe), (data.channels, data.size, data.size), data.bit_depth
    )


def build_process(recipe: Recipe) -> Process:
    """The process that a recipe declares."""
    wanted = recipe.diffusion
    shift = wanted.noise_shift or (
        max(1.0, (10 / recipe.privacy.epsilon) ** 0.25) if recipe.privacy.dp else 1.0
    )
    return Process(
        log_snrs(wanted.schedule, wanted.timesteps),
        wanted.target,
        continuous=wanted.continuous,
        law=SamplingLaw(wanted.law, wanted.law_mean, wanted.law_std, shift),
        min_snr=wanted.min_snr,
        sigma_data=wanted.sigma_data,
        learned_variance=wanted.learned_variance,
    )


def _network(recipe: Recipe) -> DenoisingNetwork:
    model, channels = recipe.model, recipe.data.channels
    frame: Frame = {
        "multipliers": model.multipliers,
        "blocks": model.blocks_per_level,
        "groups": model.groups,
        "image_channels": channels,
        "outputs": channels * (2 if recipe.diffusion.learned_variance else 1),
        "labels": len(recipe.data.classes) + 1,
        "channels": model.channels,
    }
    return find_network(model.network).build(model, frame)


def device_of(recipe: Recipe) -> torch.device:
    """The device the recipe asks for; `auto` is CUDA where there is one."""
    wanted, has_cuda = recipe.train.device, torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise RecipeError(f"train.device {wanted!r} is not a device: use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not has_cuda:
        raise RecipeError(f"train.device is {wanted!r}, but there is no CUDA device: use auto or cpu")
    return device


def precision_on(device: torch.device, wanted: str) -> torch.dtype:
    """bf16 if the recipe asks for it, or if it is auto and the device supports it; else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bf16" else torch.float32
    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        able = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if able else torch.float32


def to_float(images: Images) -> Tensor:
    """(N, H, W, C) to (N, C, H, W) float32 in [-1, 1]: 0 is -1 and white is 1, whatever the data hold."""
    levels = torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2)
    return levels.div(white(images.dtype) / 2).sub(1).contiguous()


def to_pixels(images: Tensor, bit_depth: int) -> Images:
    """(N, C, H, W) in [-1, 1] to the nearest levels (N, H, W, C); the inverse of `to_float`."""
    half, dtype = white(DTYPES[bit_depth]) / 2, {8: torch.uint8, 16: torch.uint16}[bit_depth]
    pixels = images.detach().clamp(-1, 1).add(1).mul(half).round().to(dtype)
    levels: Images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return levels
