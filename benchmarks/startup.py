"""How long commands take that do little: help, `privsyn status`, and `privsyn verify` of a small release.

The study has a cohort and a synthetic set; the release has 100 images and no privacy claim, so that `verify`
computes no privacy loss distribution. Each run is a process of its own, as a shell starts it.

    python benchmarks/startup.py [--repeats 11] [--json FILE]

Prints a table and with --json FILE writes the rows: median of alternating repeats, its ratio to a Python that
does nothing, and the target in seconds. Targets hold on an idle machine with the files in its cache.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from privsyn.cohort.prepare import prepare
from privsyn.files import tree_digests
from privsyn.release.bundle import Bundle
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE, state
from privsyn.study import init
from privsyn.synthetic.dataset import write_synthetic

BARE = "python -c pass"
TARGETS = {"privsyn --help": 0.3, "privsyn status": 0.6, "privsyn verify": 0.6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["PRIVSYN_HOME"] = str(Path(name) / "home")
        study, release = make_study(Path(name) / "study"), make_release(Path(name) / "release")
        privsyn = [sys.executable, "-m", "privsyn"]
        medians = measure(
            {
                BARE: ([sys.executable, "-c", "pass"], 0),
                "privsyn --help": ([*privsyn, "--help"], 0),
                "privsyn report --help": ([*privsyn, "report", "--help"], 0),
                "privsyn status": ([*privsyn, "status", "--study", str(study)], 0),
                "privsyn verify": ([*privsyn, "verify", str(release)], 3),  # whole, and approved by nobody
            },
            chosen.repeats,
        )
    rows = [
        {"run": run, "seconds": value, "ratio": value / medians[BARE], "target": TARGETS.get(run)}
        for run, value in medians.items()
    ]
    for run, value in medians.items():
        target = f"   target {TARGETS[run]} s" if run in TARGETS else ""
        print(f"{run:22} {value:6.3f} s   {value / medians[BARE]:5.1f} x bare{target}")
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def measure(runs: dict[str, tuple[list[str], int]], repeats: int) -> dict[str, float]:
    """Median seconds of each run, a command and its exit code; the first round only fills the caches."""
    seconds: dict[str, list[float]] = {run: [] for run in runs}
    for _ in range(repeats + 1):
        for run, (words, code) in runs.items():
            began = time.perf_counter()
            done = subprocess.run(words, capture_output=True, check=False)
            seconds[run].append(time.perf_counter() - began)
            assert done.returncode == code, done.stderr
    return {run: statistics.median(times[1:]) for run, times in seconds.items()}


def make_study(folder: Path) -> Path:
    """A study of the embedded digits with a synthetic set."""
    study = init(folder, recipe="digits", policy="internal-review")
    prepare(study, "digits")
    write_noise(study.synthetic)
    return study.root


def make_release(folder: Path) -> Path:
    """A draft of 100 images of noise that nobody signed."""
    write_noise(folder)
    (folder / "public-report.html").write_text("no report", encoding="utf-8")
    digests = tree_digests(folder)
    sizes = {file: (folder / file).stat().st_size for file in digests}
    statement = state(digests, sizes, {"privacyClaim": {"kind": "none"}})
    (folder / BUNDLE).write_bytes(Bundle(Envelope(statement.to_bytes(), IN_TOTO), statement).to_bytes())
    return folder


def write_noise(folder: Path) -> None:
    """A synthetic set of 100 images."""
    noise = np.random.default_rng(0).integers(0, 256, (100, 28, 28, 1), np.uint8)
    labels = np.arange(100) % 2
    write_synthetic(folder, noise, labels, ["a", "b"], name="noise", claim=None, provenance={"count": 100})


if __name__ == "__main__":
    main()
