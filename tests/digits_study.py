"""Small studies of real digits, for tests that train."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from homes import new_home

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.document import write_document
from privsyn.cohort.index import pixel_digest
from privsyn.cohort.prepare import prepare
from privsyn.files import file_digest, tree_digests
from privsyn.progress import Advance
from privsyn.study import Study, init, set_in_toml


def prepared(folder: Path, *settings: str) -> Study:
    """A `toy` study with the digits cohort; it has its own home, so it may outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        study = init(folder / "study", recipe="toy", policy="internal-review", settings=settings)
        prepare(study, "digits")
    return study


def in_16_bits(study: Study) -> Study:
    """The study with its cohort in 16 bits: every level that 8 bits have, and some noise between them."""
    cohort, generator = load_cohort(study.cohort), np.random.default_rng(16)
    between = generator.integers(-128, 129, cohort.images.shape)
    images = np.clip(cohort.images.astype(np.int64) * 257 + between, 0, 65_535).astype(np.uint16)
    np.save(study.cohort / "images.npy", images)
    records = cohort.records.assign(sha256=[pixel_digest(image) for image in images])
    records.to_parquet(study.cohort / "records.parquet")
    sha256 = file_digest(study.cohort / "records.parquet")
    data = {**cohort.document.data, "bit_depth": 16}
    document = replace(cohort.document, bit_depth=16, records_sha256=sha256, data=data)
    write_document(study.cohort / "cohort.json", document)
    study.recipe_file.write_text(set_in_toml(study.recipe_file.read_text(), ["data.bit_depth=16"]))
    return study


def copied(study: Study, folder: Path, *settings: str) -> Study:
    """The same study elsewhere, with other settings in its recipe."""
    copy = Study(Path(shutil.copytree(study.root, folder / "copy")))
    copy.recipe_file.write_text(set_in_toml(copy.recipe_file.read_text(), settings))
    return copy


def weights(study: Study) -> dict[str, str]:
    """Digests of the newest checkpoint's tensors: model, EMA and optimiser."""
    newest = sorted(study.checkpoints.glob("step-*"))[-1]
    return {name: digest for name, digest in tree_digests(newest).items() if name.endswith(".safetensors")}


class Killed(BaseException):
    """Stands for whatever ends a program."""


class KillAt:
    """A listener that ends the training when a step is done, and remembers what it was told till then."""

    def __init__(self, step: float) -> None:
        self.step = step
        self.facts: list[dict[str, str]] = []

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - one length fits all
        done = 0

        def advance(amount: int = 1, **facts: str) -> None:
            nonlocal done
            done += amount
            self.facts.append(facts)
            if name == "train" and done >= self.step:
                raise Killed

        yield advance
