"""Speed and image quality of each sampler, compared with DDPM with all 1,000 steps.

A model is trained on digits in the same process, without privacy, so that differences come from the sampler;
then each sampler draws equally many images from it. The kernel distance is the unbiased squared maximum mean
discrepancy with the cubic kernel (x y / d + 1)^3 of Binkowski et al. 2018, https://arxiv.org/abs/1801.01401,
between the synthetic images and the real ones that were not trained on, in `lite0-mid` features; its spread
is taken over halves of both sets.

    python benchmarks/sampling.py [--json FILE] [--train-steps 2000] [--count 1000] [--grid FOLDER]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from dp_utility import save_grid

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.features.embed import embed
from privsyn.recipe import Sample
from privsyn.study import init
from privsyn.synthetic.sampling import balanced_labels, draw, evaluations
from privsyn.training.checkpoint import load_model
from privsyn.training.loop import train

SETTINGS: list[dict[str, Any]] = [
    {"sampler": "ddpm", "steps": 1000},
    {"sampler": "ddpm", "steps": 250},
    {"sampler": "ddpm", "steps": 50},
    {"sampler": "ddim", "steps": 50},
    {"sampler": "ddim", "steps": 20},
    {"sampler": "dpm-solver++", "steps": 20},
    {"sampler": "dpm-solver++", "steps": 10},
    {"sampler": "heun", "steps": 20},
    {"sampler": "heun", "steps": 20, "churn": 10.0},
]
HALVINGS = 20
REPEATS, SHORT = 3, 50  # draws of samplers with at most so many steps; the median counts


def kernel_distance(some: np.ndarray, others: np.ndarray) -> float:
    """Unbiased squared MMD of rows (n, d) and (m, d) with the cubic polynomial kernel."""
    dimensions = some.shape[1]

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / dimensions + 1) ** 3

    def within(rows: np.ndarray) -> float:
        values = kernel(rows, rows)
        return float((values.sum() - np.trace(values)) / (len(rows) * (len(rows) - 1)))

    return within(some) + within(others) - 2 * float(kernel(some, others).mean())


def spread(some: np.ndarray, others: np.ndarray, generator: np.random.Generator) -> float:
    """Standard error, from random halves of both sets."""
    found = []
    for _ in range(HALVINGS):
        halves = [rows[generator.permutation(len(rows))[: len(rows) // 2]] for rows in (some, others)]
        found.append(kernel_distance(*halves))
    return float(np.std(found) / np.sqrt(2))


def features(images: np.ndarray) -> np.ndarray:
    """lite0-mid rows, scaled to mean square 1 per dimension, as the kernel expects."""
    rows = embed("lite0-mid", images).astype(np.float64)
    return rows * np.sqrt(rows.shape[1] / np.square(rows).sum(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--train-steps", type=int, default=2000, help="of the model; default 2000")
    parser.add_argument("--count", type=int, default=1000, help="images per sampler; default 1000")
    parser.add_argument("--grid", type=Path, metavar="FOLDER", help="write a picture per sampler to FOLDER")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"train.steps={asked.train_steps}", "train.ema_decay=0.995", "train.learning_rate=2e-3"]
        study = init(Path(folder) / "study", recipe="digits", policy="internal-review", settings=settings)
        prepare(study, "digits")
        train(study, dp=False)
        model, _, _ = load_model(study.model)
        cohort = load_cohort(study.cohort)
        parts = [cohort.part("holdout").images, cohort.part("test").images]
    real = features(np.concatenate(parts))
    floor = kernel_distance(*(features(part) for part in parts))
    print(f"floor: {floor:.5f} between two halves of the real images")
    print(
        f"{'sampler':14} {'steps':>5} {'seconds':>8} {'speed':>7} {'distance':>9} {'error':>8} {'ratio':>6}"
    )
    labels, rows = balanced_labels(asked.count, [1.0] * 10), []
    for setting in SETTINGS:
        wanted = Sample(**setting)
        times = []
        for _ in range(REPEATS if wanted.steps <= SHORT else 1):  # what takes a moment is easily disturbed
            began = time.monotonic()
            images = draw(model, labels, wanted=wanted, seed=0)
            times.append(time.monotonic() - began)
        seconds = statistics.median(times)
        drawn = features(images)
        distance = kernel_distance(drawn, real)
        first = rows[0] if rows else {"seconds": seconds, "kernel_distance": distance}
        rows.append(
            {
                **setting,
                "evaluations": evaluations(wanted),
                "seconds": seconds,
                "speed_ratio": first["seconds"] / seconds,
                "kernel_distance": distance,
                "standard_error": spread(drawn, real, np.random.default_rng(0)),
                "distance_ratio": distance / first["kernel_distance"],
                "floor": floor,
            }
        )
        row, name = rows[-1], wanted.sampler + (" churn" if wanted.churn else "")
        print(
            f"{name:14} {wanted.steps:5} {seconds:8.2f} {row['speed_ratio']:7.1f} {distance:9.5f} "
            f"{row['standard_error']:8.5f} {row['distance_ratio']:6.2f}",
            flush=True,
        )
        if asked.grid:
            asked.grid.mkdir(parents=True, exist_ok=True)
            save_grid(images[:160], asked.grid / f"{name.replace(' ', '-')}-{wanted.steps}.png")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
