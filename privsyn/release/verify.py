"""A recipient's check that a release is whole: every file as stated, none missing, none besides.

Standard library only, and no network. What it reads may be hostile: links are not followed, special files
not opened, and nothing is ignored but the statement and its digest. Whole is not approved: without
signatures that the recipient trusts, the best answer is *inconclusive*.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privsyn.errors import PrivsynError, Refused
from privsyn.files import file_digest
from privsyn.release.manifest import MAX_BYTES, STATEMENT, STATEMENT_DIGEST, Statement, digest_line, parse


@dataclass(frozen=True)
class Verification:
    """What a check found; names that a terminal could misread are escaped.

    Attributes:
        outcome: `inconclusive` if the bytes are whole (nobody's approval was checked), else `fail`.
        statement: the in-toto document that was found, unverified; `None` if what was found is none.
        changed: files whose bytes are not those stated.
        missing: files that are stated and not there.
        extra: files, links and empty folders that are there and not stated.
        problems: everything else that is wrong, in words.
    """

    folder: Path
    outcome: Literal["inconclusive", "fail"]
    statement: dict[str, Any] | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """3: intact and unapproved; 1: something differs."""
        return 3 if self.outcome == "inconclusive" else 1

    def to_dict(self) -> dict[str, Any]:
        """One JSON document."""
        return {
            "schema_version": 1,
            "folder": _printable(str(self.folder)),
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "changed": list(self.changed),
            "missing": list(self.missing),
            "extra": list(self.extra),
            "problems": list(self.problems),
            "statement": self.statement,
        }


def verify(folder: Path | str) -> Verification:
    """Check a release folder.

    Raises:
        PrivsynError: there is no release to check: the folder, or its statement, is missing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PrivsynError(f"{folder} is not a folder: name the folder of the release")
    if not os.path.lexists(folder / STATEMENT):
        raise PrivsynError(f"{folder} is not a release (no {STATEMENT}): name the folder that holds it")
    problems: list[str] = []
    found = dict(_scan(folder, problems))
    statement = _statement(folder, found, problems)
    expected = statement.subjects if statement else {}
    own = {STATEMENT, STATEMENT_DIGEST}
    missing = sorted(name for name in expected if name not in found)
    extra = sorted(_printable(name) for name in found if name not in expected and name not in own)
    changed = sorted(_changed(folder, expected, found, problems))
    outcome: Literal["inconclusive", "fail"] = (
        "fail" if statement is None or missing or extra or changed or problems else "inconclusive"
    )
    return Verification(
        folder=folder,
        outcome=outcome,
        statement=statement.to_dict() if statement else None,
        changed=tuple(changed),
        missing=tuple(missing),
        extra=tuple(extra) if statement else (),
        problems=tuple(sorted(problems)),
    )


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
            problems.append(f"{_printable(parent) or 'the folder'} cannot be read ({error.strerror})")
            continue
        if not kinds and parent:
            yield parent, False
        for name, kind in kinds:
            if kind == "folder":
                waiting.append(f"{name}/")
                continue
            if kind != "file":
                problems.append(f"{_printable(name)} is a {kind}, not a regular file")
            yield name, kind == "file"


def _kind(entry: os.DirEntry[str]) -> Literal["file", "folder", "symbolic link", "special file"]:
    if entry.is_symlink():
        return "symbolic link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "special file"


def _statement(folder: Path, found: Mapping[str, bool], problems: list[str]) -> Statement | None:
    raw = _read(folder, STATEMENT, found, problems)
    line = _read(folder, STATEMENT_DIGEST, found, problems)
    if raw is None:
        return None
    if line is not None and line != digest_line(raw):
        problems.append(f"{STATEMENT} is not the one that {STATEMENT_DIGEST} names")
    try:
        return parse(raw)
    except Refused as refusal:
        problems.append(str(refusal))
        return None


def _read(folder: Path, name: str, found: Mapping[str, bool], problems: list[str]) -> bytes | None:
    if name not in found:
        problems.append(f"{name} is missing")
    if not found.get(name):
        return None
    try:
        with (folder / name).open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        problems.append(f"{name} cannot be read ({error.strerror})")
        return None


def _changed(
    folder: Path, expected: Mapping[str, str], found: Mapping[str, bool], problems: list[str]
) -> Iterator[str]:
    for name, digest in expected.items():
        if name not in found:
            continue
        try:
            if not found[name] or file_digest(folder / name) != digest:
                yield name
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")


def _printable(name: str) -> str:
    """The name itself, or escaped where it holds control characters or bytes that are no text."""
    return name if name.isprintable() else ascii(name)[1:-1]
