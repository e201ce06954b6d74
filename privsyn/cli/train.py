"""`privsyn train`: trains the model of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder

if TYPE_CHECKING:
    from privsyn.claim.document import Claim

Dp = Annotated[
    bool | None,
    typer.Option(
        "--dp/--no-dp",
        help="With or without differential privacy (DP-SGD); default: privacy.dp of the recipe.",
    ),
]
Epsilon = Annotated[
    float | None,
    typer.Option(
        "--epsilon",
        metavar="E",
        help="Privacy budget of the whole training; smaller protects more. Default: privacy.epsilon.",
    ),
]
Canaries = Annotated[
    int | None,
    typer.Option(
        "--canaries",
        metavar="M",
        min=0,
        help="Insert M synthetic canaries, each included with probability 1/2, so that the audit `canary` "
        "can bound epsilon from below; more canaries give a tighter bound. Default: train.canaries.",
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint.")]
AllowUnbounded = Annotated[
    bool,
    typer.Option(
        "--allow-unbounded",
        help="Train without a finite bound although the patients' population has a grant (privsyn ledger).",
    ),
]


def train(
    dp: Dp = None,
    epsilon: Epsilon = None,
    canaries: Canaries = None,
    resume: Resume = False,
    settings: Settings = None,
    allow_unbounded: AllowUnbounded = False,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Train the model on the cohort, and write its privacy claim."""
    from privsyn.claim.words import summary
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.study import as_study
    from privsyn.training.diagnosis import dead
    from privsyn.training.loop import train

    claim = train(
        study,
        dp=dp,
        epsilon=epsilon,
        canaries=canaries,
        settings=settings or (),
        resume=resume,
        force=force,
        allow_unbounded=allow_unbounded,
        progress=TerminalProgress(),
    )
    found = "" if claim.bound is not None else dead(as_study(study).training_log)
    show(
        claim.to_document(),
        *([f"warning: {found}"] if found else []),
        f"privacy claim: {summary(claim)}",
        *_taken_again(claim),
        "next: privsyn sample",
        as_json=as_json,
    )


def _taken_again(claim: Claim) -> list[str]:
    """What a run paid for twice, because its newest files were gone, or incomplete, when it was resumed."""
    from privsyn.claim.document import REPEATED

    queries = claim.bound.queries if claim.bound is not None else ()
    steps = sum(query.mechanism.steps for query in queries if query.name.endswith(REPEATED))
    told = f"epsilon counts {steps:,} steps that were taken again after an interruption"
    return [told] if steps else []
