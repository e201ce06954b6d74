"""What the README tells a newcomer to do works as printed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from privsyn.cli import main
from privsyn.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The fenced block that holds a text."""
    for found, text in re.findall(r"^```(\w*)\n(.*?)^```", README, re.M | re.S):
        if found == language and containing in text:
            return str(text)
    raise AssertionError(f"no block with {containing!r} in the README")


def test_the_python_example_runs(tmp_path: Path) -> None:
    """The verbs of the public API, in a fresh process, end with a verdict."""
    ran = subprocess.run(
        [sys.executable, "-c", block("python", "import privsyn")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "pass"


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    """The chain as the README prints it, on 600 of the embedded digits and with a model for tests."""
    digits = load_digits()
    np.savez(
        tmp_path / "digits.npz",
        images=(digits.images[:600] * 15).astype(np.uint8),
        labels=digits.target[:600],
    )
    lines = [line.split("#")[0].strip() for line in block("", "privsyn prepare SOURCE").splitlines()]
    words = [shlex.split(line) for line in lines if line.startswith("privsyn")]
    replaced = {"chest-xray-28": "toy", "SOURCE": str(tmp_path / "digits.npz"), "1000": "40"}
    return [[replaced.get(word, word) for word in line[1:]] for line in words]


def test_the_chain_runs_as_printed(tmp_path: Path, commands: list[list[str]]) -> None:
    """Each command of the chain exits with one of its documented codes, and ends intact but unapproved."""
    codes = {}
    for words in commands:
        folder = tmp_path if words[0] == "init" else tmp_path / "chest"
        ran = subprocess.run(
            [sys.executable, "-m", "privsyn", *words], cwd=folder, capture_output=True, text=True, check=False
        )
        codes[words[0]] = ran.returncode
        assert ran.returncode in (0, 1, 3), ran.stderr
    assert list(codes) == [
        "init", "prepare", "plan", "train", "sample", "audit", "report", "release", "verify",
    ]  # fmt: skip
    assert {code for verb, code in codes.items() if verb not in ("audit", "verify")} == {0}
    assert codes["verify"] == 3


def test_links_lead_somewhere() -> None:
    """Every relative link in README and docs points to a file."""
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "audits" / "README.md"]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_recipe_guide_makes_a_study_of_other_images(tmp_path: Path) -> None:
    """The `init` line of docs/recipes.md, quotes and all."""
    guide = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^privsyn init .*$", guide, re.M)
    words = shlex.split(line)[1:]
    ran = subprocess.run(
        [sys.executable, "-m", "privsyn", *words], cwd=tmp_path, capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert load_recipe(tmp_path / words[1] / "recipe.toml").data.classes == ("RBC", "WBC", "Platelets")


def test_the_privacy_guide_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`plan` and `ledger` with the options of docs/privacy.md, in a study of digits."""
    guide = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\n(.*?)^```", guide, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 5

    def run(words: list[str], folder: Path) -> str:
        monkeypatch.chdir(folder)
        capsys.readouterr()
        assert main(words) == 0, words
        return capsys.readouterr().out

    quick = ["--set", "privacy.noise_multiplicity=1"]
    run(["init", "study", "--recipe", "toy", "--policy", "internal-review", *quick], tmp_path)
    run(["prepare", "digits"], tmp_path / "study")
    for line in lines:
        words = shlex.split(line)[1:]
        if "HASH" in words:
            head = json.loads(run(["ledger", "show", "--json"], tmp_path / "study"))["head"]
            words = [head if word == "HASH" else word for word in words]
        run(words, tmp_path / "study")
