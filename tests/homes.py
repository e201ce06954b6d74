"""Homes whose key is known, so that pseudonyms and the split are the same in every run of the tests."""

from __future__ import annotations

import hashlib
from pathlib import Path

KEY = hashlib.sha256(b"the key of the tests").digest()


def new_home(home: Path, key: bytes = KEY) -> str:
    """A home with this key, as `PRIVSYN_HOME` names it; one that is there is kept."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (home / "patient.key").exists():
        (home / "patient.key").touch(mode=0o600)
        (home / "patient.key").write_bytes(key)
    return str(home)
