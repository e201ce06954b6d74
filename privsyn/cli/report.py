"""`privsyn report`: findings to the two HTML reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import HERE, Json, StudyFolder

AuditFolder = Annotated[
    Path | None,
    typer.Option(
        "--audit", metavar="DIR", help="An audit that `privsyn audit --out DIR` wrote; default: the study's."
    ),
]


def report(study: StudyFolder = HERE, audit: AuditFolder = None, as_json: Json = False) -> None:
    """Write the two HTML reports of the audit.

    One is internal and shows real images; one is for the public. They are made anew each time.
    """
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.report.html import report

    internal, public = report(study, audit=audit, progress=TerminalProgress())
    show(
        {"internal": str(internal), "public": str(public)},
        f"internal, must stay inside: {internal.resolve().as_uri()}",
        f"public, aggregates only:    {public.resolve().as_uri()}",
        "next: privsyn release draft" if audit is None else "a release takes the study's own audit",
        as_json=as_json,
    )
