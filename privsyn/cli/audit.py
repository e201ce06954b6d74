"""`privsyn audit`: synthetic set to findings and verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.cli.options import HERE, Force, Json, StudyFolder

if TYPE_CHECKING:
    from rich.table import Table

    from privsyn.auditing.verdict import RuleResult, Verdict

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
    """Attack the synthetic set, and judge the findings by the policy.

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
    show(verdict.to_document(), rules_table(verdict), conclusion(verdict), as_json=as_json)
    return EXIT_CODES[verdict.outcome]


def rules_table(verdict: Verdict) -> Table:
    """One row per rule and scope: the measured value, the requirement, and the outcome."""
    from privsyn.cli.console import table

    rows = [
        (_name(rule), rule.outcome, measured(rule), _requirement(rule), rule.reason) for rule in verdict.rules
    ]
    return table("rule", "outcome", "measured", "required", "reason", rows=rows)


def conclusion(verdict: Verdict) -> str:
    """The outcome in one line."""
    partial = " (partial: not every audit ran)" if verdict.partial else ""
    return f"verdict: {verdict.outcome}{partial}, attempt {verdict.attempt} on this cohort"


def _name(rule: RuleResult) -> str:
    notes = ["warns only"] if rule.severity == "warn" else []
    notes += [f"{key} {value}" for key, value in rule.scope.items()]
    return f"{rule.id} ({', '.join(notes)})" if notes else rule.id


def measured(rule: RuleResult) -> str:
    """The number that a rule judged, with its interval."""
    if rule.value is None:
        return "-"
    value = f"{rule.value:.3g}"
    if rule.interval is None:
        return value
    lower, upper = rule.interval
    what = "" if rule.side == "value" else f"{rule.side} bound "
    ends = f"{lower:.3g}, {upper:.3g}" if upper is not None else f"{lower:.3g}, no upper bound"
    return f"{what}{value} of [{ends}]"


def _requirement(rule: RuleResult) -> str:
    return f"{rule.side} {rule.op} {rule.threshold:g}"
