"""The command line, run in this process, and small finished studies to run it on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from homes import new_home
from sklearn.datasets import load_digits

from privsyn.cli import main

QUICK = (
    "train.steps=3", "train.batch_size=16", "train.checkpoint_every=2", "model.channels=8", "model.groups=4",
    "privacy.expected_units=150", "privacy.noise_multiplicity=1", "sample.count=60", "sample.steps=3",
    "warmup.steps=10",
)  # fmt: skip
POLICY = """
title = "Quick"
purpose = "tests of the command line"

[[rules]]
id = "no-exact-copies"
audit = "exact-copies"
statistic = "copies"
op = "<="
threshold = 0
rationale = "quick to audit"
"""


@dataclass(frozen=True)
class Ran:
    """What a command left behind: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout; fails if anything else is there."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("train", "--dp")` runs the program in this process."""

    def run(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def quick() -> list[str]:
    """`--set` for everything that makes the digits recipe quick."""
    return [word for setting in QUICK for word in ("--set", setting)]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """250 real images of digits, all different, as an .npz file."""
    digits = load_digits()
    path = tmp_path_factory.mktemp("source") / "digits.npz"
    images = (digits.images[:250] * 15).astype(np.uint8)
    np.savez(path, images=images, labels=digits.target[:250])
    return path


@pytest.fixture(scope="session")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that is quick to audit."""
    path = tmp_path_factory.mktemp("policy") / "quick.toml"
    path.write_text(POLICY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, quick: list[str], source: Path, policy: Path
) -> tuple[Path, Path]:
    """A study that went through the chain once, and the home it used."""
    folder = tmp_path_factory.mktemp("finished")
    at = ["--study", str(folder / "study")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        for words in (
            ["init", str(folder / "study"), "--recipe", "digits", "--policy", str(policy), *quick],
            ["prepare", str(source), *at],
            ["train", "--dp", *at],
            ["sample", *at],
            ["audit", *at],
            ["report", *at],
            ["release", "draft", *at],
        ):
            assert main(words) == 0, words
    return folder / "study", folder / "home"


@pytest.fixture
def study(finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished study, to be worked on."""
    root, home = finished
    shutil.copytree(root, tmp_path / "study")
    shutil.copytree(home, tmp_path / "study-home")
    monkeypatch.setenv("PRIVSYN_HOME", str(tmp_path / "study-home"))
    return tmp_path / "study"
