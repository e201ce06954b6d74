"""The class-conditional U-Net: our own, so that every layer is one that per-patient gradients support.

Its blocks correspond in structure to `UNet2DModel` of diffusers (single-head attention), which is what our
tests hold it against; see docs/decisions/0007-own-unet.md. The network was introduced by Ho et al. 2020,
"Denoising Diffusion Probabilistic Models", appendix B, https://arxiv.org/abs/2006.11239
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """GroupNorm-SiLU-conv, plus the embedding, GroupNorm-SiLU-dropout-conv, plus the (1x1) shortcut."""

    def __init__(self, inputs: int, outputs: int, embedding: int, groups: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.embed = nn.Linear(embedding, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, embedding) to (B, outputs, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.embed(F.silu(embedding))[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return self.shortcut(x) + h  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        pixels = self.norm(x).flatten(2).transpose(1, 2)  # (B, H*W, C)
        mixed = F.scaled_dot_product_attention(self.query(pixels), self.key(pixels), self.value(pixels))
        return x + self.out(mixed).transpose(1, 2).reshape(x.shape)  # type: ignore[no-any-return]


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where asked."""

    def __init__(self, blocks: Sequence[ResidualBlock], attention: Sequence[AttentionBlock] | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention or [nn.Identity() for _ in blocks])


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


class UNet(nn.Module):
    """The network of the diffusion model.

    Args:
        image_channels: 1 or 3.
        labels: rows of the class embedding, the null label included.
        channels: width of the first level; with `multipliers`, of every level.
        blocks: residual blocks per level on the way down; one more on the way up.
        attention_levels: levels (0 = full size) with self-attention; the middle always has it.
        groups: of each GroupNorm; must divide `channels`.
    """

    def __init__(
        self,
        *,
        image_channels: int,
        labels: int,
        channels: int,
        multipliers: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        widths = [channels * multiplier for multiplier in multipliers]
        embedding = 4 * channels

        def residual(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, embedding, groups, dropout)

        def level(number: int, inputs: Sequence[int]) -> Level:
            width = widths[number]
            attends = number in attention_levels
            attention = [AttentionBlock(width, groups) for _ in inputs] if attends else None
            return Level([residual(width_in, width) for width_in in inputs], attention)

        self.multiple = 2 ** (len(widths) - 1)
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label = nn.Embedding(labels, embedding)
        self.conv_in = nn.Conv2d(image_channels, channels, 3, padding=1)

        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        skips = [channels]
        for number, width in enumerate(widths):
            self.down.append(level(number, [skips[-1], *[width] * (blocks - 1)]))
            skips += [width] * blocks
            if number < len(widths) - 1:
                self.downsample.append(Downsample(width))
                skips.append(width)

        bottom = widths[-1]
        self.middle1, self.middle2 = residual(bottom, bottom), residual(bottom, bottom)
        self.middle_attention = AttentionBlock(bottom, groups)

        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        previous = bottom
        for number, width in reversed(list(enumerate(widths))):
            carried = [previous, *[width] * blocks]
            self.up.append(level(number, [width_in + skips.pop() for width_in in carried]))
            if number > 0:
                self.upsample.append(Upsample(width))
            previous = width

        self.norm_out = nn.GroupNorm(groups, channels * multipliers[0])
        self.conv_out = nn.Conv2d(channels * multipliers[0], image_channels, 3, padding=1)
        # A fresh network predicts zero, the mean of every target, whatever the input.
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Noisy images (B, C, H, W) of any size, timesteps (B,), labels (B,) to predictions (B, C, H, W)."""
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


def sinusoids(timesteps: Tensor, channels: int) -> Tensor:
    """Cosines and sines of t at `channels` // 2 geometric frequencies, (B,) to (B, channels) float32.

    An odd number of channels ends with a zero.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5, https://arxiv.org/abs/1706.03762
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps[:, None].float() * torch.exp(-math.log(10_000) * exponents)
    return F.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, channels % 2))
