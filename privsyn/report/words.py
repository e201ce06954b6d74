"""Numbers, verdicts and rules in plain words; the privacy claim has its words in `privsyn.claim.words`.

Nothing here says "safe": an audit that finds nothing has only failed to find a leak. Standard library only,
so that commands can use it and start fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from privsyn.auditing.verdict import RuleOutcome, Side, VerdictOutcome
from privsyn.claim import words as claim_words

NOTHING = "\u2013"  # an en dash

VERDICTS: dict[VerdictOutcome, str] = {
    "pass": "Not falsified. No blocking rule of the policy is broken or undecided: audits that found leaks "
    "planted for them found none of that size in this set. That is not proof that nothing leaks.",
    "fail": "At least one blocking rule of the policy is broken. Do not release this set.",
    "inconclusive": "No decision is possible. No blocking rule is broken, but the evidence that at least one "
    "of them needs is missing or too weak, and absence of evidence is not a pass.",
}
PARTIAL = "PARTIAL: only some of the policy's audits were run, and no release accepts that."

OUTCOMES: dict[RuleOutcome, str] = {
    "pass": "The rule held.",
    "fail": "The rule is broken, or evidence that it requires is missing.",
    "inconclusive": "The evidence is too weak to decide, which counts as not passed.",
    "accepted": "The evidence cannot exist here, and the policy accepts that for this rule.",
}

OPERATORS = {
    "<": "below",
    "<=": "at most",
    ">": "above",
    ">=": "at least",
    "==": "exactly",
    "!=": "other than",
}
SIDES: dict[Side, str] = {"value": "value", "lower": "lower bound", "upper": "upper bound"}


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; a dash for what was not measured."""
    return NOTHING if value is None else claim_words.number(value)


def interval(bounds: Sequence[float | None] | None) -> str:
    """`[lower, upper]`, with a dash for a missing end; a dash if there is no interval."""
    return NOTHING if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def percent(share: float | None) -> str:
    """A share as a percentage with three significant digits."""
    return NOTHING if share is None else f"{100 * share:.3g} %"


def scope_in_words(scope: Mapping[str, str]) -> str:
    """`class: 3, space: pixels`, in a fixed order."""
    return ", ".join(f"{key}: {scope[key]}" for key in sorted(scope))


def controls_in_words(positive: bool | None, negative: bool | None) -> str:
    """`both passed`, or which of them failed or was not run."""
    told = {True: "passed", False: "failed", None: "not run"}
    if positive == negative:
        return f"both {told[positive]}" if positive is not None else told[None]
    kinds = {"positive": positive, "negative": negative}
    return ", ".join(f"{kind} {told[passed]}" for kind, passed in kinds.items() if not passed)


def verdict_in_words(verdict: VerdictOutcome, *, partial: bool = False) -> str:
    """What a verdict means, and what it does not."""
    return f"{PARTIAL} {VERDICTS[verdict]}" if partial else VERDICTS[verdict]


def requirement_in_words(side: Side, op: str, threshold: float) -> str:
    """What a policy rule requires of its statistic, as in `upper bound at most 0.55`."""
    return f"{SIDES[side]} {OPERATORS.get(op, op)} {number(threshold)}"
