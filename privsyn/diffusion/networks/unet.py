"""The class-conditional U-Net: our own, so that every layer is one that per-patient gradients support.

Its blocks correspond one to one to those of diffusers' `UNet2DModel`, and `interchange_unet` maps the
weights both ways; see docs/decisions/0007-own-unet.md. The network was introduced by Ho et al. 2020,
"Denoising Diffusion Probabilistic Models", appendix B, https://arxiv.org/abs/2006.11239. `swin_unet` puts
other blocks into the same frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.diffusion.networks.declaration import DenoisingNetwork, Frame, NetworkDeclaration
from privsyn.errors import RecipeError
from privsyn.recipe import Model


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv, GroupNorm with the embedding, SiLU-dropout-conv, plus the (1x1) shortcut.

    Args:
        scale_shift: the embedding scales and shifts what the second norm gives (Dhariwal & Nichol 2021,
            section 3.1, https://arxiv.org/abs/2105.05233); without it, it is added before that norm. (The
            norm of a group of ONE channel would take an added constant away again.)
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float, scale_shift: bool
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, 2 * outputs if scale_shift else outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2: nn.Module = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.scale_shift = scale_shift

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, embedding) to (B, outputs, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        embedded = self.embed(F.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = embedded.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + embedded)
        return self.shortcut(x) + self.conv2(self.dropout(F.silu(h)))  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Self-attention over all pixels, with a residual connection.

    Args:
        heads: must divide `channels`.
    """

    def __init__(self, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        query, key, value = (
            split_heads(project(pixels), self.heads) for project in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    split: Tensor = tokens.reshape(*tokens.shape[:2], heads, -1).transpose(1, 2)
    return split


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention or by nothing."""

    def __init__(self, blocks: Sequence[ResidualBlock], attention: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)


class Downsample(nn.Module):
    """Stride-2 convolution: (B, C, H, W) to (B, C, H/2, W/2), H and W even."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest-neighbour doubling and a convolution: (B, C, H, W) to (B, C, 2H, 2W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]


MakeLevel = Callable[[int, Sequence[int]], Level]  # (number of the level, inputs of its blocks)


class UNet(DenoisingNetwork):
    """The frame: levels on the way down, a middle, and levels on the way up with skip connections.

    Args:
        residual: makes the residual block of a level from (level, inputs, outputs, width of the embedding).
        attention: makes what follows each residual block of a level from (level, width); None for nothing.
            The level `len(multipliers)` is the middle.
    """

    def __init__(
        self,
        *,
        residual: Callable[[int, int, int, int], ResidualBlock],
        attention: Callable[[int, int], AttentionBlock | None],
        **frame: Unpack[Frame],
    ) -> None:
        super().__init__()
        channels = frame["channels"]
        widths = [channels * multiplier for multiplier in frame["multipliers"]]
        embedding = 4 * channels

        def level(number: int, inputs: Sequence[int]) -> Level:
            width = widths[number]
            made = [residual(number, width_in, width, embedding) for width_in in inputs]
            return Level(made, [attention(number, width) or nn.Identity() for _ in inputs])

        self.multiple = 2 ** (len(widths) - 1)
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(frame["labels"], embedding)
        self.conv_in = nn.Conv2d(frame["image_channels"], channels, 3, padding=1)
        skips = self._add_down(level, channels, widths, frame["blocks"])
        bottom, middle = widths[-1], len(widths)
        self.middle1 = residual(middle, bottom, bottom, embedding)
        self.middle_attention = attention(middle, bottom) or nn.Identity()
        self.middle2 = residual(middle, bottom, bottom, embedding)
        self._add_up(level, skips, widths, frame["blocks"])
        self.norm_out = nn.GroupNorm(frame["groups"], widths[0])
        self.conv_out = nn.Conv2d(widths[0], frame["outputs"], 3, padding=1)
        # A fresh network predicts zero, the mean of every target, whatever the input.
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def _add_down(
        self, level: MakeLevel, channels: int, widths: Sequence[int], blocks: Sequence[int]
    ) -> list[int]:
        """Make the levels on the way down; returns the widths of the skip connections."""
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips = [channels]
        for number, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            self.down.append(level(number, [skips[-1], *[width] * (count - 1)]))
            skips += [width] * count
            if number < len(widths) - 1:
                self.downsample.append(Downsample(width))
                skips.append(width)
        return skips

    def _add_up(
        self, level: MakeLevel, skips: list[int], widths: Sequence[int], blocks: Sequence[int]
    ) -> None:
        """Make the levels on the way up, which take the skip connections from the last to the first."""
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        previous = widths[-1]
        for number, width in reversed(list(enumerate(widths))):
            carried = [previous, *[width] * blocks[number]]
            self.up.append(level(number, [width_in + skips.pop() for width_in in carried]))
            if number > 0:
                self.upsample.append(Upsample(width))
            previous = width

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Noisy images (B, C, H, W) of any size, times (B,), labels (B,) to (B, outputs, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.time(sinusoids(timesteps, self.channels).to(x.dtype)) + self.label(labels)
        h = self.conv_in(F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple)))

        skips = [h]
        for number, level in enumerate(self.down):
            for block, attention in zip(level.blocks, level.attention, strict=True):  # type: ignore[arg-type]
                h = attention(block(h, embedding))
                skips.append(h)
            if number < len(self.downsample):
                h = self.downsample[number](h)
                skips.append(h)

        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)

        for number, level in enumerate(self.up):
            for block, attention in zip(level.blocks, level.attention, strict=True):  # type: ignore[arg-type]
                h = attention(block(torch.cat([h, skips.pop()], dim=1), embedding))
            if number < len(self.upsample):
                h = self.upsample[number](h)

        out: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return out[..., :height, :width]


def plain_unet(
    *,
    attention_levels: Sequence[int],
    heads: Callable[[int], int],
    dropout: float,
    scale_shift: bool,
    **frame: Unpack[Frame],
) -> UNet:
    """The U-Net of DDPM: residual blocks, self-attention in the middle and at some levels (0 = full size).

    Args:
        heads: number of attention heads at a width.
    """
    groups, middle = frame["groups"], len(frame["multipliers"])

    def residual(_: int, inputs: int, width: int, embedding: int) -> ResidualBlock:
        return ResidualBlock(inputs, width, embedding, groups, dropout, scale_shift)

    def attention(level: int, width: int) -> AttentionBlock | None:
        attends = level in (*attention_levels, middle)
        return AttentionBlock(width, groups, heads(width)) if attends else None

    return UNet(**frame, residual=residual, attention=attention)


def build(model: Model, frame: Frame) -> UNet:
    """The U-Net that a recipe's `[model]` describes."""
    per_head = model.head_channels
    return plain_unet(
        **frame,
        attention_levels=model.attention_levels,
        heads=lambda width: 1 if per_head is None else width // per_head,
        dropout=model.dropout,
        scale_shift=model.scale_shift,
    )


def check(model: Model) -> None:
    """Refuse norms that would hide the embedding."""
    if not model.scale_shift and model.channels == model.groups:
        raise RecipeError(
            "model.groups equals model.channels: norms of single channels would hide class and time from "
            "the first level; lower model.groups, or set model.scale_shift"
        )


def sinusoids(timesteps: Tensor, channels: int) -> Tensor:
    """Cosines and sines of t at `channels` // 2 geometric frequencies, (B,) to (B, channels) float32.

    An odd number of channels ends with a zero.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(10_000) * exponents)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, channels % 2))


NETWORK = NetworkDeclaration(
    "unet", build, check, settings=("head_channels", "scale_shift"), attention=(AttentionBlock,)
)
