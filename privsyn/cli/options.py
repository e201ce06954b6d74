"""Options that several commands share, defined once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from privsyn.errors import PrivsynError

StudyFolder = Annotated[
    Path, typer.Option("--study", envvar="PRIVSYN_STUDY", metavar="DIR", help="The study folder.")
]
HERE = Path(".")

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Override one setting of the recipe, for example --set train.steps=500; VALUE is TOML. "
        "Can be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite existing output of this command.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document to stdout, and all messages to stderr.")
]


Keys = Annotated[
    list[str],
    typer.Option(
        "--key",
        metavar="KEY",
        help="A private key file from `privsyn keys new`, or a securesystemslib signer URI such as "
        "hsm:2?label=mine for a hardware token. Can be repeated.",
    ),
]
PublicKey = Annotated[Path | None, typer.Option(metavar="FILE", help="The public key, if --key is a URI.")]
TrustFile = Annotated[
    Path,
    typer.Option(
        "--trust", metavar="FILE", help="The trust file: the persons and keys whose signatures count."
    ),
]


def plain(text: str) -> str:
    """Escape control characters, so that no name in the text can control the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def group(name: str) -> typer.Typer:
    """A command with sub-commands; the docstring of its callback is its help."""
    return typer.Typer(name=name, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def pairs(assignments: Sequence[str], option: str, example: str = "file=path") -> dict[str, str]:
    """Parse `["file=path"]` as `{"file": "path"}`.

    Raises:
        PrivsynError: an assignment without `=`.
    """
    result = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not (name and equals and value):
            raise PrivsynError(
                f"{option} {assignment!r}: expected NAME=VALUE, for example {option} {example}"
            )
        result[name] = value
    return result
