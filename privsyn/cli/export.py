"""`privsyn export`: the model as a folder that another tool loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, StudyFolder

Format = Annotated[
    str, typer.Option("--format", metavar="NAME", help="What loads it; only `diffusers` is known so far.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")]


def export(
    out: Out,
    format: Format = "diffusers",  # noqa: A002 - the name of the option
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Write the finished model as a folder that diffusers loads.

    The folder is as internal as the model, unless its claim and those who govern the data allow more.
    """
    from privsyn.cli.console import show
    from privsyn.export import export
    from privsyn.files import read_json

    folder = export(study, format=format, out=out, force=force)
    show(
        {"folder": str(folder), "claim": read_json(folder / "privacy.json")["kind"]},
        f"exported to {folder}: internal, like the model; {folder / 'README.md'} says how to sample from it",
        as_json=as_json,
    )
