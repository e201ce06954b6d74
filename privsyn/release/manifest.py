"""The statement of a release: which bytes it consists of, and what is claimed about them.

An in-toto Statement v1 (https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md) with every
shipped file as a subject. Standard library only, because a recipient's check builds on it; what it parses
may come from anybody.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from privsyn.errors import Refused
from privsyn.files import json_text, tree_digest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://privsyn.org/release/v1"
STATEMENT = "statement.json"
STATEMENT_DIGEST = "statement.json.sha256"
MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Names that mean the same file on every file system: no hidden, spaced, dotted or reserved ones.
_NAME = re.compile(
    r"(?:[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)(?:/[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?)*"
)
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Statement:
    """A statement that is well formed; whether it is true is another question.

    Attributes:
        subjects: relative POSIX path to sha256 (hex) of every file that belongs to the release.
        predicate: what is claimed, as it was written.
    """

    subjects: Mapping[str, str]
    predicate: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The in-toto document."""
        subjects = [
            {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(self.subjects.items())
        ]
        return {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": PREDICATE_TYPE,
            "predicate": dict(self.predicate),
        }

    def to_bytes(self) -> bytes:
        """The bytes of `statement.json`; `parse` turns them back into an equal statement."""
        return json_text(self.to_dict()).encode()


def state(digests: Mapping[str, str], sizes: Mapping[str, int], claims: Mapping[str, Any]) -> Statement:
    """A draft's statement about files.

    Args:
        digests: relative POSIX path to sha256 (hex) of each file.
        sizes: relative POSIX path to bytes of each file.
        claims: further parts of the predicate: release, set, generator, privacyClaim, policy, verdict.

    Raises:
        Refused: a name means another file, or none, on another file system.
    """
    for name in digests:
        _check_name(name)
    tree = {
        "algorithm": "dirHash: sha256 over the sorted lines of sha256sum, so names and bytes are covered",
        "sha256": tree_digest(dict(digests)),
        "files": len(digests),
        "bytes": sum(sizes.values()),
    }
    undone = {
        "status": "draft",
        "approvals": [],
        "identifierScan": "not performed",
        "scorecard": "not performed",
    }
    return Statement(MappingProxyType(dict(digests)), MappingProxyType({**claims, **undone, "tree": tree}))


def digest_line(statement: bytes) -> bytes:
    """The bytes of `statement.json.sha256`, as `sha256sum --check` reads them."""
    return f"{hashlib.sha256(statement).hexdigest()}  {STATEMENT}\n".encode()


def parse(raw: bytes) -> Statement:
    """Read a statement that may be hostile.

    Raises:
        Refused: it is not a statement that this version writes and understands; the message says why.
    """
    document = _json(raw)
    if not isinstance(document, dict) or document.get("_type") != STATEMENT_TYPE:
        _refuse("is not an in-toto Statement v1")
    if document.get("predicateType") != PREDICATE_TYPE:
        _refuse(f"does not speak about a release ({PREDICATE_TYPE})")
    predicate = document.get("predicate")
    if not isinstance(predicate, dict) or not isinstance(predicate.get("tree"), dict):
        _refuse("has no predicate with a tree")
    subjects = _subjects(document.get("subject"))
    if predicate["tree"].get("sha256") != tree_digest(subjects):
        _refuse("gives a digest of the tree that is not that of its own subjects")
    return Statement(MappingProxyType(subjects), MappingProxyType(predicate))


def _subjects(listed: Any) -> dict[str, str]:
    if not isinstance(listed, list) or not listed:
        _refuse("names no files")
    subjects: dict[str, str] = {}
    for entry in listed:
        name = entry.get("name") if isinstance(entry, dict) else None
        digests = entry.get("digest") if isinstance(entry, dict) else None
        digest = digests.get("sha256") if isinstance(digests, dict) else None
        if not isinstance(name, str) or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            _refuse("has a subject without a name or a sha256")
        _check_name(name)
        subjects[name] = digest
    if len({name.casefold() for name in subjects}) != len(listed):
        _refuse("names a file twice")
    return subjects


def _check_name(name: str) -> None:
    reserved = any(_RESERVED.fullmatch(part) for part in name.split("/"))
    if len(name) > 200 or not _NAME.fullmatch(name) or reserved:
        _refuse(f"names a file {name[:200]!a}, which is not a plain relative path")
    if name.casefold().split("/")[0] in (STATEMENT, STATEMENT_DIGEST):
        _refuse("names itself as one of the files")


def _json(raw: bytes) -> Any:
    if len(raw) > MAX_BYTES:
        _refuse(f"is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        _check_depth(document)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # lone surrogates cannot be printed later
    except RecursionError:
        _refuse("is nested too deeply")
    except ValueError as error:
        _refuse(f"is not valid JSON ({ascii(str(error))[1:-1][:120]})")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ on which of two equal keys counts
        raise ValueError("an object has the same key twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _check_depth(document: Any) -> None:
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return
    _refuse("is nested too deeply")


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _refuse(why: str) -> NoReturn:
    raise Refused(f"{STATEMENT} {why}")
