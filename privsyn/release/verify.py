"""A recipient's check of a release: the bytes, who stands behind them, and whether the privacy claim holds.

No network, and nothing but the standard library and securesystemslib. What it reads may be hostile: links are
not followed, special files not opened, nothing is ignored but the bundle of signatures. Whole is not
approved: without a trust file that the recipient has from elsewhere, the best answer is *inconclusive*.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from privsyn.errors import PrivsynError, Refused
from privsyn.release.approvals import Tally, tally
from privsyn.release.bound import recompute
from privsyn.release.bundle import (
    Bundle,
    Certificate,
    check_gate,
    digests_of,
    read_bundle,
    read_certificate,
)
from privsyn.release.documents import MAX_BYTES, Fields, now_or, printable, refuse, spelled
from privsyn.release.manifest import BUNDLE, Statement, is_release_file
from privsyn.release.memory import compare
from privsyn.release.status_list import StatusList
from privsyn.release.trust import PIPELINE, SEALER, Trust, read_trust

Outcome = Literal["pass", "fail", "inconclusive"]
State = Literal["ok", "failed", "open", "note"]


@dataclass(frozen=True)
class Check:
    """One question that was asked, and its answer.

    Attributes:
        state: `open` leaves the whole inconclusive; `note` only tells.
    """

    name: str
    state: State
    words: str


@dataclass(frozen=True)
class Verification:
    """What a check found; names that a terminal could misread are escaped.

    Attributes:
        outcome: `pass` if the bytes are whole and approved by whom the trust file names, and all else that
            was asked is in order; `inconclusive` if something could not be answered, above all who approved.
        statement: the in-toto document that was found, true or not; `None` if what was found is none.
        changed: files whose bytes are not those stated.
        missing: files that are stated and not there.
        extra: files, links and empty folders that are there and not stated.
        problems: what else is wrong with files, in words.
        checks: what was asked of signatures, approvals, status and claim, in order.
        approved_by: role of each person whose approval was counted, by the person's id.
    """

    folder: Path
    outcome: Outcome
    statement: dict[str, Any] | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    approved_by: Mapping[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: intact and approved; 3: intact, and something could not be answered; 1: something is wrong."""
        return {"pass": 0, "inconclusive": 3, "fail": 1}[self.outcome]

    def to_dict(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "schema_version": 1,
            "folder": printable(str(self.folder)),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "problems": list(self.problems),
            "checks": [
                {"name": check.name, "state": check.state, "words": check.words} for check in self.checks
            ],
            "approved_by": dict(self.approved_by),
            "statement": self.statement,
        }

    def lines(self) -> list[str]:
        """The same for people, the outcome last."""
        told = [f"{what}: {name}" for what in ("changed", "missing", "extra") for name in getattr(self, what)]
        told += [f"problem: {text}" for text in self.problems]
        told = told or ["every file is as stated"]
        told += [f"{check.name}: {_MARKS[check.state]}{check.words}" for check in self.checks]
        return [*told, f"outcome: {self.outcome}"]


LARGEST = 64 * 2**30  # bytes of a release
HASHERS = min(4, os.cpu_count() or 1)
_MARKS = {"ok": "", "failed": "REFUSED: ", "open": "OPEN: ", "note": "NOTE: "}
_NO_TRUST = (
    "not approved: who stands behind this release was not checked; pass --trust with the trust file that its "
    "sender gave you by another way"
)


def verify(
    folder: Path | str,
    *,
    trust: Path | str | None = None,
    status: Path | str | None = None,
    require_fresh_status: bool = False,
    now: datetime | None = None,
) -> Verification:
    """Check a release folder.

    Args:
        trust: the trust file, which must not come from the release's own folder.
        status: the newest status list; without it, whether the release was revoked is not known.
        require_fresh_status: fail where there is no list, or an expired one.
        now: the time at which it is to hold; by default, now.

    Raises:
        PrivsynError: there is no release to check, or a file that was named is missing.
    """
    folder, now = Path(folder), now_or(now)
    if not folder.is_dir():
        raise PrivsynError(f"{folder} is not a folder: name the folder of the release")
    if not os.path.lexists(folder / BUNDLE):
        raise PrivsynError(f"{folder} is not a release (no {BUNDLE}): name the folder that holds it")
    for file in (trust, status):
        if file is not None and Path(file).resolve().is_relative_to(folder.resolve()):
            raise PrivsynError(f"{file} lies in the release itself, so it says nothing: get it another way")
    problems: list[str] = []
    found = dict(_scan(folder, problems))
    bundle = _bundle(folder, found, problems)
    expected = bundle.statement.subjects if bundle else {}
    missing = sorted(name for name in expected if name not in found)
    extra = sorted(printable(name) for name in found if name not in expected and name != BUNDLE)
    problems += [f"{name} is no file that a release holds" for name in expected if not is_release_file(name)]
    changed = sorted(_changed(folder, expected, found, problems))
    if bundle:
        _check_bytes(folder, bundle.statement, found, problems)
    asked = _Inquiry(now)
    if bundle and trust is not None:
        asked.who_approved(
            bundle, _given(trust), None if status is None else _given(status), require_fresh_status
        )
    elif bundle:
        asked.note("approvals", "open", _NO_TRUST)
        if status is not None or require_fresh_status:
            asked.note(
                "revocation", "failed", "a status list cannot be believed without a trust file (--trust)"
            )
    if bundle:
        asked.ask("privacy claim", lambda: _claim(asked, bundle.statement))
    broken = bundle is None or missing or extra or changed or problems
    return Verification(
        folder=folder,
        outcome="fail" if broken else asked.outcome,
        statement=bundle.statement.to_dict() if bundle else None,
        changed=tuple(changed),
        missing=tuple(missing),
        extra=tuple(extra) if bundle else (),
        problems=tuple(sorted(problems)),
        checks=tuple(asked.checks),
        approved_by=asked.approved_by,
    )


