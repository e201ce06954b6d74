"""The claim and the verdict of a study, parsed from their files; needs neither numpy nor pandas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from privsyn.auditing.verdict import Verdict, read_verdict
from privsyn.claim.document import Claim
from privsyn.claim.reader import read_claim
from privsyn.errors import Refused, StudyError
from privsyn.files import read_json

Parsed = TypeVar("Parsed")


def load_claim(path: Path) -> Claim:
    """Read `model/privacy.json`.

    Raises:
        PrivsynError: the file is missing or not JSON.
        StudyError: it is not a claim of this version.
    """
    return _parsed(path, read_claim)


def load_verdict(path: Path) -> Verdict:
    """Read `audit/verdict.json`.

    Raises:
        PrivsynError: the file is missing or not JSON.
        StudyError: it is not a verdict of this version.
    """
    return _parsed(path, read_verdict)


def _parsed(path: Path, parse: Callable[[object, str], Parsed]) -> Parsed:
    try:
        return parse(read_json(path), str(path))
    except Refused as error:  # in a study of one's own, a bad file is bad input
        raise StudyError(str(error)) from None
