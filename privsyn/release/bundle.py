"""`release.intoto.jsonl`: the signed documents of a release, one envelope a line.

The statement; the gate's result, which is the policy's verdict as a SLSA verification summary
(https://slsa.dev/spec/v1.0/verification_summary) signed by the pipeline; every decision; and last the
certificate, which names the digests of all lines before it. A bundle as such is not authenticated: without
the certificate anybody could drop a rejection from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.approvals import APPROVAL_TYPE, CLOCKS_DIFFER, read_approval
from privsyn.release.envelope import (
    IN_TOTO,
    Envelope,
    predicate_type,
    read_about,
    read_envelope,
    statement_about,
)
from privsyn.release.manifest import BUNDLE, RELEASE_TYPE, Statement, parse_statement
from privsyn.strict_json import Fields, JsonObject, refuse, spelled

GATE_TYPE = "https://slsa.dev/verification_summary/v1"
CERTIFICATE_TYPE = "https://privsyn.org/certificate/v1"
VERIFIER = "https://privsyn.org/privsyn"


@dataclass(frozen=True)
class Bundle:
    """The lines of a bundle, each in its place.

    Attributes:
        envelope: of the statement; without signatures in an unsigned draft.
        gate, certificate: None where a draft has none yet.
    """

    envelope: Envelope
    statement: Statement
    gate: Envelope | None = None
    approvals: tuple[Envelope, ...] = ()
    certificate: Envelope | None = None

    def to_bytes(self) -> bytes:
        lines = [self.envelope, self.gate, *self.approvals, self.certificate]
        return b"".join(envelope.line for envelope in lines if envelope)


@dataclass(frozen=True)
class Certificate:
    """What a certificate states beside the digests of the lines before it.

    Attributes:
        organisation, trust_version: of the trust file under which it was sealed.
        waivers: rule to (person, reason) of each that counted then.
    """

    organisation: str
    trust_version: int
    waivers: Mapping[str, tuple[str, str]]
    sealed_at: datetime


def read_bundle(raw: bytes) -> Bundle:
    """Read a bundle that may be hostile: lines of the known kinds, in their order, none twice.

    Raises:
        Refused: it is none.
    """
    lines = raw.splitlines(keepends=True)
    envelopes = [read_envelope(line, IN_TOTO, _line(n)) for n, line in enumerate(lines, 1)]
    kinds = [predicate_type(each.payload, _line(n)) for n, each in enumerate(envelopes, 1)]
    if kinds[:1] != [RELEASE_TYPE]:
        refuse(BUNDLE, "does not begin with the statement of a release")
    statement = parse_statement(envelopes[0].payload)
    gate = envelopes[1] if kinds[1:2] == [GATE_TYPE] else None
    rest = list(zip(kinds, envelopes, strict=True))[2 if gate else 1 :]
    certificate = rest.pop()[1] if rest and rest[-1][0] == CERTIFICATE_TYPE else None
    if any(kind != APPROVAL_TYPE for kind, _ in rest):
        refuse(BUNDLE, "has a line of an unknown kind, twice, or in the wrong place")
    digests = [envelope.digest for _, envelope in rest]
    if len(set(digests)) != len(digests):
        refuse(BUNDLE, "has an approval twice")
    return Bundle(envelopes[0], statement, gate, tuple(envelope for _, envelope in rest), certificate)


def gate_payload(statement: Statement, *, version: str, at: datetime) -> bytes:
    """The verdict that the policy gave, to be signed by the pipeline."""
    passed = not statement.failing_rules
    predicate: JsonObject = {
        "verifier": {"id": VERIFIER, "version": {"privsyn": version}},
        "timeVerified": spelled(at),
        "resourceUri": f"urn:privsyn:release:{statement.tree}",
        "policy": {"uri": f"urn:privsyn:policy:{statement.policy}", "digest": {"sha256": statement.policy}},
        "inputAttestations": [{"digest": {"sha256": statement.digest}}],
        "verificationResult": "PASSED" if passed else "FAILED",
        "verifiedLevels": [],
    }
    return _about(statement, GATE_TYPE, predicate)


def check_gate(gate: Envelope, statement: Statement) -> None:
    """See that the gate speaks of this statement, its policy and its verdict.

    Raises:
        Refused: it does not.
    """
    what = "the gate's result"
    predicate = _predicate(gate, statement, GATE_TYPE, what)
    fields = Fields(predicate, what)
    policy = fields.fields("policy").fields("digest").digest("sha256")
    result = fields.one_of("verificationResult", ("PASSED", "FAILED"))
    if policy != statement.policy:
        refuse(what, "is about another policy than the statement")
    if (result == "PASSED") != (not statement.failing_rules):
        refuse(what, f"is {result}, which is not what the statement says")


def certificate_payload(bundle: Bundle, certificate: Certificate) -> bytes:
    """The document that closes a bundle, to be signed by a sealer.

    Raises:
        PrivsynError: the bundle has no gate's result.
    """
    if bundle.gate is None:
        raise PrivsynError(f"{BUNDLE} has no gate's result: draft again with --key")
    predicate: JsonObject = {
        "statement": bundle.envelope.digest,
        "gate": bundle.gate.digest,
        "approvals": [approval.digest for approval in bundle.approvals],
        "waivers": [
            {"rule": rule, "person": person, "reason": reason}
            for rule, (person, reason) in certificate.waivers.items()
        ],
        "trust": {"id": certificate.organisation, "version": certificate.trust_version},
        "sealedAt": spelled(certificate.sealed_at),
    }
    return _about(bundle.statement, CERTIFICATE_TYPE, predicate)


def digests_of(bundle: Bundle) -> frozenset[str]:
    """Every digest by which a status list may name the release: of statement, files, gate or certificate."""
    envelopes = [each for each in (bundle.envelope, bundle.gate, bundle.certificate) if each]
    return frozenset({bundle.statement.tree, *(envelope.digest for envelope in envelopes)})


def read_certificate(bundle: Bundle) -> Certificate:
    """The certificate, if it is about these lines and no others.

    Raises:
        Refused: there is none, or a line was changed, dropped, added or moved since.
    """
    what = "the certificate"
    if bundle.certificate is None or bundle.gate is None:
        refuse(BUNDLE, "has no certificate: the release is a draft that was not sealed")
    predicate = _predicate(bundle.certificate, bundle.statement, CERTIFICATE_TYPE, what)
    known = ("statement", "gate", "approvals", "waivers", "trust", "sealedAt")
    fields = Fields(predicate, what, known)
    for name, digest in (("statement", bundle.envelope.digest), ("gate", bundle.gate.digest)):
        if fields.digest(name) != digest:
            refuse(what, f"names another {name} than the bundle has")
    _check_lines(fields, bundle.approvals)
    trust = Fields(fields.mapping("trust"), what, ("id", "version"))
    listed = [Fields(waiver, what, ("rule", "person", "reason")) for waiver in fields.list("waivers")]
    return Certificate(
        organisation=trust.slug("id"),
        trust_version=trust.integer("version", least=1),
        waivers={each.text("rule"): (each.text("person"), each.text("reason")) for each in listed},
        sealed_at=fields.time("sealedAt"),
    )


def _check_lines(certificate: Fields, approvals: Sequence[Envelope]) -> None:
    """See that a certificate names these approvals, in their order, and is not older than they are."""
    named, found = certificate.list("approvals"), [approval.digest for approval in approvals]
    if named != found:
        dropped, added = len(set(map(str, named)) - set(found)), len(set(found) - set(map(str, named)))
        certificate.refuse(
            f"names other approvals than the bundle has ({dropped} dropped, {added} added since)"
        )
    latest = certificate.time("sealedAt") + CLOCKS_DIFFER
    for approval in map(read_approval, approvals):
        if approval.decided_at > latest:
            certificate.refuse(f"is dated before the decision of {approval.person}")


def _about(statement: Statement, kind: str, predicate: JsonObject) -> bytes:
    subjects = {"statement": statement.digest, "tree": statement.tree}
    return json_text(statement_about(subjects, kind, predicate)).encode()


def _predicate(envelope: Envelope, statement: Statement, kind: str, what: str) -> JsonObject:
    subjects, predicate = read_about(envelope.payload, kind, what)
    if subjects != {"statement": statement.digest, "tree": statement.tree}:
        refuse(what, "is about other contents than those of the statement")
    return predicate


def _line(number: int) -> str:
    return f"line {number} of {BUNDLE}"
