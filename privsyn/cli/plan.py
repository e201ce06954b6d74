"""`privsyn plan`: what a training would spend, cost and reach, before any privacy is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from privsyn.cli.options import HERE, Json, Settings, StudyFolder
from privsyn.cli.train import Epsilon, rounded_up

if TYPE_CHECKING:
    from rich.table import Table


def plan(
    epsilon: Epsilon = None, settings: Settings = None, study: StudyFolder = HERE, as_json: Json = False
) -> None:
    """Answer before training: noise multiplier, expected signal, time and memory, and what would change them.

    Spends no privacy: reads the recipe and the ledger, and times a few steps on random numbers.
    """
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.training.plan import plan

    found = plan(study, epsilon=epsilon, settings=settings or (), progress=TerminalProgress())
    show(
        found,
        _claim(found),
        _variations("changed", found["variations"]),
        _variations("budget", found["budgets"]),
        *_words(found),
        as_json=as_json,
    )


def _claim(found: dict[str, Any]) -> Table:
    from privsyn.cli.console import table

    claim, cost = found["claim"], found["cost"]
    seconds = list(cost["seconds_by_images_per_unit"].items())
    times = " to ".join(
        f"{clock(value)} ({images} image{'s' * (images != '1')} each)" for images, value in seconds
    )
    rows = [
        ("protects", f"one {claim['unit']}, added or removed"),
        (
            "epsilon",
            f"{rounded_up(claim['epsilon'])} at delta {claim['delta']:.2g} (RDP {claim['epsilon_rdp']:.2f})",
        ),
        ("noise multiplier", f"{claim['noise_multiplier']:.4g}"),
        ("sample rate, steps", f"{claim['sample_rate']:.4g}, {claim['steps']}"),
        ("signal to noise", f"{found['signal_to_noise']:.3g}  (a proxy, to compare settings of one network)"),
        ("network", f"{found['network']['parameters']:,} parameters"),
        ("time", f"{times} on {cost['device']}; without privacy {clock(cost['seconds_nonprivate'])}"),
        ("memory", f"{cost['peak_bytes'] / 2**30:.1f} GiB at the peak"),
    ]
    return table("plan", "", rows=rows)


def _variations(first: str, variations: Sequence[dict[str, Any]]) -> Table:
    from privsyn.cli.console import table

    rows = [
        (
            each["change"],
            "out of reach" if each["noise_multiplier"] is None else f"{each['noise_multiplier']:.3g}",
            "" if each["signal_to_noise"] is None else f"{each['signal_to_noise']:.3g}",
            "" if each["relative"] is None else f"{each['relative']:.2f}x",
            f"{each['draw_noise']:.2f}",
            clock(each["seconds"]),
        )
        for each in variations
    ]
    return table(first, "noise multiplier", "signal to noise", "relative", "draw noise", "time", rows=rows)


def _words(found: dict[str, Any]) -> list[str]:
    lines = [
        "draw noise: chance in one unit's own gradient, 1 / sqrt(draws); free in privacy, not in time",
        found["declares"],
        *found["notes"],
    ]
    outlook = found["ledger"]
    if outlook is None:
        return [*lines, "no cohort yet, so the ledger was not asked"]
    spent = [_spent(outlook[when]) for when in ("before", "after")]
    lines.append(f"ledger: these patients have spent {spent[0]}; this training would make it {spent[1]}")
    return lines if outlook["allowed"] else [*lines, f"it would be refused: {outlook['reason']}"]


def _spent(figure: dict[str, Any]) -> str:
    return f"epsilon {rounded_up(figure['epsilon'])}" if figure["finite"] else "without a finite bound"


def clock(seconds: float) -> str:
    """A duration to about two digits: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.2g} h"
