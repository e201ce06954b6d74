"""Numbers, verdicts and privacy claims in plain words; standard library only, so commands can use it, too.

Nothing here says "safe": an audit that finds nothing has not falsified the set, and a finite epsilon limits
what an attacker can learn without making it nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context
from typing import Any

NOTHING = "\u2013"  # an en dash

VERDICTS = {
    "pass": "Not falsified. No blocking rule of the policy is broken or undecided: audits that found leaks "
    "planted for them found none of that size in this set. That is not proof that nothing leaks.",
    "fail": "At least one blocking rule of the policy is broken. Do not release this set.",
    "inconclusive": "No decision is possible. No blocking rule is broken, but the evidence that at least one "
    "of them needs is missing or too weak, and absence of evidence is not a pass.",
}
PARTIAL = "PARTIAL: only some of the policy's audits were run, and no release accepts that."

INVALID = "NOT VALID: the noise of this training can be repeated (insecure_seed). What follows is void."

OUTCOMES = {
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
SIDES = {"value": "value", "lower": "lower bound", "upper": "upper bound"}

_RELATIONS = {
    "add-or-remove-one": "adding or removing everything that belongs to one {unit}",
    "replace-one": "replacing everything that belongs to one {unit}",
    "zero-out": "blanking everything that belongs to one {unit}",
}


def number(value: float | None) -> str:
    """Four significant digits, thousands separated; a dash for what was not measured."""
    if value is None:
        return NOTHING
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def interval(bounds: Sequence[float | None] | None) -> str:
    """`[lower, upper]`, with a dash for the end that there is not; or a dash."""
    return NOTHING if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def percent(share: float | None) -> str:
    """A share as a percentage with three significant digits."""
    return NOTHING if share is None else f"{100 * share:.3g} %"


def rounded_up(value: float) -> str:
    """Four significant digits, never below the value: how a privacy bound may be rounded."""
    up = Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(float(value)))
    return f"{float(up):.4g}"


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


def verdict_in_words(verdict: str, *, partial: bool = False) -> str:
    """What a verdict means, and what it does not."""
    return f"{PARTIAL} {VERDICTS[verdict]}" if partial else VERDICTS[verdict]


def requirement_in_words(rule: Mapping[str, Any]) -> str:
    """What a policy rule asks of its statistic, as in `upper bound at most 0.55`."""
    return f"{SIDES[rule['side']]} {OPERATORS.get(rule['op'], rule['op'])} {number(rule['threshold'])}"


def detection_limit(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of members that any attack can name at a given share of false alarms.

    The region of hypothesis tests under (epsilon, delta)-DP, Kairouz, Oh and Viswanath 2015,
    https://arxiv.org/abs/1311.0776, theorem 2.1: `TPR <= e^eps FPR + delta` and
    `1 - FPR <= e^eps (1 - TPR) + delta`.
    """
    growth = math.exp(min(epsilon, 700.0))
    return max(0.0, min(1.0, growth * false_alarms + delta, 1 - (1 - false_alarms - delta) / growth))


def claim_in_words(privacy: Mapping[str, Any] | None) -> str:
    """The privacy claim of `model/privacy.json` in paragraphs, parted by empty lines.

    Args:
        privacy: the document; `None` if no model of the study drew the synthetic set.
    """
    if privacy is None:
        return (
            "No claim. The set was not drawn by a model that this study trained, so nothing is known here "
            "about a bound on what it reveals. Only the audits speak for it, and they can only find leaks."
        )
    if privacy["kind"] != "dp":
        return _no_bound_in_words(privacy)
    return _bound_in_words(privacy) if is_valid(privacy) else f"{INVALID}\n\n{_bound_in_words(privacy)}"


def is_valid(privacy: Mapping[str, Any]) -> bool:
    """False where the noise can be repeated by whoever knows its seed, which voids the claim."""
    return privacy.get("valid_for_release") is not False


