"""Sign a trust file: from a plan in TOML, or one that others signed already."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn.errors import PrivsynError, Refused
from privsyn.files import whole_file
from privsyn.release.envelope import TRUST, Envelope, read_envelope
from privsyn.release.keys import read_public
from privsyn.release.trust import Person, Role, Trust, parse_trust, read_trust, trust_payload
from privsyn.strict_json import Fields, check_slug, now_or, read_file


def write_trust(source: Path, *, signers: Sequence[Signer], out: Path) -> tuple[Trust, str]:
    """Sign a trust file, or add signatures to one.

    Args:
        source: a TOML file with `id`, `version`, `expires`, `[persons.ID]` (`name`, `key` file of the public
            key beside it, `valid_from`, `valid_until`) and `[roles.ID]` (`persons`, `threshold`), or a trust
            file that others signed.
        out: where to write it.

    Returns:
        What it says, and why it is not valid yet; "" if enough have signed.

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
