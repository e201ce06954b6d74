"""Patients who must not be in any cohort: remembered on this machine, as keyed hashes.

A list is given once; every later `prepare` keeps to it, whether it is given again or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from privsyn.cohort.ingest import normal_id, pseudonym_of
from privsyn.errors import CohortError
from privsyn.files import locked, write_text
from privsyn.home import has_patient_key, home

_NAME = "opt-outs.txt"


def read_opt_outs(path: Path, key: bytes) -> frozenset[bytes]:
    """HMACs of the patients whose ids are listed in a text file, one a line; empty lines do not count.

    Raises:
        CohortError: the file cannot be read, or lists nobody.
    """
    try:
        ids = [normal_id(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"cannot read the opt-outs {path} ({type(error).__name__})") from None
    found = frozenset(pseudonym_of(f"patient {each}", key) for each in ids if each)
    if not found:
        raise CohortError(f"{path} lists no patient: one id a line, in UTF-8")
    return found


def remembered() -> frozenset[bytes]:
    """HMACs of all who ever opted out here."""
    if not has_patient_key():
        return frozenset()  # and nothing is made here for a mere look
    path = home() / _NAME
    if not path.exists():
        return frozenset()
    try:
        found = frozenset(bytes.fromhex(line) for line in path.read_text().split())
    except ValueError:
        found = frozenset([b""])
    if any(len(each) != 32 for each in found):
        raise CohortError(f"{path} is damaged: restore it, or patients who opted out would be taken in again")
    return found


def remember(patients: Iterable[bytes]) -> None:
    """Add to them; nobody is ever taken off by this program."""
    path = home() / _NAME
    with locked(path):
        together = remembered() | frozenset(patients)
        write_text(path, "".join(f"{each.hex()}\n" for each in sorted(together)))
        path.chmod(0o600)
