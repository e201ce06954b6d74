"""A recipient's check of a release: its files, its signatures and approvals, and its privacy claim.

No network, and nothing but the standard library and securesystemslib. What it reads may be hostile: links are
not followed, special files not opened, nothing is ignored but the bundle of signatures. Without a trust file
from another channel the best outcome is *inconclusive*: unchanged files say nothing about who approved them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from privsyn.errors import PrivsynError
from privsyn.release.approvals import Tally, tally
from privsyn.release.bundle import (
    Bundle,
    Certificate,
    check_gate,
    digests_of,
    read_certificate,
)
from privsyn.release.claim_check import check_claim
from privsyn.release.contents import read_contents
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.rollback_protection import compare
from privsyn.release.status_list import StatusList
from privsyn.release.trust import PIPELINE, SEALER, Trust, read_trust
from privsyn.release.verification import Check, CheckState, ReleaseVerification, VerificationOutcome
from privsyn.strict_json import now_or, printable, read_file, refuse, spelled

_NO_TRUST = (
    "not approved: signatures were not checked; pass --trust with the trust file that the sender gave you "
    "through another channel"
)


def verify(
    folder: Path | str,
    *,
    trust: Path | str | None = None,
    status: Path | str | None = None,
    require_fresh_status: bool = False,
    now: datetime | None = None,
) -> ReleaseVerification:
    """Check a release folder.

    Args:
        trust: the trust file, which must not come from the release's own folder.
        status: the newest status list; without it, whether the release was revoked is not known.
        require_fresh_status: fail where there is no list, or an expired one.
        now: the time at which it is to hold; by default, now.

    Raises:
        PrivsynError: there is no release to check, or a file that was named is missing.
    """
    folder = Path(folder)
    _check_places(folder, [Path(file) for file in (trust, status) if file is not None])
    contents, verifier = read_contents(folder), _Verifier(now_or(now))
    bundle = contents.bundle
    if bundle:
        verifier.check_approved(bundle, trust, status, require_fresh_status)
        verifier.check_claim(bundle.statement)
    return ReleaseVerification(
        folder=folder,
        outcome=verifier.outcome if contents.whole else "fail",
        statement=bundle.statement.to_dict() if bundle else None,
        changed=contents.changed,
        missing=contents.missing,
        extra=contents.extra,
        problems=contents.problems,
        checks=tuple(verifier.checks),
        approved_by=verifier.approved_by,
    )


def _check_places(folder: Path, files: Sequence[Path]) -> None:
    if not folder.is_dir():
        raise PrivsynError(f"{folder} is not a folder: name the folder of the release")
    if not os.path.lexists(folder / BUNDLE):
        raise PrivsynError(f"{folder} is not a release (no {BUNDLE}): name the folder that holds it")
    for file in files:
        if file.resolve().is_relative_to(folder.resolve()):
            raise PrivsynError(f"{file} lies in the release itself, so it proves nothing: get it elsewhere")


class _Verifier:
    """Runs the checks one by one; a refusal is noted as failed, not raised."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.checks: list[Check] = []
        self.approved_by: Mapping[str, str] = {}
        self.certificate: Certificate | None = None

    @property
    def outcome(self) -> VerificationOutcome:
        states = {check.state for check in self.checks}
        return "fail" if "failed" in states else "inconclusive" if "open" in states else "pass"

    def note(self, name: str, state: CheckState, words: str) -> None:
        self.checks.append(Check(name, state, printable(words)))

    def run(self, name: str, check: Callable[[], str]) -> None:
        """Note what a check returns (nothing if that is ""), or why it refused."""
        try:
            words = check()
        except (PrivsynError, ArithmeticError, MemoryError) as refusal:
            self.note(name, "failed", str(refusal) or type(refusal).__name__)
            return
        if words:
            self.note(name, "ok", words)

    def check_approved(
        self, bundle: Bundle, trust: Path | str | None, status: Path | str | None, fresh: bool
    ) -> None:
        if trust is not None:
            self._approved(bundle, read_file(trust), None if status is None else read_file(status), fresh)
            return
        self.note("approvals", "open", _NO_TRUST)
        if status is not None or fresh:
            self.note("revocation", "failed", "a status list cannot be checked without --trust")

    def check_claim(self, statement: Statement) -> None:
        self.run("privacy claim", lambda: self._claim(statement))

    def _approved(self, bundle: Bundle, trust_raw: bytes, status_raw: bytes | None, fresh: bool) -> None:
        try:
            trust = read_trust(trust_raw, now=self.now)
            seen = compare(trust, trust_raw, status_raw, self.now)
        except PrivsynError as refusal:
            self.note("trust", "failed", str(refusal))
            return
        self.note("trust", "ok", f"{trust.id}, version {trust.version}, until {spelled(trust.expires)}")
        if seen.not_compared:
            self.note("trust", "open", f"not compared with what was seen before: {seen.not_compared}")
        if seen.not_kept:
            self.note("trust", "note", f"an older file would not be noticed next time: {seen.not_kept}")
        status = seen.status
        self.run("certificate", lambda: self._certificate(bundle, trust))
        # by when the pipeline must have signed
        then = self.certificate.sealed_at if self.certificate else self.now
        self.run("statement", lambda: _signed_by_pipeline(bundle, trust, then))
        self.run("gate", lambda: _gate(bundle, trust, then))
        self.run("approvals", lambda: self._approvals(bundle, trust, status))
        self.run("validity", lambda: _validity(bundle.statement, self.now))
        self.run("revocation", lambda: self._revocation(bundle, status, seen.remembered, fresh))

    def _certificate(self, bundle: Bundle, trust: Trust) -> str:
        certificate = read_certificate(bundle)
        assert bundle.certificate is not None
        if certificate.organisation != trust.id:
            refuse("the certificate", f"is one of {certificate.organisation}, not of {trust.id}")
        if certificate.sealed_at > self.now:
            refuse("the certificate", f"is dated in the future ({spelled(certificate.sealed_at)})")
        if certificate.trust_version > trust.version:
            refuse(
                "the trust file",
                f"is version {trust.version}; the release was sealed under {certificate.trust_version}",
            )
        people = trust.need(SEALER, bundle.certificate, "the certificate", certificate.sealed_at)
        self.certificate = certificate
        return f"sealed on {spelled(certificate.sealed_at)} by {', '.join(sorted(people))}"

    def _approvals(self, bundle: Bundle, trust: Trust, status: StatusList | None) -> str:
        makers = trust.signers(bundle.envelope, "the statement")
        revoked = status.revoked if status else {}
        counted: Tally = tally(bundle.approvals, bundle.statement, makers, trust, self.now, revoked)
        if counted.reasons:
            refuse("the release", f"is not approved: {'; '.join(counted.reasons)}")
        if self.certificate and dict(self.certificate.waivers) != dict(counted.waivers):
            refuse("the certificate", "names other waivers than those that approvals grant")
        self.approved_by = counted.counted
        for conflict in counted.conflicts:
            self.note("conflict of interest", "note", conflict)
        waived = [
            f"; the rule {rule} was waived by {person}: {reason}"
            for rule, (person, reason) in counted.waivers.items()
        ]
        people = [
            f"{trust.persons[person].name} ({person}) as {role}" for person, role in counted.counted.items()
        ]
        return ", ".join(people) + "".join(waived)

    def _revocation(self, bundle: Bundle, status: StatusList | None, remembered: bool, fresh: bool) -> str:
        if status is None:
            if fresh:
                refuse("the status list", "is required and was not given (--status)")
            self.note("revocation", "note", "not checked: no status list was given (--status)")
            return ""
        for digest in sorted(digests_of(bundle)):
            entry = status.entries.get(digest)
            if entry:
                refuse("the release", f"was {entry.state} on {spelled(entry.at)}: {entry.reason}")
        if remembered:
            words = (
                f"none by version {status.version} of the list, seen before; no newer was given (--status)"
            )
            if fresh:
                refuse("the status list", "is required and was not given (--status)")
            self.note("revocation", "note", words)
            return ""
        if not status.is_fresh(self.now):
            if fresh:
                refuse("the status list", f"expired on {spelled(status.expires)}: get a new one")
            words = f"unknown since {spelled(status.expires)}, when the status list expired"
            self.note("revocation", "note", words)
            return ""
        return f"none, by version {status.version} of the status list, valid until {spelled(status.expires)}"

    def _claim(self, statement: Statement) -> str:
        found = check_claim(statement.predicate.get("privacyClaim"))
        if found.state == "ok":
            return found.words
        self.note("privacy claim", found.state, found.words)
        return ""


def _signed_by_pipeline(bundle: Bundle, trust: Trust, now: datetime) -> str:
    people = trust.need(PIPELINE, bundle.envelope, "the statement", now)
    made = ", ".join(sorted(bundle.statement.authors)) or "no named author"
    return f"signed by {', '.join(sorted(people))}; made by {made}"


def _gate(bundle: Bundle, trust: Trust, now: datetime) -> str:
    if bundle.gate is None:
        refuse(BUNDLE, "has no gate's result, which states the policy's verdict")
    check_gate(bundle.gate, bundle.statement)
    people = trust.need(PIPELINE, bundle.gate, "the gate's result", now)
    title, failing = bundle.statement.policy_title, bundle.statement.failing_rules
    gave = f"not passed: {', '.join(failing)}" if failing else "pass"
    by = ", ".join(sorted(people))
    return f"the policy {title!r} ({bundle.statement.policy[:12]}) gave: {gave}; signed by {by}"


def _validity(statement: Statement, now: datetime) -> str:
    if statement.valid_until < now:
        refuse("the release", f"expired on {spelled(statement.valid_until)}")
    return f"until {spelled(statement.valid_until)}"
