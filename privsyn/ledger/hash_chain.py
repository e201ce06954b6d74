"""The ledger on disk: `$PRIVSYN_HOME/ledger.sqlite`, an append-only hash chain of entries.

The hash of an entry covers the one before it, and an entry that adds patients covers a digest of them, so any
later change is detected. That a file was replaced by an older copy of itself, or that its newest entries were
cut off, can only be detected with a hash that is kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from privsyn.errors import PrivsynError
from privsyn.home import home
from privsyn.ledger.events import Event, PatientsJoined, TrainingEvent, read_event, to_text

VERSION = 3
ENTRY_KINDS = {  # of entries, by version
    1: ("cohort", "grant", "reserve", "settle", "void"),
    2: ("cohort", "grant", "reserve", "settle", "void", "release"),
    3: ("cohort", "grant", "reserve", "progress", "repeat", "settle", "void", "release"),
}
TIMEOUT = 60.0  # seconds to wait for the lock; whoever holds it may be composing
GENESIS = "0" * 64
_ABORT = "SELECT RAISE(ABORT, 'the ledger is only ever added to')"
_ENTRY = """CREATE TABLE entry (
        seq INTEGER PRIMARY KEY CHECK (seq > 0),
        kind TEXT NOT NULL CHECK (kind IN ({kinds})),
        time TEXT NOT NULL,
        body TEXT NOT NULL,
        hash TEXT NOT NULL CHECK (length(hash) = 64)
    ) STRICT"""
_REST = (
    """CREATE TABLE member (
        patient TEXT PRIMARY KEY CHECK (length(patient) >= 32),
        entry INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    *(
        f"CREATE TRIGGER {table}_{verb.lower()} BEFORE {verb} ON {table} BEGIN {_ABORT}; END"
        for table in ("entry", "member")
        for verb in ("UPDATE", "DELETE")
    ),
    # INSERT OR REPLACE removes rows without asking the triggers for DELETE, so inserting is guarded too,
    # and nothing but the primary keys is unique.
    f"""CREATE TRIGGER entry_insert BEFORE INSERT ON entry
        WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM entry) BEGIN {_ABORT}; END""",
    f"""CREATE TRIGGER member_insert BEFORE INSERT ON member
        WHEN EXISTS (SELECT 1 FROM member WHERE patient = NEW.patient) BEGIN {_ABORT}; END""",
)


@dataclass(frozen=True)
class LedgerRecord:
    """One entry of the ledger.

    Attributes:
        seq: 1, 2, 3 ... without gaps; the order of events, whatever the clock said.
        time: UTC, for readers; nothing is decided by it.
        event: what happened.
        hash: sha256 (hex) of the previous entry's hash and of this entry.
    """

    seq: int
    time: str
    event: Event
    hash: str

    @property
    def kind(self) -> str:
        """`cohort`, `grant`, `reserve`, `progress`, `repeat`, `settle`, `void` or `release`."""
        return self.event.kind

    @property
    def reference(self) -> str | None:
        """The training that the event is about; None for events about a population."""
        return self.event.reference if isinstance(self.event, TrainingEvent) else None


@dataclass(frozen=True)
class Log:
    """All entries of the ledger.

    Attributes:
        entries: in order, each checked against the one before.
        members: HMAC of a patient (hex) to the `cohort` entry that added it.
    """

    entries: tuple[LedgerRecord, ...] = ()
    members: Mapping[str, int] = field(default_factory=dict)

    @property
    def head(self) -> str | None:
        """The hash of the newest entry, which covers everything before."""
        return self.entries[-1].hash if self.entries else None

    def extended(self, event: Event, members: Iterable[str] = ()) -> Log:
        """The log with one more entry, stamped with the current time; nothing is written."""
        seq, time = len(self.entries) + 1, _now()
        chained = _chained(self.head or GENESIS, seq, event.kind, time, to_text(event))
        entry = LedgerRecord(seq, time, event, chained)
        return Log((*self.entries, entry), {**self.members, **dict.fromkeys(members, seq)})


@dataclass(frozen=True)
class ChainCheck:
    """The result of an inspection.

    Attributes:
        entries: how many there are, up to the first that is broken.
        head: hash of the last of them.
        faults: what is wrong, the first broken entry first; empty if nothing is.
        since: entries added after the one whose hash was given; None if none was given, or it is not there.
    """

    entries: int
    head: str | None
    faults: tuple[str, ...]
    since: int | None = None

    def __bool__(self) -> bool:
        return not self.faults


