"""`privsyn sample`: draws the synthetic set of a study."""

from __future__ import annotations

from typing import Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder

Count = Annotated[
    int | None,
    typer.Option("--count", metavar="N", min=1, help="Images to draw; default: sample.count of the recipe."),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME=N,...",
        help="Images of each class, such as pneumonia=500,normal=500; classes not named get none.",
    ),
]
Like = Annotated[
    str | None,
    typer.Option(
        "--like",
        metavar="cohort",
        help="Class proportions of the training images: by the noisy counts of the warm-up, or exact and "
        "declared public with sample.counts_are_public.",
    ),
]
Reject = Annotated[
    bool,
    typer.Option(
        "--reject-near-copies",
        help="Reject images that lie nearer to a training image than test patients do, and draw others. "
        "Reads the training images: voids a DP claim, is charged to the ledger, does not replace an audit.",
    ),
]


def sample(
    count: Count = None,
    classes: Classes = None,
    like: Like = None,
    reject_near_copies: Reject = False,
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
    from privsyn.errors import RecipeError
    from privsyn.synthetic.sampling import sample

    if like not in (None, "cohort"):
        raise RecipeError(f"--like {like!r}: only `cohort` is known")
    drawn = sample(
        study,
        count=count,
        classes=None if classes is None else counts_of(classes),
        like="cohort" if like else None,
        reject_near_copies=reject_near_copies,
        settings=settings or (),
        force=force,
        progress=TerminalProgress(),
    )
    found = Counter(drawn.labels.tolist())
    rows = [(name, found[label]) for label, name in enumerate(drawn.classes)]
    document = {
        "count": len(drawn.labels),
        "classes": dict(rows),
        "digest": drawn.digest,
        "provenance": None if drawn.provenance is None else drawn.provenance.to_dict(),
    }
    show(document, table("class", "images", rows=rows), "next: privsyn audit", as_json=as_json)


def counts_of(text: str) -> dict[str, int]:
    """`pneumonia=500,normal=500` as numbers by name; a name may hold `=` and, between others, no comma."""
    from privsyn.errors import RecipeError

    counts: dict[str, int] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        if not equals or not number.strip().isdecimal() or name.strip() in counts:
            raise RecipeError(f"--classes {part!r}: expected NAME=N, each name once, for example normal=500")
        counts[name.strip()] = int(number)
    return counts
