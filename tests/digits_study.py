"""Small studies of real digits, for tests that train."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from privsyn.cohort.cohort import prepare
from privsyn.files import tree_digests
from privsyn.progress import Advance
from privsyn.study import Study, init, set_in_toml


def prepared(folder: Path, *settings: str) -> Study:
    """A `toy` study with the digits cohort; it has its own home, so it may outlive a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", str(folder / "home"))
        study = init(folder / "study", recipe="toy", policy="internal-review", settings=settings)
        prepare(study, "digits")
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
