"""A hospital that governs releases: people with keys, a trust file, and releases made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from privsyn.files import tree_digests
from privsyn.release.approvals import Approval, read_approval
from privsyn.release.bundle import Bundle, Certificate, certificate_payload, gate_payload
from privsyn.release.envelope import IN_TOTO, STATUS, TRUST, Envelope, public_key
from privsyn.release.manifest import BUNDLE, Statement, make_statement
from privsyn.release.status_list import StatusEntry, status_payload
from privsyn.release.trust import Person, Role, Trust, parse_trust, trust_payload
from privsyn.release.verify import ReleaseVerification
from privsyn.strict_json import now_or, spelled

NOW = now_or(None)  # what runs in a process of its own has no other clock
DAY = timedelta(days=1)
POLICY, REPORT = "a" * 64, "b" * 64
ROLES = {
    "root": (("rosa", "rolf"), 2),
    "pipeline": (("machine",), 1),
    "sealer": (("ada",), 1),
    "data-custodian": (("ada", "eve"), 1),
    "privacy-officer": (("bob",), 1),
    "clinical-lead": (("cyd", "bob"), 1),
}
PEOPLE = ("rosa", "rolf", "machine", "ada", "bob", "cyd", "eve")
APPROVERS = {"ada": "data-custodian", "bob": "privacy-officer", "cyd": "clinical-lead"}


def new_signer() -> CryptoSigner:
    """A key of its own, under the id that privsyn derives."""
    private = Ed25519PrivateKey.generate()
    public = {"public": private.public_key().public_bytes_raw().hex()}
    key = {"keytype": "ed25519", "scheme": "ed25519", "keyval": public}
    return CryptoSigner(private, public_key(key, "a test's key"))


def rule(outcome: str = "pass", *, name: str = "no-copies", waivable: Sequence[str] = ()) -> dict[str, Any]:
    return {"id": name, "severity": "block", "outcome": outcome, "waivable_by": list(waivable)}


def claims(rules: Sequence[Mapping[str, Any]] = (rule(),), **changes: Any) -> dict[str, Any]:
    """A predicate as `privsyn release draft` writes it, as far as a verifier reads it."""
    outcome = "pass" if all(each["outcome"] == "pass" for each in rules) else "fail"
    return {
        "release": {"id": "0" * 32, "name": "r"},
        "privacyClaim": {"kind": "none"},
        "policy": {"title": "for tests", "sha256": POLICY},
        "checklist": [],
        "verdict": {"outcome": outcome, "partial": False, "rules": [dict(each) for each in rules]},
        "evidence": {"internalReport": REPORT},
        "authors": [],
        "validUntil": spelled(NOW + 365 * DAY),
        **changes,
    }


DP: dict[str, Any] = {
    "kind": "dp", "unit": "patient", "neighbouring": "add-or-remove-one", "epsilon": 22.0, "delta": 1e-5,
    "valid_for_release": True,
    "mechanism": {
        "name": "dp-sgd", "noise_multiplier": 1.1, "sample_rate": 0.1, "steps": 1000, "sampling": "poisson",
        "expected_units": 1000, "composed": [],
    },
}  # fmt: skip


def dp(mechanism: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A claim whose parameters give 21.1 exactly, and 22.9 by the bound."""
    return {**DP, **changes, "mechanism": {**DP["mechanism"], **(mechanism or {})}}


def fill(folder: Path) -> None:
    """Four small files, as a release has them."""
    (folder / "data").mkdir(parents=True)
    for number, file in enumerate(["README.md", "croissant.json", "data/a.parquet", "public-report.html"]):
        (folder / file).write_bytes(bytes(range(number, 40)))


def state_of(folder: Path, predicate: Mapping[str, Any]) -> Statement:
    """The statement about the files in a folder."""
    digests = {name: digest for name, digest in tree_digests(folder).items() if name != BUNDLE}
    sizes = {file: (folder / file).stat().st_size for file in digests}
    return make_statement(digests, sizes, predicate)


def words(found: ReleaseVerification, name: str) -> str:
    """What a verification says to one question."""
    return " ".join(check.words for check in found.checks if check.name == name)


