"""`privsyn verify`: the recipient's check, without torch, faiss or network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import Json

Folder = Annotated[Path, typer.Argument(metavar="RELEASE", help="The release folder as it was received.")]


def verify(release: Folder, as_json: Json = False) -> int:
    """Check that a release is whole.

    Each changed, missing or extra file is named. No network, no study and no model is needed.

    Exit code: 1 something differs; 3 every byte is as stated, but nobody's approval was checked.
    """
    from privsyn.cli.console import show
    from privsyn.release.verify import verify

    found = verify(release)
    lines = [f"{what}: {name}" for what in ("changed", "missing", "extra") for name in getattr(found, what)]
    lines += [f"problem: {text}" for text in found.problems]
    if not lines:
        lines = ["every file is as stated", "not approved: who stands behind this release was not checked"]
    show(found.to_dict(), *lines, f"outcome: {found.outcome}", as_json=as_json)
    return found.exit_code
