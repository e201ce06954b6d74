"""The privacy claim in words: ONE wording and ONE rounding, for every document, page and terminal.

`summary` is one line, `paragraph` is for cards, `in_full` for reports and statements, `parameters` a table.
All of them say the same about why there is no valid bound (`why_none`). Nothing here says "safe": a finite
epsilon limits what an attacker can learn without making it nothing. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_CEILING, Context
from typing import Protocol

from privsyn.claim.document import CLASS_COUNTS, Bound, Claim, CumulativeCost, PublicQuantities, Query

UNKNOWN_GENERATOR = "The set was not drawn by a model that this study trained"
IMPORTED = "The model was imported, and how it was trained, or on whose images, is not known"
NOT_PRIVATE = "The model was trained without differential privacy"
ONLY_AUDITS = "Only the audits speak for this set. They can find a leak; they cannot show that there is none."
VOID = "What follows is void."
EXACT_COUNTS = (
    "The set has the class proportions of the training images. Their exact counts were declared public, and "
    "the bound does not protect them."
)

_RELATIONS = {"add-or-remove-one": "adding or removing everything that belongs to one {unit}"}


def rounded_up(value: float) -> str:
    """Four significant digits, never below the value: how a privacy bound may be rounded."""
    up = Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(float(value)))
    return f"{float(up):.4g}"


def number(value: float) -> str:
    """Four significant digits, thousands separated."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"


def plural(unit: str) -> str:
    """`images`, `files`, `studies`, `patients`."""
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"


def why_none(claim: Claim | None) -> str:
    """Why there is no bound on which the set may be released, without a full stop; "" if there is one.

    Args:
        claim: None if no model of the study drew the set.
    """
    if claim is None:
        return UNKNOWN_GENERATOR
    if claim.imported:
        return IMPORTED
    return NOT_PRIVATE if claim.bound is None else claim.bound.invalid.removesuffix(".")


class Figures(Protocol):
    """Anything that states epsilon and delta."""

    @property
    def epsilon(self) -> float: ...

    @property
    def delta(self) -> float: ...


def figures(bound: Figures) -> str:
    """`epsilon = 7.991, delta = 0.0005012`."""
    return f"epsilon = {rounded_up(bound.epsilon)}, delta = {rounded_up(bound.delta)}"


def nothing_promised(unit: str, delta: float, units: float) -> str:
    """What delta means: the chance that nothing is promised, for one unit and among all of them.

    Args:
        units: about how many there are.
    """
    one_in = number(math.floor((1 + 1e-9) / delta))  # 1 / 1e-5 is a hair below 100,000
    return (
        f"Delta is the chance that nothing is promised: at most 1 in {one_in} for one {unit}, and for "
        f"{rounded_up(delta * units)} of about {number(round(units))} {plural(unit)} in expectation."
    )


def summary(claim: Claim | None) -> str:
    """One line, for terminals and tables."""
    if claim is None or claim.bound is None:
        return f"none ({_lower(why_none(claim))})"
    if claim.bound.invalid:
        return f"NOT VALID for release: {why_none(claim)}"
    unit = claim.unit if claim.unit == "patient" else f"{claim.unit}, NOT for the patient"
    return f"differential privacy for the {unit}, {figures(claim.bound)}"


def paragraph(claim: Claim | None) -> str:
    """What protects the people whose images the model learnt from, for the card of a set."""
    if claim is None:
        return "No privacy claim is made: nothing is known about a bound on what this set reveals."
    if claim.bound is None:
        return (
            f"No bound is claimed. {why_none(claim)}: nothing limits in advance what the images can reveal "
            f"about one {claim.unit}."
        )
    if claim.bound.invalid:
        return (
            f"No valid bound is claimed: {why_none(claim)}. This set must not be released as if it had one."
        )
    return (
        f"The model was trained with differential privacy for the {claim.unit} ({claim.bound.neighbouring}): "
        f"{figures(claim.bound)}. Whatever anybody concludes from these images, adding or removing one "
        f"{claim.unit} changes the chance of that conclusion by at most a factor e^epsilon, but for a chance "
        f"of delta. {nothing_promised(claim.unit, claim.bound.delta, claim.bound.units)} What was public "
        "beforehand, such as the list of classes, is not protected."
        f"{_finer(' ', claim)}{_counts(' ', claim)}"
    )


