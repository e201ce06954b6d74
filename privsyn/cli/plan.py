"""`privsyn plan`: what a training would spend, cost and reach, before any privacy is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from privsyn.cli.options import HERE, Json, Settings, StudyFolder
from privsyn.cli.train import Epsilon

if TYPE_CHECKING:
    from rich.table import Table

    from privsyn.claim.document import CumulativeCost
    from privsyn.training.plan import Plan, Variation


def plan(
    epsilon: Epsilon = None, settings: Settings = None, study: StudyFolder = HERE, as_json: Json = False
) -> None:
    """Predict noise, signal, time and memory of a private training.

    Also shows what other settings would change.

    Spends no privacy: reads the recipe and the ledger, and times a few steps on random numbers.
    """
    from privsyn.cli.console import TerminalProgress, show
    from privsyn.training.plan import plan

    found = plan(study, epsilon=epsilon, settings=settings or (), progress=TerminalProgress())
    show(
        found.to_document(),
        _overview(found),
        _variations("changed", found.variations),
        _variations("budget", found.budgets),
        *_notes(found),
        as_json=as_json,
    )


def _overview(found: Plan) -> Table:
    from privsyn.claim.words import nothing_promised, rounded_up
    from privsyn.cli.console import table

    privacy = found.recipe.privacy
    times = " to ".join(
        f"{clock(value)} ({images} image{'s' * (images != 1)} each)"
        for images, value in found.seconds.items()
    )
    epsilon, delta, rdp = (rounded_up(each) for each in (found.epsilon, found.delta, found.epsilon_rdp))
    rows = [
        ("protects", f"one {privacy.unit}, added or removed"),
        ("epsilon", f"{epsilon} at delta {delta} (RDP {rdp})"),
        ("delta", nothing_promised(privacy.unit, found.delta, privacy.expected_units or 1)),
        ("noise multiplier", f"{found.mechanism.noise_multiplier:.4g}"),
        ("sample rate, steps", f"{found.mechanism.sample_rate:.4g}, {found.mechanism.steps}"),
        ("signal to noise", f"{found.signal_to_noise:.3g}  (a proxy, to compare settings of one network)"),
        ("network", f"{found.parameters:,} parameters"),
        ("time", f"{times} on {found.cost.device}; without privacy {clock(found.seconds_nonprivate)}"),
        ("memory", f"{found.cost.peak_bytes / 2**30:.1f} GiB at the peak"),
    ]
    return table("plan", "", rows=rows)


def _variations(first: str, variations: Sequence[Variation]) -> Table:
    from privsyn.cli.console import table

    rows = [
        (
            each.change,
            "out of reach" if each.noise_multiplier is None else f"{each.noise_multiplier:.3g}",
            "" if each.signal_to_noise is None else f"{each.signal_to_noise:.3g}",
            "" if each.relative is None else f"{each.relative:.2f}x",
            f"{each.draw_noise:.2f}",
            clock(each.seconds),
        )
        for each in variations
    ]
    return table(first, "noise multiplier", "signal to noise", "relative", "draw noise", "time", rows=rows)


def _notes(found: Plan) -> list[str]:
    lines = [
        "draw noise: chance in one unit's own gradient, 1 / sqrt(draws); costs no privacy, but time",
        found.declares,
        *found.notes,
    ]
    outlook = found.outlook
    if outlook is None:
        return [*lines, "there is no cohort yet, so the ledger was not consulted"]
    before, after = _spent(outlook.before), _spent(outlook.after)
    lines.append(f"ledger: these patients have spent {before}; this training would make it {after}")
    return lines if outlook.allowed else [*lines, f"it would be refused: {outlook.reason}"]


def _spent(cost: CumulativeCost) -> str:
    from privsyn.claim.words import rounded_up

    return "without a finite bound" if cost.epsilon is None else f"epsilon {rounded_up(cost.epsilon)}"


def clock(seconds: float) -> str:
    """A duration to about two digits: `40 s`, `12 min`, `3.5 h`."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.2g} h"
