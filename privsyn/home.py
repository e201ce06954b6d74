"""The folder shared by all studies of this machine: `$PRIVSYN_HOME` (default `~/.privsyn`), mode 0700.

It holds the key of the patient HMACs, so that one patient is recognised across studies without storing an id,
and the counter of audit attempts, so that repeating an audit until it passes is visible.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from privsyn.errors import PrivsynError

KEY_BYTES = 32
KEY_PURPOSE = b"privsyn ledger: the key of its patients"
_SPLIT_PURPOSE = b"privsyn: the part of the split that each patient is in"


def home() -> Path:
    """The folder, made on first use with mode 0700."""
    folder = _folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PrivsynError(f"cannot create {folder} ({error.strerror}): set PRIVSYN_HOME") from None
    return folder


def _folder() -> Path:
    """Where `$PRIVSYN_HOME` says; never relative, or another working directory would be another ledger.

    Raises:
        PrivsynError: the path is relative.
    """
    named = os.environ.get("PRIVSYN_HOME")
    folder = Path(named).expanduser() if named else Path.home() / ".privsyn"
    if not folder.is_absolute():
        raise PrivsynError(
            f"PRIVSYN_HOME is {named!r}, which depends on the working directory: give an absolute path"
        )
    return folder


def has_patient_key() -> bool:
    """Whether there is one already; makes neither key nor folder."""
    return (_folder() / "patient.key").exists()


def patient_key() -> bytes:
    """The key of the patient HMACs (32 bytes from the operating system), made once with mode 0600."""
    path = home() / "patient.key"
    if not path.exists():
        fresh = path.with_name(f"patient.key.{secrets.token_hex(8)}")
        fresh.touch(mode=0o600)
        fresh.write_bytes(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):  # another process was first: its key is the one
            os.link(fresh, path)
        fresh.unlink()
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise PrivsynError(f"{path} is not a {KEY_BYTES}-byte key: restore it, or remove it to start afresh")
    return key


def key_check(key: bytes | None = None) -> str:
    """Identifies a key of patient HMACs without revealing it; by default this home's key."""
    return hmac.digest(patient_key() if key is None else key, KEY_PURPOSE, hashlib.sha256).hex()


def split_key(patients: bytes) -> bytes:
    """The key of the split's coins (32 bytes), derived from the key of the patient HMACs.

    One key for all populations of this machine, so a patient is in the same part in every study.
    """
    return hmac.digest(patients, _SPLIT_PURPOSE, hashlib.sha256)


def count_attempt(cohort_fingerprint: str, *, partial: bool) -> int:
    """Record one audit of a cohort and return its number, 1 for the first; partial audits count too."""
    path = home() / "attempts.sqlite"
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
        path.chmod(0o600)
        database.execute("PRAGMA synchronous=FULL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(
            "CREATE TABLE IF NOT EXISTS attempt (cohort TEXT NOT NULL, partial INTEGER NOT NULL) STRICT"
        )
        database.execute("INSERT INTO attempt VALUES (?, ?)", (cohort_fingerprint, int(partial)))
        row = database.execute("SELECT count(*) FROM attempt WHERE cohort = ?", (cohort_fingerprint,))
        number = int(row.fetchone()[0])
        database.execute("COMMIT")
    return number
