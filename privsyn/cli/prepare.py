"""`privsyn prepare`: read real images into the cohort of a study."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder, pairs

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from privsyn.cohort.document import (
        CohortDocument,
        DuplicateCounts,
        LeftOutCounts,
        NearDuplicateCounts,
        TextCounts,
    )
    from privsyn.cohort.prepare import SourceSpec
    from privsyn.cohort.source_report import SourceReport

LISTED = 20  # names of files, of each kind

SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A folder (class folders, a DICOM tree, Hugging Face datasets or, with --table, any images), an "
        ".npz or Parquet file, or the word digits.",
    ),
]
TableFile = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE",
        help="CSV, JSON lines or Parquet with columns file (relative to SOURCE), label (name or index) and, "
        "optionally, patient.",
    ),
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        help="The table's name for a column, as in --column file=path: file, label or patient. A column of "
        "subgroups (a sex, an age band, a site ...) is read only if named, as in --column subgroup=sex. May "
        "be repeated.",
    ),
]
OptOuts = Annotated[
    Path | None,
    typer.Option(
        "--opt-outs",
        metavar="FILE",
        help="Ids of patients to leave out, one per line; remembered on this machine for later cohorts.",
    ),
]
SkipUnusable = Annotated[
    bool, typer.Option("--skip-unusable", help="Leave out images that cannot be used, and list them.")
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", metavar="N", min=1, help="Processes that decode; default: one per core."),
]
Check = Annotated[
    bool,
    typer.Option("--check", help="Report what would be read, refused, flagged and split; write nothing."),
]
Show = Annotated[
    bool,
    typer.Option("--show", help="With --check: print some VALUES of identifiers in the files."),
]


def prepare(
    source: SourceName,
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
    """Read real images into the study's cohort.

    Patients are split into train, holdout and test. Everything is checked before anything is written.
    Patient ids are kept as keyed hashes only, and of a file only the pixels are kept. An interrupted run
    continues where it stopped.
    """
    from privsyn.cohort.prepare import SourceSpec
    from privsyn.errors import PrivsynError

    spec = SourceSpec(
        source,
        table=table,
        columns=pairs(column or (), "--column"),
        opt_outs=opt_outs,
        skip_unusable=skip_unusable,
        processes=processes or os.cpu_count() or 1,
    )
    if show_values and not check:
        raise PrivsynError("--show needs --check: only a check prints values of identifiers")
    if check:
        _check(study, spec, settings or (), show_values=show_values, as_json=as_json)
    else:
        _prepare(study, spec, settings or (), force=force, as_json=as_json)


def _check(
    study: Path, spec: SourceSpec, settings: Sequence[str], *, show_values: bool, as_json: bool
) -> None:
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.cohort.prepare import check

    report = check(study, spec, settings=settings, values=show_values, progress=TerminalProgress())
    show(report.to_dict(), *findings(report), *outlook(report), as_json=as_json)
    raise typer.Exit(0 if report.document else 1)


def _prepare(study: Path, spec: SourceSpec, settings: Sequence[str], *, force: bool, as_json: bool) -> None:
    from privsyn.cli.console import TerminalProgress, console, show
    from privsyn.cohort.document import content_of
    from privsyn.cohort.prepare import prepare
    from privsyn.ledger import recognised
    from privsyn.study import open_study

    def print_findings(report: SourceReport) -> None:
        for part in findings(report):
            console(stderr=True).print(part, soft_wrap=isinstance(part, str))

    progress, recipe_file = TerminalProgress(), open_study(study).recipe_file
    before = recipe_file.read_bytes()
    cohort = prepare(study, spec, settings=settings, force=force, progress=progress, on_report=print_findings)
    populations = recognised(lambda: cohort.records["patient"].tolist())
    document = cohort.document
    lines = [*notes(document), *population_notes(populations)]
    if recipe_file.read_bytes() != before:
        lines.append("recipe.toml was changed: it has the settings of --set now")
    show({**content_of(document), "populations": populations}, counts(document), *lines, as_json=as_json)


def counts(document: CohortDocument) -> Table:
    """Images and patients of each split, and the images of each class and of each subgroup."""
    from privsyn.cli.console import table

    splits = ("train", "holdout", "test")
    parts = [document.counts[split] for split in splits]
    rows: list[list[object]] = [
        ["images", *(part.images for part in parts)],
        ["patients", *(part.patients for part in parts)],
    ]
    rows += [[f"class {name}", *(part.classes[name] for part in parts)] for name in document.classes]
    rows += [
        [f"subgroup {name or '(unknown)'}", *(found[split] for split in splits)]
        for name, found in (document.subgroups or {}).items()
    ]
    return table("", *splits, rows=rows)


def findings(report: SourceReport) -> list[RenderableType]:
    """What was found in the source, with the names of files: only for the terminal."""
    from privsyn.cli.console import table

    near = [(pair.one, f"{pair.other} ({pair.correlation:.3f})") for pair in report.near]
    parts: list[RenderableType] = [_marks(report)] if report.ingested.marks else []
    for title, listed in (
        ("cannot be used", report.ingested.refused),
        ("not an image, passed over", report.ingested.passed_over),
        ("text in the pixels", [(where, "") for where in report.text.where]),
        ("near-duplicates of different patients", near),
    ):
        if listed:
            more = [[f"... and {len(listed) - LISTED:,} more", ""]] if len(listed) > LISTED else []
            parts.append(table(title, "", rows=[*listed[:LISTED], *more]))
    return parts


def _marks(report: SourceReport) -> Table:
    """Identifying metadata, the most frequent first; with values, if they were kept."""
    from privsyn.cli.console import table

    examples = report.ingested.examples
    marks = sorted(report.ingested.marks.items(), key=lambda mark: (-mark[1], mark[0]))
    rows = [[name, files, ", ".join(sorted(examples.get(name, ())))] for name, files in marks]
    shown = 3 if examples else 2
    if len(rows) > LISTED and not examples:
        rows = [*rows[:LISTED], [f"... and {len(rows) - LISTED} more (--check --json lists all)", "", ""]]
    columns = ("identifying metadata found, not stored", "files", "values")[:shown]
    return table(*columns, rows=[row[:shown] for row in rows])


def outlook(report: SourceReport) -> list[RenderableType]:
    """The cohort that would result, or why there would be none."""
    if report.document is None:
        return [f"refused: {report.refusal}", "nothing was written"]
    return [counts(report.document), *notes(report.document), "nothing was written"]


def notes(document: CohortDocument) -> list[str]:
    """What the user should know about this cohort."""
    return [
        f"patient ids: {document.patient_ids}",
        *_left_out(document.left_out),
        *_duplicates(document.duplicates),
        _text(document.identifiers.text),
        _near(document.near_duplicates),
        *document.too_small,
    ]


def _left_out(left_out: LeftOutCounts) -> list[str]:
    counted = {
        "cannot be used": left_out.unusable,
        "are not images": left_out.no_image,
        "are of patients who opted out": left_out.opted_out,
    }
    return [f"left out: {count:,} that {what}" for what, count in counted.items() if count]


def _duplicates(duplicates: DuplicateCounts) -> list[str]:
    lines = []
    if duplicates.exact_images:
        lines.append(
            f"exact duplicates: {duplicates.exact_images} images equal an earlier one "
            f"({duplicates.groups} groups, each within one split)"
        )
    if duplicates.linked_patients:
        lines.append(
            f"{duplicates.linked_patients} patients are linked by equal images and stay in one split"
        )
    return lines


def _text(text: TextCounts) -> str:
    if not text.looked_at or text.share_at_most is None:
        return 'text in the pixels: not searched (set data.text_scan to "all" or to a number of images)'
    done = {"drop": "dropped", "mask": "masked"}.get(text.policy, "found")
    return (
        f"text in the pixels: {text.looked_at:,} of {text.of:,} images searched, {text.flagged:,} {done}; "
        f"at most {text.share_at_most:.2%} of all had text that the search can find (95 % confidence)"
    )


def _near(near: NearDuplicateCounts) -> str:
    if near.looked_for == "off":
        return 'near-duplicates across patients: not searched (set data.near_duplicates to "report")'
    kept = ", each kept in one split" if near.looked_for == "link" else ""
    return f"near-duplicates across patients: {near.pairs:,} pairs{kept}"


def population_notes(populations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which of these patients the ledger knows, and the next command."""
    lines = [
        f"{met['of_these']:,} of these patients belong to {met['population']} in the ledger: privacy loss of "
        "earlier trainings on them is added (privsyn ledger show)"
        for met in populations
    ]
    return [*lines, "next: privsyn train"]