def claim_parameters(privacy: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Name and value of every public parameter of a `dp` claim; empty where there is no bound."""
    if privacy is None or privacy["kind"] != "dp":
        return []
    mechanism, accountant = privacy["mechanism"], privacy["accountant"]
    rows = [
        ("Epsilon", rounded_up(privacy["epsilon"])),
        ("Delta", rounded_up(privacy["delta"])),
        ("Epsilon by Rényi accounting (cross-check, looser)", _optional(privacy.get("epsilon_rdp"))),
        ("Unit that is protected", privacy["unit"]),
        ("Neighbouring relation", privacy["neighbouring"]),
        ("Mechanism", mechanism["name"]),
        ("Noise multiplier", number(mechanism["noise_multiplier"])),
        ("Sample rate", number(mechanism["sample_rate"])),
        ("Sampling", mechanism["sampling"]),
        ("Steps", number(mechanism["steps"])),
        ("Clipping norm", number(mechanism["clip_norm"])),
        ("Noise draws per image", number(mechanism["noise_multiplicity"])),
        ("Most images of one unit in a step", number(mechanism["max_images_per_unit"])),
        ("Expected units (declared public)", number(mechanism["expected_units"])),
        ("Further queries included", _listed(mechanism.get("composed") or [])),
        *[
            (f"Epsilon for a patient with {each['images']} images", rounded_up(each["epsilon"]))
            for each in privacy.get("group") or []
        ],
        ("All trainings on these patients so far", _cumulative(privacy.get("cumulative"))),
        ("Accountant", " ".join(str(accountant[key]) for key in ("name", "library", "version"))),
    ]
    return [(name, value) for name, value in rows if value]


def public_quantities(privacy: Mapping[str, Any] | None) -> list[str]:
    """What the claim treats as known to everybody, one line each."""
    return _lines(None if privacy is None else privacy.get("public"))


def not_covered(privacy: Mapping[str, Any] | None) -> list[str]:
    """What the claim does not protect, one line each."""
    return _lines(None if privacy is None else privacy.get("not_covered"))


def _no_bound_in_words(privacy: Mapping[str, Any]) -> str:
    unit = privacy.get("unit", "patient")
    why = (
        "The model was imported, and how it was trained is not known"
        if privacy.get("imported")
        else "The model was trained without differential privacy"
    )
    return (
        f"There is no bound. {why}, so nothing limits in advance "
        f"what it, and the images drawn from it, can reveal about one {unit}: epsilon is infinite.\n\n"
        "Only the audits speak for this set. They can find a leak; they cannot show that there is none."
    )


def _bound_in_words(privacy: Mapping[str, Any]) -> str:
    unit, epsilon, delta = privacy["unit"], float(privacy["epsilon"]), float(privacy["delta"])
    relation = _RELATIONS.get(privacy["neighbouring"], privacy["neighbouring"]).format(unit=unit)
    factor, limit = math.exp(min(epsilon, 700.0)), detection_limit(epsilon, delta, 0.01)
    weak = "" if limit < 0.5 else " At this epsilon the bound alone does not rule that attack out."
    return (
        f"The set is differentially private for the {unit}: epsilon = {rounded_up(epsilon)}, "
        f"delta = {rounded_up(delta)}. Neighbouring means {relation}.\n\n"
        f"In words: whatever is done with these images, and whatever else is known, {relation} changes the "
        f"chance of any conclusion by a factor of at most e^epsilon = {rounded_up(factor)}, but for a "
        f"chance of delta. So an attacker who wrongly accuses 1 % of outsiders can rightly name "
        f"{_at_most(limit)} of the {unit}s that were trained on.{weak}\n\n{_mechanism_in_words(privacy)}"
    )


def _mechanism_in_words(privacy: Mapping[str, Any]) -> str:
    mechanism, accountant, unit = privacy["mechanism"], privacy["accountant"], privacy["unit"]
    return (
        f"How: {mechanism['name'].upper()} over {number(mechanism['steps'])} steps. Each step takes every "
        f"{unit} with probability {number(mechanism['sample_rate'])} ({mechanism['sampling'].capitalize()} "
        f"sampling), clips what one {unit} adds to the gradient at {number(mechanism['clip_norm'])} and adds "
        f"Gaussian noise of {number(mechanism['noise_multiplier'])} times that. Drawing more images from the "
        f"model costs no further privacy. The sum over all steps is computed by {accountant['library']} "
        f"{accountant['version']} ({str(accountant['name']).upper()})."
    )


def _at_most(share: float) -> str:
    """A percentage that is never rounded down, and never up to certainty."""
    return "nearly all" if share > 0.9999 else f"at most {math.ceil(share * 1e4) / 1e2:.4g} %"


def _optional(value: float | None) -> str:
    return "" if value is None else rounded_up(value)


def _cumulative(figure: Mapping[str, Any] | None) -> str:
    """The ledger's total; only the inside sees it, for it tells of other studies."""
    if figure is None:
        return ""
    if not figure["finite"]:
        return str(figure["note"])
    bound = f"epsilon {rounded_up(figure['epsilon'])} over {figure['charges']}"
    return f"{bound}, delta {rounded_up(figure['delta'])}"


def _listed(queries: Sequence[Mapping[str, Any]]) -> str:
    told = [
        f"{query['name']}: {number(query['steps'])} at sample rate {number(query['sample_rate'])} with noise "
        f"multiplier {number(query['noise_multiplier'])}"
        for query in queries
    ]
    return "; ".join(told) or "none"


def _lines(part: Any) -> list[str]:
    if isinstance(part, Mapping):
        return [f"{key.replace('_', ' ')}: {_plain(value)}" for key, value in part.items()]
    return [str(line) for line in part or ()]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
