"""How long each synthetic-only audit, or each quality audit, takes, and what a second policy costs.

The images are smooth noise, made here: what they show does not change what an audit costs.

    python benchmarks/audits.py [--synthetic 10000] [--train 10000] [--holdout 10000] [--size 28] [--quality]

Prints a table and with --json FILE writes the rows: seconds of each audit in this order, each with
what the earlier ones left in memory; then of a whole run, and of a second one under another policy, whose
audits the first one asked for too: it costs what depends on a policy's level alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.study import init
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
TEST_SHARE = 0.1


def smooth_noise(count: int, size: int, seed: int) -> np.ndarray:
    """(count, size, size, 1) uint8."""
    values = np.random.default_rng(seed).normal(0, 1, (count, size, size))
    smooth = ndimage.gaussian_filter(values, (0, 1.5, 1.5))
    return np.clip(127.5 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", type=int, default=10_000)
    parser.add_argument("--train", type=int, default=10_000)
    parser.add_argument("--holdout", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=28, help="pixels; default 28")
    parser.add_argument("--quality", action="store_true", help="the quality audits; test as large as holdout")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test = asked.holdout if asked.quality else round(TEST_SHARE * (asked.train + asked.holdout))
        count = asked.train + asked.holdout + test
        np.savez(folder / "real.npz", images=smooth_noise(count, asked.size, 0), labels=np.arange(count) % 2)
        shares = [asked.train / count, asked.holdout / count, test / count]
        settings = [f"data.size={asked.size}", 'data.classes=["a", "b"]', f"data.split={shares}"]
        study = init(folder / "study", recipe="toy", policy="internal-review", settings=settings)
        prepare(study, str(folder / "real.npz"))
        images, labels = smooth_noise(asked.synthetic, asked.size, 1), np.arange(asked.synthetic) % 2
        np.savez(folder / "synthetic.npz", images=images, labels=labels)
        cohort = load_cohort(study.cohort)
        evidence = Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64))
        names = QUALITY if asked.quality else AUDITS
        for audit_name in names:
            began = time.monotonic()
            installed()[audit_name].load()(evidence, Settings(alpha=0.05 / 8))
            rows.append({"audit": audit_name, "seconds": time.monotonic() - began})
            print(f"{audit_name:24} {rows[-1]['seconds']:8.1f} s", flush=True)
        for policy in () if asked.quality else ("public-release", "trusted-environment"):
            began = time.monotonic()
            audit(
                synthetic=folder / "synthetic.npz",
                cohort=study.cohort,
                policy=policy,
                out=folder / policy,
                only=[each for each in AUDITS if each != "attributes" or policy == "public-release"],
            )
            rows.append({"audit": f"all of {policy}", "seconds": time.monotonic() - began})
            print(f"{rows[-1]['audit']:24} {rows[-1]['seconds']:8.1f} s", flush=True)
    total = sum(row["seconds"] for row in rows[: len(names)])
    print(f"{'together':24} {total:8.1f} s")
    if asked.json:
        asked.json.write_text(
            json.dumps({"sizes": vars(asked) | {"json": None}, "rows": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
