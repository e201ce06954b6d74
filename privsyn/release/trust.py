"""The trust file: whose signatures count, and for what.

One person has one key and may be in several roles; every role asks for a number of distinct persons. Three
roles mean something by themselves: `root` signs trust files, `pipeline` signs statements and verdicts for the
software and never approves, `sealer` signs certificates and status lists. Every other role is one of
approvers, and a release needs each of them. As in TUF (https://theupdateframework.github.io/specification/),
the next version is signed by the roots of the old one and of the new one, and nothing that has expired is
accepted.

Standard library and securesystemslib.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from securesystemslib.signer import SSlibKey

from privsyn.files import json_text
from privsyn.release.envelope import TRUST, Envelope, key_document, public_key, read_envelope
from privsyn.strict_json import Fields, check_slug, now_or, read_strictly, refuse, spelled

ROOT, PIPELINE, SEALER = "root", "pipeline", "sealer"
RESERVED = (ROOT, PIPELINE, SEALER)
WHAT = "the trust file"


@dataclass(frozen=True)
class Person:
    """Somebody, or for the pipeline some machine, with one key.

    Attributes:
        id: how documents name the person.
        name: how people do.
        valid_from, valid_until: when the key may sign; None is no limit.
    """

    id: str
    name: str
    key: SSlibKey
    valid_from: datetime | None
    valid_until: datetime | None

    def may_sign_at(self, moment: datetime) -> bool:
        began = self.valid_from is None or self.valid_from <= moment
        return began and (self.valid_until is None or moment <= self.valid_until)


@dataclass(frozen=True)
class Role:
    """How many of which persons it takes."""

    id: str
    persons: frozenset[str]
    threshold: int


@dataclass(frozen=True)
class Trust:
    """A trust file that is well formed.

    Attributes:
        id: of the organisation that governs the releases; versions of one file share it.
        digest: sha256 (hex) of what was signed.
    """

    id: str
    version: int
    expires: datetime
    persons: Mapping[str, Person]
    roles: Mapping[str, Role]
    digest: str

    @property
    def keys(self) -> dict[str, SSlibKey]:
        """All keys by their ids."""
        return {person.key.keyid: person.key for person in self.persons.values()}

    @property
    def approver_roles(self) -> dict[str, Role]:
        return {name: role for name, role in self.roles.items() if name not in RESERVED}

    def signers(self, envelope: Envelope, what: str) -> frozenset[str]:
        """The ids of the persons who signed.

        Raises:
            Refused: a signature does not fit, or is not by a person of this file.
        """
        owners = {person.key.keyid: person.id for person in self.persons.values()}
        return frozenset(owners[keyid] for keyid in envelope.signers(self.keys, what))

    def need(self, role: str, envelope: Envelope, what: str, at: datetime) -> frozenset[str]:
        """The persons in a role who signed, if they are enough for it at that time.

        Raises:
            Refused: they are not.
        """
        signers = self.signers(envelope, what)
        found = signers & self.roles[role].persons
        late = sorted(name for name in found if not self.persons[name].may_sign_at(at))
        if late:
            refuse(what, f"is signed by {late[0]}, whose key was not valid at {spelled(at)}")
        if len(found) < self.roles[role].threshold:
            by = f"by {', '.join(sorted(signers))}" if signers else "by nobody"
            refuse(
                what,
                f"needs {self.roles[role].threshold} signature(s) of the role {role}, and is signed {by}",
            )
        return found


def read_trust(raw: bytes, *, now: datetime | None = None) -> Trust:
    """Read a valid trust file: signed by its own roots, and not expired.

    Where the file itself came from is for the reader to know; nothing in it can say.

    Raises:
        Refused: it is not.
    """
    now, envelope = now_or(now), read_envelope(raw, TRUST, WHAT)
    trust = parse_trust(envelope)
    trust.need(ROOT, envelope.by_known(trust.keys), WHAT, now)  # earlier roots sign the next version as well
    if trust.expires < now:
        refuse(WHAT, f"expired on {spelled(trust.expires)}: ask for the next version of it")
    return trust


def parse_trust(envelope: Envelope) -> Trust:
    """What an envelope says, whoever signed it.

    Raises:
        Refused: it is not well formed, or could be satisfied by fewer people than it seems.
    """
    known = ("schema_version", "id", "version", "expires", "persons", "roles")
    fields = Fields(read_strictly(envelope.payload, WHAT), WHAT, known)
    if fields.integer("schema_version", least=1) != 1:
        refuse(WHAT, "is of a version that this privsyn does not know")
    persons = {name: _person(name, each) for name, each in fields.mapping("persons").items()}
    keys = [person.key.keyid for person in persons.values()]
    if len(set(keys)) != len(keys):
        refuse(WHAT, "gives one key to two persons")
    roles = {name: _role(name, each, persons) for name, each in fields.mapping("roles").items()}
    for name in RESERVED:
        if name not in roles:
            refuse(WHAT, f"has no role {name}")
    if len(roles) == len(RESERVED):
        refuse(WHAT, "has no role of approvers")
    _check_apart(roles)
    return Trust(
        id=fields.slug("id"),
        version=fields.integer("version", least=1),
        expires=fields.time("expires"),
        persons=MappingProxyType(persons),
        roles=MappingProxyType(roles),
        digest=envelope.digest,
    )


def check_next(old: Trust, new: Trust, envelope: Envelope) -> None:
    """See that `new` may take the place of `old`.

    Raises:
        Refused: it is older, or another file of the same version, or the old roots did not sign it.
    """
    if new.id != old.id:
        refuse(WHAT, f"is that of {new.id}, not of {old.id}")
    if new.version < old.version:
        refuse(WHAT, f"is version {new.version}, and version {old.version} was seen before")
    if new.version == old.version and new.digest != old.digest:
        refuse(WHAT, f"differs from the version {old.version} that was seen before")
    if new.version > old.version:
        roots = {name: old.persons[name].key for name in old.roles[ROOT].persons}
        known = {key.keyid: key for key in roots.values()}
        signed = envelope.by_known(known).signers(known, WHAT)
        agreed = [name for name, key in roots.items() if key.keyid in signed]
        if len(agreed) < old.roles[ROOT].threshold:
            refuse(
                WHAT,
                f"is version {new.version}, and too few roots of version {old.version}, seen before, signed "
                f"it ({len(agreed)} of {old.roles[ROOT].threshold}): ask for the versions in between",
            )


def trust_payload(
    *,
    id: str,  # noqa: A002 - the name of the field
    version: int,
    expires: datetime,
    persons: Iterable[Person],
    roles: Iterable[Role],
) -> bytes:
    """The bytes to sign."""
    document = {
        "schema_version": 1,
        "id": id,
        "version": version,
        "expires": spelled(expires),
        "persons": {
            person.id: {
                "name": person.name,
                "key": key_document(person.key),
                "valid_from": person.valid_from and spelled(person.valid_from),
                "valid_until": person.valid_until and spelled(person.valid_until),
            }
            for person in persons
        },
        "roles": {role.id: {"persons": sorted(role.persons), "threshold": role.threshold} for role in roles},
    }
    return json_text(document).encode()


def _person(name: str, document: object) -> Person:
    what = f"{WHAT}: person {ascii(name)[1:-1][:64]}"
    fields = Fields(document, what, ("name", "key", "valid_from", "valid_until"))
    return Person(
        id=check_slug(name, what),
        name=fields.text("name", longest=200),
        key=public_key(fields.document.get("key"), what),
        valid_from=fields.time_or_none("valid_from"),
        valid_until=fields.time_or_none("valid_until"),
    )


def _role(name: str, document: object, persons: Mapping[str, Person]) -> Role:
    what = f"{WHAT}: role {ascii(name)[1:-1][:64]}"
    fields = Fields(document, what, ("persons", "threshold"))
    listed = [check_slug(person, what) for person in fields.list("persons")]
    for person in listed:
        if person not in persons:
            refuse(what, f"names {person}, who is not among the persons")
    if len(set(listed)) != len(listed):
        refuse(what, "names a person twice")
    threshold = fields.integer("threshold", least=1)
    if threshold > len(listed):
        refuse(what, f"asks for {threshold} persons and names {len(listed)}")
    return Role(check_slug(name, what), frozenset(listed), threshold)


def _check_apart(roles: Mapping[str, Role]) -> None:
    for name, role in roles.items():
        both = sorted(role.persons & roles[PIPELINE].persons) if name != PIPELINE else []
        if both:
            refuse(
                WHAT,
                f"has {both[0]} in {PIPELINE} and {name}: a machine's signature is not an approval",
            )
