"""A sealed release as recipients use it: loaded by their libraries, offline, and clean of what is private."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from house import House
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from privsyn.cohort.cohort import load_cohort
from privsyn.release.approvals import GivenAnswer
from privsyn.release.bundle import Bundle, read_bundle
from privsyn.release.draft import draft
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify
from privsyn.strict_json import now_or
from privsyn.study import Study
from privsyn.synthetic.dataset import read_synthetic
from privsyn.synthetic.shards import encode_png

ALLOWED = {".md", ".json", ".html", ".jsonl", ".parquet"}
LOAD = """
import json, os, socket, sys
def refuse(*arguments): raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
import mlcroissant
from datasets import load_dataset
folder, cache = sys.argv[1:]
train = load_dataset(folder, cache_dir=cache)["train"]
records = list(mlcroissant.Dataset(jsonld=folder + "/croissant.json").records("images"))
print(json.dumps({
    "datasets": [list(row["image"].tobytes()) for row in train],
    "croissant": [list(record["images/image"].tobytes()) for record in records],
    "labels": train["label"][:], "names": train.features["label"].names,
}))
"""


@pytest.fixture
def sealed(study: Study, house: House) -> Path:
    """A release of a small study, drafted with the pipeline's key and approved by everybody."""
    draft(study, signer=house.signers["machine"])
    found = read_bundle((study.release / BUNDLE).read_bytes())
    given: dict[str, Any] = {
        "policy": found.statement.policy,
        "report": found.statement.report,
        "decided_at": now_or(None),
    }
    yes = GivenAnswer("yes")
    answered = {"ada": "opt-outs-applied", "bob": "residual-risk", "cyd": "clinically-plausible"}
    approvals = [
        house.approval(found.statement, person, answers={item: yes}, **given)
        for person, item in answered.items()
    ]
    whole = house.sealed(Bundle(found.envelope, found.statement, found.gate), approvals, at=now_or(None))
    (study.release / BUNDLE).write_bytes(whole.to_bytes())
    return study.release


def test_it_verifies_and_holds_nothing_but_what_may_leave(sealed: Path, house: House, tmp_path: Path) -> None:
    """Exit code 0 as it lies there; only descriptions, shards, report and bundle."""
    found = verify(sealed, trust=house.write_trust(tmp_path / "trust.json"))
    assert found.exit_code == 0, found.lines()
    assert {path.suffix for path in sealed.rglob("*") if path.is_file()} == ALLOWED


def test_recipients_libraries_load_it_as_it_stands(sealed: Path, tmp_path: Path) -> None:
    """`datasets`, `mlcroissant`, pandas and Pillow see the same pixels, offline, and change nothing."""
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "CROISSANT_CACHE": str(tmp_path),
    }
    run = [sys.executable, "-c", LOAD, str(sealed), str(tmp_path / "cache")]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = json.loads(done.stdout.splitlines()[-1])
    ours = read_synthetic(sealed, size=8, channels=1, classes=["a", "b"])
    pixels = [image.ravel().tolist() for image in ours.images]
    table = pd.concat(pd.read_parquet(shard) for shard in sorted((sealed / "data").iterdir()))
    by_pillow = [np.asarray(Image.open(io.BytesIO(row["bytes"]))).ravel().tolist() for row in table["image"]]
    assert loaded["datasets"] == loaded["croissant"] == by_pillow == pixels
    assert (loaded["labels"], loaded["names"]) == (ours.labels.tolist(), ["a", "b"])
    assert verify(sealed).exit_code == 3


def leaks(release: Path, study: Study) -> list[str]:
    """What of a study is in a release that must not be: ids, paths, pixels, metadata of images."""
    cohort = load_cohort(study.cohort)
    real = np.load(study.cohort / "images.npy")
    records = cohort.records
    words = {str(study.root), str(study.root.parent), *records["patient"], *records["sha256"]}
    words |= {cohort.document.fingerprint, cohort.document.records_sha256}
    found = []
    for file in sorted(path for path in release.rglob("*") if path.is_file()):
        raw = file.read_bytes()
        text = raw.decode("latin-1")
        found += [f"{file.name} names {word[:12]}" for word in sorted(words) if word in text]
        found += [f"{file.name} holds the bytes of a real image" for image in real if image.tobytes() in raw]
        found += [f"{file.name} holds a real image as PNG" for image in real if encode_png(image) in raw]
    for shard in sorted((release / "data").glob("*.parquet")):
        for row in pd.read_parquet(shard)["image"]:
            image = Image.open(io.BytesIO(row["bytes"]))
            found += [f"{shard.name} has metadata {key}" for key in image.info]
            distance = np.abs(real[..., 0].astype(int) - np.asarray(image).astype(int)).sum(axis=(1, 2))
            found += [f"{shard.name} has a real image"] * int((distance == 0).sum())
    return found


def test_nothing_of_the_cohort_is_in_it(sealed: Path, study: Study) -> None:
    """No id, path, digest, pixel or metadata of the real images, in any file."""
    assert leaks(sealed, study) == []


def test_the_scan_finds_what_is_planted(sealed: Path, study: Study) -> None:
    """Each kind of leak, planted into a copy of the release, is found."""
    cohort = load_cohort(study.cohort)
    real = np.load(study.cohort / "images.npy")
    card, shard = sealed / "README.md", next((sealed / "data").glob("*.parquet"))
    before, table = card.read_bytes(), pd.read_parquet(shard)
    plants = (
        str(study.root).encode(),
        str(cohort.records["patient"].iloc[3]).encode(),
        cohort.document.fingerprint.encode(),
        real[5].tobytes(),
        encode_png(real[7]),
    )
    for plant in plants:
        card.write_bytes(before + plant)
        assert leaks(sealed, study) != [], plant[:20]
    card.write_bytes(before)
    info, noted = PngInfo(), io.BytesIO()
    info.add_text("Patient", "x")
    Image.fromarray(real[0, ..., 0] ^ 1).save(noted, "png", pnginfo=info)
    again = io.BytesIO()
    Image.fromarray(real[0, ..., 0]).save(again, "png", compress_level=1)
    for png, said in ((noted, "metadata Patient"), (again, "has a real image")):
        changed = table.copy()
        changed.at[0, "image"] = {"bytes": png.getvalue(), "path": "0"}
        changed.to_parquet(shard)
        assert any(said in leak for leak in leaks(sealed, study))
