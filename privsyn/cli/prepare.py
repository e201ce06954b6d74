"""`privsyn prepare`: source to cohort."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder, pairs

if TYPE_CHECKING:
    from rich.table import Table

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with one sub-folder per class, an .npz file, a folder with --table, or `digits`.",
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="CSV or Parquet: columns file (relative to SOURCE), label (name or index), optionally patient.",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        help="What the table calls a column, as in --column file=path. May be repeated.",
    ),
]


def prepare(
    source: Source,
    table: TableFile = None,
    column: Column = None,
    settings: Settings = None,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Read real images into a cohort.

    The patients are split into train, holdout and test. Everything is checked before anything is
    written. Patient ids are kept as keyed hashes only.
    """
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.cohort.cohort import prepare

    cohort = prepare(
        study,
        source,
        table=table,
        columns=pairs(column or (), "--column") or None,
        settings=settings or (),
        force=force,
        progress=TerminalProgress(),
    )
    show(cohort.document, counts(cohort.document), *notes(cohort.document), as_json=as_json)


def counts(document: Mapping[str, Any]) -> Table:
    """Images and patients of each split, and the images of each class."""
    from privsyn.cli.console import table

    splits = ("train", "holdout", "test")
    parts = [document["counts"][split] for split in splits]
    rows: list[list[object]] = [[name, *(part[name] for part in parts)] for name in ("images", "patients")]
    rows += [[f"class {name}", *(part["classes"][name] for part in parts)] for name in document["classes"]]
    return table("", *splits, rows=rows)


def notes(document: Mapping[str, Any]) -> list[str]:
    """What the user should know about this cohort."""
    duplicates = document["duplicates"]
    lines = [f"patient ids: {document['patient_ids']}"]
    if duplicates["exact_images"]:
        lines.append(
            f"exact duplicates: {duplicates['exact_images']} images equal an earlier one "
            f"({duplicates['groups']} groups, each within one split)"
        )
    if duplicates["linked_patients"]:
        lines.append(
            f"{duplicates['linked_patients']} patients share an image with another and stay in its split"
        )
    return [*lines, "next: privsyn train"]
