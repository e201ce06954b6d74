"""Rollback protection: refuse trust files and status lists older than those seen on this machine.

Who can choose what a recipient reads could otherwise hand out yesterday's list, on which nothing is revoked
yet, or none. Kept in `$PRIVSYN_HOME/seen`, one file for each organisation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from privsyn.errors import PrivsynError, Refused
from privsyn.files import locked, write_json
from privsyn.home import home
from privsyn.release.envelope import STATUS, TRUST, read_envelope
from privsyn.release.status_list import WHAT as LIST
from privsyn.release.status_list import StatusList, parse_status, read_status
from privsyn.release.trust import WHAT as FILE
from privsyn.release.trust import Trust, check_next, parse_trust
from privsyn.strict_json import Fields, read_strictly, refuse


@dataclass(frozen=True)
class RollbackCheck:
    """What a comparison with the past gave.

    Attributes:
        status: the list to go by: the one given, else the one seen before; None if there is neither.
        remembered: it is the one seen before.
        not_compared: why nothing could be compared, in words; "" if it was.
        not_kept: why this time will not be known next time; "" if it will.
    """

    status: StatusList | None
    remembered: bool = False
    not_compared: str = ""
    not_kept: str = ""


def compare(trust: Trust, trust_raw: bytes, status_raw: bytes | None, now: datetime) -> RollbackCheck:
    """Compare trust file and status list with those seen before, and remember them.

    Raises:
        Refused: one is older than what was seen, differs under the same version, or takes back a revocation;
            or the list is not one of the trust file's.
    """
    given = None if status_raw is None else read_status(status_raw, trust, now=now)
    try:
        path = home() / "seen" / f"{trust.id}.json"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with locked(path):
            return _compare(path, trust, trust_raw, given, status_raw)
    except Refused:
        raise
    except (OSError, PrivsynError) as error:
        return RollbackCheck(given, not_kept=str(error))


def _compare(
    path: Path,
    trust: Trust,
    trust_raw: bytes,
    given: StatusList | None,
    status_raw: bytes | None,
) -> RollbackCheck:
    try:
        before = _read(path)
    except Refused as refusal:
        return RollbackCheck(given, not_compared=str(refusal))
    if before is None:
        _write(path, trust_raw, status_raw)
        return RollbackCheck(given)
    kept_trust, kept_status = before
    check_next(
        parse_trust(read_envelope(kept_trust, TRUST, str(path))), trust, read_envelope(trust_raw, TRUST, FILE)
    )
    seen = (
        None if kept_status is None else parse_status(read_envelope(kept_status, STATUS, str(path)), trust.id)
    )
    if given is not None and seen is not None:
        _check_newer(given, seen)
    _write(path, trust_raw, status_raw if status_raw is not None else kept_status)
    return RollbackCheck(given) if given is not None or seen is None else RollbackCheck(seen, remembered=True)


def _read(path: Path) -> tuple[bytes, bytes | None] | None:
    """The lines of trust file and status list that were kept.

    Raises:
        Refused: what is there cannot be read.
    """
    if not path.exists():
        return None
    fields = Fields(read_strictly(path.read_bytes(), str(path)), str(path), ("trust", "status"))
    trust = fields.text("trust", longest=2**24).encode()
    status = fields.document.get("status")
    parse_trust(read_envelope(trust, TRUST, str(path)))
    return trust, None if status is None else fields.text("status", longest=2**24).encode()


def _check_newer(status: StatusList, seen: StatusList) -> None:
    if status.version < seen.version:
        refuse(LIST, f"is version {status.version}, and version {seen.version} was seen before")
    if status.version == seen.version and status.digest != seen.digest:
        refuse(LIST, f"differs from the version {status.version} that was seen before")
    for digest, entry in seen.entries.items():
        if entry.state == "revoked" and status.revoked.get(digest) != "revoked":
            refuse(LIST, f"no longer has {digest[:12]}, which version {seen.version} revoked")


def _write(path: Path, trust_raw: bytes, status_raw: bytes | None) -> None:
    document = {"trust": trust_raw.decode(), "status": None if status_raw is None else status_raw.decode()}
    if not path.exists() or json.loads(path.read_bytes()) != document:
        write_json(path, document)
