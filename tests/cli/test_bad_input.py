"""Bad input through the commands: exit 2, one clear message, and what was there stays as it was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.cli.conftest import Ran, Run


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refused(ran: Ran, told: str) -> None:
    assert (ran.code, ran.out) == (2, ""), ran
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert len(ran.err[ran.err.index("error: ") :].splitlines()) <= 2
    assert told in ran.err
    assert "unexpected" not in ran.err


def _npz(path: Path, *, size: int = 8, labels: Any = None, groups: Any = None) -> Path:
    rng = np.random.default_rng(0)
    arrays = {"images": rng.integers(0, 256, (60, size, size), dtype=np.uint8)}
    arrays["labels"] = np.arange(60) % 10 if labels is None else labels
    if groups is not None:
        arrays["groups"] = groups
    np.savez(path, **arrays)
    return path


def test_an_unreadable_image_is_named(run: Run, study: Path, tmp_path: Path) -> None:
    """A PNG that was cut short is found before anything is replaced."""
    for label in range(10):
        folder = tmp_path / "tree" / str(label)
        folder.mkdir(parents=True)
        for number in range(6):
            pixels = np.full((8, 8), 20 * number + label, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    broken = tmp_path / "tree" / "3" / "4.png"
    broken.write_bytes(broken.read_bytes()[:50])
    before = _contents(study)
    _refused(run("prepare", tmp_path / "tree", "--study", study, "--force"), "4.png")
    assert _contents(study) == before


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"size": 9}, "9"),
        ({"labels": np.full(60, 10)}, "10"),
        ({"groups": np.zeros(60, dtype=np.int64)}, "patient"),
    ],
    ids=["wrong size", "unknown label", "one patient"],
)
def test_images_that_do_not_fit_are_named(
    run: Run, study: Path, tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    """Another size, a label beyond the class list, a cohort with one patient: the old cohort stays."""
    before = _contents(study)
    _refused(run("prepare", _npz(tmp_path / "bad.npz", **arrays), "--study", study, "--force"), told)
    assert _contents(study) == before


@pytest.mark.parametrize("verb", ["prepare", "train", "sample", "status"])
def test_an_unknown_recipe_key_is_named(run: Run, study: Path, source: Path, verb: str) -> None:
    """Whichever command reads the recipe, the key and the nearest match are told."""
    recipe = study / "recipe.toml"
    recipe.write_text(
        recipe.read_text(encoding="utf-8").replace("steps = 3", "stepz = 3", 1), encoding="utf-8"
    )
    before = _contents(study)
    words = {"prepare": [source, "--force"], "train": ["--force"], "sample": ["--force"], "status": []}[verb]
    _refused(run(verb, *words, "--study", study), "did you mean 'steps'")
    assert _contents(study) == before


@pytest.mark.parametrize("verb", ["train", "sample", "audit"])
def test_a_checkpoint_that_was_cut_short_is_named(run: Run, study: Path, verb: str) -> None:
    """Neither a resumed training nor a sample nor an audit builds on it."""
    for weights in study.glob("model/checkpoints/*/*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:-100])
    if verb == "train":
        (study / "model" / "privacy.json").unlink()
    before = _contents(study)
    flag = "--resume" if verb == "train" else "--force"
    _refused(run(verb, flag, "--study", study), "safetensors")
    assert _contents(study) == before
