"""The end of a release's making, and what may happen to it later: seal, revoke, trust.

Each writes one file, whole or not at all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn import ledger
from privsyn.errors import PrivsynError, Refused
from privsyn.files import locked, whole_file
from privsyn.release.approvals import tally
from privsyn.release.approve import collected, current_draft
from privsyn.release.bundle import Bundle, Certificate, certificate_payload, check_gate, read_bundle
from privsyn.release.envelope import IN_TOTO, STATUS, TRUST, Envelope, read_envelope
from privsyn.release.keys import read_public
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.status_list import (
    LONGEST,
    ListedState,
    StatusEntry,
    StatusList,
    read_status,
    status_payload,
)
from privsyn.release.trust import (
    PIPELINE,
    SEALER,
    Person,
    Role,
    Trust,
    parse_trust,
    read_trust,
    trust_payload,
)
from privsyn.strict_json import Fields, check_slug, now_or, read_file
from privsyn.study import Study, as_study

STATUS_DAYS = 30
SHOWN = 3  # reasons in one message


def seal(
    study: Study | Path | str,
    *,
    signers: Sequence[Signer],
    trust: Trust,
    approvals: Sequence[Path] = (),
    status: Path | None = None,
) -> Path:
    """Close the bundle of the study's draft with a certificate, if all whom the trust file asks for agreed.

    Args:
        signers: keys of as many sealers as their role needs.
        approvals: files of decisions that do not lie in the study.
        status: the status list, on which approvals may have been withdrawn.

    Returns:
        The release folder, which may leave.

    Raises:
        Refused: the verdict is not pass and nobody waived what failed, an approval is missing, somebody
            objects, a question is open, or who seals may not.
    """
    study, now = as_study(study), now_or(None)
    draft = current_draft(study)
    makers = trust.need(PIPELINE, draft.envelope, "the statement", now)
    assert draft.gate is not None
    check_gate(draft.gate, draft.statement)
    trust.need(PIPELINE, draft.gate, "the gate's result", now)
    if draft.statement.valid_until < now:
        raise Refused("not sealed: the draft has expired; draft again with --force")
    decisions = collected(study, draft.statement, approvals)
    withdrawn = read_status(read_file(status), trust).revoked if status else {}
    counted = tally(decisions, draft.statement, makers, trust, now, withdrawn)
    if counted.reasons:
        more = len(counted.reasons) - SHOWN
        rest = f"; and {more} more (privsyn release status)" if more > 0 else ""
        raise Refused(f"not sealed: {'; '.join(counted.reasons[:SHOWN])}{rest}")
    bundle = Bundle(draft.envelope, draft.statement, draft.gate, tuple(decisions))
    certificate = Certificate(trust.id, trust.version, counted.waivers, now)
    envelope = Envelope(certificate_payload(bundle, certificate), IN_TOTO).signed(*signers)
    trust.need(SEALER, envelope, "the certificate", now)
    sealed = replace(bundle, certificate=envelope)
    read_bundle(sealed.to_bytes())  # what is written can be read
    _record(draft.statement)
    with whole_file(study.release / BUNDLE, aside=study.root) as partial:
        partial.write_bytes(sealed.to_bytes())
    return study.release


def _record(statement: Statement) -> None:
    """Tell the ledger what leaves, before it can; a release sealed on another machine finds no such entry."""
    if statement.ledger_head is not None:
        ledger.release(statement.ledger_head, statement.digest)


def revoke(
    digest: str,
    *,
    state: ListedState,
    reason: str,
    signers: Sequence[Signer],
    trust: Trust,
    status: Path,
    valid_days: int = STATUS_DAYS,
) -> StatusList:
    """Write the next version of a status list, with what is said of a release or an approval.

    Args:
        digest: sha256 of a statement, a certificate or an approval, or "" to prolong the list as it is.
        state: `revoked`, `superseded` or `suspended`.
        status: the list; made if it is not there.

    Returns:
        The new list.

    Raises:
        Refused: the list that is there is not one of the trust file's, or who signs may not.
        PrivsynError: a reason is missing.
    """
    now = now_or(None)
    if digest and not reason.strip():
        raise PrivsynError("a release is revoked for a reason: say it with --reason")
    if not 1 <= valid_days <= LONGEST.days:
        raise PrivsynError(f"a status list is valid for 1 to {LONGEST.days} days, not {valid_days}")
    with locked(status):
        there = read_file(status) if status.exists() else None
        before = None if there is None else read_status(there, trust)
        entries = dict(before.entries) if before else {}
        if digest in entries and entries[digest].state == "revoked" and state != "revoked":
            raise Refused(f"{digest[:12]} is revoked, and what is revoked stays revoked")
        if digest:
            entries[digest] = StatusEntry(digest, state, reason, now)
        version = before.version + 1 if before else 1
        payload = status_payload(trust.id, version, now, now + timedelta(days=valid_days), entries.values())
        envelope = Envelope(payload, STATUS).signed(*signers)
        found = read_status(envelope.line, trust, now=now)
        if there != (read_file(status) if status.exists() else None):
            raise PrivsynError(f"{status} was changed meanwhile: run the command again")
        with whole_file(status) as partial:
            partial.write_bytes(envelope.line)
    return found


def write_trust(source: Path, *, signers: Sequence[Signer], out: Path) -> tuple[Trust, str]:
    """Sign a trust file, or add signatures to one.

    Args:
        source: a TOML file with `id`, `version`, `expires`, `[persons.ID]` (`name`, `key` file of the public
            key beside it, `valid_from`, `valid_until`) and `[roles.ID]` (`persons`, `threshold`), or a trust
            file that others signed.
        out: where to write it.

    Returns:
        What it says, and why it is not to be believed yet; "" if enough have signed.

    Raises:
        PrivsynError: the source cannot be read.
        Refused: it would not be well formed.
    """
    raw = read_file(source)
    if source.suffix == ".toml":
        envelope = Envelope(_planned(source, raw), TRUST)
    else:
        envelope = read_envelope(raw, TRUST, str(source))
    envelope = envelope.signed(*signers)
    trust = parse_trust(envelope)
    if out.exists():
        read_envelope(read_file(out), TRUST, str(out))  # nothing else is replaced
    with whole_file(out) as partial:
        partial.write_bytes(envelope.line)
    try:
        read_trust(envelope.line)
    except Refused as refusal:
        return trust, str(refusal)
    return trust, ""


def _planned(source: Path, raw: bytes) -> bytes:
    try:
        plan = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PrivsynError(f"{source} is not valid TOML ({error})") from None
    what = str(source)
    fields = Fields(plan, what, ("id", "version", "expires", "persons", "roles"))
    persons = [_person(name, each, source) for name, each in fields.mapping("persons").items()]
    roles = [_role(name, each, what) for name, each in fields.mapping("roles").items()]
    return trust_payload(
        id=fields.slug("id"),
        version=fields.integer("version", least=1),
        expires=_moment(plan.get("expires"), f"{what}: expires"),
        persons=persons,
        roles=roles,
    )


def _person(name: str, document: object, source: Path) -> Person:
    what = f"{source}: person {name}"
    fields = Fields(document, what, ("name", "key", "valid_from", "valid_until"))
    window = [
        None if fields.document.get(key) is None else _moment(fields.document[key], f"{what}: {key}")
        for key in ("valid_from", "valid_until")
    ]
    key = read_public(source.parent / fields.text("key"))
    return Person(check_slug(name, what), fields.text("name", longest=200), key, window[0], window[1])


def _role(name: str, document: object, what: str) -> Role:
    fields = Fields(document, f"{what}: role {name}", ("persons", "threshold"))
    persons = frozenset(check_slug(person, f"{what}: role {name}") for person in fields.list("persons"))
    return Role(check_slug(name, what), persons, fields.integer("threshold", least=1))


def _moment(value: object, what: str) -> datetime:
    if isinstance(value, datetime):
        return now_or(value if value.tzinfo else value.replace(tzinfo=UTC))
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise PrivsynError(f"{what} is not a TOML date such as 2027-11-26")
