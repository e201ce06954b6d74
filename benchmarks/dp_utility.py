"""Accuracy on real images of classifiers trained on differentially private synthetic images.

Runs the whole chain with the shipped recipes: prepare, train --dp, sample. Classifiers are then trained on
the synthetic set and, for comparison, on the real training images; both are tested on the real images that
were not used for training (holdout and test). The seed determines split (by a home of its own), weights and
samples, while the noise of DP-SGD is fresh in every run.

    python benchmarks/dp_utility.py digits [--epsilon 8] [--seeds 0 1 2] [--set section.key=value ...]
    python benchmarks/dp_utility.py pneumonia --source pneumoniamnist.npz

Prints a table; --json FILE writes the rows, --grid FILE a picture of the first set's first images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.svm import SVC

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.study import init
from privsyn.synthetic.sampling import sample
from privsyn.training.loop import train

SPLIT = "data.split=[0.8, 0.1, 0.1]"
TASKS: dict[str, dict[str, Any]] = {
    "digits": {
        "recipe": "digits",
        "settings": ["privacy.unit=image", "privacy.expected_units=1437", "train.batch_size=300"],
        "count": 2000,
    },
    "pneumonia": {
        "recipe": "chest-xray-28-dp",
        "settings": ["privacy.unit=image", "privacy.expected_units=4684"],
        "count": 4000,
    },
}
SMALLER: dict[str, dict[float, list[str]]] = {  # at such an epsilon; the recipes are for 8
    "digits": {
        3.0: ["train.learning_rate=1e-3", "train.steps=80", "warmup.images=4", "warmup.covariance_noise=4"],
        1.0: ["train.learning_rate=1e-3", "train.steps=50", "warmup.images=1", "warmup.covariance_noise=7"],
    },
    "pneumonia": {},
}
COLUMNS, PICTURES = 20, 160


def classifiers() -> dict[str, Any]:
    """Fresh ones on pixels in [0, 1], with scikit-learn's own settings: nobody tuned them on these images."""
    return {
        "logistic-regression": LogisticRegression(max_iter=2000),
        "rbf-svm": SVC(),
    }


def scores(images: np.ndarray, labels: np.ndarray, real: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy, or with two classes the AUC, of classifiers trained on the former, tested on the latter."""
    found = {}
    for name, model in classifiers().items():
        model.fit(flat(images), labels)
        if len(np.unique(truth)) == 2:
            found[name] = float(roc_auc_score(truth, model.decision_function(flat(real))))
        else:
            found[name] = float(model.score(flat(real), truth))
    return found


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 255


def run(
    task: str, source: str, epsilon: float | None, seed: int, changes: list[str], grid: Path | None
) -> dict[str, Any]:
    """One training and one set; epsilon None trains without privacy."""
    wanted = TASKS[task]
    smaller = SMALLER[task].get(epsilon or 8.0, [])
    settings = [SPLIT, *wanted["settings"], *smaller, f"seed={seed}", *changes]
    with tempfile.TemporaryDirectory() as folder:
        key = hashlib.sha256(f"benchmark {seed}".encode()).digest()
        (home := Path(folder) / "home").mkdir(mode=0o700)
        (home / "patient.key").write_bytes(key)
        os.environ["PRIVSYN_HOME"] = str(home)
        study = init(
            Path(folder) / "study", recipe=wanted["recipe"], policy="internal-review", settings=settings
        )
        prepare(study, source)
        began = time.monotonic()
        claim = train(study, dp=epsilon is not None, epsilon=epsilon)
        trained = time.monotonic()
        drawn = sample(study, count=wanted["count"])
        done = time.monotonic()
        cohort = load_cohort(study.cohort)
        parts = [cohort.part("holdout"), cohort.part("test")]
        real, truth = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels")
        )
        trained_on = cohort.part("train")
        synthetic_scores = scores(drawn.images, drawn.labels, real, truth)
        real_scores = scores(trained_on.images, trained_on.labels, real, truth)
    if grid is not None:
        save_grid(drawn.images[:PICTURES], grid)
    return {
        "task": task,
        "epsilon": None if claim.bound is None else claim.bound.epsilon,
        "seed": seed,
        "settings": changes,
        "train_seconds": trained - began,
        "sample_seconds": done - trained,
        "tested_on": len(truth),
        "trained_on_synthetic": synthetic_scores,
        "trained_on_real": real_scores,
    }


def save_grid(images: np.ndarray, file: Path) -> None:
    """The images in rows of `COLUMNS`, enlarged, with a grey line between them."""
    images = np.pad(images, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=96)
    rows = images[: len(images) // COLUMNS * COLUMNS].reshape(-1, COLUMNS, *images.shape[1:])
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    scale = max(1, round(900 / sheet.shape[1]))
    picture = Image.fromarray(sheet.squeeze(-1) if sheet.shape[-1] == 1 else sheet)
    picture.resize((sheet.shape[1] * scale, sheet.shape[0] * scale), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--source", default="digits", help="what to prepare; default the embedded digits")
    parser.add_argument("--epsilon", type=float, default=8.0, help="default 8; 0 trains without privacy")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default 0")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--grid", type=Path, metavar="FILE", help="write a picture to FILE")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    heads = ("epsilon", "seed", "classifier", "synthetic", "real", "train", "sample")
    print("{:>8} {:>4} {:20} {:>9} {:>6} {:>7} {:>7}".format(*heads))
    for seed in asked.seeds:
        grid = None if rows else asked.grid
        row = run(asked.task, asked.source, asked.epsilon or None, seed, asked.changes, grid)
        rows.append(row)
        for name, value in row["trained_on_synthetic"].items():
            print(
                f"{row['epsilon'] or float('inf'):8.3f} {seed:4} {name:20} {value:9.3f} "
                f"{row['trained_on_real'][name]:6.3f} "
                f"{row['train_seconds']:6.0f}s {row['sample_seconds']:6.0f}s",
                flush=True,
            )
    for name in rows[0]["trained_on_synthetic"]:
        values = [row["trained_on_synthetic"][name] for row in rows]
        if len(values) > 1:
            spread = statistics.stdev(values)
            print(f"{name}: mean {statistics.mean(values):.3f}, standard deviation {spread:.3f}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
