"""Options that several verbs share, spelled once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from privsyn.errors import PrivsynError

StudyFolder = Annotated[
    Path, typer.Option("--study", envvar="PRIVSYN_STUDY", metavar="DIR", help="The study to work on.")
]
HERE = Path(".")

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change one setting of the recipe, as in --set train.steps=500; VALUE is TOML. May be repeated.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace what an earlier run has finished.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and everything else on stderr.")
]


Keys = Annotated[
    list[str],
    typer.Option(
        "--key",
        metavar="KEY",
        help="A private key file of `privsyn keys new`, or the URI of a signer of securesystemslib, such as "
        "hsm:2?label=mine. May be repeated.",
    ),
]
PublicKey = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The public half of a key that is given by its URI.")
]
TrustFile = Annotated[
    Path, typer.Option("--trust", metavar="FILE", help="The trust file: whose signatures count.")
]


def plain(text: str) -> str:
    """The text with control characters spelled out, so that no name can steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def group(name: str) -> typer.Typer:
    """A command with sub-commands, in the style of this program; its callback says what it is for."""
    return typer.Typer(name=name, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def pairs(assignments: Sequence[str], option: str, example: str = "file=path") -> dict[str, str]:
    """`["file=path"]` to `{"file": "path"}`.

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
