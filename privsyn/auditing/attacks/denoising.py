"""Membership attacks on a diffusion model, from how well it denoises an image.

Six attacks, each a pure function named after its paper that turns the measurements of `ModelQueries` into a
score per image, high = member-like. All use one grid of noise levels and noises, declared here and shared by
every image. Nothing is tuned on the images that are judged.

An error is the mean square of (predicted epsilon - added epsilon) over channels and pixels. Every prediction
target is converted to epsilon, so the attacks are the same for all targets: at a fixed level the losses of
the targets differ by a constant factor, which cancels in a difference of logs. Levels are averaged in logs;
otherwise the noisiest dominates.

Cost of an attack, in passes through the network per image:

    loss-grid    8    Matsumoto et al. 2023, https://arxiv.org/abs/2302.03262;
                      Carlini et al. 2023, section 5.2, https://arxiv.org/abs/2301.13188
    label-drop   8    and those of loss-grid; Zhai et al. 2024 (CLiD), https://arxiv.org/abs/2405.14800, with
                      a class in place of a text
    sima         4    SimA, https://arxiv.org/abs/2509.25003
    pia          4    Kong et al. 2023, https://arxiv.org/abs/2305.18355
    secmi        7    Duan et al. 2023, https://arxiv.org/abs/2302.01316
    pfami       16    and 4 of loss-grid; Fu et al. 2023, https://arxiv.org/abs/2308.12143
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from privsyn.diffusion.model import DiffusionModel
from privsyn.diffusion.process import Process

LOG_SNRS = (5.5, 3.5, 2.0, 1.0)  # neither nearly clean nor nearly noise; t/T .03, .1, .2, .33 if cosine
NOISES = 2
NORM = 4  # p of PIA and SimA
CROPS = (0.95, 0.9, 0.8, 0.7)  # shares of height and width that PFAMI keeps
SECMI_LOG_SNR = 0.5  # t_SEC, noisier than the paper's; with SECMI_STRIDE the best on an over-fitted toy
SECMI_STEPS = 5  # of the inversion up to t_SEC
SECMI_STRIDE = 1 / 200  # of T, the step further and back; with coarser steps members score lower
_TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Grid:
    """Noise levels and noises at which every image is queried.

    Attributes:
        times: (levels,) float64 at `LOG_SNRS`, whole where the process is discrete.
        noises: (K, C, H, W) standard normal.
        inversion: times of SecMI's inversion, from 0 to t_SEC, and the one after it.
    """

    times: tuple[float, ...]
    noises: Tensor
    inversion: tuple[float, ...]

    @classmethod
    def declared(cls, model: DiffusionModel, seed: int) -> Grid:
        """The grid for a model; the seed determines the noises alone."""
        process = model.process
        (end,) = _times_at([SECMI_LOG_SNR], process)
        path = [_whole(end * number / SECMI_STEPS, process) for number in range(SECMI_STEPS + 1)]
        beyond = _whole(end + max(1.0, SECMI_STRIDE * process.timesteps), process)
        noises = torch.randn(
            NOISES, *model.image_shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32
        )
        return cls(tuple(_times_at(LOG_SNRS, process)), noises, (*path, beyond))


class ModelQueries:
    """Predictions of the network for a batch of images on the grid, computed once for all attacks.

    Args:
        images: (B, C, H, W) in [-1, 1].
        labels: (B,) the classes as in training.
    """

    def __init__(self, model: DiffusionModel, images: Tensor, labels: Tensor, grid: Grid) -> None:
        self.model, self.images, self.labels, self.grid = model, images, labels, grid
        self.process = model.process

    def epsilon(self, noisy: Tensor, time: float, labels: Tensor | None = None) -> Tensor:
        """The noise that the network predicts in x_t, (B, C, H, W)."""
        return self._read(noisy, time, labels)[1]

    def errors(self, images: Tensor, labels: Tensor | None = None, *, noises: int = NOISES) -> Tensor:
        """(levels, noises, B) mean squared error of epsilon on the grid."""
        return torch.stack(
            [
                torch.stack([self._error(images, time, noise, labels) for noise in self.grid.noises[:noises]])
                for time in self.grid.times
            ]
        )

    @cached_property
    def with_class(self) -> Tensor:
        """(levels, noises, B) errors given the class."""
        return self.errors(self.images)

    @cached_property
    def without_class(self) -> Tensor:
        """(levels, noises, B) errors with the null label in place of the class."""
        return self.errors(self.images, torch.full_like(self.labels, self.model.null_label))

    @cached_property
    def cropped(self) -> Tensor:
        """(crops, levels, B) errors of crops at the first noise, given the class."""
        return torch.stack([self.errors(crop(self.images, side), noises=1)[:, 0] for side in CROPS])

    @cached_property
    def unnoised(self) -> Tensor:
        """(levels, B, C, H, W) epsilon in the image itself, given as x_t at each level."""
        return torch.stack([self.epsilon(self.images, time) for time in self.grid.times])

    @cached_property
    def proximal(self) -> tuple[Tensor, Tensor]:
        """epsilon (B, C, H, W) in the image at t = 0; in x_t made with it, (levels - 1, B, C, H, W).

        Not at the first level, where what was added hardly shows.
        """
        first = self.epsilon(self.images, 0.0)
        later = [
            self.epsilon(self.process.add_noise(self.images, first, _full(self.images, time)), time)
            for time in self.grid.times[1:]
        ]
        return first, torch.stack(later)

    @cached_property
    def inverted(self) -> tuple[Tensor, Tensor]:
        """x at t_SEC by deterministic inversion of DDIM, and the same after a step further and back."""
        x, (*times, sec, beyond) = self.images, self.grid.inversion
        for now, following in zip(times, [*times[1:], sec], strict=True):
            x = self.ddim(x, now, following)
        return x, self.ddim(self.ddim(x, sec, beyond), beyond, sec)

    def ddim(self, x: Tensor, now: float, then: float) -> Tensor:
        """A deterministic step of DDIM, in either direction: Song et al. 2021, eq. 12 with sigma = 0."""
        clean, epsilon = self._read(x, now, None)
        return self.process.add_noise(clean, epsilon, _full(x, then))

    def _read(self, noisy: Tensor, time: float, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """x_0 and epsilon, each (B, C, H, W)."""
        times = _full(noisy, time)
        said, _ = self.model.predict(noisy, times, self.labels if labels is None else labels)
        clean = self.process.denoise(said, noisy, times)
        return clean, self.process.noise_of(clean, noisy, times)

    def _error(self, images: Tensor, time: float, noise: Tensor, labels: Tensor | None) -> Tensor:
        added = noise.to(images).expand_as(images)
        noisy = self.process.add_noise(images, added, _full(images, time))
        return _power(self.epsilon(noisy, time, labels) - added, 2)


def loss_grid(queries: ModelQueries) -> Tensor:
    """Minus the mean log error: the noise in training images is predicted better."""
    return -_log(queries.with_class.mean(dim=1)).mean(dim=0)


def label_drop(queries: ModelQueries) -> Tensor:
    """How much the class reduces the error: training fits p(x | class) more than p(x) (CLiD, for texts).

    Of a model that was trained without label dropout the null label says nothing, and this is a second
    loss-grid.
    """
    difference = _log(queries.without_class.mean(dim=1)) - _log(queries.with_class.mean(dim=1))
    return difference.mean(dim=0)


def sima(queries: ModelQueries) -> Tensor:
    """Little noise is predicted in a training image. SimA: ||epsilon(x, t)||_4^4, no noise added."""
    return -_log(_power(queries.unnoised, NORM)).mean(dim=0)


def pia(queries: ModelQueries) -> Tensor:
    """The noise predicted in a training image is predicted again after adding it: PIA's R_t,p, averaged."""
    first, later = queries.proximal
    return -_log(_power(first - later, NORM)).mean(dim=0)


