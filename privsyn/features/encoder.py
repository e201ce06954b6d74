"""A contrastive encoder that learns, from images alone, to distinguish patients.

Contrastive training (NT-Xent: Chen et al., 2020, https://arxiv.org/abs/2002.05709, equation 1): in a batch of
patients, two views of one patient attract and views of different patients repel. The two views come from two
images of the patient where there are two (as in supervised contrastive learning, Khosla et al., 2020,
https://arxiv.org/abs/2004.11362), else from one; every view is cropped, turned, changed in contrast and
brightness, and noised.

The network is small and sees 32x32 pixels, so that its training takes the same half minute on a CPU core
whatever the size of the cohort.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.bit_depth import Images, white
from privsyn.features.embed import FeatureRows
from privsyn.progress import SILENT, Progress

SIDE = 32  # px that the network sees
DIMENSIONS = 128
_WIDTHS = (24, 48, 96)
_BATCH = 256  # images embedded at once


@dataclass(frozen=True)
class EncoderTraining:
    """How an encoder is trained.

    Attributes:
        steps: more of them distinguish patients better and cost in proportion.
        patients: per step, each with two views; fewer if there are fewer.
        learning_rate: the highest of a one-cycle schedule, AdamW.
        temperature: of NT-Xent; lower weighs the hardest other patients more.
    """

    steps: int = 300
    patients: int = 128
    learning_rate: float = 4e-3
    temperature: float = 0.1


@dataclass(frozen=True, eq=False)
class Encoder:
    """A trained network: images (n, H, W, C) to unit rows (n, 128) float32."""

    network: nn.Module

    def __call__(self, images: Images) -> FeatureRows:
        rows = [np.empty((0, DIMENSIONS), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                rows.append(self.network(_as_input(images[start : start + _BATCH])).numpy())
        return np.concatenate(rows)


def train_encoder(
    images: Images,
    patients: NDArray[np.int64],
    generator: np.random.Generator,
    training: EncoderTraining = EncoderTraining(),
    progress: Progress = SILENT,
) -> Encoder:
    """Train on images (n, H, W, C) of `patients` (n,); one generator state gives one encoder.

    Deterministic on one machine at one number of threads. Needs two patients.
    """
    seed = int(generator.integers(2**31))
    network = _network(images.shape[-1], seed)
    noise = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=training.learning_rate, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.steps
    )
    with progress.stage("train the encoder that distinguishes patients", training.steps) as advance:
        for first, second in _batches(patients, training, generator):
            views = _augmented(_as_input(images[np.concatenate([first, second])]), noise)
            loss = nt_xent(network(views), training.temperature)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            advance(loss=f"{loss.item():.3f}")
    return Encoder(network.eval().requires_grad_(False))


def nt_xent(rows: Tensor, temperature: float) -> Tensor:
    """Equation 1 of Chen et al. (2020), averaged over 2n unit rows of which i and i + n are a pair."""
    similarity = rows @ rows.T / temperature
    similarity = similarity.masked_fill(torch.eye(len(rows), dtype=torch.bool), -torch.inf)
    pair = torch.arange(len(rows)).roll(len(rows) // 2)
    return F.cross_entropy(similarity, pair)


def _batches(
    patients: NDArray[np.int64], training: EncoderTraining, generator: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Two images of each of some patients per step: different ones where the patient has two."""
    order = np.argsort(patients, kind="stable")
    _, starts, counts = np.unique(patients[order], return_index=True, return_counts=True)
    for _ in range(training.steps):
        chosen = generator.permutation(len(counts))[: training.patients]
        first = generator.integers(counts[chosen])
        other = first + 1 + generator.integers(np.maximum(counts[chosen] - 1, 1))
        yield order[starts[chosen] + first], order[starts[chosen] + other % counts[chosen]]


def _augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of (n, C, H, W) in [0, 1] cropped to 60-100 %, turned by up to 17 degrees, regraded and noised."""
    n = len(images)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.empty(n, *shape).uniform_(low, high, generator=generator)

    scale, angle = uniform(0.6, 1), uniform(-0.3, 0.3)
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    across, down = (1 - scale) * uniform(-1, 1), (1 - scale) * uniform(-1, 1)
    places = torch.stack([cosine, -sine, across, sine, cosine, down], dim=1).view(n, 2, 3)
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    views = (views - 0.5) * uniform(0.8, 1.2, 1, 1, 1) + 0.5 + uniform(-0.1, 0.1, 1, 1, 1)
    noisy = views + uniform(0, 0.1, 1, 1, 1) * torch.randn(views.shape, generator=generator)
    return noisy.contiguous(memory_format=torch.channels_last)


def _as_input(images: Images) -> Tensor:
    """(n, H, W, C) to (n, C, 32, 32) in [0, 1]."""
    batch = torch.from_numpy(np.array(images, np.float32)).permute(0, 3, 1, 2) / white(images.dtype)
    if batch.shape[-2:] != (SIDE, SIDE):
        batch = F.interpolate(batch, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return batch.contiguous(memory_format=torch.channels_last)


class _Unit(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return F.normalize(rows)


def halving_layers(channels: int, widths: Sequence[int]) -> list[nn.Module]:
    """3x3 convolutions that each halve the image, with batch norm and ReLU, to `widths` channels in turn."""
    layers: list[nn.Module] = []
    for before, into in itertools.pairwise((channels, *widths)):
        convolution = nn.Conv2d(before, into, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(into), nn.ReLU()]
    return layers


def _network(channels: int, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = halving_layers(channels, _WIDTHS)
        features = _WIDTHS[-1] * (SIDE // 2 ** len(_WIDTHS)) ** 2
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, DIMENSIONS), _Unit())
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]
