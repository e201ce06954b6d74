"""The attacks on denoising, against the formulas of their papers written out for one image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from privsyn.auditing.attacks.denoising import (
    ATTACKS,
    CROPS,
    LOG_SNRS,
    NOISES,
    PASSES,
    SECMI_STEPS,
    Grid,
    ModelQueries,
    crop,
)
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.recipe import find_shipped, load_recipe

KINDS = {
    "v": ["diffusion.target='v'"],
    "epsilon on a linear schedule": ["diffusion.target='epsilon'", "diffusion.schedule='linear'"],
    "x0 in few steps": ["diffusion.target='x0'", "diffusion.timesteps=100"],
    "edm, continuous": ["diffusion.target='edm'", "diffusion.continuous=true"],
    "v with learned variance": ["diffusion.learned_variance=true"],
}


def a_model(*settings: str) -> DiffusionModel:
    """A small network whose weights are random throughout, in float64."""
    model = build_model(load_recipe(find_shipped("recipes", "toy"), [*settings])).double().eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    return model.requires_grad_(False)


def an_image(model: DiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(1, *model.image_shape, generator=generator, dtype=torch.float64) * 2 - 1


class Naive:
    """The attacks of one image in numpy, each target's epsilon by its own textbook formula."""

    def __init__(self, model: DiffusionModel, image: np.ndarray, label: int, grid: Grid) -> None:
        self.model, self.image, self.label, self.grid = model, image, label, grid
        self.noises = grid.noises.double().numpy()

    def scales(self, time: float) -> tuple[float, float]:
        log_snrs = self.model.process.log_snrs.numpy()
        log_snr = np.interp(time, np.arange(len(log_snrs)), log_snrs)
        return np.sqrt(1 / (1 + np.exp(-log_snr))), np.sqrt(1 / (1 + np.exp(log_snr)))

    def epsilon(self, x: np.ndarray, time: float, label: int | None = None) -> np.ndarray:
        alpha, sigma = self.scales(time)
        ratio, data, target = sigma / alpha, self.model.process.sigma_data, self.model.process.target
        size = np.hypot(ratio, data)
        said = self.network(x / alpha / size if target == "edm" else x, time, label)
        if target == "epsilon":
            return said
        if target == "v":
            return sigma * x + alpha * said
        clean = said
        if target == "edm":  # Karras et al. 2022, table 1
            clean = data**2 / size**2 * x / alpha + ratio * data / size * said
        return (x - alpha * clean) / sigma

    def network(self, x: np.ndarray, time: float, label: int | None) -> np.ndarray:
        said = self.model.network(
            torch.from_numpy(x)[None],
            torch.tensor([time], dtype=torch.float64),
            torch.tensor([self.label if label is None else label]),
        )
        return said[0, : x.shape[0]].numpy()

    def error(self, x: np.ndarray, time: float, noise: np.ndarray, label: int | None = None) -> float:
        alpha, sigma = self.scales(time)
        return float(np.mean((self.epsilon(alpha * x + sigma * noise, time, label) - noise) ** 2))

    def losses(self, label: int | None = None) -> list[float]:
        return [
            np.log(np.mean([self.error(self.image, time, noise, label) for noise in self.noises]))
            for time in self.grid.times
        ]

    def ddim(self, x: np.ndarray, now: float, then: float) -> np.ndarray:
        (alpha, sigma), (alpha_s, sigma_s) = self.scales(now), self.scales(then)
        epsilon = self.epsilon(x, now)
        return alpha_s * (x - sigma * epsilon) / alpha + sigma_s * epsilon

    def scores(self) -> dict[str, float]:
        x, times = self.image, self.grid.times
        first = self.epsilon(x, 0.0)
        pia, sima, pfami = [], [], []
        for time in times:
            alpha, sigma = self.scales(time)
            later = self.epsilon(alpha * x + sigma * first, time)
            if time != times[0]:
                pia.append(np.log(np.mean(np.abs(first - later) ** 4)))
            sima.append(np.log(np.mean(self.epsilon(x, time) ** 4)))
            for side in CROPS:
                worse = self.error(naive_crop(x, side), time, self.noises[0])
                pfami.append(np.log(worse / self.error(x, time, self.noises[0])))
        *before, sec, beyond = self.grid.inversion
        path = x
        for now, then in zip(before, [*before[1:], sec], strict=True):
            path = self.ddim(path, now, then)
        back = self.ddim(self.ddim(path, sec, beyond), beyond, sec)
        with_class, without_class = self.losses(), self.losses(self.model.null_label)
        return {
            "loss-grid": -float(np.mean(with_class)),
            "label-drop": float(np.mean(without_class) - np.mean(with_class)),
            "sima": -float(np.mean(sima)),
            "pia": -float(np.mean(pia)),
            "secmi": -float(np.log(np.mean((path - back) ** 2))),
            "pfami": float(np.mean(pfami)),
        }


