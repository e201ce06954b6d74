"""Compare the files of a release folder with its statement.

Standard library only. The folder may be hostile: links are not followed, special files not opened, and
nothing is ignored but the bundle of signatures.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Literal

from privsyn.errors import Refused
from privsyn.release.artefacts import is_release_file
from privsyn.release.bundle import Bundle, read_bundle
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.strict_json import MAX_BYTES, Fields, printable

LARGEST = 64 * 2**30  # bytes of a release
HASHERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class Contents:
    """A folder beside its statement; names that a terminal could misread are escaped.

    Attributes:
        bundle: `None` if there is none that can be read.
        changed: files whose bytes are not those stated.
        missing: files that are stated and not there.
        extra: files, links and empty folders that are there and not stated.
        problems: what else is wrong, in words.
    """

    bundle: Bundle | None
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Everything is as stated."""
        return self.bundle is not None and not (self.changed or self.missing or self.extra or self.problems)


def read_contents(folder: Path) -> Contents:
    """Compare every file below a folder with the statement in its bundle."""
    problems: list[str] = []
    found = dict(_scan(folder, problems))
    bundle = _bundle(folder, found, problems)
    if bundle is None:
        return Contents(None, (), (), (), tuple(sorted(problems)))
    expected = bundle.statement.subjects
    problems += [
        f"{name} is not a file that a release may hold" for name in expected if not is_release_file(name)
    ]
    changed = sorted(_changed(folder, expected, found, problems))
    _check_bytes(folder, bundle.statement, found, problems)
    return Contents(
        bundle=bundle,
        changed=tuple(changed),
        missing=tuple(sorted(name for name in expected if name not in found)),
        extra=tuple(sorted(printable(name) for name in found if name not in expected and name != BUNDLE)),
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
