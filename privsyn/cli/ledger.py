"""`privsyn ledger`: privacy spent on every population of patients, by all studies of this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.claim.words import rounded_up
from privsyn.cli.options import HERE, Json, StudyFolder, group

if TYPE_CHECKING:
    from privsyn.claim.document import CumulativeCost
    from privsyn.cohort.cohort import Cohort
    from privsyn.ledger import Allowance, Population

app = group("ledger")

TOTALS = (
    "totals hold for trainings that were fixed beforehand; where each was chosen by looking at earlier ones, "
    "only a grant that was set before the first, and not raised since, is a guarantee (judged by RDP)"
)
RAISED = (
    "earlier trainings came before this limit: it is a guarantee only if it was set without their results"
)

Head = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="HASH",
        help="A head that was written down elsewhere (64 hexadecimal digits); finds a ledger that was put "
        "back from an older copy, cut short or replaced.",
    ),
]
Known = Annotated[
    str | None,
    typer.Argument(
        metavar="POPULATION",
        help="As `privsyn ledger show` names it. Default: the patients of the study's cohort.",
        show_default=False,
    ),
]
Epsilon = Annotated[
    float,
    typer.Option(
        "--epsilon",
        metavar="E",
        help="Limit of all trainings together, past ones included; above 0. Smaller protects more.",
    ),
]
Delta = Annotated[
    float,
    typer.Option(
        "--delta",
        metavar="D",
        help="At which the limit is judged, between 0 and 1; well below one in the number of patients.",
    ),
]
Unit = Annotated[
    str | None,
    typer.Option(
        "--unit",
        metavar="patient|study|file|image",
        help="What the limit protects. Default: what the study's cohort knows for certain, else patient.",
    ),
]
Note = Annotated[str, typer.Option("--note", metavar="TEXT", help="Who granted it and why; kept for good.")]


@app.callback(invoke_without_command=True)
def ledger(context: typer.Context, as_json: Json = False) -> None:
    """Show, check and limit the privacy spent per patient population."""
    if context.invoked_subcommand is None:
        show_ledger(as_json=as_json)


@app.command("show")
def show_ledger(as_json: Json = False) -> None:
    """Show what was spent on every population; needs no study.

    epsilon is by PLD and rounded up, for all trainings together; `released` is that of the trainings alone
    whose images left in a sealed release. Steps that a resumed training took again are counted, and named
    below the table. RDP is looser. These totals hold for a sequence of trainings that was fixed beforehand.
    For trainings chosen by looking at earlier ones, a grant that was set before the first of them, and not
    raised since, is the guarantee. Copy the head to where this machine cannot write.
    """
    from privsyn.cli.console import show, table
    from privsyn.ledger import overview

    seen = overview()
    document = {
        "schema_version": 1,
        "head": seen.head,
        "populations": [population.to_dict() for population in seen.populations],
    }
    if seen.head is None:
        show(document, "the ledger is empty: no training was recorded on this machine", as_json=as_json)
        return
    columns = (
        "population",
        "patients",
        "trainings",
        "unit",
        "epsilon",
        "by RDP",
        "delta",
        "released",
        "grant",
        "left",
    )
    rows = [row for population in seen.populations for row in rows_of(population)]
    figures = [(each.id, figure) for each in seen.populations for figure in each.seen]
    show(
        document,
        table(*columns, rows=rows),
        *([TOTALS] if figures else []),
        *(f"{name}, per {figure.unit}: {figure.note}" for name, figure in figures if figure.note),
        *(line for population in seen.populations for line in _taken_again(population)),
        f"head {seen.head}",
        as_json=as_json,
    )


@app.command("check")
def check_ledger(head: Head = None, as_json: Json = False) -> int:
    """Check that no entry of the ledger was changed or removed.

    Exit code: 1 something was. Only with --head can it detect that the newest entries were cut off.
    """
    from privsyn.cli.console import show
    from privsyn.ledger import check

    found = check(head)
    document = {
        "schema_version": 1,
        "intact": bool(found),
        "entries": found.entries,
        "head": found.head,
        "since": found.since,
        "faults": list(found.faults),
    }
    lines = [f"fault: {fault}" for fault in found.faults] or [
        f"{found.entries} entries, all as they were written"
    ]
    if found and head is None:
        lines.append("only --head HASH can show whether entries were cut off at the end")
    if found.since is not None:
        lines.append(f"{found.since} entries are newer than the head that was given")
    show(document, *lines, f"head {found.head or 'none'}", as_json=as_json)
    return 0 if found else 1


@app.command("grant")
def grant_budget(
    epsilon: Epsilon,
    delta: Delta,
    population: Known = None,
    unit: Unit = None,
    note: Note = "",
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Limit what may be spent on a population; the data steward's command.

    A training that would exceed the limit is refused. It is judged by RDP, at more than its own claim says.
    Set the limit before the first training and leave it: raised later, it is no guarantee for
    trainings that were chosen by looking at earlier ones. It replaces the limit that was there before.
    """
    from privsyn.cli.console import show
    from privsyn.ledger import grant, populations
    from privsyn.ledger.events import LimitGranted

    cohort = None if population else _cohort(study)
    unit = unit or (cohort.document.unit if cohort else "patient")
    patients = population or (cohort.training_patients if cohort else "")
    made = grant(patients, unit=unit, epsilon=epsilon, delta=delta, note=note)
    assert isinstance(made.event, LimitGranted)
    granted = next(each for each in populations() if each.id == made.event.population)
    limit = granted.grants[0]
    show(
        {"schema_version": 1, "population": granted.id, "head": made.hash, "grant": limit.to_dict()},
        f"{granted.id} ({granted.patients} patients): granted epsilon {epsilon} at delta {delta} per "
        f"{unit}; spent so far {rounded_up(limit.spent)} by RDP",
        *([RAISED] if granted.entries else []),
        *_beside(granted, unit),
        as_json=as_json,
    )