def naive_crop(image: np.ndarray, side: float) -> np.ndarray:
    size = image.shape[-1]
    places = (((2 * np.arange(size) + 1) / size - 1) * side + 1) * size / 2 - 0.5
    grid = np.meshgrid(places, places, indexing="ij")
    return np.stack([map_coordinates(channel, grid, order=1, mode="nearest") for channel in image])


@pytest.mark.parametrize("kind", KINDS)
def test_every_attack_is_what_its_paper_says(kind: str) -> None:
    """For every target, discrete or continuous, with the variance learned or not: to ten digits."""
    model = a_model(*KINDS[kind])
    image, grid = an_image(model), Grid.declared(model, seed=3)
    queries = ModelQueries(model, image, torch.tensor([4]), grid)
    naive = Naive(model, image[0].numpy(), 4, grid).scores()
    assert naive.keys() == ATTACKS.keys()
    for name, attack in ATTACKS.items():
        assert attack(queries).item() == pytest.approx(naive[name], rel=1e-10, abs=1e-10), name


def test_the_grid_is_at_the_declared_noise_levels() -> None:
    """Whatever the schedule, the images are as noisy as declared, to the next whole step if it has such."""
    for settings in ([], ["diffusion.schedule='linear'"], ["diffusion.continuous=true"]):
        process = a_model(*settings).process
        grid = Grid.declared(a_model(*settings), seed=0)
        found = process.log_snr(torch.tensor(grid.times, dtype=torch.float64)).numpy()
        assert np.abs(found - LOG_SNRS).max() < (1e-9 if process.continuous else 0.05)
        assert process.continuous or all(time == int(time) for time in grid.times)


def test_passes_are_as_many_as_declared() -> None:
    """What several attacks need is computed once."""
    model = a_model()
    passes = []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    queries = ModelQueries(model, an_image(model), torch.tensor([0]), Grid.declared(model, seed=0))
    for attack in ATTACKS.values():
        attack(queries)
    assert len(passes) == PASSES == 47
    assert SECMI_STEPS + 2 == 7
    assert len(queries.grid.noises) == NOISES


def test_images_do_not_disturb_each_other() -> None:
    """A score is the same in a batch and alone, so the order of patients tells nothing."""
    model = a_model()
    grid, images = Grid.declared(model, seed=0), torch.cat([an_image(model), -an_image(model)])
    labels = torch.tensor([1, 2])
    together = ModelQueries(model, images, labels, grid)
    for row in (0, 1):
        alone = ModelQueries(model, images[row : row + 1], labels[row : row + 1], grid)
        for attack in ATTACKS.values():
            torch.testing.assert_close(attack(together)[row], attack(alone)[0])


def test_a_crop_enlarges_the_middle() -> None:
    """A ramp gets flatter by the share that is kept, and its middle stays."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8) - 3.5
    torch.testing.assert_close(crop(ramp, 0.5), ramp * 0.5)
