"""Patients who opted out of every cohort, remembered on this machine as keyed hashes.

A list is given once; every later `prepare` on this machine respects it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from privsyn.cohort.pseudonyms import normal_id, pseudonym_of
from privsyn.errors import CohortError
from privsyn.files import locked, write_text
from privsyn.home import has_patient_key, home

_NAME = "opt-outs.txt"


def read_opt_outs(path: Path, key: bytes) -> frozenset[bytes]:
    """HMACs of the patients whose ids a text file lists, one per line; empty lines are ignored.

    Raises:
        CohortError: the file cannot be read, or lists no patient.
    """
    try:
        ids = [normal_id(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CohortError(f"cannot read the opt-outs {path} ({type(error).__name__})") from None
    found = frozenset(pseudonym_of(f"patient {each}", key) for each in ids if each)
    if not found:
        raise CohortError(f"{path} lists no patient: write one id per line, in UTF-8")
    return found


def remembered() -> frozenset[bytes]:
    """HMACs of all patients who ever opted out on this machine."""
    if not has_patient_key():
        return frozenset()  # a check must not create a key
    path = home() / _NAME
    if not path.exists():
        return frozenset()
    try:
        found = frozenset(bytes.fromhex(line) for line in path.read_text().split())
    except ValueError:
        found = frozenset([b""])
    if any(len(each) != 32 for each in found):
        raise CohortError(
            f"{path} is damaged: restore it, otherwise patients who opted out would be included again"
        )
    return found


def remember(patients: Iterable[bytes]) -> None:
    """Add patients; privsyn never removes one."""
    path = home() / _NAME
    with locked(path):
        together = remembered() | frozenset(patients)
        write_text(path, "".join(f"{each.hex()}\n" for each in sorted(together)))
        path.chmod(0o600)
