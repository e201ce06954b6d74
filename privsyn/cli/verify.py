"""`privsyn verify`: the recipient's check, without torch, faiss or network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import Json

Folder = Annotated[Path, typer.Argument(metavar="RELEASE", help="The release folder as it was received.")]


def verify(
    release: Folder,
    trust: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The trust file: whose signatures count. Get it through another channel than the release.",
        ),
    ] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The newest status list: what was revoked since.")
    ] = None,
    require_fresh_status: Annotated[
        bool, typer.Option("--require-fresh-status", help="Refuse without a status list that is still valid.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Check a release: files, approvals, revocation, privacy claim.

    Each changed, missing or extra file is named. No network, no study and no model is needed.

    Exit code: 0 unchanged and approved; 1 something is wrong; 3 unchanged, but something could not be
    checked, such as approvals without a trust file.
    """
    from privsyn.cli.console import show
    from privsyn.release.verify import verify

    found = verify(release, trust=trust, status=status, require_fresh_status=require_fresh_status)
    show(found.to_dict(), *found.lines(), as_json=as_json)
    return found.exit_code
