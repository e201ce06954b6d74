"""Speed of `privsyn prepare` compared with a bare Pillow loop, and its memory for cohorts of growing size.

Files of smooth noise are written to a temporary folder, 100 for each patient and folder, in two classes. The
bare loop only opens and resizes each file: no checks, hashes, patients, splits or output files.

    python benchmarks/prepare.py [--count 10000] [--source-size 64] [--size 64] [--format png]
    python benchmarks/prepare.py --memory 10000 100000 [1000000]

Prints a table; --json FILE writes the rows as well. Throughputs are medians of `--repeat` alternating runs
with a warm file cache. Memory is the peak resident set of a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

# Imported where they are used: every worker of `prepare` imports this file.
if TYPE_CHECKING:
    from privsyn.study import Study

MADE = 200  # different images; the others differ from one of them by their number, in black and white
PER_FOLDER = 100


def write_files(folder: Path, count: int, side: int, kind: str) -> None:
    """`folder/CLASS/p000012/p000012-03.png` and so on, grey, no two alike."""
    from scipy import ndimage

    generator = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(generator.normal(0, 1, (MADE, side, side)), (0, side / 20, side / 20))
    images = np.clip(127.5 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)
    for number in range(count):
        if number % PER_FOLDER == 0:
            patient = folder / "ab"[number // PER_FOLDER % 2] / f"p{number // PER_FOLDER:06d}"
            patient.mkdir(parents=True)
        image = images[number % MADE].copy()
        blocks = np.unpackbits(np.array([number], ">u4").view(np.uint8)).reshape(4, 8) * np.uint8(255)
        image[: side // 16 * 4, : side // 16 * 8] = np.kron(blocks, np.ones((side // 16,) * 2, np.uint8))
        Image.fromarray(image).save(patient / f"{patient.name}-{number % PER_FOLDER:02d}.{kind}")


def bare(folder: Path, size: int) -> None:
    """Open and resize, nothing else."""
    for root, _, names in os.walk(folder):
        for name in names:
            with Image.open(os.path.join(root, name)) as image:
                image.resize((size, size), Image.Resampling.BICUBIC)


def study_for(folder: Path, size: int) -> Study:
    from privsyn.study import init

    pattern = "data.patient_pattern='^(?P<patient>p[0-9]+)-'"
    settings = [f"data.size={size}", 'data.classes=["a", "b"]', "data.resize=fit", pattern]
    return init(folder, recipe="toy", policy="internal-review", settings=settings)


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def throughput(asked: argparse.Namespace, folder: Path) -> list[dict[str, float | str]]:
    """Images a second of the bare loop, and of `prepare` on one process and on two."""
    from privsyn.cohort.prepare import SourceSpec, prepare

    images = folder / "images"
    write_files(images, asked.count, asked.source_size, asked.format)
    study = study_for(folder / "study", asked.size)
    ways: dict[str, Callable[[], object]] = {
        "bare Pillow": lambda: bare(images, asked.size),
        "prepare, 1 process": lambda: prepare(study, SourceSpec(images, processes=1), force=True),
        "prepare, 2 processes": lambda: prepare(study, SourceSpec(images, processes=2), force=True),
    }
    bare(images, asked.size)  # into the cache
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(asked.repeat):
        for name, work in ways.items():
            taken[name].append(seconds(work))
    first = statistics.median(taken["bare Pillow"])
    rows: list[dict[str, float | str]] = []
    for name, times in taken.items():
        median = statistics.median(times)
        rows.append({"way": name, "images_per_second": asked.count / median, "ratio": first / median})
        print(f"{name:24} {asked.count / median:10,.0f} images/s {first / median:8.2f} of bare", flush=True)
    return rows


def memory(asked: argparse.Namespace, folder: Path) -> list[dict[str, float]]:
    """Highest resident set of `prepare` at each count, in a process of its own."""
    rows: list[dict[str, float]] = []
    for count in asked.memory:
        images = folder / f"images-{count}"
        write_files(images, count, asked.source_size, asked.format)
        command = [sys.executable, __file__, "--alone", str(images), str(folder / f"study-{count}")]
        command += ["--size", str(asked.size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        row: dict[str, float] = {"images": count, **json.loads(done.stdout)}
        if rows:
            row["bytes_per_further_image"] = (row["peak_bytes"] - rows[0]["peak_bytes"]) / (
                count - rows[0]["images"]
            )
        rows.append(row)
        print(
            f"{count:12,} images {row['peak_bytes'] / 2**20:8.1f} MiB at most {row['seconds']:8.1f} s"
            f"{row.get('bytes_per_further_image', 0):8.0f} bytes for each further image",
            flush=True,
        )
    return rows


def alone(images: Path, folder: Path, size: int) -> None:
    """One `prepare` in this process; prints its highest resident set, bytes, and its time."""
    from privsyn.cohort.prepare import SourceSpec, prepare

    study = study_for(folder, size)
    taken = seconds(lambda: prepare(study, SourceSpec(images, processes=2)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "worker_peak_bytes": workers, "seconds": taken}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000, help="files; default 10000")
    parser.add_argument("--source-size", type=int, default=64, help="pixels of a file; default 64")
    parser.add_argument("--size", type=int, default=64, help="pixels of the cohort; default 64")
    parser.add_argument("--format", default="png", help="png, jpg, bmp or tif; default png")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--memory", type=int, nargs="+", metavar="COUNT", help="measure memory at these")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    parser.add_argument("--alone", type=Path, nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.alone:
        alone(*asked.alone, asked.size)
        return
    with tempfile.TemporaryDirectory() as name:
        rows = (memory if asked.memory else throughput)(asked, Path(name))
    if asked.json:
        asked.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