def secmi(queries: ModelQueries) -> Tensor:
    """For a training image a step of DDIM and back returns to the same point. SecMI's t-error."""
    there, back = queries.inverted
    return -_log(_power(there - back, 2))


def pfami(queries: ModelQueries) -> Tensor:
    """Crops of a training image are denoised worse than the image itself. PFAMI, in log errors."""
    rise = _log(queries.cropped) - _log(queries.with_class[:, 0])
    return rise.mean(dim=(0, 1))


ATTACKS: Mapping[str, Callable[[ModelQueries], Tensor]] = {
    "loss-grid": loss_grid,
    "label-drop": label_drop,
    "sima": sima,
    "pia": pia,
    "secmi": secmi,
    "pfami": pfami,
}
LEVELS = len(LOG_SNRS)
PASSES = LEVELS * (2 * NOISES + len(CROPS) + 2) + SECMI_STEPS + 2  # of an image, for all attacks together


def crop(images: Tensor, side: float) -> Tensor:
    """The middle of images (B, C, H, W), `side` of height and width, bilinearly back at their size."""
    scale = torch.diag(images.new_tensor([side, side, 1.0]))[:2].expand(len(images), 2, 3)
    places = F.affine_grid(scale, list(images.shape), align_corners=False)
    return F.grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)


def _times_at(log_snrs: tuple[float, ...] | list[float], process: Process) -> list[float]:
    times = process.time_of(torch.tensor(log_snrs, dtype=torch.float64)).tolist()
    return [_whole(time, process) for time in times]


def _whole(time: float, process: Process) -> float:
    time = min(time, process.timesteps - 1.0)
    return time if process.continuous else float(round(time))


def _full(x: Tensor, time: float) -> Tensor:
    return torch.full((len(x),), time, dtype=torch.float64, device=x.device)


def _power(x: Tensor, power: int) -> Tensor:
    """Mean of |x|^power over channels and pixels (the last three dimensions)."""
    return x.abs().pow(power).mean(dim=(-3, -2, -1))


def _log(x: Tensor) -> Tensor:
    return x.double().clamp_min(_TINY).log()
