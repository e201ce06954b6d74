"""`privsyn prepare`: source to cohort."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder, pairs

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from privsyn.cohort.prepare import SourceReport

LISTED = 20  # names of files, of each kind

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder (with one sub-folder per class, a DICOM tree, of Hugging Face datasets, or any with "
        "--table), an .npz or Parquet file, or `digits`.",
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
        help="What the table calls a column, as in --column file=path: file, label, patient; and subgroup (a "
        "sex, an age band, a site ...), which is read only if named, as in --column subgroup=sex. May be "
        "repeated.",
    ),
]
OptOuts = Annotated[
    Path | None,
    typer.Option(
        "--opt-outs",
        metavar="FILE",
        help="Ids of patients to leave out, one a line; remembered on this machine for every later cohort.",
    ),
]
SkipUnusable = Annotated[
    bool, typer.Option("--skip-unusable", help="Leave out images that cannot be used, and list them.")
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", metavar="N", min=1, help="How many decode; default: one for each core."),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Say what would be read, refused, flagged and split, and write nothing."),
]
Show = Annotated[
    bool,
    typer.Option("--show", help="With --check: print some VALUES of identifiers in the files."),
]


def prepare(
    source: Source,
    table: TableFile = None,
    column: Column = None,
    opt_outs: OptOuts = None,
    skip_unusable: SkipUnusable = False,
    settings: Settings = None,
    processes: Processes = None,
    check: Check = False,
    show_values: Show = False,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Read real images into a cohort.

    The patients are split into train, holdout and test. Everything is checked before anything is
    written. Patient ids are kept as keyed hashes only, and nothing of a file but its pixels. A run that
    was killed goes on where it stopped.
    """
    from privsyn.cli.console import TerminalProgress, console, show
    from privsyn.cohort import prepare as work
    from privsyn.errors import PrivsynError
    from privsyn.ledger import recognised

    asked: dict[str, Any] = {
        "table": table,
        "columns": pairs(column or (), "--column") or None,
        "opt_outs": opt_outs,
        "skip_unusable": skip_unusable,
        "settings": settings or (),
        "processes": processes or os.cpu_count() or 1,
        "progress": TerminalProgress(),
    }
    if show_values and not check:
        raise PrivsynError("--show belongs to --check: only there are values printed")
    if check:
        report = work.check(study, source, values=show_values, **asked)
        show(report.to_dict(), *findings(report), *outlook(report), as_json=as_json)
        raise typer.Exit(0 if report.document else 1)

    def tell(report: SourceReport) -> None:
        for part in findings(report):
            console(stderr=True).print(part, soft_wrap=isinstance(part, str))

    cohort = work.prepare(study, source, force=force, tell=tell, **asked)
    met = recognised(lambda: cohort.records["patient"].tolist())
    document = {**cohort.document, "populations": met}
    show(document, counts(document), *notes(document), *population_notes(document), as_json=as_json)


def counts(document: Mapping[str, Any]) -> Table:
    """Images and patients of each split, and the images of each class and of each subgroup."""
    from privsyn.cli.console import table

    splits = ("train", "holdout", "test")
    parts = [document["counts"][split] for split in splits]
    rows: list[list[object]] = [[name, *(part[name] for part in parts)] for name in ("images", "patients")]
    rows += [[f"class {name}", *(part["classes"][name] for part in parts)] for name in document["classes"]]
    rows += [
        [f"subgroup {name or '(unknown)'}", *(found[split] for split in splits)]
        for name, found in document.get("subgroups", {}).items()
    ]
    return table("", *splits, rows=rows)


def findings(report: SourceReport) -> list[RenderableType]:
    """What was found in the source, by name where a name helps: for the terminal alone."""
    from privsyn.cli.console import table

    parts: list[RenderableType] = []
    told = report.told
    if told.marks:
        marks = sorted(told.marks.items(), key=lambda mark: (-mark[1], mark[0]))
        rows = [[name, files, ", ".join(sorted(told.examples.get(name, ())))] for name, files in marks]
        shown = 3 if told.examples else 2
        if len(rows) > LISTED and not told.examples:
            rows = [*rows[:LISTED], [f"... and {len(rows) - LISTED} more (--check --json has all)", "", ""]]
        columns = ("may identify somebody; left behind", "files", "values")[:shown]
        parts.append(table(*columns, rows=[row[:shown] for row in rows]))
    for title, listed in (
        ("cannot be used", told.refused),
        ("no image, passed over", told.passed_over),
        ("text in the pixels", [(where, "") for where in report.text.where]),
        ("near-duplicates of different patients", [(a, f"{b} ({c:.3f})") for a, b, c in report.near]),
    ):
        if listed:
            more = [[f"... and {len(listed) - LISTED:,} more", ""]] if len(listed) > LISTED else []
            parts.append(table(title, "", rows=[*listed[:LISTED], *more]))
    return parts


def outlook(report: SourceReport) -> list[RenderableType]:
    """What the cohort would be, or why there would be none."""
    if report.document is None:
        return [f"refused: {report.refusal}", "nothing was written"]
    return [counts(report.document), *notes(report.document), "nothing was written"]


def notes(document: Mapping[str, Any]) -> list[str]:
    """What the user should know about this cohort."""
    lines = [f"patient ids: {document['patient_ids']}", *_left_out(document["left_out"])]
    duplicates = document["duplicates"]
    if duplicates["exact_images"]:
        lines.append(
            f"exact duplicates: {duplicates['exact_images']} images equal an earlier one "
            f"({duplicates['groups']} groups, each within one split)"
        )
    if duplicates["linked_patients"]:
        lines.append(
            f"{duplicates['linked_patients']} patients are linked by equal images and stay in one split"
        )
    lines += [_text(document["identifiers"]["text"]), _near(document["near_duplicates"])]
    return [*lines, *document["too_small"]]


def _left_out(left_out: Mapping[str, int]) -> list[str]:
    words = {
        "unusable": "cannot be used",
        "no_image": "are no images",
        "opted_out": "are of patients who opted out",
    }
    return [f"left out: {left_out[key]:,} that {what}" for key, what in words.items() if left_out[key]]


def _text(text: Mapping[str, Any]) -> str:
    if not text["looked_at"]:
        return 'text in the pixels: not looked for (data.text_scan = "all" does, or a number of images)'
    done = {"drop": "dropped", "mask": "masked"}.get(text["policy"], "found")
    return (
        f"text in the pixels: {text['looked_at']:,} of {text['of']:,} images looked at, {text['flagged']:,} "
        f"{done}; at most {text['share_at_most']:.2%} of all had any to be found (95 % confidence)"
    )


def _near(near: Mapping[str, Any]) -> str:
    if near["looked_for"] == "off":
        return 'near-duplicates across patients: not looked for (data.near_duplicates = "report" does)'
    kept = ", each kept in one split" if near["looked_for"] == "link" else ""
    return f"near-duplicates across patients: {near['pairs']:,} pairs{kept}"


def population_notes(document: Mapping[str, Any]) -> list[str]:
    """Whom of these patients the ledger knows, and what comes next."""
    lines = [
        f"{met['of_these']:,} of these patients are known as {met['population']}: what was spent on them "
        "counts on (privsyn ledger show)"
        for met in document["populations"]
    ]
    return [*lines, "next: privsyn train"]
