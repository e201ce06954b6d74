"""The network and the process together: what is trained, checkpointed, sampled and attacked."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from privsyn.diffusion.process import Process, build_process
from privsyn.diffusion.unet import UNet
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe


class DiffusionModel(nn.Module):
    """A class-conditional diffusion model.

    Attributes:
        network: predicts `process.target` from (noisy images, timesteps, labels).
        process: the noise it is trained on.
        image_shape: (C, H, W) of one image.
        null_label: the label that stands for "class not told", `len(classes)`.
    """

    def __init__(self, network: UNet, process: Process, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.network = network
        self.process = process
        self.image_shape = image_shape

    @property
    def null_label(self) -> int:
        return self.network.label.num_embeddings - 1

    def loss(self, images: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the target, averaged over channels and pixels.

        Args:
            images: (B, C, H, W) in [-1, 1].
            labels: (B,) int64, `null_label` where the class is hidden.
            timesteps: (B,) int64 in [0, T).
            noise: standard normal, like `images`.

        Returns:
            (B,) one loss per image.
        """
        noisy = self.process.add_noise(images, noise, timesteps)
        prediction = self.network(noisy, timesteps, labels)
        target = self.process.target_of(images, noise, timesteps)
        return (prediction - target).square().flatten(1).mean(dim=1)  # type: ignore[no-any-return]

    def forward(self, images: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        """The same as `loss`, so that `torch.func.functional_call` reaches it."""
        return self.loss(images, labels, timesteps, noise)


def build_model(recipe: Recipe) -> DiffusionModel:
    """A fresh model; its weights follow from `recipe.seed`, and the global generator is left alone."""
    settings, diffusion = recipe.model, recipe.diffusion
    with torch.random.fork_rng(devices=[]):  # torch initialises layers from the global generator only
        torch.manual_seed(recipe.seed)
        network = UNet(
            image_channels=recipe.data.channels,
            labels=len(recipe.data.classes) + 1,
            channels=settings.channels,
            multipliers=settings.multipliers,
            blocks=settings.blocks,
            attention_levels=settings.attention_levels,
            groups=settings.groups,
            dropout=settings.dropout,
        )
    process = build_process(diffusion.schedule, diffusion.timesteps, diffusion.target)
    return DiffusionModel(network, process, (recipe.data.channels, recipe.data.size, recipe.data.size))


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
        raise RecipeError(f"train.device is {wanted!r}, but no CUDA device is at hand: use auto or cpu")
    return device


def to_float(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, C) uint8 to (N, C, H, W) float32 in [-1, 1]: 0 is -1, 255 is 1, whatever the data hold."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)  # a copy: torch refuses read-only memory
    return pixels.to(torch.float32).div(127.5).sub(1).contiguous()


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) in [-1, 1] to (N, H, W, C) uint8, rounded to the nearest; the inverse of `to_float`."""
    pixels = images.detach().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
