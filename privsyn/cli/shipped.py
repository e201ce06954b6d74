"""Shared by `privsyn recipes` and `privsyn policies`: list, show and copy shipped TOML files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

Kind = Literal["recipes", "policies"]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A shipped name, or a TOML file.")]
Target = Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy.")]
Source = Annotated[Path, typer.Argument(metavar="FILE", help="The TOML file to check.")]


def list_shipped(
    kind: Kind, *, as_json: bool, counts: Callable[[Path], Mapping[str, int]] = lambda _: {}
) -> None:
    """Print name and first header line of every shipped file, and what else `counts` finds in it."""
    from privsyn.cli.console import show, table
    from privsyn.recipe import shipped

    entries = [
        {"name": name, "purpose": purpose(path), **counts(path)} for name, path in shipped(kind).items()
    ]
    rows = [tuple(entry.values()) for entry in entries]
    show({kind: entries}, table(*entries[0], rows=rows), as_json=as_json)


def show_shipped(kind: Kind, name: str, *, as_json: bool) -> None:
    """Print one file as it stands."""
    from privsyn.cli.console import show
    from privsyn.recipe import find_shipped

    text = find_shipped(kind, name).read_text(encoding="utf-8")
    show({"name": name, "text": text}, text.rstrip("\n"), as_json=as_json)


def copy_shipped(kind: Kind, name: str, target: Path, *, force: bool, as_json: bool) -> None:
    """Copy one file to where the user wants to edit it."""
    from privsyn.cli.console import show
    from privsyn.errors import PrivsynError
    from privsyn.files import write_text
    from privsyn.recipe import find_shipped

    text = find_shipped(kind, name).read_text(encoding="utf-8")
    if target.exists() and not force:
        raise PrivsynError(f"{target} already exists: choose another place, or pass --force to replace it")
    write_text(target, text)
    show({"name": name, "file": str(target)}, f"wrote {target}", as_json=as_json)


def purpose(path: Path) -> str:
    """The first header line of a shipped file, without its name."""
    line = path.read_text(encoding="utf-8").split("\n", 1)[0].lstrip("# ")
    return line.removeprefix(f"{path.stem}:").strip()
