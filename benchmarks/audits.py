"""Seconds that each synthetic-only or quality audit takes, and the cost of a second policy.

    python benchmarks/audits.py [--synthetic 10000] [--train 10000] [--holdout 10000] [--size 28] [--quality]

The images are smooth noise, because their content does not change the cost of an audit. Audits run in the
order of the table, and each reuses what earlier ones left in memory. Then come a whole run, and a second run
under another policy: the first has computed its audits already, so it takes only what depends on the level of
the policy. --json FILE writes the rows as well.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from scipy import ndimage

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.study import Study, init
from privsyn.synthetic.dataset import SyntheticSet

AUDITS = (
    "exact-copies",
    "blind-baseline",
    "nearest-neighbour",
    "membership-synthetic",
    "attributes",
    "outliers",
)
QUALITY = ("fidelity", "biomarkers", "utility", "conditioning", "coverage-of-rare")
POLICIES = ("public-release", "trusted-environment")
TEST_SHARE = 0.1


def smooth_noise(count: int, size: int, seed: int) -> np.ndarray:
    """(count, size, size, 1) uint8."""
    values = np.random.default_rng(seed).normal(0, 1, (count, size, size))
    smooth = ndimage.gaussian_filter(values, (0, 1.5, 1.5))
    return np.clip(127.5 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None]


def seconds(name: str, run: Callable[[], object]) -> float:
    """Run and print the time it took."""
    began = time.monotonic()
    run()
    elapsed = time.monotonic() - began
    print(f"{name:24} {elapsed:8.1f} s", flush=True)
    return elapsed


def prepared(folder: Path, counts: tuple[int, int, int], size: int) -> Study:
    """A study with a cohort of noise, with so many images in train, holdout and test."""
    count = sum(counts)
    np.savez(folder / "real.npz", images=smooth_noise(count, size, 0), labels=np.arange(count) % 2)
    shares = [each / count for each in counts]
    settings = [f"data.size={size}", 'data.classes=["a", "b"]', f"data.split={shares}"]
    study = init(folder / "study", recipe="toy", policy="internal-review", settings=settings)
    prepare(study, str(folder / "real.npz"))
    return study


def measure(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Seconds by audit, then by whole run."""
    share = TEST_SHARE * (options.train + options.holdout)
    test = options.holdout if options.quality else round(share)
    study = prepared(folder, (options.train, options.holdout, test), options.size)
    images, labels = smooth_noise(options.synthetic, options.size, 1), np.arange(options.synthetic) % 2
    np.savez(folder / "synthetic.npz", images=images, labels=labels)
    cohort = load_cohort(study.cohort)
    evidence = Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64))
    settings = Settings(alpha=0.05 / 8)
    rows = {
        name: seconds(name, partial(installed()[name].load(), evidence, settings))
        for name in (QUALITY if options.quality else AUDITS)
    }
    together = sum(rows.values())
    for policy in () if options.quality else POLICIES:
        whole = partial(
            audit,
            synthetic=folder / "synthetic.npz",
            cohort=study.cohort,
            policy=policy,
            out=folder / policy,
            only=[each for each in AUDITS if each != "attributes" or policy == "public-release"],
        )
        rows[f"all of {policy}"] = seconds(f"all of {policy}", whole)
    print(f"{'together':24} {together:8.1f} s")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", type=int, default=10_000)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--holdout", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=28, help="pixels; default 28")
    parser.add_argument("--quality", action="store_true", help="the quality audits; test as large as holdout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = measure(options, Path(name))
    if options.json:
        document = {
            "sizes": vars(options) | {"json": None},
            "rows": [{"audit": audit_name, "seconds": each} for audit_name, each in rows.items()],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
