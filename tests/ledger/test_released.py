"""Released models are distinguished from models that were only trained here."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from ledger_cases import CHEAP, DELTA, patients, reserve, reserve_unbounded, the_only

from privsyn import ledger
from privsyn.dp.accounting import epsilon
from privsyn.home import home
from privsyn.ledger.events import ImagesReleased
from privsyn.ledger.hash_chain import schema

PEOPLE = patients(0, 5)
FIRST, SECOND = "a" * 64, "b" * 64


def test_only_what_was_released_counts_as_released() -> None:
    """Two trainings are seen and one leaves: its figure alone is released, however many sets are drawn."""
    one = reserve("one", PEOPLE)
    reserve("two", PEOPLE)
    assert the_only().released == ()
    for statement in (FIRST, SECOND):
        entry = ledger.release(one.hash, statement)
        assert entry is not None
        assert (entry.kind, entry.event) == ("release", ImagesReleased("one", statement))
    (seen,), (released,) = the_only().seen, the_only().released
    assert released.epsilon == epsilon([CHEAP], DELTA)
    assert seen.epsilon == epsilon([CHEAP, CHEAP], DELTA)
    assert [charge.released for charge in the_only().entries] == [(FIRST, SECOND), ()]


def test_a_release_without_a_bound_leaves_released_without_one() -> None:
    """Trained without DP it was seen without a bound; released, nothing bounds what left either."""
    reserve("private", PEOPLE)
    entry = reserve_unbounded("open", PEOPLE)
    assert not the_only().seen[0].finite
    assert the_only().released == ()
    ledger.release(entry.hash, FIRST)
    assert [figure.finite for figure in the_only().released] == [False]


def test_a_release_is_recorded_once_and_changes_no_claim() -> None:
    """Sealed again it adds nothing; what a training's claim says stays as it was; the chain is intact."""
    entry = reserve("one", PEOPLE)
    before = ledger.account("one")
    first, again = ledger.release(entry.hash, FIRST), ledger.release(entry.hash, FIRST)
    assert first == again
    assert ledger.account("one") == before
    assert ledger.check()


def test_another_machines_training_is_not_recorded() -> None:
    """A claim of another ledger names no entry here."""
    reserve("one", PEOPLE)
    head = ledger.overview().head
    assert ledger.release("f" * 64, FIRST) is None
    assert ledger.overview().head == head


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_of_an_earlier_version_goes_on(version: int) -> None:
    """It is read as it is; the first addition brings it up to date, with every hash as it was."""
    one = reserve("one", PEOPLE)
    path, before = home() / "ledger.sqlite", ledger.overview().head
    with closing(sqlite3.connect(path)) as database:
        entries = database.execute("SELECT * FROM entry ORDER BY seq").fetchall()
        members = database.execute("SELECT * FROM member").fetchall()
    path.unlink()
    with closing(sqlite3.connect(path)) as database, database:
        for statement in (*schema(version), f"PRAGMA user_version = {version}"):
            database.execute(statement)
        database.executemany("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", entries)
        database.executemany("INSERT INTO member VALUES (?, ?)", members)
    assert (ledger.overview().head, bool(ledger.check())) == (before, True)
    assert ledger.release(one.hash, FIRST) is not None
    assert ledger.check(head=before)
    assert [charge.released for charge in the_only().entries] == [(FIRST,)]
    with closing(sqlite3.connect(path)) as database, pytest.raises(sqlite3.IntegrityError):
        database.execute("DELETE FROM entry")
