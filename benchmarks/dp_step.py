"""What privacy costs per training step: privsyn against no privacy, Opacus' hooks and its ghost clipping.

One process, the same network, images, noise draws and optimiser for every method, float32. Methods take
turns, and the median of their steps is set in relation to the median of the step without privacy. Peak
memory is taken in a process of its own per method, as the most that two steps held beyond model, optimiser
and images.

`K` is the number of noise draws per unit, all of one image. Opacus' hooks keep one gradient per draw and
average them per unit (as DPDM does); its ghost clipping clips every draw by itself, which is not noise
multiplicity.

    python benchmarks/dp_step.py [--json FILE] [--sizes 28 32] [--draws 1 8 32] [--repeats 5] [--threads N]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor

from privsyn.diffusion.batches import Draws, noise_draws
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.dp.cipher_stream import secret_stream
from privsyn.dp.clipping import private_optimizer, private_step
from privsyn.dp.generators import keyed_generator
from privsyn.dp.noise import noised
from privsyn.dp.sampling import poisson_sample
from privsyn.recipe import Recipe, find_shipped, load_recipe
from privsyn.training.steps import plain_step, planned_passes

CPU = torch.device("cpu")
IMAGES = 128  # that go through the network in a step, as IMAGES / K units
CLIP_NORM, NOISE = 1e-3, 1.0
Step = Callable[[], object]


def recipe_of(size: int) -> Recipe:
    """Grey at 28 px, RGB at 32: a U-Net of 1.1 M parameters."""
    settings = [f"data.size={size}", f"data.channels={1 if size == 28 else 3}"]
    return load_recipe(find_shipped("recipes", "chest-xray-28"), settings)


def nonprivate(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:
    """All images at once, plain Adam."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate)
    batch = tuple(part.flatten(0, 1)[None] for part in draws)
    return lambda: plain_step(model, optimizer, batch)


def privsyn(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:
    """What `privsyn train --dp` does in a step, on a given sample."""
    units, draws_per_unit = draws[1].shape
    inner = torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate)
    optimizer = private_optimizer(model, inner, noise_multiplier=NOISE, clip_norm=CLIP_NORM, divisor=units)
    settings = [f"privacy.noise_multiplicity={draws_per_unit}"]
    plan, parameters = planned_passes(model, recipe.with_settings(settings), CPU)(1), list(model.parameters())

    def step() -> None:
        cuts = range(0, units, plan.units)
        passes = (
            plan.method(model, parameters, tuple(part[cut : cut + plan.units] for part in draws))
            for cut in cuts
        )
        private_step(optimizer, passes, secret_stream())

    return step


