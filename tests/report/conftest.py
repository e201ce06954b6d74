"""A study to report on, built once and copied for each test."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audited_study import add_quality, build
from homes import new_home

from privsyn.study import Study


@pytest.fixture(scope="session")
def _audited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        return build(folder).root


@pytest.fixture
def study(_audited: Path, tmp_path: Path) -> Study:
    """A copy of the study for one test."""
    return Study(Path(shutil.copytree(_audited, tmp_path / _audited.name)))


@pytest.fixture
def useful(study: Study) -> Study:
    """A study whose policy asks about quality, too."""
    add_quality(study)
    return study