def in_full(claim: Claim | None) -> str:
    """The claim in paragraphs, parted by empty lines, for reports and release statements."""
    if claim is None:
        return (
            f"No claim. {UNKNOWN_GENERATOR}, so nothing is known here about a bound on what it reveals. "
            f"{ONLY_AUDITS}"
        )
    if claim.bound is None:
        return (
            f"There is no bound. {why_none(claim)}, so nothing limits in advance what it, and the images "
            f"drawn from it, can reveal about one {claim.unit}: epsilon is infinite.\n\n{ONLY_AUDITS}"
        )
    promise = _promise_in_full(claim.unit, claim.bound) + _finer("\n\n", claim) + _counts("\n\n", claim)
    return f"NOT VALID: {why_none(claim)}. {VOID}\n\n{promise}" if claim.bound.invalid else promise


def parameters(claim: Claim | None) -> list[tuple[str, str]]:
    """Name and value of every parameter of a bound; empty where there is none."""
    if claim is None or claim.bound is None:
        return []
    bound = claim.bound
    rows = [
        ("Epsilon", rounded_up(bound.epsilon)),
        ("Delta", rounded_up(bound.delta)),
        ("Epsilon by Rényi accounting (cross-check, looser)", rounded_up(bound.epsilon_rdp)),
        ("Unit that is protected", claim.unit),
        ("Neighbouring relation", bound.neighbouring),
        *_query_rows(bound.queries[-1]),
        ("Sampling", bound.sampling),
        ("Expected units (declared public)", number(bound.expected_units)),
        (
            "Units as counted with noise",
            "" if bound.noisy_units is None else number(round(bound.noisy_units)),
        ),
        ("Units to whom nothing is promised, in expectation", rounded_up(bound.delta * bound.units)),
        ("Further queries included", _listed(bound.queries[:-1])),
        *[
            (f"Epsilon for a patient with {each.units} {plural(claim.unit)}", rounded_up(each.epsilon))
            for each in bound.group
        ],
        ("All trainings on these patients so far", _cumulative(claim.cumulative)),
        ("Accountant", f"{bound.accountant.name} {bound.accountant.library} {bound.accountant.version}"),
    ]
    return [(name, value) for name, value in rows if value]


def public_quantities(public: PublicQuantities) -> list[str]:
    """What the claim treats as known to everybody, one line each."""
    low, high = public.value_range
    lines = [
        f"classes: {', '.join(public.classes)}",
        f"size: {number(public.size)}",
        f"channels: {number(public.channels)}",
        f"value range: {number(low)}, {number(high)}",
    ]
    if public.hyper_parameters:
        lines.append(f"hyper parameters: {public.hyper_parameters}")
    if public.expected_units is not None:
        lines.append(f"expected units: {number(public.expected_units)}")
    if public.init_sha256 is not None:
        lines.append(f"init from: weights sha256 {public.init_sha256}, declaration public")
    if public.class_counts:
        lines.append(f"class counts {CLASS_COUNTS}")
    return lines


def detection_limit(epsilon: float, delta: float, false_alarms: float) -> float:
    """The largest share of members that any attack can name at a given share of false alarms.

    The region of hypothesis tests under (epsilon, delta)-DP, Kairouz, Oh and Viswanath 2015,
    https://arxiv.org/abs/1311.0776, theorem 2.1: `TPR <= e^eps FPR + delta` and
    `1 - FPR <= e^eps (1 - TPR) + delta`.
    """
    growth = math.exp(min(epsilon, 700.0))
    return max(0.0, min(1.0, growth * false_alarms + delta, 1 - (1 - false_alarms - delta) / growth))


