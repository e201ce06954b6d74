"""`privsyn import`: makes a network saved by diffusers the model of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, StudyFolder

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="A folder that save_pretrained of diffusers wrote.")
]


def import_(folder: Folder, force: Force = False, study: StudyFolder = HERE, as_json: Json = False) -> None:
    """Import a network saved by diffusers as the study's model.

    The recipe must describe it; if it does not, the message says what to write. No privacy is claimed for it.
    """
    from privsyn.claim.words import summary
    from privsyn.cli.console import show
    from privsyn.exchange.diffusers import import_model

    claim = import_model(folder, study, force=force)
    show(claim.to_document(), f"privacy claim: {summary(claim)}", "next: privsyn sample", as_json=as_json)
