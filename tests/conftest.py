"""What every test gets: a home of its own, and the shared real data where they are at hand."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from homes import new_home

# One thread: on networks this small a second one mostly waits, and results do not depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Minutes each: begun first, so that none of them is left to one process alone at the end.
LONGEST = frozenset({"test_readme.py", "test_charges.py", "test_chain.py", "test_quality_audits.py"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; otherwise as they were found."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session", autouse=True)
def _home_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what is made once for a module or the session, before any test has a home of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(tmp_path_factory.mktemp("homes") / "privsyn"))
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVSYN_HOME", new_home(tmp_path_factory.mktemp("home") / "privsyn"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the checkout on development machines."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data (PneumoniaMNIST, BCCD) beside the checkout")
    return folder
