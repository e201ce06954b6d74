"""Real cohorts to audit against, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from real_cohorts import digits_and_fresh, make_cohort

from privsyn.cohort.cohort import Cohort


@pytest.fixture(scope="session")
def digits_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("digits")
    return make_cohort(folder / "study", "digits", "digits", folder / "home")


@pytest.fixture(scope="session")
def chest_cohort(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Cohort:
    folder = tmp_path_factory.mktemp("chest")
    return make_cohort(folder / "study", "chest-xray-28", shared_data / "pneumoniamnist.npz", folder / "home")


@pytest.fixture(scope="session")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cohort, np.ndarray, np.ndarray]:
    """A cohort of digits, with images and labels of digits that are not in it: an honest set."""
    return digits_and_fresh(tmp_path_factory.mktemp("strangers"))
