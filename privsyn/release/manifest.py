"""The statement of a release: which files it consists of, and what is claimed about them.

An in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with every
shipped file as a subject, in the first line of `release.intoto.jsonl`. A recipient's check builds on it, and
what it parses may come from anybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

from privsyn.files import json_text, tree_digest
from privsyn.release.checklist import ChecklistQuestion, read_questions
from privsyn.release.envelope import read_about, statement_about
from privsyn.strict_json import Fields, JsonObject, JsonValue, check_slug, refuse

RELEASE_TYPE = "https://privsyn.org/release/v1"
BUNDLE = "release.intoto.jsonl"
WHAT = "the statement"
PASSED = ("pass", "accepted")  # outcomes of a rule that do not block a release

# Names that mean the same file on every file system: no hidden, spaced, dotted or reserved ones.
_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)(?:/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)*"
)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A well-formed statement; whether it is true is another question.

    The properties read the predicate strictly: each raises `Refused` where its part is missing or malformed.

    Attributes:
        subjects: relative POSIX path to sha256 (hex) of every file that belongs to the release.
        predicate: what is claimed, as it was written.
    """

    subjects: Mapping[str, str]
    predicate: Mapping[str, JsonValue]

    def to_dict(self) -> JsonObject:
        """The in-toto document."""
        return statement_about(self.subjects, RELEASE_TYPE, self.predicate)

    def to_bytes(self) -> bytes:
        """The bytes that are signed; `parse_statement` turns them back into an equal statement."""
        return json_text(self.to_dict()).encode()

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of the signed bytes: what approvals are about."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def tree(self) -> str:
        """Digest of the names and bytes of all files."""
        return self._fields.fields("tree").digest("sha256")

    @property
    def policy(self) -> str:
        """sha256 of the policy under which the set was judged."""
        return self._fields.fields("policy").digest("sha256")

    @property
    def policy_title(self) -> str | None:
        return self._fields.fields("policy").text_or_none("title")

    @property
    def report(self) -> str:
        """sha256 of the internal report, which stays where the cohort is."""
        return self._fields.fields("evidence").digest("internalReport")

    @property
    def authors(self) -> frozenset[str]:
        """Persons of the trust file who made the release, and so cannot approve it."""
        return frozenset(check_slug(author, f"{WHAT}: authors") for author in self._fields.list("authors"))

    @property
    def valid_until(self) -> datetime:
        return self._fields.time("validUntil")

    @property
    def created(self) -> datetime | None:
        """When it was drafted, if it says so."""
        return self._fields.fields("release").time_or_none("created")

    @property
    def ledger_head(self) -> str | None:
        """Hash of the ledger entry of the training; None where no ledger is named."""
        if self._fields.document.get("ledger") is None:
            return None
        return self._fields.fields("ledger").text("head")

    @property
    def checklist(self) -> tuple[ChecklistQuestion, ...]:
        """The policy's questions."""
        return read_questions(self._fields.list("checklist"))

    @property
    def verdict_outcome(self) -> str:
        """`pass`, `fail` or `inconclusive`, as stated."""
        return self._fields.fields("verdict").text("outcome")

    @property
    def failing_rules(self) -> tuple[str, ...]:
        """Blocking rules that did not pass.

        Raises:
            Refused: the outcome is not what its rules amount to, or is of some rules only.
        """
        verdict, rules = self._fields.mapping("verdict"), self._rules
        if verdict.get("partial") is not False or not rules:
            refuse(WHAT, "carries a verdict on some rules only, or on none")
        failing = {
            rule.text("id", longest=200)
            for rule in rules
            if rule.one_of("severity", ("block", "warn")) == "block" and rule.text("outcome") not in PASSED
        }
        if (verdict.get("outcome") == "pass") != (not failing):
            refuse(WHAT, "gives a verdict that does not follow from its own rules")
        return tuple(sorted(failing))

    @cached_property
    def waivable(self) -> Mapping[str, frozenset[str]]:
        """Rule to the roles that may waive it, whichever of its rows did not pass."""
        found: dict[str, frozenset[str]] = {}
        for rule in self._rules:
            name = rule.text("id", longest=200)
            roles = frozenset(check_slug(role, f"{WHAT}: waivable_by") for role in rule.list("waivable_by"))
            found[name] = found.get(name, roles) & roles
        return found

    @property
    def _rules(self) -> list[Fields]:
        listed = self._fields.fields("verdict").list("rules")
        return [Fields(rule, f"{WHAT}: a rule") for rule in listed]

    @property
    def _fields(self) -> Fields:
        return Fields(self.predicate, WHAT)


def make_statement(
    digests: Mapping[str, str], sizes: Mapping[str, int], claims: Mapping[str, JsonValue]
) -> Statement:
    """A statement about files.

    Args:
        digests: relative POSIX path to sha256 (hex) of each file.
        sizes: relative POSIX path to bytes of each file.
        claims: the rest of the predicate, as `ReleasePredicate.to_document` writes it.

    Raises:
        Refused: a name means another file, or none, on another file system.
    """
    for name in digests:
        _check_name(name)
    tree: JsonObject = {
        "algorithm": "dirHash: sha256 over the sorted lines of sha256sum, so names and bytes are covered",
        "sha256": tree_digest(dict(digests)),
        "files": len(digests),
        "bytes": sum(sizes.values()),
    }
    return Statement(MappingProxyType(dict(digests)), MappingProxyType({**claims, "tree": tree}))


def parse_statement(payload: bytes) -> Statement:
    """Read a statement that may be hostile.

    Raises:
        Refused: it is not a statement that this version writes and understands; the message says why.
    """
    subjects, predicate = read_about(payload, RELEASE_TYPE, WHAT)
    if not subjects:
        refuse(WHAT, "names no files")
    for name in subjects:
        _check_name(name)
    if len({name.casefold() for name in subjects}) != len(subjects):
        refuse(WHAT, "names a file twice")
    found = Statement(MappingProxyType(subjects), MappingProxyType(predicate))
    if found.tree != tree_digest(subjects):
        refuse(WHAT, "gives a digest of the tree that is not that of its own subjects")
    if found.to_bytes() != payload:
        refuse(WHAT, "is not spelled as privsyn spells a statement")
    return found


def _check_name(name: str) -> None:
    reserved = any(_RESERVED.fullmatch(part) for part in name.split("/"))
    if len(name) > 200 or not _NAME.fullmatch(name) or reserved:
        refuse(WHAT, f"names a file {name[:200]!a}, which is not a plain relative path")
    if name.casefold().split("/")[0] == BUNDLE:
        refuse(WHAT, "names itself as one of the files")