class _Inquiry:
    """Asks one question after the other; what is refused is written down and not raised."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.checks: list[Check] = []
        self.approved_by: Mapping[str, str] = {}

    @property
    def outcome(self) -> Outcome:
        states = {check.state for check in self.checks}
        return "fail" if "failed" in states else "inconclusive" if "open" in states else "pass"

    def note(self, name: str, state: State, words: str) -> None:
        self.checks.append(Check(name, state, printable(words)))

    def ask(self, name: str, question: Callable[[], str]) -> bool:
        """Note what the question answers; False if it was refused."""
        try:
            words = question()
        except (PrivsynError, ArithmeticError, MemoryError) as refusal:
            self.note(name, "failed", str(refusal) or type(refusal).__name__)
            return False
        if words:
            self.note(name, "ok", words)
        return True

    def who_approved(self, bundle: Bundle, trust_raw: bytes, status_raw: bytes | None, fresh: bool) -> None:
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
        statement = bundle.statement
        sealed: list[Certificate] = []
        self.ask("certificate", lambda: _certificate(bundle, trust, self.now, sealed))
        then = (
            sealed[0].sealed_at if sealed else self.now
        )  # when the pipeline's key had to be valid at the latest
        self.ask("statement", lambda: _signed_by_pipeline(bundle, trust, then))
        self.ask("gate", lambda: _gate(bundle, trust, then))
        self.ask("approvals", lambda: self._approvals(bundle, trust, status, sealed))
        self.ask("validity", lambda: _validity(statement, self.now))
        self.ask("revocation", lambda: self._revocation(bundle, status, seen.remembered, fresh))

    def _approvals(
        self, bundle: Bundle, trust: Trust, status: StatusList | None, sealed: list[Certificate]
    ) -> str:
        makers = trust.signers(bundle.envelope, "the statement")
        revoked = status.revoked if status else {}
        counted: Tally = tally(bundle.approvals, bundle.statement, makers, trust, self.now, revoked)
        if counted.reasons:
            refuse("the release", f"is not approved: {'; '.join(counted.reasons)}")
        if sealed and dict(sealed[0].waivers) != dict(counted.waivers):
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


def _signed_by_pipeline(bundle: Bundle, trust: Trust, now: datetime) -> str:
    people = trust.need(PIPELINE, bundle.envelope, "the statement", now)
    made = ", ".join(sorted(bundle.statement.authors)) or "nobody named as an author"
    return f"signed by {', '.join(sorted(people))}; made by {made}"


def _gate(bundle: Bundle, trust: Trust, now: datetime) -> str:
    if bundle.gate is None:
        refuse(BUNDLE, "has no gate's result: nobody says what the policy's verdict was")
    check_gate(bundle.gate, bundle.statement)
    people = trust.need(PIPELINE, bundle.gate, "the gate's result", now)
    title, failing = bundle.statement.predicate["policy"].get("title"), bundle.statement.failing_rules
    gave = f"not passed: {', '.join(failing)}" if failing else "pass"
    by = ", ".join(sorted(people))
    return f"the policy {title!r} ({bundle.statement.policy[:12]}) gave: {gave}; signed by {by}"


def _certificate(bundle: Bundle, trust: Trust, now: datetime, sealed: list[Certificate]) -> str:
    certificate = read_certificate(bundle)
    assert bundle.certificate is not None
    if certificate.organisation != trust.id:
        refuse("the certificate", f"is one of {certificate.organisation}, not of {trust.id}")
    if certificate.sealed_at > now:
        refuse("the certificate", f"is dated in the future ({spelled(certificate.sealed_at)})")
    if certificate.trust_version > trust.version:
        refuse(
            "the trust file",
            f"is version {trust.version}; the release was sealed under version {certificate.trust_version}",
        )
    people = trust.need(SEALER, bundle.certificate, "the certificate", certificate.sealed_at)
    sealed.append(certificate)
    return f"sealed on {spelled(certificate.sealed_at)} by {', '.join(sorted(people))}"


def _validity(statement: Statement, now: datetime) -> str:
    if statement.valid_until < now:
        refuse("the release", f"expired on {spelled(statement.valid_until)}")
    return f"until {spelled(statement.valid_until)}"


def _claim(asked: _Inquiry, statement: Statement) -> str:
    claim = statement.predicate.get("privacyClaim")
    if not isinstance(claim, dict) or claim.get("kind") not in ("dp", "none"):
        refuse("the statement", "has no privacy claim, nor says that there is none")
    if claim["kind"] == "none":
        asked.note("privacy claim", "note", "none: nothing bounds what these images can reveal")
        return ""
    if claim.get("valid_for_release") is not True:
        refuse("the privacy claim", "says itself that it is not valid for a release")
    found = recompute(claim)
    said = f"epsilon {claim['epsilon']:g} at delta {claim['delta']:g} for the {claim.get('unit')}"
    if found.outcome == "contradicted":
        refuse("the privacy claim", f"({said}) does not hold: its parameters give {found.epsilon:.6g}")
    by = "computed again by dp-accounting"
    if found.method == "bound":
        by = f"its parameters give at most {found.epsilon:.4g} (Renyi DP, without dp-accounting)"
    if found.outcome == "unlikely":
        asked.note("privacy claim", "open", f"{said} is far below what can be shown here: {by}")
        return ""
    return f"{said}: {by}"


def _given(path: Path | str) -> bytes:
    """The bytes of a file that the user named."""
    try:
        with Path(path).open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise PrivsynError(f"{path} cannot be read ({error.strerror})") from None


def _scan(folder: Path, problems: list[str]) -> Iterator[tuple[str, bool]]:
    """Relative POSIX path of everything but folders with content, and whether it is a regular file."""
    waiting = [""]
    while waiting:  # not recursive: a hostile tree may be deeper than the stack
        parent = waiting.pop()
        try:
            with os.scandir(folder / parent) as entries:
                children = [(f"{parent}{entry.name}", entry) for entry in entries]
                kinds = [(name, _kind(entry)) for name, entry in children]
        except OSError as error:
            problems.append(f"{printable(parent) or 'the folder'} cannot be read ({error.strerror})")
            continue
        if not kinds and parent:
            yield parent, False
        for name, kind in kinds:
            if kind == "folder":
                waiting.append(f"{name}/")
                continue
            if kind != "file":
                problems.append(f"{printable(name)} is a {kind}, not a regular file")
            yield name, kind == "file"


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "symbolic link", "hard link", "special file"]:
    """What an entry is; a file with a second name might be changed from outside of the folder."""
    if entry.is_symlink():
        return "symbolic link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if not entry.is_file(follow_symlinks=False):
        return "special file"
    return "file" if entry.stat(follow_symlinks=False).st_nlink == 1 else "hard link"


def _bundle(folder: Path, found: Mapping[str, bool], problems: list[str]) -> Bundle | None:
    if not found.get(BUNDLE):
        problems.append(f"{BUNDLE} is not a regular file")
        return None
    try:
        with _opened(folder / BUNDLE) as handle:
            return read_bundle(handle.read(MAX_BYTES + 1))
    except OSError as error:
        problems.append(f"{BUNDLE} cannot be read ({error.strerror})")
    except Refused as refusal:
        problems.append(f"{BUNDLE}: {refusal}")
    return None


def _changed(
    folder: Path, expected: Mapping[str, str], found: Mapping[str, bool], problems: list[str]
) -> Iterator[str]:
    there = [name for name in expected if name in found]
    if sum((folder / name).lstat().st_size for name in there) > LARGEST:
        problems.append(f"the files have more than {LARGEST} bytes, more than a release holds: not read")
        return
    with ThreadPoolExecutor(HASHERS) as pool:  # hashing leaves the interpreter to others
        digests = pool.map(lambda name: _digest(folder / name) if found[name] else None, there)
        for name, digest in zip(there, digests, strict=True):
            if isinstance(digest, OSError):
                problems.append(f"{name} cannot be read ({digest.strerror})")
            elif digest != expected[name]:
                yield name


def _digest(path: Path) -> str | OSError:
    try:
        with _opened(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        return error


def _opened(path: Path) -> BufferedReader:
    """The file itself, also if something else took its place since it was looked at."""
    flags = (
        os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    )
    return os.fdopen(os.open(path, flags), "rb")


def _check_bytes(folder: Path, statement: Statement, found: Mapping[str, bool], problems: list[str]) -> None:
    tree = Fields(statement.predicate["tree"], "the statement: tree")
    there = [name for name in statement.subjects if found.get(name)]
    sizes = [(folder / name).lstat().st_size for name in there]
    if tree.document.get("files") != len(statement.subjects) or (
        len(there) == len(statement.subjects) and tree.document.get("bytes") != sum(sizes)
    ):
        problems.append("the statement gives other numbers of files or bytes than there are")
