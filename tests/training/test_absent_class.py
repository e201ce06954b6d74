"""A class without training images: nothing could be drawn of it but the noise of an untrained embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privsyn import ledger
from privsyn.cohort.prepare import prepare
from privsyn.errors import RecipeError
from privsyn.study import init
from privsyn.training.loop import train


@pytest.mark.parametrize("dp", [False, True])
def test_a_class_without_training_images_is_not_trained_on(tmp_path: Path, dp: bool) -> None:
    """Refused by name before anything is charged; without the class the same images can be used."""
    images = np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "two.npz", images=images, labels=np.arange(60) % 2)
    settings = ['data.classes=["a", "b", "c"]', "train.steps=1", "train.batch_size=4"]
    study = init(tmp_path / "study", recipe="toy", policy="internal-review", settings=settings)
    prepare(study, tmp_path / "two.npz")
    with pytest.raises(RecipeError, match="no training image is of class 'c'"):
        train(study, dp=dp)
    assert ledger.populations() == []
    prepare(study, tmp_path / "two.npz", settings=['data.classes=["a", "b"]'], force=True)
    train(study, dp=dp)
