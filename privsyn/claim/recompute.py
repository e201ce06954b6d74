"""Does a privacy claim follow from its own parameters? Asked without trusting who wrote it.

Where dp-accounting is installed the claimed epsilon is computed again, exactly as the claimant did. Elsewhere
the standard library bounds it: Renyi DP at integer orders of the Poisson-subsampled Gaussian (Mironov, Talwar
& Zhang 2019, https://arxiv.org/abs/1908.10530, section 3.3), composed by addition and converted by
proposition 12 of Canonne, Kamath & Steinke 2020 (https://arxiv.org/abs/2004.00010). It is an upper bound,
larger than the claimed figure, so it can show that a claim is far too good, and what is safe to believe.
"""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from privsyn.strict_json import Fields, refuse

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
# Exact figures of trainings are .67 to .95 of the bound; what lies below this share is left open.
LEAST_SHARE = 0.65
WORTH_COMPUTING = 100.0  # a bound above it says nothing about anybody, and computing it exactly takes hours
MOST_QUERIES = 16
LINEAR = 50.0  # beyond it exp(x) and exp(x) + 1 are the same
# Nothing outside of these is a training that anybody ran; inside, neither float nor patience runs out.
NOISE, RATE, STEPS, DELTA = (1e-2, 1e6), (1e-9, 1.0), 10**8, (1e-30, 0.1)
UNITS = ("patient", "image")
NEIGHBOURING = "add-or-remove-one"
WHAT = "the privacy claim"


@dataclass(frozen=True)
class Query:
    """A Gaussian mechanism on a Poisson sample, so many times.

    Attributes:
        noise_multiplier: standard deviation over sensitivity, > 0.
        sample_rate: chance of a unit to take part, in (0, 1].
        steps: >= 1.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int


@dataclass(frozen=True)
class Recomputed:
    """What the parameters of a claim give.

    Attributes:
        method: `exact` by dp-accounting, or `bound` by the standard library.
        epsilon: what they give at the claim's delta, by that method.
        outcome: `confirmed`: at most what is claimed; `bounded`: an upper bound that the claim agrees with;
            `contradicted`: the claim is less than its parameters give, or not what they could give;
            `unlikely`: far below the bound, and only dp-accounting could say whether it is right.
    """

    method: Literal["exact", "bound"]
    epsilon: float
    outcome: Literal["confirmed", "bounded", "contradicted", "unlikely"]


def recompute(claim: Mapping[str, Any], *, exactly: bool | None = None) -> Recomputed:
    """Compute epsilon of a `dp` claim again from its mechanism and delta.

    Args:
        exactly: by dp-accounting; by default where it is installed.

    Raises:
        Refused: the claim lacks a parameter, has one that is impossible, or means something else than adding
            or removing one patient or image.
    """
    if claim.get("unit") not in UNITS or claim.get("neighbouring") != NEIGHBOURING:
        refuse(WHAT, f"is not one for adding or removing one {' or '.join(UNITS)}, and cannot be recomputed")
    queries, delta = read_queries(claim), _number(claim.get("delta"), "delta", *DELTA)
    claimed = _number(claim.get("epsilon"), "epsilon", 0, sys.float_info.max)
    bound = epsilon_bound(queries, delta)
    if exactly is not False and bound <= WORTH_COMPUTING:
        exact = _exact(queries, delta)
        if exact is not None:
            agreed = exact <= claimed * (1 + 1e-6) + 1e-9
            return Recomputed("exact", exact, "confirmed" if agreed else "contradicted")
    if claimed >= bound:
        return Recomputed("bound", bound, "confirmed")
    return Recomputed("bound", bound, "bounded" if claimed >= LEAST_SHARE * bound else "unlikely")


def read_queries(claim: Mapping[str, Any]) -> list[Query]:
    """The mechanism of a claim and all that is composed with it."""
    mechanism = Fields(claim.get("mechanism"), f"{WHAT}: mechanism")
    if mechanism.document.get("sampling") != "poisson":
        refuse(WHAT, "does not rest on Poisson sampling, which is all that can be recomputed")
    composed = [Fields(part, f"{WHAT}: composed") for part in mechanism.list("composed")]
    if len(composed) >= MOST_QUERIES:
        refuse(WHAT, f"is composed of {len(composed)} further queries, more than {MOST_QUERIES}")
    return [_query(part) for part in (mechanism, *composed)]


def epsilon_bound(queries: Sequence[Query], delta: float) -> float:
    """An upper bound on epsilon at `delta` of all queries together, for adding or removing one unit."""
    best = math.inf
    for order in ORDERS:
        rdp = sum(q.steps * rdp_of(q.sample_rate, q.noise_multiplier, order) for q in queries)
        epsilon = rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        best = min(best, epsilon)
    return max(0.0, best)


@cache
def rdp_of(rate: float, noise: float, order: int) -> float:
    """Renyi divergence of one query at an integer order >= 2 (equation 3.3 of Mironov et al.).

    The sum over k of binomial weights times exp(k (k - 1) / (2 noise^2)) is 1 plus the same sum with expm1,
    whose terms are positive: so a small divergence is not lost beside the 1.
    """
    if rate == 1:
        return order / (2 * noise**2)
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + _log_expm1(k * (k - 1) / (2 * noise**2))
        for k in range(2, order + 1)
    ]
    largest = max(terms)
    beyond = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return (beyond if beyond > LINEAR else math.log1p(math.exp(beyond))) / (order - 1)


def _log_expm1(x: float) -> float:
    return x if x > LINEAR else math.log(math.expm1(x))


def _exact(queries: Sequence[Query], delta: float) -> float | None:
    try:  # by name: a recipient may have neither dp-accounting nor the training side of privsyn
        accounting = importlib.import_module("privsyn.dp.accounting")
    except ImportError:
        return None
    parts = [accounting.Mechanism(q.noise_multiplier, q.sample_rate, q.steps) for q in queries]
    return float(accounting.epsilon(parts, delta))


def _query(part: Fields) -> Query:
    return Query(
        noise_multiplier=_number(part.document.get("noise_multiplier"), "noise_multiplier", *NOISE),
        sample_rate=_number(part.document.get("sample_rate"), "sample_rate", *RATE),
        steps=int(_number(part.integer("steps", least=1), "steps", 1, STEPS)),
    )


def _number(value: Any, name: str, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        refuse(WHAT, f"has no {name}, or one that is impossible")
    return float(value)
