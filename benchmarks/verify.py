"""Time of `privsyn verify` compared with `sha256sum` over the same files.

The release is sealed and has many images in shards, as `privsyn sample` writes them; the images are noise.

    python benchmarks/verify.py [--images 100000] [--size 28] [--repeats 5]

Prints a table of medians of alternating repeats, and their ratio; --json FILE writes the rows as well. Both
the verifier and sha256sum run in a separate process, as for recipients, and their start counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from privsyn.files import tree_digests
from privsyn.release.bundle import Bundle
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE, make_statement
from privsyn.release.portable import write_portable
from privsyn.synthetic.dataset import write_synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=28, help="pixels; default 28")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, pyz = Path(name) / "release", Path(name) / "privsyn-verify.pyz"
        noise = np.random.default_rng(0).integers(0, 256, (asked.images, asked.size, asked.size, 1), np.uint8)
        write_synthetic(
            folder, noise, np.arange(asked.images) % 2, ["a", "b"], name="noise", claim=None, provenance={}
        )
        (folder / "public-report.html").write_text("no report", encoding="utf-8")
        digests = tree_digests(folder)
        sizes = {file: (folder / file).stat().st_size for file in digests}
        statement = make_statement(digests, sizes, {"privacyClaim": {"kind": "none"}})
        (folder / BUNDLE).write_bytes(Bundle(Envelope(statement.to_bytes(), IN_TOTO), statement).to_bytes())
        write_portable(pyz)
        runs = {
            "sha256sum": ["sha256sum", *(str(folder / file) for file in digests)],
            "privsyn-verify.pyz": [sys.executable, str(pyz), str(folder)],
            "privsyn verify": [sys.executable, "-m", "privsyn", "verify", str(folder)],
        }
        seconds: dict[str, list[float]] = {run: [] for run in runs}
        for _ in range(asked.repeats):
            for run, words in runs.items():
                began = time.perf_counter()
                done = subprocess.run(words, capture_output=True, check=False)
                seconds[run].append(time.perf_counter() - began)
                assert done.returncode == (0 if run == "sha256sum" else 3), done.stderr
        medians = {run: statistics.median(times) for run, times in seconds.items()}
        rows = [
            {"run": run, "seconds": value, "ratio": value / medians["sha256sum"]}
            for run, value in medians.items()
        ]
        print(f"{asked.images} images of {asked.size} px, {sum(sizes.values()) / 2**20:.1f} MiB")
        for row in rows:
            print(f"{row['run']:20} {row['seconds']:7.3f} s   {row['ratio']:5.2f} x sha256sum")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
