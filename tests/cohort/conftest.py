"""What the cohort's tests share: studies of the `toy` recipe, and small images written to real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from privsyn.study import Study, init

MakeStudy = Callable[..., Study]


@pytest.fixture
def make_study(tmp_path: Path) -> MakeStudy:
    """A new study of 8 px grey images with classes a and b; settings change the recipe."""

    def make(*settings: str, name: str = "study") -> Study:
        policy = tmp_path / "any-policy.toml"
        policy.write_text("")
        defaults = ('data.classes=["a", "b"]', "train.batch_size=2")
        return init(tmp_path / name, recipe="toy", policy=str(policy), settings=[*defaults, *settings])

    return make


@pytest.fixture
def noise() -> Callable[..., NDArray[np.uint8]]:
    """Images of any shape, all different, the same in every run."""
    generator = np.random.default_rng(0)
    return lambda *shape: generator.integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def class_folders(tmp_path: Path, noise: Callable[..., NDArray[np.uint8]]) -> Path:
    """12 grey PNGs of 8 px, 6 in class a and 6 in class b."""
    root = tmp_path / "images"
    for name in "ab":
        (root / name).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(noise(8, 8)).save(root / name / f"scan-{number}.png")
    return root
