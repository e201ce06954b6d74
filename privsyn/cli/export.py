"""`privsyn export`: the model, or the synthetic set, as a folder that another tool loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, StudyFolder

Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="The model: `diffusers`. The synthetic set: `imagefolder`, `webdataset` or `dicom`.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write.")]
From = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="DIR",
        help="A release, or a set that `privsyn sample` wrote, instead of the study's; needs no study.",
    ),
]
Modality = Annotated[
    str | None,
    typer.Option(
        "--modality",
        metavar="TERM",
        help="What the images of `dicom` look like: CR radiographs and GM micrographs get the class of that "
        "name; OT (the default), CT, DX, ES, MG, MR, OP, OPT, SM, US and XC are Secondary Captures.",
    ),
]


def export(
    out: Out,
    format: Format = "diffusers",  # noqa: A002 - the name of the option
    source: From = None,
    modality: Modality = None,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Write the model or the synthetic set for another tool.

    The folder is as internal as what it was made from, unless its claim and those who govern the data allow
    more.
    """
    if format == "diffusers":
        _export_model(out, source, modality, force, study, as_json)
    else:
        _export_set(out, format, source, modality, force, study, as_json)


def _export_model(
    out: Path, source: Path | None, modality: str | None, force: bool, study: Path, as_json: bool
) -> None:
    from privsyn.cli.console import show
    from privsyn.errors import PrivsynError
    from privsyn.exchange.diffusers import export
    from privsyn.files import read_json

    if source or modality:
        raise PrivsynError(
            "--from and --modality are for the synthetic set, and --format diffusers is of the model: "
            "add --format imagefolder, webdataset or dicom"
        )
    folder = export(study, format="diffusers", out=out, force=force)
    show(
        {"folder": str(folder), "claim": read_json(folder / "privacy.json")["kind"]},
        f"exported to {folder}: internal, like the model; {folder / 'README.md'} says how to sample from it",
        as_json=as_json,
    )


def _export_set(
    out: Path,
    format: str,  # noqa: A002 - the name of the option
    source: Path | None,
    modality: str | None,
    force: bool,
    study: Path,
    as_json: bool,
) -> None:
    from privsyn.cli.console import show
    from privsyn.exchange.layout import export_set

    written = export_set(study, format=format, out=out, source=source, modality=modality, force=force)
    count = len(written.images)
    show(
        {"folder": str(out), "format": format, "images": count},
        f"exported {count} images to {out}: a copy of the set that nobody has approved; "
        f"{out / 'README.md'} says how to load it",
        as_json=as_json,
    )
