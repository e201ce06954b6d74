"""The ledger on disk: only ever added to, whole after a kill, and every change to it shows."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from ledger_cases import CHEAP, PROCESSES, in_process, patients, reserve, rows

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.errors import PrivsynError
from privsyn.home import home
from privsyn.ledger import hash_chain
from privsyn.ledger.events import (
    ImagesReleased,
    LimitGranted,
    PatientsJoined,
    TrainingReserved,
    TrainingSettled,
    TrainingVoided,
    read_event,
    to_text,
)

NOBODY = 65534


@pytest.fixture
def path() -> Path:
    """A ledger of five entries: two cohorts, two trainings, one of them settled."""
    reserve("first", patients(0, 5))
    ledger.settle("first", [CHEAP])
    reserve("second", patients(5, 9))
    return home() / "ledger.sqlite"


@contextmanager
def _database(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        yield database


def _tamper(path: Path, *statements: str) -> None:
    """Do it all the same: guards off, statements, guards on."""
    with _database(path) as database:
        guards = database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in guards:
            database.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            assert database.execute(statement).rowcount > 0
        for _, guard in guards:
            database.execute(guard)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = '{}' WHERE seq = 2",
        "DELETE FROM entry WHERE seq = 5",
        "INSERT OR REPLACE INTO entry SELECT seq, kind, '', body, hash FROM entry WHERE seq = 2",
        "INSERT INTO entry SELECT 9, kind, time, body, 'f' || substr(hash, 2) FROM entry WHERE seq = 2",
        "INSERT OR REPLACE INTO entry SELECT 9, kind, time, body, hash FROM entry WHERE seq = 2",
        "UPDATE OR REPLACE entry SET seq = 1 WHERE seq = 2",
        "UPDATE member SET entry = 1",
        "DELETE FROM member",
        "INSERT OR REPLACE INTO member SELECT patient, 4 FROM member WHERE entry = 1",
        "INSERT INTO entry VALUES (6, 'refund', '', '{}', 'f')",
    ],
)
def test_the_database_itself_refuses_changes(path: Path, statement: str) -> None:
    """UPDATE, DELETE, REPLACE, gaps and unknown kinds fail for everybody who opens the file."""
    before = path.read_bytes()
    with _database(path) as database, pytest.raises(sqlite3.IntegrityError):
        database.execute(statement)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE entry SET body = replace(body, '20.0', '99.0') WHERE seq = 2", "entry 2 is not as it was"),
        ("UPDATE entry SET time = '2020-01-01T00:00:00Z' WHERE seq = 3", "entry 3 is not as it was"),
        ("UPDATE entry SET kind = 'void' WHERE seq = 3", "entry 3 is not as it was"),
        (
            "INSERT INTO entry SELECT 6, kind, time, body, hash FROM entry WHERE seq = 5",
            "entry 6 is not as it",
        ),
        ("INSERT INTO member SELECT '0' || patient, 2 FROM member", "entry 2 has patients"),
        ("DELETE FROM entry WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM entry WHERE seq = 1", "entry 1 is missing"),
        ("DELETE FROM member WHERE patient = (SELECT max(patient) FROM member)", "the patients of entry"),
        ("UPDATE member SET patient = 'f' || patient WHERE entry = 4", "the patients of entry 4"),
        ("UPDATE member SET entry = 2 WHERE entry = 1", "the patients of entry 1"),
    ],
)
def test_what_was_changed_is_named_and_nothing_goes_on(path: Path, statement: str, told: str) -> None:
    """An edited, removed or forged row is found by `check`, and no training is charged to such a ledger."""
    assert ledger.check()
    _tamper(path, statement)
    found = ledger.check()
    assert not found
    assert told in found.faults[0]
    for use in (lambda: reserve("third", patients(0, 5)), ledger.populations):
        with pytest.raises(PrivsynError, match=told):
            use()


def test_a_ledger_without_its_guards_is_not_used(path: Path) -> None:
    """Dropping a trigger shows, though no row has changed yet."""
    with _database(path) as database:
        database.execute("DROP TRIGGER entry_update")
    assert "guards" in ledger.check().faults[0]
    with pytest.raises(PrivsynError, match="guards"):
        reserve("third", patients(0, 5))


def test_an_older_copy_is_found_by_a_head_that_was_kept(path: Path, tmp_path: Path) -> None:
    """The copy is whole in itself, so only a hash that lies elsewhere can tell; any entry's hash will do."""
    shutil.copy(path, tmp_path / "backup")
    kept = reserve("third", patients(0, 5)).hash
    assert ledger.check(kept).since == 0
    reserve("fourth", patients(0, 5))
    assert ledger.check(f" {kept.upper()}\n").since == 1
    shutil.copy(tmp_path / "backup", path)
    assert ledger.check()
    found = ledger.check(kept)
    assert not found
    assert "older copy" in found.faults[0]


