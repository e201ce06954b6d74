"""`privsyn sample`: model to synthetic set."""

from __future__ import annotations

from typing import Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder

Count = Annotated[
    int | None,
    typer.Option("--count", metavar="N", min=1, help="Images to draw; default: sample.count of the recipe."),
]


def sample(
    count: Count = None,
    settings: Settings = None,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Draw a synthetic set from the model.

    It is written as Parquet shards that `datasets.load_dataset` reads. One recipe draws one set, bit by bit.
    """
    from collections import Counter

    from privsyn.cli.console import TerminalProgress, show, table
    from privsyn.sample import sample

    drawn = sample(study, count=count, settings=settings or (), force=force, progress=TerminalProgress())
    found = Counter(drawn.labels.tolist())
    rows = [(name, found[label]) for label, name in enumerate(drawn.classes)]
    document = {
        "count": len(drawn.labels),
        "classes": dict(rows),
        "digest": drawn.digest,
        "provenance": drawn.provenance,
    }
    show(document, table("class", "images", rows=rows), "next: privsyn audit", as_json=as_json)
