"""`privsyn release`: what leaves the house."""

from __future__ import annotations

from privsyn.cli.options import HERE, Force, Json, StudyFolder, group

app = group("release")


@app.callback()
def release() -> None:
    """Put together what leaves the house."""


@app.command("draft")
def draft(force: Force = False, study: StudyFolder = HERE, as_json: Json = False) -> None:
    """Write the release folder with its manifest.

    It is written whatever the verdict, which it carries. Nobody has approved it yet.
    """
    from privsyn.cli.console import show
    from privsyn.release.draft import draft

    folder = draft(study, force=force)
    show(
        {"release": str(folder)},
        f"drafted {folder}: nobody has approved it yet",
        f"next: privsyn verify {folder}",
        as_json=as_json,
    )
