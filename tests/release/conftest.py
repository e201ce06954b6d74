"""Releases made by hand: unsigned drafts, and an organisation whose people sign."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafted import make_study
from house import House, claims, fill, state_of

from privsyn.release.bundle import Bundle
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE
from privsyn.study import Study


@pytest.fixture(scope="session")
def house() -> House:
    """People with keys, the same for every test."""
    return House()


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Path]:
    """Make a small unsigned draft by hand, with claims of one's own."""

    def make(name: str = "release", **changes: Any) -> Path:
        folder = tmp_path / name
        fill(folder)
        statement = state_of(folder, claims(**changes))
        bundle = Bundle(Envelope(statement.to_bytes(), IN_TOTO), statement)
        (folder / BUNDLE).write_bytes(bundle.to_bytes())
        return folder

    return make


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("release")).root


@pytest.fixture
def study(_finished: Path, tmp_path: Path) -> Study:
    """A copy of a study that has everything a release needs."""
    return Study(Path(shutil.copytree(_finished, tmp_path / "study")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a release is made."""
    return tmp_path / "release"


@pytest.fixture
def trust(house: House, tmp_path: Path) -> Path:
    """The house's trust file, signed by its roots."""
    return house.write_trust(tmp_path / "trust.json")
