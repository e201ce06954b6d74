"""Put a release or an approval on the status list: revoked, superseded or suspended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn.errors import PrivsynError, Refused
from privsyn.files import locked, whole_file
from privsyn.release.envelope import STATUS, Envelope
from privsyn.release.status_list import (
    LONGEST,
    ListedState,
    StatusEntry,
    StatusList,
    read_status,
    status_payload,
)
from privsyn.release.trust import Trust
from privsyn.strict_json import now_or, read_file

LIST_DAYS = 30


def revoke(
    digest: str,
    *,
    state: ListedState,
    reason: str,
    signers: Sequence[Signer],
    trust: Trust,
    status: Path,
    valid_days: int = LIST_DAYS,
) -> StatusList:
    """Write the next version of a status list, with an entry about a release or an approval; return it.

    Args:
        digest: sha256 of a statement, a certificate or an approval, or "" to renew the list as it is.
        status: the list; made if it is not there.

    Raises:
        Refused: the list that is there is not one of the trust file's, or who signs may not.
        PrivsynError: a reason is missing.
    """
    if digest and not reason.strip():
        raise PrivsynError("a release is revoked for a reason: give it with --reason")
    if not 1 <= valid_days <= LONGEST.days:
        raise PrivsynError(f"a status list is valid for 1 to {LONGEST.days} days, not {valid_days}")
    now = now_or(None)
    entry = StatusEntry(digest, state, reason, now) if digest else None
    with locked(status):
        there = read_file(status) if status.exists() else None
        before = None if there is None else read_status(there, trust)
        version, expires = before.version + 1 if before else 1, now + timedelta(days=valid_days)
        payload = status_payload(trust.id, version, now, expires, _entries(before, entry))
        envelope = Envelope(payload, STATUS).signed(*signers)
        found = read_status(envelope.line, trust, now=now)
        if there != (read_file(status) if status.exists() else None):
            raise PrivsynError(f"{status} was changed meanwhile: run the command again")
        with whole_file(status) as partial:
            partial.write_bytes(envelope.line)
    return found


def _entries(before: StatusList | None, entry: StatusEntry | None) -> list[StatusEntry]:
    entries = dict(before.entries) if before else {}
    if entry is None:
        return list(entries.values())
    known = entries.get(entry.digest)
    if known is not None and known.state == "revoked" and entry.state != "revoked":
        raise Refused(f"{entry.digest[:12]} is revoked, and what is revoked stays revoked")
    return list({**entries, entry.digest: entry}.values())
