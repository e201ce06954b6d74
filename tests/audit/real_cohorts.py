"""Real cohorts and honest sets for the audits' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from privsyn.cohort.cohort import Cohort, Part, load_cohort, prepare
from privsyn.study import init


def make_cohort(folder: Path, recipe: str, source: Path | str, home: Path, *settings: str) -> Cohort:
    """Prepare a cohort outside any test, with a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", str(home))
        study = init(folder, recipe=recipe, policy="internal-review", settings=settings)
        prepare(study, source)
    return load_cohort(study.cohort)


def blends(part: Part, count: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images that are averages of two of one class: smooth, and nobody's copy."""
    images, labels = [], []
    for _ in range(count):
        label = generator.choice(np.unique(part.labels))
        first, second = generator.choice(np.flatnonzero(part.labels == label), 2, replace=False)
        images.append(np.round((part.images[first].astype(float) + part.images[second]) / 2))
        labels.append(label)
    return np.stack(images).astype(np.uint8), np.array(labels)
