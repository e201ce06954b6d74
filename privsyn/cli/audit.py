"""`privsyn audit`: synthetic set to findings and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.options import HERE, Force, Json, StudyFolder

if TYPE_CHECKING:
    from rich.table import Table

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}

SyntheticFolder = Annotated[
    Path | None,
    typer.Option(
        "--synthetic",
        metavar="DIR",
        help="A synthetic set of any generator: our layout, class folders, or an .npz; default: the study's.",
    ),
]
CohortFolder = Annotated[
    Path | None, typer.Option("--cohort", metavar="DIR", help="A prepared cohort; default: the study's.")
]
Policy = Annotated[
    str | None,
    typer.Option("--policy", metavar="NAME", help="A shipped policy, or a TOML file; default: the study's."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Where findings and verdict go; default: the study's audit/."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only", metavar="AUDIT", help="Run this audit alone; marks the verdict partial. May be repeated."
    ),
]

Shadows = Annotated[
    int,
    typer.Option(
        "--shadows",
        metavar="N",
        min=0,
        help="Models to train by the study's recipe for the audit membership-shadow: even, 6 or more; "
        "each costs about as much as `privsyn train`.",
    ),
]


def audit(
    synthetic: SyntheticFolder = None,
    cohort: CohortFolder = None,
    policy: Policy = None,
    out: Out = None,
    only: Only = None,
    shadows: Shadows = 0,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> int:
    """Attack the synthetic set, and judge what is found by the policy.

    With --synthetic, --cohort, --policy and --out no study is needed. Exit code: 0 pass, 1 fail,
    3 inconclusive.
    """
    from privsyn.auditing.run import audit
    from privsyn.cli.console import TerminalProgress, show

    alone = synthetic is not None and cohort is not None and policy is not None and out is not None
    verdict = audit(
        None if alone else study,
        synthetic=synthetic,
        cohort=cohort,
        policy=policy,
        out=out,
        only=only or (),
        shadows=shadows,
        force=force,
        progress=TerminalProgress(),
    )
    show(verdict, rules_table(verdict), conclusion(verdict), as_json=as_json)
    return EXIT_CODES[verdict["verdict"]]


def rules_table(verdict: dict[str, Any]) -> Table:
    """One row per rule and scope: what was measured, what was asked, and the outcome."""
    from privsyn.cli.console import table

    rows = [
        (_name(row), row["outcome"], measured(row), _asked(row), row["reason"]) for row in verdict["rules"]
    ]
    return table("rule", "outcome", "measured", "asked", "reason", rows=rows)


def conclusion(verdict: dict[str, Any]) -> str:
    """The verdict, and how it came about."""
    partial = " (partial: not every audit ran)" if verdict["partial"] else ""
    return f"verdict: {verdict['verdict']}{partial}, attempt {verdict['attempt']} on this cohort"


def _name(row: dict[str, Any]) -> str:
    notes = ["warns only"] if row["severity"] == "warn" else []
    notes += [f"{key} {value}" for key, value in row["scope"].items()]
    return f"{row['id']} ({', '.join(notes)})" if notes else str(row["id"])


def measured(row: dict[str, Any]) -> str:
    """The number that a rule judged, with the interval it lies in."""
    if row["value"] is None:
        return "-"
    value = f"{row['value']:.3g}"
    if row["interval"] is None:
        return value
    lower, upper = row["interval"]
    what = "" if row["side"] == "value" else f"{row['side']} bound "
    ends = f"{lower:.3g}, {upper:.3g}" if upper is not None else f"{lower:.3g}, no upper bound"
    return f"{what}{value} of [{ends}]"


def _asked(row: dict[str, Any]) -> str:
    return f"{row['side']} {row['op']} {row['threshold']:g}"