@dataclass
class House:
    """People, their keys and what they sign; everything is dated NOW unless a test says otherwise."""

    signers: dict[str, CryptoSigner] = field(default_factory=lambda: {name: new_signer() for name in PEOPLE})
    roles: Mapping[str, tuple[Sequence[str], int]] = field(default_factory=lambda: ROLES)
    version: int = 1
    expires: datetime = NOW + 100 * DAY

    @property
    def trust(self) -> Trust:
        return parse_trust(self.trust_envelope())

    def trust_envelope(self, by: Iterable[str] = ("rosa", "rolf"), **people: Any) -> Envelope:
        """The trust file; `people` change a person, by id."""
        persons = [
            replace(Person(name, name.title(), each.public_key, None, None), **people.get(name, {}))
            for name, each in self.signers.items()
        ]
        payload = trust_payload(
            id="st-elsewhere",
            version=self.version,
            expires=self.expires,
            persons=persons,
            roles=[Role(name, frozenset(who), count) for name, (who, count) in self.roles.items()],
        )
        return self.signed(Envelope(payload, TRUST), *by)

    def write_trust(self, file: Path, **people: Any) -> Path:
        file.write_bytes(self.trust_envelope(**people).line)
        return file

    def signed(self, envelope: Envelope, *by: str) -> Envelope:
        return envelope.signed(*(self.signers[name] for name in by))

    def drafted(self, statement: Statement, by: str = "machine") -> Bundle:
        """Statement and gate, signed by the pipeline."""
        envelope = self.signed(Envelope(statement.to_bytes(), IN_TOTO), by)
        gate = self.signed(Envelope(gate_payload(statement, version="0.1.0", at=NOW), IN_TOTO), by)
        return Bundle(envelope, statement, gate)

    def approval(
        self,
        about: Statement,
        person: str,
        role: str | None = None,
        *,
        by: str | None = None,
        **changes: Any,
    ) -> Envelope:
        """A signed decision."""
        made = Approval(
            statement=about.digest,
            tree=about.tree,
            decision="approve",
            person=person,
            role=role or APPROVERS.get(person, "data-custodian"),
            policy=POLICY,
            report=REPORT,
            answers={},
            waivers=(),
            comment="",
            conflict_of_interest="",
            decided_at=NOW - DAY,
            valid_from=NOW - DAY,
            valid_until=NOW + 90 * DAY,
        )
        return self.signed(Envelope(replace(made, **changes).to_payload(), IN_TOTO), by or person)

    def sealed(
        self, draft: Bundle, approvals: Sequence[Envelope], by: str = "ada", at: datetime = NOW - DAY / 2
    ) -> Bundle:
        """The bundle with its certificate, whether or not anybody should have sealed it."""
        found = Bundle(draft.envelope, draft.statement, draft.gate, tuple(approvals))
        granted = {
            waiver.rule: (a.person, waiver.reason)
            for a in map(read_approval, approvals)
            for waiver in a.waivers
        }
        payload = certificate_payload(found, Certificate("st-elsewhere", self.version, granted, at))
        certificate = self.signed(Envelope(payload, IN_TOTO), by)
        return Bundle(found.envelope, found.statement, found.gate, found.approvals, certificate)

    def release(self, folder: Path, predicate: Mapping[str, Any] | None = None) -> Bundle:
        """A whole release that everybody approved, in a new folder."""
        fill(folder)
        draft = self.drafted(state_of(folder, claims() if predicate is None else predicate))
        bundle = self.sealed(draft, [self.approval(draft.statement, person) for person in APPROVERS])
        (folder / BUNDLE).write_bytes(bundle.to_bytes())
        return bundle

    def status(self, *entries: StatusEntry, version: int = 1, by: str = "ada", age: timedelta = DAY) -> bytes:
        """A status list, issued so long ago and valid for a week."""
        issued = NOW - age
        payload = status_payload("st-elsewhere", version, issued, issued + 7 * DAY, entries)
        return self.signed(Envelope(payload, STATUS), by).line