def _beside(granted: Population, unit: str) -> list[str]:
    """What was spent on these patients and a grant does not count: the other unit, and what has no bound."""
    others = [figure for figure in granted.seen if figure.unit != unit and figure.charges]
    spent = [f"per {each.unit} {_spent(each)[0]}" for each in others]
    unbounded = any(not figure.finite for figure in granted.seen)
    spent += ["trainings without a finite bound"] * unbounded
    return [f"spent as well, and NOT counted in this grant: {', '.join(spent)}"] if spent else []


def rows_of(population: Population) -> list[list[object]]:
    """A row per unit in which something was spent or granted."""
    figures = {(each.unit, each.neighbouring): each for each in population.seen}
    released = {(each.unit, each.neighbouring): each for each in population.released}
    kinds = dict.fromkeys([*figures, *(each.grant.kind for each in population.grants)]) or {("", ""): None}
    states = Counter(charge.state for charge in population.entries)
    trainings = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    return [
        [
            population.id,
            population.patients,
            trainings,
            kind[0],
            *_spent(figures.get(kind)),
            _spent(released.get(kind))[0],
            *_granted([each for each in population.grants if each.grant.kind == kind]),
        ]
        for kind in kinds
    ]


def _taken_again(population: Population) -> list[str]:
    """The trainings that paid for steps twice: files of their runs were gone when they were resumed."""
    steps = [sum(part.steps for part in charge.repeated) for charge in population.entries]
    again = [count for count in steps if count]
    who = f"{len(again)} training{'s' * (len(again) > 1)}"
    told = f"{population.id}: {who} took {sum(again):,} steps again, which are counted as well"
    return [told] if again else []


def _spent(figure: CumulativeCost | None) -> list[object]:
    if figure is None:
        return ["0", "0", ""]
    if figure.epsilon is None or figure.epsilon_rdp is None:
        return ["no finite bound", "no finite bound", ""]
    delta = "" if figure.delta is None else f"{figure.delta:.3g}"
    return [rounded_up(figure.epsilon), rounded_up(figure.epsilon_rdp), delta]


def _granted(limits: Sequence[Allowance]) -> list[object]:
    """All grants in force, for each must be kept to, and the least that is left of one."""
    if not limits:
        return ["none", ""]
    limits_text = "; ".join(f"{each.grant.epsilon} at {each.grant.delta:.3g}" for each in limits)
    return [limits_text, f"{math.floor(min(each.left for each in limits) * 100) / 100:.2f}"]


def _cohort(folder: Path) -> Cohort:
    """The study's cohort, whose training patients a grant is for."""
    from privsyn.cohort.cohort import load_cohort
    from privsyn.study import as_study

    study = as_study(folder)
    return load_cohort(study.need(study.cohort, "prepare"))
