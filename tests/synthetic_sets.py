"""What tests of synthetic sets share: class names of every kind, shards by hand, a recipient's process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from privsyn.synthetic.provenance import Provenance
from privsyn.synthetic.shards import encode_png

PROVENANCE = Provenance(
    version="0.1.0",
    model_sha256="ab" * 32,
    recipe_sha256="cd" * 32,
    seed=7,
    count=12,
    near_copies_rejected=False,
    class_counts="declared",
    sampling={"sampler": "ddim", "steps": 2, "eta": 0.0},
)
ODD_NAMES = [
    "0", "yes", "~", "", " ", "=1+1", "<script>alert(1)</script>", "a: b # c", "- x", "{{ x }}", "%YAML",
    "line\nbreak\r\n---\n# heading", "tab\t", 'quote " and \\', "日本語", "\U0001f9ec", "\u2028\x85\x7f\x9f",
    "```", "null", "1.0", "@id", "[link](https://example.org)",
]  # fmt: skip


def recipient(script: str, folder: Path, cache: Path) -> Any:
    """Run a recipient's script in a process of its own, without network; it prints JSON."""
    guard = (
        "import json, socket, sys\n"
        "def refuse(*arguments): raise OSError('no network here')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "CROISSANT_CACHE": str(cache)}
    run = [sys.executable, "-c", guard + script, str(folder), str(cache)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def parquet(path: Path, encoded: list[bytes | None], labels: list[int | None], **more: list[Any]) -> Path:
    struct_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pictures = pa.array([{"bytes": data, "path": "x"} for data in encoded], struct_type)
    path.mkdir(parents=True)
    (path / "data").mkdir()
    table = pa.table({"image": pictures, "label": pa.array(labels, pa.int64()), **more})
    pq.write_table(table, path / "data/train-00000-of-00001.parquet")
    return path


def png(*shape: int) -> bytes:
    return encode_png(np.zeros(shape, np.uint8))
