"""`privsyn report`: write the two HTML reports of an audit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import HERE, Json, StudyFolder

AuditFolder = Annotated[
    Path | None,
    typer.Option(
        "--audit",
        metavar="DIR",
        help="The folder of another audit (privsyn audit --out DIR); default: that of the study.",
    ),
]


def report(study: StudyFolder = HERE, audit: AuditFolder = None, as_json: Json = False) -> None:
    """Write the two HTML reports of the audit.

    The internal report shows images of real patients and must stay inside. The public report holds aggregates
    only. Earlier reports are replaced.
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
