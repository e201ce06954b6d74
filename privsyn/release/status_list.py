"""The status list: a signed list of releases and approvals that were revoked, superseded or suspended.

It expires soon, so that an old list cannot be passed off as the present one, and its version only grows.
Standard library and securesystemslib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, get_args

from privsyn.files import json_text
from privsyn.release.envelope import STATUS, Envelope, read_envelope
from privsyn.release.trust import SEALER, Trust
from privsyn.strict_json import Fields, JsonObject, now_or, read_strictly, refuse, spelled

WHAT = "the status list"
ListedState = Literal["revoked", "superseded", "suspended"]
STATES: tuple[ListedState, ...] = get_args(ListedState)
LONGEST = timedelta(days=90)


@dataclass(frozen=True)
class StatusEntry:
    """The state of one statement, certificate or approval, which is named by its sha256."""

    digest: str
    state: ListedState
    reason: str
    at: datetime


@dataclass(frozen=True)
class StatusList:
    """A status list whose signatures were checked.

    Attributes:
        entries: by digest.
        digest: sha256 (hex) of what was signed.
    """

    version: int
    issued: datetime
    expires: datetime
    entries: Mapping[str, StatusEntry]
    digest: str

    def is_fresh(self, now: datetime) -> bool:
        return now <= self.expires

    @property
    def revoked(self) -> dict[str, ListedState]:
        """Digest to state."""
        return {digest: entry.state for digest, entry in self.entries.items()}


def read_status(raw: bytes, trust: Trust, *, now: datetime | None = None) -> StatusList:
    """Read a list that is signed by sealers of the trust file; it may have expired.

    Raises:
        Refused: it is not well formed, of another organisation, from the future, or not signed by them.
    """
    envelope = read_envelope(raw, STATUS, WHAT)
    status = parse_status(envelope, trust.id)
    now = now_or(now)
    if status.issued > now:
        refuse(WHAT, f"is dated in the future ({spelled(status.issued)})")
    if status.expires - status.issued > LONGEST:
        refuse(WHAT, f"is valid for more than {LONGEST.days} days")
    trust.need(SEALER, envelope, WHAT, now)
    return status


def parse_status(envelope: Envelope, organisation: str) -> StatusList:
    """What an envelope says, whoever signed it."""
    known = ("schema_version", "id", "version", "issued", "expires", "entries")
    fields = Fields(read_strictly(envelope.payload, WHAT), WHAT, known)
    if fields.integer("schema_version", least=1) != 1:
        refuse(WHAT, "is of a version that this privsyn does not know")
    if fields.slug("id") != organisation:
        refuse(WHAT, f"is that of another organisation than the trust file ({organisation})")
    entries = [_entry(each) for each in fields.list("entries")]
    if len({entry.digest for entry in entries}) != len(entries):
        refuse(WHAT, "has two entries about one digest")
    return StatusList(
        version=fields.integer("version", least=1),
        issued=fields.time("issued"),
        expires=fields.time("expires"),
        entries=MappingProxyType({entry.digest: entry for entry in entries}),
        digest=envelope.digest,
    )


def status_payload(
    organisation: str, version: int, issued: datetime, expires: datetime, entries: Iterable[StatusEntry]
) -> bytes:
    """The bytes to sign."""
    document: JsonObject = {
        "schema_version": 1,
        "id": organisation,
        "version": version,
        "issued": spelled(issued),
        "expires": spelled(expires),
        "entries": [
            {"sha256": entry.digest, "state": entry.state, "reason": entry.reason, "at": spelled(entry.at)}
            for entry in sorted(entries, key=lambda entry: entry.digest)
        ],
    }
    return json_text(document).encode()


def _entry(document: object) -> StatusEntry:
    fields = Fields(document, f"an entry of {WHAT}", ("sha256", "state", "reason", "at"))
    return StatusEntry(
        digest=fields.digest("sha256"),
        state=fields.choice("state", STATES),
        reason=fields.text("reason"),
        at=fields.time("at"),
    )
