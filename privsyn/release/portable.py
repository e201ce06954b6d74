"""The recipient's check as one file, `privsyn-verify.pyz`, which any Python 3.11 runs with nothing else."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from privsyn.errors import PrivsynError
from privsyn.files import file_digest, whole_file

NAME = "privsyn-verify.pyz"
MODULES = ("__init__", "errors", "files", "home")
RELEASE = (
    "__init__", "approvals", "bound", "bundle", "checklist", "contents", "documents", "envelope", "manifest",
    "memory", "program", "status_list", "trust", "verify",
)  # fmt: skip
SIGNATURES = "securesystemslib"
_START = b"import sys\n\nfrom privsyn.release.standalone_cli import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one set of modules gives one file, whenever it is made


def write_portable(out: Path | str = NAME, *, force: bool = False) -> str:
    """Write the verifier, from the modules that are installed here.

    Args:
        out: the file.
        force: replace a file that is there.

    Returns:
        sha256 (hex) of the file: tell it to recipients by another way.

    Raises:
        PrivsynError: the file exists.
    """
    out = Path(out)
    if out.exists() and not force:
        raise PrivsynError(f"{out} already exists: choose another place, or pass --force to replace it")
    with whole_file(out) as partial, partial.open("wb") as handle:
        handle.write(b"#!/usr/bin/env python3\n")
        with zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in sorted(dict(_contents()).items()):
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                archive.writestr(entry, text)
    out.chmod(out.stat().st_mode | 0o111)
    return file_digest(out)


def _contents() -> Iterator[tuple[str, bytes]]:
    ours = importlib.resources.files("privsyn")
    yield "__main__.py", _START
    for name in MODULES:
        yield f"privsyn/{name}.py", (ours / f"{name}.py").read_bytes()
    for name in RELEASE:
        yield f"privsyn/release/{name}.py", (ours / "release" / f"{name}.py").read_bytes()
    yield from _python_files(importlib.resources.files(SIGNATURES), SIGNATURES)
    licence = importlib.metadata.distribution(SIGNATURES)
    for file in licence.files or ():
        if "LICENSE" in file.name:
            yield f"{SIGNATURES}/{file.name}", Path(str(file.locate())).read_bytes()


def _python_files(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    yield f"{name}/__init__.py", b""  # packages in an archive need one; the folder's own follows
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_bytes()
