"""Check whether a privacy claim follows from its own parameters, without trusting who wrote it.

With an accountant, the claimed epsilon is recomputed as it was computed first. Without one, the standard
library bounds it: Renyi DP at integer orders of the Poisson-subsampled Gaussian (Mironov, Talwar & Zhang
2019, https://arxiv.org/abs/1908.10530, section 3.3), composed by addition and converted by proposition 12 of
Canonne, Kamath & Steinke 2020 (https://arxiv.org/abs/2004.00010). That is an upper bound: it can show that a
claim is far too good, and which epsilon is safe to believe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from privsyn.claim.document import NEIGHBOURING, SAMPLING, UNITS, WHAT, Mechanism, Unit
from privsyn.strict_json import Fields, refuse

ORDERS = (*range(2, 65), 80, 96, 128, 192, 256, 512, 1024)
LEAST_SHARE = 0.65  # exact figures of trainings are .67 to .95 of the bound; a smaller claim is left open
WORTH_COMPUTING = 100.0  # a larger bound promises nothing, and its exact figure takes hours
MOST_QUERIES = 16
LINEAR = 50.0  # beyond it exp(x) and exp(x) + 1 are the same
TOLERANCE = 1e-6  # relative; of the claimed epsilon, which was rounded
# No training lies outside of these ranges; inside, neither floating point nor time runs out.
NOISE_RANGE = (1e-2, 1e6)
RATE_RANGE = (1e-9, 1.0)
MOST_STEPS = 10**8
DELTA_RANGE = (1e-30, 0.1)

EpsilonFunction = Callable[[Sequence[Mechanism], float], float]
"""Epsilon of mechanisms, composed, at a delta: `privsyn.dp.accounting.epsilon`."""


@dataclass(frozen=True)
class StatedBound:
    """What a document claims, and the parameters from which that should follow.

    Attributes:
        mechanisms: of all queries of private data, composed.
        units: about how many units there are, as declared or counted with noise, whichever is more.
    """

    unit: Unit
    epsilon: float
    delta: float
    mechanisms: tuple[Mechanism, ...]
    units: float


@dataclass(frozen=True)
class Recomputed:
    """What the parameters of a claim give.

    Attributes:
        method: `exact` by the accountant, or `bound` by the standard library.
        epsilon: what they give at the claim's delta, by that method.
        outcome: `confirmed`: at most what is claimed; `bounded`: the claim lies below an upper bound, where
            exact figures lie; `contradicted`: the claim is less than its parameters give; `unlikely`: the
            claim is far below the bound, and only an accountant can decide.
    """

    stated: StatedBound
    method: Literal["exact", "bound"]
    epsilon: float
    outcome: Literal["confirmed", "bounded", "contradicted", "unlikely"]


def recompute(document: object, accountant: EpsilonFunction | None = None) -> Recomputed:
    """Compute epsilon of a `dp` claim again from its mechanisms and delta.

    Args:
        document: the claim as JSON; anybody may have written it.
        accountant: None where no accountant is installed.

    Raises:
        Refused: the claim lacks a parameter, has an impossible one, or is not about adding or removing one
            patient or image.
    """
    stated = read_stated(document)
    bound = epsilon_bound(stated.mechanisms, stated.delta)
    if accountant is not None and bound <= WORTH_COMPUTING:
        exact = accountant(stated.mechanisms, stated.delta)
        agrees = exact <= stated.epsilon * (1 + TOLERANCE) + 1e-9
        return Recomputed(stated, "exact", exact, "confirmed" if agrees else "contradicted")
    if stated.epsilon >= bound:
        return Recomputed(stated, "bound", bound, "confirmed")
    near = stated.epsilon >= LEAST_SHARE * bound
    return Recomputed(stated, "bound", bound, "bounded" if near else "unlikely")


def read_stated(document: object) -> StatedBound:
    """Read what a claim states, from a document that may be hostile.

    Raises:
        Refused: as for `recompute`.
    """
    fields = Fields(document, WHAT)
    known = fields.document
    if known.get("unit") not in UNITS or known.get("neighbouring") != NEIGHBOURING:
        fields.refuse(f"is not about adding or removing one {' or '.join(UNITS)}, and cannot be recomputed")
    mechanism = Fields(known.get("mechanism"), f"{WHAT}: mechanism")
    if mechanism.document.get("sampling") != SAMPLING:
        refuse(WHAT, "does not use Poisson sampling, the only kind that can be recomputed")
    composed = mechanism.list("composed")
    if len(composed) >= MOST_QUERIES:
        refuse(WHAT, f"is composed of {len(composed)} further queries, more than {MOST_QUERIES}")
    queries = [mechanism, *(Fields(each, f"{WHAT}: composed") for each in composed)]
    low, high = DELTA_RANGE
    counted = mechanism.number("noisy_units") if "noisy_units" in mechanism.document else 0.0
    return StatedBound(
        unit=fields.choice("unit", UNITS),
        epsilon=fields.number("epsilon"),
        delta=fields.number("delta", least=low, most=high),
        mechanisms=tuple(_mechanism(each) for each in queries),
        units=max(mechanism.integer("expected_units", least=1), counted),
    )


def epsilon_bound(mechanisms: Sequence[Mechanism], delta: float) -> float:
    """An upper bound on epsilon at `delta` of all mechanisms composed, for adding or removing one unit."""
    best = math.inf
    for order in ORDERS:
        rdp = sum(m.steps * rdp_of(m.sample_rate, m.noise_multiplier, order) for m in mechanisms)
        epsilon = rdp + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        best = min(best, epsilon)
    return max(0.0, best)


@cache
def rdp_of(rate: float, noise: float, order: int) -> float:
    """Renyi divergence of one step at an integer order >= 2 (equation 3.3 of Mironov et al.).

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


def _mechanism(fields: Fields) -> Mechanism:
    (least_noise, most_noise), (least_rate, most_rate) = NOISE_RANGE, RATE_RANGE
    return Mechanism(
        noise_multiplier=fields.number("noise_multiplier", least=least_noise, most=most_noise),
        sample_rate=fields.number("sample_rate", least=least_rate, most=most_rate),
        steps=fields.integer("steps", least=1, most=MOST_STEPS),
    )