def _finer(before: str, claim: Claim) -> str:
    """What a bound for one image, file or study is worth to a patient; "" where it is for the patient."""
    if claim.unit == "patient" or claim.bound is None:
        return ""
    units = plural(claim.unit)
    worth = [f"{rounded_up(each.epsilon)} with {each.units}" for each in claim.bound.group]
    told = f" At the same delta, epsilon for a patient is {', '.join(worth)} {units}." if worth else ""
    return (
        f"{before}This is NOT a bound for the patient: which {units} belong to one patient is not known, or "
        f"was left aside, and a patient with several is protected less.{told}"
    )


def _counts(before: str, claim: Claim) -> str:
    return before + EXACT_COUNTS if claim.public.class_counts else ""


def _promise_in_full(unit: str, bound: Bound) -> str:
    relation = _RELATIONS.get(bound.neighbouring, bound.neighbouring).format(unit=unit)
    factor = math.exp(min(bound.epsilon, 700.0))
    limit = detection_limit(bound.epsilon, bound.delta, 0.01)
    weak = "" if limit < 0.5 else " At this epsilon the bound alone does not rule that attack out."
    return (
        f"The set is differentially private for the {unit}: {figures(bound)}. Neighbouring means {relation}."
        f"\n\nIn words: whatever is done with these images, and whatever else is known, {relation} changes "
        f"the chance of any conclusion by a factor of at most e^epsilon = {rounded_up(factor)}, but for a "
        f"chance of delta. So an attacker who wrongly accuses 1 % of outsiders can rightly name "
        f"{_at_most(limit)} of the {plural(unit)} that were trained on.{weak} "
        f"{nothing_promised(unit, bound.delta, bound.units)}\n\n{_mechanism(unit, bound)}"
    )


def _mechanism(unit: str, bound: Bound) -> str:
    last, accountant = bound.queries[-1], bound.accountant
    noise = number(last.mechanism.noise_multiplier)
    added = f"adds Gaussian noise of {noise} times the most that one {unit} can change"
    if last.clipping is not None:
        norm = number(last.clipping.clip_norm)
        clipped = f"clips what one {unit} adds to the gradient at {norm}"
        added = f"{clipped} and adds Gaussian noise of {noise} times that"
    return (
        f"How: {last.name.upper()} over {number(last.mechanism.steps)} steps. Each step takes every {unit} "
        f"with probability {number(last.mechanism.sample_rate)} ({bound.sampling.capitalize()} sampling), "
        f"{added}. Drawing more images from the model costs no further privacy. The sum over all steps is "
        f"computed by {accountant.library} {accountant.version} ({accountant.name.upper()})."
    )


def _query_rows(query: Query) -> list[tuple[str, str]]:
    rows = [
        ("Mechanism", query.name),
        ("Noise multiplier", number(query.mechanism.noise_multiplier)),
        ("Sample rate", number(query.mechanism.sample_rate)),
        ("Steps", number(query.mechanism.steps)),
    ]
    if query.clipping is None:
        return rows
    return [
        *rows,
        ("Clipping norm", number(query.clipping.clip_norm)),
        ("Noise draws per image", number(query.clipping.noise_multiplicity)),
        ("Most images of one unit in a step", number(query.clipping.max_images_per_unit)),
    ]


def _listed(queries: Sequence[Query]) -> str:
    told = [
        f"{query.name}: {number(query.mechanism.steps)} at sample rate {number(query.mechanism.sample_rate)} "
        f"with noise multiplier {number(query.mechanism.noise_multiplier)}"
        for query in queries
    ]
    return "; ".join(told) or "none"


def _cumulative(cost: CumulativeCost | None) -> str:
    """The ledger's total; only the inside sees it, for it tells of other studies."""
    if cost is None:
        return ""
    if not cost.finite or cost.epsilon is None or cost.delta is None:
        return cost.note
    return f"epsilon {rounded_up(cost.epsilon)} over {cost.charges}, delta {rounded_up(cost.delta)}"


def _at_most(share: float) -> str:
    """A percentage that is never rounded down, and never up to certainty."""
    return "nearly all" if share > 0.9999 else f"at most {math.ceil(share * 1e4) / 1e2:.4g} %"


def _lower(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