def test_entries_cut_off_at_the_end_are_found_by_a_head_alone(path: Path) -> None:
    """So `check` without one promises nothing about the end."""
    kept = ledger.overview().head
    _tamper(path, "DELETE FROM entry WHERE seq = 5")
    assert ledger.check()
    assert not ledger.check(kept)


def test_a_ledger_that_is_gone_is_found_by_a_head_alone(path: Path) -> None:
    """A missing file is not an error, unless there is evidence that there was one."""
    kept = ledger.overview().head
    path.unlink()
    assert ledger.populations() == []
    assert ledger.check() == ledger.ChainCheck(0, None, ())
    assert not ledger.check(kept)
    assert not path.exists()
    with pytest.raises(PrivsynError, match="64 hexadecimal digits"):
        ledger.check("latest")


@pytest.mark.usefixtures("path")
def test_another_key_would_make_strangers_of_all_patients() -> None:
    """Nothing is charged until key and ledger belong together again; and looking makes no new key."""
    key = home() / "patient.key"
    kept = key.read_bytes()
    for fresh in (bytes(32), None):
        key.unlink()
        if fresh is not None:
            key.write_bytes(fresh)
        assert "patient.key" in ledger.check().faults[0]
        assert key.exists() == (fresh is not None)
    with pytest.raises(PrivsynError, match=r"patient\.key is not the key"):
        reserve("third", patients(0, 5))
    key.write_bytes(kept)
    assert ledger.check()


def test_the_file_is_its_owners_alone(path: Path) -> None:
    """Mode 0600: membership in a training is private, HMAC or not."""
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_writer_leaves_nothing_half_written(path: Path) -> None:
    """kill -9 within a transaction, pages on disk already: all is as it was, and the lock is free."""
    with _database(path) as database:
        before = rows(database)
    ready = PROCESSES.Event()
    writer = PROCESSES.Process(target=_write_and_hang, args=(str(home()), ready))
    writer.start()
    assert ready.wait(60)
    writer.kill()
    writer.join()
    assert path.with_name("ledger.sqlite-journal").stat().st_size > 0
    assert [each.patients for each in ledger.populations()] == [5, 4]
    reserve("third", patients(0, 5))
    assert ledger.check()
    with _database(path) as database:
        assert rows(database)[:-1] == before


def _write_and_hang(folder: str, ready: Any) -> None:
    os.environ["PRIVSYN_HOME"] = folder
    store = hash_chain._store

    def store_and_hang(*arguments: Any) -> None:
        store(*arguments)
        ready.set()
        time.sleep(60)

    hash_chain._store = store_and_hang
    ledger.register(patients(0, 50_000))  # more than SQLite keeps in memory


@pytest.mark.usefixtures("path")
def test_a_clock_that_goes_backwards_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is that of the entries; times are for readers."""
    monkeypatch.setattr(hash_chain, "_now", lambda: "1970-01-01T00:00:00Z")
    reserve("third", patients(0, 5))
    ledger.void("third")
    assert ledger.check()
    assert [each.reference for each in ledger.populations()[0].entries] == ["first", "third"]


def test_a_ledger_in_use_is_waited_for_and_then_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading goes on meanwhile; nothing is recorded past the lock."""
    monkeypatch.setattr(hash_chain, "TIMEOUT", 0.05)
    with _database(path) as database:
        database.execute("BEGIN IMMEDIATE")
        with pytest.raises(PrivsynError, match="in use by another process: try again"):
            reserve("third", patients(0, 5))
        assert len(ledger.populations()) == 2
        database.execute("COMMIT")
        database.execute("BEGIN EXCLUSIVE")
        with pytest.raises(PrivsynError, match="try again"):
            ledger.populations()
        with pytest.raises(PrivsynError, match="try again"):
            ledger.check()


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_file_is_a_fault(path: Path, content: bytes) -> None:
    """Garbage in its place is found, refused and left alone."""
    path.write_bytes(content)
    assert "damaged" in ledger.check().faults[0]
    for use in (lambda: reserve("third", patients(0, 5)), ledger.populations):
        with pytest.raises(PrivsynError, match="damaged") as caught:
            use()
        assert len(str(caught.value).splitlines()) == 1
    assert path.read_bytes() == content