def ledger_file() -> Path:
    """The path of the ledger, which the first entry creates."""
    return home() / "ledger.sqlite"


def members_digest(patients: Iterable[str]) -> str:
    """sha256 (hex) of the sorted HMACs, one a line."""
    return hashlib.sha256("".join(f"{patient}\n" for patient in sorted(patients)).encode()).hexdigest()


def read() -> Log:
    """The ledger as it is; empty if there is none. Writes nothing.

    Raises:
        PrivsynError: it cannot be opened, or is not as it was written.
    """
    path = ledger_file()
    if not path.exists():
        return Log()
    with _in_words(path), _opened(path, "BEGIN") as database:
        return _trusted(path, database)


def amend(change: Callable[[Log], Log]) -> Log:
    """Add what `change` adds to the log, as one transaction; if it raises, nothing has happened.

    The lock is taken before the log is read, so that no other process can add an entry in between.

    Raises:
        PrivsynError: the ledger cannot be written, or is not as it was written.
    """
    path = ledger_file()
    with _in_words(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        with _opened(path, "BEGIN IMMEDIATE") as database:
            if _is_new(database):
                for statement in (*schema(), f"PRAGMA user_version = {VERSION}"):
                    database.execute(statement)
            before = _trusted(path, database)
            _bring_up_to_date(database)
            after = change(before)
            _store(database, before, after)
    return after


def inspect(head: str | None = None) -> ChainCheck:
    """Recompute the chain and the digests of the patients, and let SQLite check its file.

    Args:
        head: a hash that was once the newest; if it is not in the chain, this is another ledger or an older
            copy. Without it, entries that were cut off at the end cannot be missed.

    Raises:
        PrivsynError: the ledger cannot be opened.
    """
    path = ledger_file()
    log, faults = Log(), list[str]()
    if path.exists():
        with _in_words(path):
            try:
                with _opened(path, "BEGIN") as database:
                    log, faults = _examined(path, database)
                    found = [row[0] for row in database.execute("PRAGMA integrity_check")]
                    faults += [f"SQLite: {text}" for text in found if text != "ok"]
            except sqlite3.DatabaseError as error:
                if _cure(error) != _DAMAGED:
                    raise
                faults.append(f"the file is damaged ({error})")
    places = [entry.seq for entry in log.entries if entry.hash == head]
    if head is not None and not places:
        faults.append(
            f"no entry has the hash {head}: {path} is missing, was put back from an older copy, was cut "
            "short, or is another ledger"
        )
    since = log.entries[-1].seq - places[0] if places else None
    return ChainCheck(len(log.entries), log.head, tuple(faults), since)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _chained(previous: str, seq: int, kind: str, time: str, text: str) -> str:
    return hashlib.sha256((previous + json.dumps([seq, kind, time, text])).encode()).hexdigest()


@contextmanager
def _opened(path: Path, begin: str) -> Iterator[sqlite3.Connection]:
    """A transaction: committed at the end, and rolled back by the closing if anything is raised.

    `mode=rw` also for reading: after a killed writer, its half-written pages must first be rolled back.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    # Python's own transactions begin at the first INSERT, which is after the look at what is spent.
    with closing(sqlite3.connect(uri, uri=True, timeout=TIMEOUT, isolation_level=None)) as database:
        # FULL, and the folder too: else a power cut may bring the journal back, which undoes the commit.
        database.execute("PRAGMA synchronous=EXTRA")
        database.execute(f"PRAGMA query_only={int(begin == 'BEGIN')}")
        database.execute(begin)
        yield database
        database.execute("COMMIT")


def _is_new(database: sqlite3.Connection) -> bool:
    return _schema(database) == [] and _version(database) == 0


def _schema(database: sqlite3.Connection) -> list[tuple[str, str, str | None]]:
    return database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()


def schema(version: int = VERSION) -> tuple[str, ...]:
    """The statements that make an empty ledger."""
    return (_ENTRY.format(kinds=", ".join(f"'{kind}'" for kind in ENTRY_KINDS[version])), *_REST)


def _bring_up_to_date(database: sqlite3.Connection) -> None:
    """Give a ledger of an earlier version, which was checked, the tables of this one; its entries stay."""
    if _version(database) == VERSION:
        return
    for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        database.execute(f"DROP TRIGGER {trigger}")
    for table in ("entry", "member"):
        database.execute(f"ALTER TABLE {table} RENAME TO earlier_{table}")
    tables, guards = schema()[:2], schema()[2:]
    for statement in tables:
        database.execute(statement)
    for table in ("entry", "member"):
        database.execute(f"INSERT INTO {table} SELECT * FROM earlier_{table} ORDER BY 1")
        database.execute(f"DROP TABLE earlier_{table}")
    for statement in (*guards, f"PRAGMA user_version = {VERSION}"):
        database.execute(statement)


def _version(database: sqlite3.Connection) -> int:
    return int(database.execute("PRAGMA user_version").fetchone()[0])


def _expected_schema(version: int) -> list[tuple[str, str, str | None]]:
    with closing(sqlite3.connect(":memory:")) as database:
        for statement in schema(version):
            database.execute(statement)
        return _schema(database)


def _store(database: sqlite3.Connection, before: Log, after: Log) -> None:
    for entry in after.entries[len(before.entries) :]:
        row = (entry.seq, entry.kind, entry.time, to_text(entry.event), entry.hash)
        database.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?)", row)
    fresh = sorted(after.members.keys() - before.members.keys())
    database.executemany("INSERT INTO member VALUES (?, ?)", ((each, after.members[each]) for each in fresh))


def _trusted(path: Path, database: sqlite3.Connection) -> Log:
    log, faults = _examined(path, database)
    if faults:
        raise PrivsynError(f"{path}: {faults[0]}; put back a copy that `privsyn ledger check` accepts")
    return log


def _examined(path: Path, database: sqlite3.Connection) -> tuple[Log, list[str]]:
    """The log up to the first broken entry, and what is broken."""
    if _is_new(database):
        return Log(), []
    version = _version(database)
    if version not in ENTRY_KINDS:
        raise PrivsynError(f"{path} is of version {version}, not {VERSION}: use the privsyn that wrote it")
    if _schema(database) != _expected_schema(version):
        return Log(), ["its tables, or what guards them against changes, are not those that privsyn made"]
    entries: list[LedgerRecord] = []
    for seq, kind, time, text, hashed in database.execute("SELECT * FROM entry ORDER BY seq"):
        place, previous = len(entries) + 1, entries[-1].hash if entries else GENESIS
        if seq != place:
            return Log(tuple(entries)), [f"entry {place} is missing"]
        if hashed != _chained(previous, seq, kind, time, text):
            return Log(tuple(entries)), [f"entry {place} is not as it was written"]
        try:
            event = read_event(kind, text)
        except (PrivsynError, ValueError) as error:
            return Log(tuple(entries)), [f"entry {place} cannot be read: {error}"]
        entries.append(LedgerRecord(seq, time, event, hashed))
    members = dict(database.execute("SELECT patient, entry FROM member").fetchall())
    return Log(tuple(entries), members), _member_faults(entries, members)


def _member_faults(entries: Iterable[LedgerRecord], members: Mapping[str, int]) -> list[str]:
    found: dict[int, list[str]] = defaultdict(list)
    for patient, seq in members.items():
        found[seq].append(patient)
    bound = {
        entry.seq: entry.event.members_sha256 for entry in entries if isinstance(entry.event, PatientsJoined)
    }
    broken = [seq for seq, digest in bound.items() if members_digest(found[seq]) != digest]
    strays = found.keys() - bound.keys()
    faults = [f"the patients of entry {seq} are not those it was written with" for seq in broken]
    return faults + [f"entry {seq} has patients and is not of a cohort" for seq in sorted(strays)]


_DAMAGED = "is damaged ({error}): put back a copy that `privsyn ledger check` accepts"
_CURES = {
    "BUSY": "is in use by another process: try again",
    "READONLY": "cannot be written ({error}), so nothing was recorded: check its permissions",
    "CANTOPEN": "cannot be opened ({error}): check its permissions and those of its folder",
    "FULL": "cannot be written ({error}), so nothing was recorded: make room on the disk",
    "IOERR": "cannot be read or written ({error}), so nothing was recorded: check the disk",
}


def _cure(error: sqlite3.Error) -> str:
    name = str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))
    return _CURES.get(name.split("_")[1], _DAMAGED)


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the file system as one line that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise PrivsynError(f"{path} {_cure(error).format(error=error)}") from None
    except OSError as error:
        text = _CURES["CANTOPEN"].format(error=error.strerror)
        raise PrivsynError(f"{path} {text}") from None
