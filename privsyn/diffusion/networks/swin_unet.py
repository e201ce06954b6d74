"""The Swin U-Net of the reference study: shifted-window attention inside the residual blocks of a U-Net.

Hosseini & Serag 2025, https://doi.org/10.3389/frai.2024.1454441, use the network of Pan et al. 2023, "2D
Medical Image Synthesis Using Transformer-based Denoising Diffusion Probabilistic Model",
https://doi.org/10.1088/1361-6560/acca5c. At its deeper levels a pair of Swin blocks, one with plain and one
with shifted windows, takes the place of a residual block's second convolution (Liu et al. 2021, "Swin
Transformer", https://arxiv.org/abs/2103.14030). Pure torch, any size, grey or RGB, with layers that
per-patient gradients support; nothing depends on the size of 256 px.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.diffusion.networks.declaration import Frame, NetworkDeclaration
from privsyn.diffusion.networks.unet import ResidualBlock, UNet, split_heads
from privsyn.errors import RecipeError
from privsyn.recipe import Model

MLP_RATIO = 4


class RelativePositionBias(nn.Module):
    """A learned bias of attention for the offset between two pixels of a window, for each head.

    An embedding of the (2w - 1)^2 offsets. Liu et al. 2021, eq. 4.
    """

    def __init__(self, window: int, heads: int) -> None:
        super().__init__()
        self.table = nn.Embedding((2 * window - 1) ** 2, heads)
        nn.init.trunc_normal_(self.table.weight, std=0.02)
        axis = torch.arange(window)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        places = torch.stack([rows.flatten(), columns.flatten()])
        offsets = places[:, :, None] - places[:, None, :] + window - 1
        self.register_buffer("index", offsets[0] * (2 * window - 1) + offsets[1], persistent=False)
        self.index: Tensor

    def forward(self, images: int) -> Tensor:
        """(images, heads, w^2, w^2); looked up for every image, so that each has a gradient of its own."""
        looked_up: Tensor = self.table(self.index.expand(images, -1, -1))
        return looked_up.permute(0, 3, 1, 2)


class SwinBlock(nn.Module):
    """Attention within windows, then an MLP, each after a LayerNorm and with a residual connection.

    Args:
        channels: width.
        heads: must divide `channels`.
        window: side of a window in pixels; images are padded to a multiple of it.
        shifted: windows lie half a window further, rolled around the edge with what meets there masked.
    """

    def __init__(self, channels: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.bias = RelativePositionBias(window, heads)
        self.out = nn.Linear(channels, channels)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, MLP_RATIO * channels), nn.GELU(), nn.Linear(MLP_RATIO * channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self._attend(self.norm1(x))
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        images, height, width, channels = x.shape
        side = self.window
        x = F.pad(x, (0, 0, 0, -width % side, 0, -height % side))
        down, across = x.shape[1] // side, x.shape[2] // side
        # one window in a direction: nothing to shift, its pixels see each other already
        shift = (self.shift * (down > 1), self.shift * (across > 1))
        x = torch.roll(x, (-shift[0], -shift[1]), dims=(1, 2))
        x = x.reshape(images, down, side, across, side, channels).transpose(2, 3)
        tokens = self.qkv(x.reshape(images, down * across * side * side, channels))
        tokens = tokens.reshape(images * down * across, side * side, 3 * channels)
        query, key, value = (split_heads(part, self.heads) for part in tokens.chunk(3, dim=-1))
        mask = self._mask(images, (height, width), (down, across), shift)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        mixed = self.out(mixed.transpose(1, 2).reshape(images, -1, channels))
        mixed = mixed.reshape(images, down, across, side, side, channels).transpose(2, 3)
        mixed = mixed.reshape(images, down * side, across * side, channels)
        shown: Tensor = torch.roll(mixed, shift, dims=(1, 2))[:, :height, :width]
        return shown

    def _mask(
        self, images: int, size: tuple[int, int], windows: tuple[int, int], shift: tuple[int, int]
    ) -> Tensor:
        """What is added to the attention of every window, (images * windows, heads, w^2, w^2)."""
        allowed = _same_region(size, windows, self.window, shift, self.bias.index.device)
        bias: Tensor = self.bias(images)[:, None]
        return bias.masked_fill(~allowed[None, :, None], -torch.inf).flatten(0, 1)


def _same_region(
    size: tuple[int, int], windows: tuple[int, int], side: int, shift: tuple[int, int], device: torch.device
) -> Tensor:
    """Whether two pixels of a window see each other, (windows, w^2, w^2): padding is seen by itself alone."""
    regions = []
    for length, count, moved in zip(size, windows, shift, strict=True):
        place = (torch.arange(count * side, device=device) + moved) % (count * side)
        wrapped = torch.arange(count * side, device=device) >= count * side - moved
        regions.append((wrapped.long() + 2 * (place >= length).long()).reshape(count, side))
    rows, columns = regions
    region = 4 * rows[:, None, :, None] + columns[None, :, None, :]  # (down, across, w, w)
    region = region.reshape(windows[0] * windows[1], side * side)
    return region[:, :, None] == region[:, None, :]


class SwinBlocks(nn.Module):
    """A plain and a shifted Swin block in place of a convolution, (B, C, H, W) to the same shape."""

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.plain = SwinBlock(channels, heads, window, shifted=False)
        self.shifted = SwinBlock(channels, heads, window, shifted=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.shifted(self.plain(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]


def swin_unet(
    *,
    swin_levels: Sequence[int],
    heads: Sequence[int],
    windows: Sequence[int],
    dropout: float,
    **frame: Unpack[Frame],
) -> UNet:
    """A U-Net with scale-shift norm, and Swin blocks in the residual blocks of `swin_levels` and the middle.

    Args:
        heads, windows: of each level.
    """

    def residual(level: int, inputs: int, width: int, embedding: int) -> ResidualBlock:
        block = ResidualBlock(inputs, width, embedding, frame["groups"], dropout, scale_shift=True)
        place = min(level, len(frame["multipliers"]) - 1)  # the middle is like the last level
        if place in swin_levels:
            block.conv2 = SwinBlocks(width, heads[place], windows[place])
        return block

    def attention(level: int, width: int) -> None:
        """The Swin blocks attend."""

    return UNet(**frame, residual=residual, attention=attention)


def build(model: Model, frame: Frame) -> UNet:
    """The Swin U-Net that a recipe's `[model]` describes."""
    assert model.heads is not None  # `check` demands them
    assert model.windows is not None
    return swin_unet(
        **frame,
        swin_levels=model.attention_levels,
        heads=model.heads,
        windows=model.windows,
        dropout=model.dropout,
    )


def check(model: Model) -> None:
    """Demand heads and windows for each level."""
    levels = len(model.multipliers)
    for name, given in (("heads", model.heads), ("windows", model.windows)):
        if given is None:
            raise RecipeError(f"model.{name} belongs to the network swin-unet, which needs it")
        if len(given) != levels:
            raise RecipeError(f"model.{name} needs {levels} numbers, like model.multipliers")
    widths = (model.channels * factor for factor in model.multipliers)
    if any(width % heads for width, heads in zip(widths, model.heads or (), strict=True)):
        raise RecipeError("model.heads must divide the width of each level")


NETWORK = NetworkDeclaration(
    "swin-unet", build, check, settings=("heads", "windows"), attention=(SwinBlocks,)
)