def test_a_page_that_was_overwritten_is_a_fault(path: Path) -> None:
    """A block that the disk returned as garbage."""
    with path.open("r+b") as handle:
        handle.seek(-4096, os.SEEK_END)
        handle.write(b"\xaa" * 4096)
    assert not ledger.check()


def test_a_ledger_of_another_version_is_left_to_it(path: Path) -> None:
    """What a later privsyn wrote is not guessed at."""
    with _database(path) as database:
        database.execute("PRAGMA user_version = 9")
    for use in (lambda: reserve("third", patients(0, 5)), ledger.populations, ledger.check):
        with pytest.raises(PrivsynError, match="is of version 9, not 3"):
            use()


def test_the_text_of_an_event_never_changes() -> None:
    """The hash chain covers it: a ledger that was written once must be read, and go on, for good."""
    mechanism = Mechanism(1.5, 0.25, 4)
    texts = {
        PatientsJoined("p", ("q",), 2, "ab", "cd"): '{"joined":["q"],"key_check":"cd","members_sha256":"ab",'
        '"patients":2,"population":"p"}',
        LimitGranted("patient", "add-or-remove-one", 8.0, 1e-05, "\u00e9", "p"): '{"delta":1e-05,'
        '"epsilon":8.0,"neighbouring":"add-or-remove-one","note":"\\u00e9","population":"p","unit":"patient"}',
        TrainingReserved("r", 2, "ab", "image", "add-or-remove-one", None, (), "why", "p"): '{"delta":null,'
        '"mechanisms":[],"neighbouring":"add-or-remove-one","patients":2,"patients_sha256":"ab",'
        '"population":"p","reference":"r","unbounded":"why","unit":"image"}',
        TrainingSettled("r", (mechanism,), "ab"): '{"mechanisms":[{"noise_multiplier":1.5,"sample_rate":0.25,'
        '"steps":4}],"outcome":"ab","reference":"r"}',
        TrainingVoided("r"): '{"reference":"r"}',
        ImagesReleased("r", "ab"): '{"reference":"r","statement":"ab"}',
    }
    for event, text in texts.items():
        assert to_text(event) == text
        assert read_event(event.kind, text) == event
    long = LimitGranted("patient", "add-or-remove-one", 8.0, 1e-05, "x" * 20_000, "p")
    assert read_event("grant", to_text(long)) == long


@pytest.mark.usefixtures("path")
def test_where_nothing_can_be_written_no_training_starts() -> None:
    """A ledger that is read-only refuses in one line, and is still shown and checked."""
    with tempfile.TemporaryDirectory() as folder:
        shared = Path(folder)
        for each in home().iterdir():
            shutil.copy(each, shared)
            (shared / each.name).chmod(0o444)
        shared.chmod(0o555)
        told, shown, checked = in_process(_as_ordinary_user, folder)
        shared.chmod(0o755)
    assert "check its permissions" in told
    assert len(told.splitlines()) == 1
    assert (shown, checked) == (2, True)


def _as_ordinary_user(folder: str) -> tuple[str, int, bool]:
    if os.getuid() == 0:  # to whom permissions mean nothing
        os.setuid(NOBODY)
    os.environ["PRIVSYN_HOME"] = folder
    told = ""
    try:
        reserve("third", patients(0, 5))
    except PrivsynError as error:
        told = str(error)
    return told, len(ledger.populations()), bool(ledger.check())


def test_a_full_disk_records_nothing(path: Path) -> None:
    """The error says so, and the ledger is the one it was."""
    before = path.read_bytes()
    assert "cannot be" in in_process(_with_a_full_disk)
    assert path.read_bytes() == before
    assert ledger.check()
    reserve("third", patients(0, 5))
    assert [len(each.entries) for each in ledger.populations()] == [2, 1]


def _with_a_full_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
    reserve("third", patients(0, 5))


def test_a_home_that_is_no_folder_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Something else in the place of the ledger is an error of one line."""
    monkeypatch.setenv("PRIVSYN_HOME", str(tmp_path))
    (tmp_path / "ledger.sqlite").mkdir()
    for use in (lambda: reserve("first", patients(0, 5)), ledger.populations):
        with pytest.raises(PrivsynError, match="cannot be opened"):
            use()
