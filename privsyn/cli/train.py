"""`privsyn train`: cohort and recipe to model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from privsyn.cli.options import HERE, Force, Json, Settings, StudyFolder

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
        help="Plant M pictures of nobody, each by a secret coin, so that the audit `canary` can bound "
        "epsilon from below; a thousand show more than a hundred. Default: train.canaries.",
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
    found = "" if claim["kind"] == "dp" else dead(as_study(study).training_log)
    show(
        claim,
        *([f"warning: {found}"] if found else []),
        f"privacy claim: {in_words(claim)}",
        "next: privsyn sample",
        as_json=as_json,
    )


def in_words(claim: dict[str, Any] | None) -> str:
    """A privacy claim as one line; epsilon is rounded up."""
    if claim is not None and claim.get("imported"):
        return "none (imported: how it was trained is not known)"
    if claim is None or claim["kind"] == "none":
        return "none (trained without differential privacy)"
    if claim.get("valid_for_release") is False:
        return f"NOT VALID for release: {claim['reason']}"
    bound = f"epsilon {rounded_up(claim['epsilon'])}, delta {claim['delta']:.2g}"
    return f"differential privacy per {claim['unit']}, {bound}"


def rounded_up(epsilon: float) -> str:
    """Epsilon to two decimals, never below its value."""
    from decimal import ROUND_CEILING, Decimal

    return str(Decimal(str(epsilon)).quantize(Decimal("0.01"), rounding=ROUND_CEILING))