def opacus_hooks(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:
    """One gradient per draw, averaged over the draws of a unit, then Opacus' optimiser."""
    units, many = draws[1].shape
    hooked, batch = GradSampleModule(model), [part.flatten(0, 1) for part in draws]
    optimizer = DPOptimizer(
        torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=units,
    )

    def step() -> None:
        hooked(*batch).mean().backward()
        for parameter in model.parameters():
            each = parameter.grad_sample
            parameter.grad_sample = each.reshape(units, many, *parameter.shape).mean(dim=1)
        optimizer.step()
        optimizer.zero_grad()

    return step


def opacus_ghost(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:
    """Norms without gradients where Opacus can, then a second backward; every draw is clipped by itself."""
    batch = [part.flatten(0, 1) for part in draws]
    hooked = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP_NORM, use_ghost_clipping=True)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=len(batch[0]),
    )
    criterion = DPLossFastGradientClipping(hooked, optimizer, OwnLoss())

    def step() -> None:
        criterion(hooked(*batch), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def noise_alone(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:  # noqa: ARG001 - one signature
    """The noise of a step and a thousand coins, from the cipher; part of `privsyn`."""

    def step() -> None:
        poisson_sample(1000, 0.1, secret_stream())
        stream = secret_stream()
        for parameter in model.parameters():
            noised(parameter, NOISE * CLIP_NORM, stream)

    return step


def opacus_noise(model: DiffusionModel, recipe: Recipe, draws: Draws) -> Step:  # noqa: ARG001
    """The noise of Opacus' secure mode, from torch's Mersenne Twister: a sum of four draws."""

    def step() -> None:
        for parameter in model.parameters():
            total = sum(torch.normal(0.0, NOISE * CLIP_NORM, parameter.shape) for _ in range(4))
            parameter.detach() + total / 2

    return step


class OwnLoss(torch.nn.Module):
    """The model's output is the loss already; the shape of a torch criterion for Opacus."""

    reduction = "mean"

    def forward(self, losses: Tensor, _: Tensor) -> Tensor:
        return losses


METHODS: dict[str, Callable[[DiffusionModel, Recipe, Draws], Step]] = {
    "nonprivate": nonprivate,
    "privsyn": privsyn,
    "opacus-hooks": opacus_hooks,
    "opacus-ghost": opacus_ghost,
    "noise": noise_alone,
    "opacus-noise": opacus_noise,
}


def prepared(method: str, size: int, draws_per_unit: int) -> tuple[Step, int]:
    """A step of a method on its own copy of the same network and images, and the network's parameters."""
    recipe = recipe_of(size)
    model = build_model(recipe)
    draws = noise_draws(model, IMAGES // draws_per_unit, draws_per_unit, keyed_generator(CPU, size))
    draws = (draws[0][:, :1].expand_as(draws[0]).contiguous(), *draws[1:])  # K draws of one image
    count = sum(parameter.numel() for parameter in model.parameters())
    return METHODS[method](model, recipe, draws), count


def seconds(size: int, draws_per_unit: int, repeats: int) -> tuple[dict[str, float], int]:
    """Median seconds of a step of every method, and the network's parameters."""
    steps = {method: prepared(method, size, draws_per_unit) for method in METHODS}
    for step, _ in steps.values():
        step()  # kernels are chosen, Adam's moments allocated
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method, (step, _) in steps.items():
            gc.collect()
            began = time.perf_counter()
            step()
            taken[method].append(time.perf_counter() - began)
    return {method: statistics.median(times) for method, times in taken.items()}, steps["privsyn"][1]


def extra_bytes(method: str, size: int, draws_per_unit: int) -> int:
    """Peak memory of two steps beyond what was held before, in this process, which must be fresh."""
    step, _ = prepared(method, size, draws_per_unit)
    tiny, _ = prepared(method, 8, draws_per_unit)
    tiny()  # what libraries load on first use is nobody's step
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
    step()
    step()
    return max(0, _status("VmHWM") - before)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def extra_in_fresh_process(method: str, size: int, draws_per_unit: int, threads: int) -> int | None:
    """`extra_bytes` in a process of its own; `None` where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    words = [
        sys.executable,
        __file__,
        "--threads",
        str(threads),
        "--memory",
        method,
        str(size),
        str(draws_per_unit),
    ]
    return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def rows(sizes: Sequence[int], draws: Sequence[int], repeats: int, threads: int) -> list[dict[str, Any]]:
    """One row per method, size and K, printed as they come."""
    found = []
    print(f"{'network':>12} {'size':>4} {'K':>3} {'method':<13} {'seconds':>8} {'time':>6} {'memory':>7}")
    for size in sizes:
        for many in draws:
            medians, parameters = seconds(size, many, repeats)
            extra = {method: extra_in_fresh_process(method, size, many, threads) for method in METHODS}
            plain = extra["nonprivate"]
            for method in METHODS:
                held = extra[method]
                row = {
                    "method": method,
                    "network": f"unet-{parameters / 1e6:.2f}M",
                    "size": size,
                    "images_per_unit": 1,
                    "K": many,
                    "seconds": medians[method],
                    "time_ratio": medians[method] / medians["nonprivate"],
                    "memory_ratio": None if held is None or not plain else held / plain,
                }
                found.append(row)
                memory = "-" if row["memory_ratio"] is None else f"{row['memory_ratio']:.2f}"
                print(
                    f"{row['network']:>12} {size:>4} {many:>3} {method:<13} {row['seconds']:>8.3f} "
                    f"{row['time_ratio']:>6.2f} {memory:>7}",
                    flush=True,
                )
    return found


def main() -> None:
    """Parse, measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 32], help="pixels; default 28 32")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 8, 32], help="K; default 1 8 32")
    parser.add_argument("--repeats", type=int, default=5, help="steps per method; default and least 5")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--memory", nargs=3, metavar=("METHOD", "SIZE", "K"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.filterwarnings("ignore", module="opacus")
    warnings.filterwarnings("ignore", message="Full backward hook")
    if given.memory:
        print(extra_bytes(given.memory[0], int(given.memory[1]), int(given.memory[2])))
        return
    if given.repeats < 5:
        parser.error("--repeats: a median of fewer than 5 says little")
    found = rows(given.sizes, given.draws, given.repeats, given.threads)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
