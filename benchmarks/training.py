"""Training speed: privsyn against diffusers' `UNet2DModel` and lucidrains' `denoising-diffusion-pytorch`.

All methods run in one process, on the same images, with AdamW and the most similar network of each library;
they alternate, and medians are compared. `privsyn` runs in float32 without compilation; `privsyn-default`
has the defaults of a recipe: bf16 where the device supports it, torch.compile where it pays. lucidrains'
package is not a dependency: without `pip install denoising-diffusion-pytorch` its rows are left out.

    python benchmarks/training.py [--json FILE] [--sizes 28 64] [--batch 64] [--repeats 7] [--threads N]
"""

from __future__ import annotations

import argparse
import importlib.machinery
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch.nn import functional as F

from privsyn.diffusion.batches import Draws, noise_draws
from privsyn.dp.generators import keyed_generator
from privsyn.recipe import Recipe, find_shipped, load_recipe
from privsyn.training.checkpoint import fresh_training
from privsyn.training.steps import plain_step, to_compile

Step = Callable[[], object]


def recipe_of(size: int, *settings: str) -> Recipe:
    """The U-Net of 1.1 M parameters of the recipe `chest-xray-28`."""
    return load_recipe(find_shipped("recipes", "chest-xray-28"), [f"data.size={size}", *settings])


def ours(recipe: Recipe, draws: Draws, device: torch.device) -> tuple[Step, int]:
    training = fresh_training(recipe, device)
    training.model.train()
    if to_compile(recipe, device):
        training.model.compile_network()
    return lambda: plain_step(training.model, training.optimizer, draws), weights(training.model)


def diffusers_unet(recipe: Recipe, draws: Draws, device: torch.device) -> tuple[Step, int]:
    settings = recipe.model
    levels = range(len(settings.multipliers))
    kinds = [("Attn" if level in settings.attention_levels else "", level) for level in levels]
    model = UNet2DModel(
        sample_size=recipe.data.size,
        in_channels=recipe.data.channels,
        out_channels=recipe.data.channels,
        block_out_channels=tuple(settings.channels * factor for factor in settings.multipliers),
        down_block_types=tuple(f"{kind}DownBlock2D" for kind, _ in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind, _ in reversed(kinds)),
        layers_per_block=settings.blocks_per_level[0],
        norm_num_groups=settings.groups,
        attention_head_dim=None,
        num_class_embeds=len(recipe.data.classes) + 1,
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate)
    images, labels, times, noise = (part[0] for part in draws)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        F.mse_loss(model(images + noise, times, labels).sample, noise).backward()
        optimizer.step()

    return step, weights(model)


def lucidrains(recipe: Recipe, draws: Draws, device: torch.device) -> tuple[Step, int]:
    """Its own loss on its own U-Net of the same widths; it has no class condition."""
    _stand_in_for_torchvision()
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    settings, data = recipe.model, recipe.data
    network = Unet(
        dim=settings.channels, dim_mults=settings.multipliers, channels=data.channels, flash_attn=False
    )
    model = GaussianDiffusion(network, image_size=data.size, timesteps=1000, objective="pred_v").to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.train.learning_rate)
    images = draws[0][0] / 2 + 0.5

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(images).backward()
        optimizer.step()

    return step, weights(model)


def _stand_in_for_torchvision() -> None:
    """Its package imports torchvision, which its data loading alone uses and small builds of torch lack."""
    try:
        import torchvision  # noqa: F401
    except Exception:
        for name in ("torchvision", "torchvision.transforms", "torchvision.utils"):
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            sys.modules[name] = module
            if "." in name:
                setattr(sys.modules["torchvision"], name.partition(".")[2], module)


def weights(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def measure(steps: dict[str, Step], repeats: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each, taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first chooses kernels, and compiles
                taken[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--sizes", type=int, nargs="+", default=[28, 64], help="pixels; default 28 64")
    parser.add_argument("--batch", type=int, default=64, help="images per step; default 64")
    parser.add_argument("--repeats", type=int, default=7, help="steps per method; default 7")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows: list[dict[str, Any]] = []
    print(f"{'size':>4} {'method':16} {'weights':>9} {'seconds':>8} {'speed against diffusers':>24}")
    for size in asked.sizes:
        plain = recipe_of(size, "train.precision=float32", "train.compile=false")
        usual = recipe_of(size)
        draws = noise_draws(
            fresh_training(plain, device).model, 1, asked.batch, keyed_generator(device, size)
        )
        made = {
            "diffusers": diffusers_unet(plain, draws, device),
            "privsyn": ours(plain, draws, device),
            "privsyn-default": ours(usual, draws, device),
        }
        try:
            made["lucidrains"] = lucidrains(plain, draws, device)
        except ImportError as error:
            print(f"lucidrains left out: {error}", file=sys.stderr)
        found = measure({name: step for name, (step, _) in made.items()}, asked.repeats, device)
        for name, seconds in found.items():
            row = {
                "method": name,
                "size": size,
                "batch": asked.batch,
                "weights": made[name][1],
                "seconds": seconds,
                "speed_ratio": found["diffusers"] / seconds,
                "device": str(device),
                "threads": torch.get_num_threads(),
            }
            rows.append(row)
            print(
                f"{size:4} {name:16} {row['weights']:9,} {seconds:8.3f} {row['speed_ratio']:24.2f}",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
