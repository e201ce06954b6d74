"""Speed of image embeddings in images/s, compared with the bare network on prepared batches.

The images are smooth noise, because their content does not change the cost.

    python benchmarks/features.py [--images 512] [--size 28] [--channels 1] [--repeats 7]

Prints a table: images/s of both, as medians of alternating repeats, and the median of the ratios of each
pair. `end to end` starts from uint8 arrays and ends at rows in order; `bare` is the forward pass of the
same network, with pooling, over as many batches. The threads are those of torch: set OMP_NUM_THREADS.
--json FILE writes the rows as well.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from privsyn.features import embed as features

FORWARD = {"lite0": features._head, "lite0-mid": features._mid}


def smooth_noise(count: int, size: int, channels: int) -> np.ndarray:
    """(count, size, size, channels) uint8."""
    values = np.random.default_rng(0).normal(0, 1, (count, size, size, channels)).astype(np.float32)
    smooth = ndimage.gaussian_filter(values, (0, 1.5, 1.5, 0))
    return np.clip(127.5 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measured(name: str, images: np.ndarray, repeats: int) -> dict[str, Any]:
    """A row of the table."""
    network, forward = features._lite0(), FORWARD[name]
    starts = range(0, len(images), features.BATCH)
    batches = [features._as_input(images[start : start + features.BATCH]) for start in starts]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                forward(network, batch)

    whole = partial(features.embed, name, images)
    whole(), bare()
    pairs = [(seconds(whole), seconds(bare)) for _ in range(repeats)]
    return {
        "embedding": name,
        "end_to_end": len(images) / statistics.median(pair[0] for pair in pairs),
        "bare": len(images) / statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=512, help="a multiple of the batch size, 16")
    parser.add_argument("--size", type=int, default=28, help="pixels; default 28")
    parser.add_argument("--channels", type=int, choices=(1, 3), default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    asked = parser.parse_args()
    images = smooth_noise(asked.images, asked.size, asked.channels)
    threads = torch.get_num_threads()
    print(f"{asked.images} images of {asked.size} px, {asked.channels} channels, {threads} threads")
    print(f"{'embedding':12} {'end to end':>12} {'bare':>12}   ratio")
    rows = []
    for name in FORWARD:
        rows.append(measured(name, images, asked.repeats))
        row = rows[-1]
        print(
            f"{name:12} {row['end_to_end']:8.1f} /s  {row['bare']:8.1f} /s  {row['ratio']:6.2f}", flush=True
        )
    if asked.json:
        sizes = vars(asked) | {"json": None, "threads": threads}
        asked.json.write_text(json.dumps({"sizes": sizes, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
