"""Atomic writes, so that a file is whole or absent, and sha256 digests of files and folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from privsyn.errors import PrivsynError, Refused

try:
    import fcntl
except ImportError:  # not on Windows, where two at once are not kept apart
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".partial-"
_HOLDER_LENGTH = 200  # characters of a lock file that are shown


@contextmanager
def whole_file(path: Path, *, aside: Path | None = None) -> Iterator[Path]:
    """Give a path to write to; on success it replaces `path` in one step, on any error it is removed.

    Args:
        aside: the folder to write in until then, on the same file system, where what a kill leaves behind
            does no harm; by default that of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_PARTIAL, suffix=f"-{path.name}", dir=aside or path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o666 & ~_umask())
        _fsync(partial)
        os.replace(partial, path)
        _fsync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Give a folder to fill; on success it takes the place of `path`, on any error it is removed.

    Raises:
        PrivsynError: `path` exists and `replace` is not set.
    """
    if path.exists() and not replace:
        raise PrivsynError(f"{path} already exists: choose another place, or pass --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, suffix=f"-{path.name}", dir=path.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())
        if path.exists():
            previous = Path(tempfile.mkdtemp(prefix=_PARTIAL, suffix=f"-{path.name}", dir=path.parent))
            os.replace(path, previous / path.name)
            os.replace(partial, path)
            shutil.rmtree(previous)
        else:
            os.replace(partial, path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time change `path`, by a lock on a hidden file beside it that stays."""
    with path.with_name(f".{path.name}.lock").open("a") as handle:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def held(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock file for the block, or refuse at once and say who holds it; it is removed at the end.

    The lock goes with the process, however that ends, so a file that a killed one left behind holds nothing.
    Where the system has no such locks, nothing is held.

    Args:
        holder: one line that tells others who holds it.

    Raises:
        Refused: another process holds it; the message is its `holder`.
    """
    if fcntl is None:
        yield
        return
    while True:
        try:
            handle = path.open("a+", encoding="utf-8")
        except OSError:  # where nothing can be written, nothing needs to be held
            yield
            return
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            told = handle.read(_HOLDER_LENGTH).strip()
            handle.close()
            raise Refused(told or "another process") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle.fileno()), path.stat()):
                break
        handle.close()  # whoever held it has just removed it
    with handle:
        handle.truncate(0)
        handle.write(holder + "\n")
        handle.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, document: Any) -> None:
    """Write one JSON document atomically: sorted keys, no NaN, a newline at the end."""
    write_text(path, json_text(document))


def read_json(path: Path) -> Any:
    """Read one JSON document.

    Raises:
        PrivsynError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PrivsynError(f"{path} does not exist") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PrivsynError(f"{path} is not valid JSON ({error}): make it again, or restore it") from None


def json_text(document: Any) -> str:
    """The one spelling of a JSON document that we write and hash."""
    return json.dumps(document, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"


def json_digest(document: Any) -> str:
    """sha256 (hex) of `json_text(document)`."""
    return hashlib.sha256(json_text(document).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def relative_files(folder: Path) -> list[str]:
    """Every file below `folder` as a sorted relative POSIX path; nothing is ignored.

    Raises:
        PrivsynError: a symbolic link, device or pipe is found, or a name that is unsafe elsewhere.
    """
    found: list[str] = []
    for root, folders, names in os.walk(folder, followlinks=False):
        for name in [*folders, *names]:
            path = Path(root, name)
            relative = path.relative_to(folder).as_posix()
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise PrivsynError(f"{relative!r} in {folder} is not a regular file or folder: remove it")
        found += [check_relative(Path(root, name).relative_to(folder).as_posix()) for name in names]
    return sorted(found)


def check_relative(name: str) -> str:
    """Return `name` if it is a plain relative POSIX path that stays inside its folder.

    Raises:
        PrivsynError: it is absolute, climbs with `..`, or holds control characters or backslashes.
    """
    parts = PurePosixPath(name).parts
    unsafe = not parts or name.startswith("/") or ".." in parts or "\\" in name
    if unsafe or PurePosixPath(*parts).as_posix() != name or any(ord(c) < 32 or ord(c) == 127 for c in name):
        raise PrivsynError(f"unsafe file name {name!r}: only plain relative paths are allowed")
    return name


def tree_digests(folder: Path) -> dict[str, str]:
    """Relative POSIX path to sha256 (hex), for every file below `folder`."""
    return {name: file_digest(folder / name) for name in relative_files(folder)}


def tree_digest(digests: dict[str, str]) -> str:
    """One sha256 (hex) over names and contents: sha256 of the sorted `sha256sum` lines (Go's `dirhash`)."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
