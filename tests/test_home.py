"""What outlives a study: a key readable by its owner alone, and a count that only grows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from privsyn.errors import PrivsynError
from privsyn.home import count_attempt, home, patient_key


def test_the_key_is_made_once_and_is_the_owners_alone() -> None:
    """32 bytes, mode 0600 in a folder of mode 0700, the same at every call and in every thread."""
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: patient_key(), range(8)))
    assert keys == {patient_key()}
    assert len(patient_key()) == 32
    assert home().stat().st_mode & 0o777 == 0o700
    assert (home() / "patient.key").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home().iterdir()] == ["patient.key"]


def test_a_damaged_key_is_not_replaced() -> None:
    """A new key would make every known patient a stranger: say so instead."""
    patient_key()
    (home() / "patient.key").write_bytes(b"short")
    with pytest.raises(PrivsynError, match="not a 32-byte key"):
        patient_key()


def test_attempts_are_counted_by_cohort() -> None:
    """Every audit of a cohort counts, partial ones and parallel ones too."""
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda n: count_attempt("a", partial=bool(n % 2)), range(8)))
    assert sorted(numbers) == list(range(1, 9))
    assert count_attempt("b", partial=False) == 1


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the folder and the variable that moves it."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PRIVSYN_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(PrivsynError, match="set PRIVSYN_HOME"):
        home()


def test_a_relative_home_is_refused_and_a_tilde_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another working directory must never be another ledger and another key."""
    monkeypatch.setenv("PRIVSYN_HOME", "home")
    with pytest.raises(PrivsynError, match=r"'home', which depends on the working directory"):
        home()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PRIVSYN_HOME", "~/.privsyn")
    assert home() == tmp_path / ".privsyn"
