"""The recipient's check as one file, `privsyn-verify.pyz`, which any Python 3.11 runs with nothing else."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import sys
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from privsyn.errors import PrivsynError
from privsyn.files import file_digest, whole_file

NAME = "privsyn-verify.pyz"
ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package
ENTRY = "privsyn.release.standalone_cli"
SIGNATURES = "securesystemslib"  # the only package beside the standard library; it goes in whole
_START = f"import sys\n\nfrom {ENTRY} import main\n\nsys.exit(main())\n".encode()
_EPOCH = (1980, 1, 1, 0, 0, 0)  # one set of modules gives one file, whenever it is made


def write_portable(out: Path | str = NAME, *, force: bool = False) -> str:
    """Write the verifier, from the modules that are installed here.

    Args:
        out: the file.
        force: replace a file that is there.

    Returns:
        sha256 (hex) of the file: publish it to recipients through another channel.

    Raises:
        PrivsynError: the file exists, or the verifier imports what a recipient does not have.
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


def needed_modules(entry: str = ENTRY) -> dict[str, Path]:
    """Name to source file of a module of privsyn and of all that it imports, directly or not.

    Imports within functions count; those for type checkers alone do not.

    Raises:
        PrivsynError: one imports a package that is neither privsyn's, nor of the standard library, nor
            `SIGNATURES`.
    """
    found: dict[str, Path] = {}
    waiting = [entry]
    while waiting:
        name = waiting.pop()
        source = _source(name)
        if source is None or name in found:  # None: `name` is a function or class in a module
            continue
        found[name] = source
        for imported in [name, *_imports(ast.parse(source.read_bytes()))]:
            package = imported.partition(".")[0]
            if package == "privsyn":
                waiting += [imported, imported.rpartition(".")[0] or imported]
            elif package != SIGNATURES and package not in sys.stdlib_module_names:
                raise PrivsynError(f"{name} imports {package}, which a recipient of {NAME} does not have")
    return found


def _contents() -> Iterator[tuple[str, bytes]]:
    yield "__main__.py", _START
    for source in needed_modules().values():
        yield source.relative_to(ROOT).as_posix(), source.read_bytes()
    yield from _python_files(importlib.resources.files(SIGNATURES), SIGNATURES)
    licence = importlib.metadata.distribution(SIGNATURES)
    for file in licence.files or ():
        if "LICENSE" in file.name:
            yield f"{SIGNATURES}/{file.name}", Path(str(file.locate())).read_bytes()


def _source(module: str) -> Path | None:
    """The file of a module of privsyn; None if there is no such module."""
    place = ROOT.joinpath(*module.split("."))
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _imports(node: ast.AST) -> Iterator[str]:
    """Dotted names that a module imports: modules, and names that may be modules."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        node = ast.Module(node.orelse, [])
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


def _python_files(folder: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    yield f"{name}/__init__.py", b""  # packages in an archive need one; the folder's own follows
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry, f"{name}/{entry.name}")
        elif entry.name.endswith(".py"):
            yield f"{name}/{entry.name}", entry.read_bytes()
