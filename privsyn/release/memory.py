"""The newest trust file and status list that were seen on this machine, so that older ones are refused.

Who can choose what a recipient reads could otherwise hand out yesterday's list, on which nothing is revoked
yet. Kept in `$PRIVSYN_HOME/seen`, one file for each organisation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privsyn.errors import PrivsynError
from privsyn.files import read_json, write_json
from privsyn.home import home
from privsyn.release.documents import refuse
from privsyn.release.envelope import TRUST, read_envelope
from privsyn.release.status_list import WHAT as LIST
from privsyn.release.status_list import StatusList
from privsyn.release.trust import Trust, check_next, parse_trust


def check_and_remember(trust: Trust, raw: bytes, status: StatusList | None) -> str:
    """Hold trust file and status list against those seen before, and remember them.

    Returns:
        Why they could not be remembered, in words; empty if they were.

    Raises:
        Refused: one is older than what was seen, or differs under the same version.
    """
    try:
        path = home() / "seen" / f"{trust.id}.json"
        seen: dict[str, Any] = read_json(path) if path.exists() else {}
    except PrivsynError as error:
        return str(error)
    if "trust" in seen:
        envelope = read_envelope(raw, TRUST, "the trust file")
        before = read_envelope(str(seen["trust"]).encode(), TRUST, f"the trust file in {path}")
        check_next(parse_trust(before), trust, envelope)
    if status is not None and "status" in seen:
        _check_newer(status, seen["status"])
    found = {"trust": raw.decode()}
    listed = {"version": status.version, "sha256": status.digest} if status else seen.get("status")
    document = {**found, **({"status": listed} if listed else {})}
    return _write(path, document) if document != seen else ""


def _check_newer(status: StatusList, seen: dict[str, Any]) -> None:
    if status.version < seen["version"]:
        refuse(LIST, f"is version {status.version}, and version {seen['version']} was seen before")
    if status.version == seen["version"] and status.digest != seen["sha256"]:
        refuse(LIST, f"differs from the version {status.version} that was seen before")


def _write(path: Path, document: dict[str, Any]) -> str:
    try:
        write_json(path, document)
    except OSError as error:
        return f"{path} cannot be written ({error.strerror})"
    return ""
