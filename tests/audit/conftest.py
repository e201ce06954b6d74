"""Real cohorts to audit against, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_cohorts import make_cohort

from privsyn.cohort.cohort import Cohort


@pytest.fixture(scope="session")
def digits_cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    folder = tmp_path_factory.mktemp("digits")
    return make_cohort(folder / "study", "digits", "digits", folder / "home")


@pytest.fixture(scope="session")
def chest_cohort(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Cohort:
    folder = tmp_path_factory.mktemp("chest")
    return make_cohort(folder / "study", "chest-xray-28", shared_data / "pneumoniamnist.npz", folder / "home")
