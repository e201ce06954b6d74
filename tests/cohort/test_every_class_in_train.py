"""A class that no training image has is refused by `prepare`, so that nothing later depends on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privsyn.cohort.prepare import check, prepare
from privsyn.errors import CohortError
from privsyn.study import init


def _source(folder: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (300, 8, 8), dtype=np.uint8)
    np.savez(folder / "two.npz", images=pixels, labels=np.arange(300) % 2)
    return folder / "two.npz"


def test_a_class_without_training_images_is_refused_by_name(tmp_path: Path) -> None:
    """`check` and `prepare` say which, and no cohort is made; without the class it is."""
    study = init(
        tmp_path / "s", recipe="toy", policy="internal-review", settings=['data.classes=["a","b","c","d"]']
    )
    source, told = _source(tmp_path), r"no image in train .*: c, d\. Remove it from data\.classes"
    report = check(study, source)
    assert (report.document, "c, d" in report.refusal) == (None, True)
    with pytest.raises(CohortError, match=told):
        prepare(study, source)
    assert not study.cohort.exists()
    cohort = prepare(study, source, settings=['data.classes=["a","b"]'])
    assert cohort.classes == ("a", "b")
