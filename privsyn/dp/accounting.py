"""The privacy accountant: epsilon of mechanisms, and the noise that a budget needs. Pure functions.

The epsilon that we claim comes from privacy loss distributions (PLD; Koskela et al. 2020,
https://arxiv.org/abs/1906.03049; Doroshenko et al. 2022, https://arxiv.org/abs/2207.04380), discretised
pessimistically, so it is an upper bound. Renyi-DP (Mironov 2017, https://arxiv.org/abs/1702.07476) is a
second, looser upper bound by other means; if it is ever lower, one of the two is wrong.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from dp_accounting import DpEvent, GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.dp_event import MixtureOfGaussiansDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.stats import binom

from privsyn.claim.document import Mechanism
from privsyn.errors import PrivsynError, RecipeError

GRID = 1e-4  # discretisation of the privacy loss, by epsilon: 1e-3 at epsilon .2 would cost 10 % noise
COARSEST, FINEST = 1e-3, 1e-6
ROUGHLY = COARSEST / GRID  # the epsilon from which the grid is at its coarsest
ROUNDING = 1e6  # epsilon is rounded up to a multiple of 1e-6
AGREEMENT = 1e-3  # relative; by how much discretisation may lift PLD above RDP
RELATIVE_TOLERANCE = 1e-3  # of the noise multiplier that is searched for
NOISE_RANGE = (1e-2, 1e6)
LEAST_NOISE = 0.05  # that a budget may ask for; with less, one step reveals nearly everything
MET_BY_ANY_NOISE = (
    "epsilon at this delta is met with hardly any noise, so it promises nothing: lower privacy.delta, far "
    "below one in the number of training units, or privacy.epsilon"
)
# Whole orders: the fractional ones may fail to converge, and a missing order only loosens the bound.
NEAR_ORDERS = (*range(2, 33), *range(36, 65, 4))
FAR_ORDERS = (*range(80, 257, 16), 384, 512, 768, 1024, 1536, 2048, 4096)  # slow, and for small epsilon alone


def accountant_name() -> dict[str, str]:
    """Which accountant, from which library, in which version."""
    return {"name": "pld", "library": "dp-accounting", "version": importlib.metadata.version("dp-accounting")}


def default_delta(expected_units: int) -> float:
    """delta = 1 / (100 n): in expectation a hundredth of one unit among all is promised nothing.

    Below 1 / n as a meaningful delta must be (Dwork & Roth 2014, section 2.3,
    https://doi.org/10.1561/0400000042; NIST SP 800-226, section 2.2, asks for far below).
    """
    return 1 / (100 * expected_units)


def epsilon(history: Sequence[Mechanism], delta: float, *, rough: bool = False) -> float:
    """epsilon of all mechanisms together, adding or removing one unit; PLD, rounded up.

    Args:
        rough: compute a looser upper bound several times faster, to show while a training runs.

    Raises:
        PrivsynError: PLD and RDP contradict each other.
    """
    spent = _taken(history)
    return _pld(spent, delta, _grid(ROUGHLY, spent)) if rough and spent else _epsilon(spent, delta)


def epsilon_rdp(history: Sequence[Mechanism], delta: float) -> float:
    """The same by Renyi-DP: a looser upper bound that is easier to check."""
    return _rdp(_taken(history), delta)


def epsilon_of_filter(history: Sequence[Mechanism], budget: float, delta: float) -> float:
    """epsilon by Renyi-DP at the ONE order that `budget` and `delta` fix; rounded up.

    If every mechanism is admitted only while this is at most `budget`, all of them together are
    (budget, delta)-DP, also where each was chosen by looking at the results before it. That is a privacy
    filter: Feldman and Zrnic 2021, https://arxiv.org/abs/2008.11193. It is proven for an order that is fixed
    beforehand, not for the best one in hindsight, which `epsilon_rdp` takes. PLD is not a valid filter in
    general (https://arxiv.org/abs/2602.06756, https://arxiv.org/abs/2602.15815).
    """
    spent = _taken(history)
    order = max((*NEAR_ORDERS, *FAR_ORDERS), key=lambda order: _rdp_within(budget, delta, order))
    return math.ceil(_rdp_at((order,), spent, delta) * ROUNDING) / ROUNDING if spent else 0.0


def group_epsilon(history: Sequence[Mechanism], delta: float, units: int) -> float:
    """epsilon of adding or removing a group of units together, such as `units` images of one patient.

    Every unit of the group is sampled independently, so a step's sum moves by 0 to `units` clip norms,
    binomially: a mixture of Gaussians bounds it tightly. Ganesh 2024, https://arxiv.org/abs/2401.10294,
    theorem 3.1.
    """
    spent = _taken(history)
    if not spent:
        return 0.0
    # the figure is more than so many times as large, and a grid that is fine for it would take minutes
    grid = units * max(_grid(ROUGHLY, spent), GRID * _rdp(spent, delta))
    return _pld(spent, delta, grid, units)


def noise_multiplier(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    *,
    composed: Sequence[Mechanism] = (),
    rough: bool = False,
) -> float:
    """The smallest noise multiplier that keeps to a budget, to a relative 1e-3; never too small.

    Args:
        composed: mechanisms that the same budget must cover.
        rough: several times faster, on a grid ten times coarser, which may give one per cent more noise.

    Raises:
        RecipeError: no noise multiplier in NOISE_RANGE reaches it, or every one does.
    """
    others = tuple(composed)
    if delta >= _chance_to_be_sampled(sample_rate, steps):
        raise RecipeError(MET_BY_ANY_NOISE)

    def history(log_noise: float) -> tuple[Mechanism, ...]:
        return (*others, Mechanism(math.exp(log_noise), sample_rate, steps))

    grid = _grid(target_epsilon, history(0.0))

    def excess(log_noise: float) -> float:
        return _pld(history(log_noise), delta, grid) - target_epsilon

    def roughly(log_noise: float) -> float:
        return _pld(history(log_noise), delta, 10 * grid) - target_epsilon

    upper = _rdp_noise_multiplier(target_epsilon, delta, sample_rate, steps, others)
    near = _root(roughly, math.log(upper) + RELATIVE_TOLERANCE, stride=0.1)
    if rough:
        return _rounded_up(math.exp(near + RELATIVE_TOLERANCE))
    found = _rounded_up(math.exp(_root(excess, near + RELATIVE_TOLERANCE / 2, stride=RELATIVE_TOLERANCE)))
    while _epsilon((*others, Mechanism(found, sample_rate, steps)), delta) > target_epsilon:  # by a hair
        found = _rounded_up(found * (1 + RELATIVE_TOLERANCE / 4))
    return found


def _chance_to_be_sampled(sample_rate: float, steps: int) -> float:
    """Of a unit, in any of the steps: a delta as large allows a training without noise."""
    return 1 - (1 - sample_rate) ** steps


def _root(excess: Callable[[float], float], high: float, stride: float) -> float:
    """Walk down from `high`, where the noise suffices, until it does not; then search between the two."""
    while excess(high) > 0:
        high += stride
    low = high - stride
    while excess(low) <= 0:
        if low < math.log(LEAST_NOISE):
            raise RecipeError(MET_BY_ANY_NOISE)
        stride *= 2
        low, high = max(low - stride, math.log(LEAST_NOISE) - RELATIVE_TOLERANCE), low
    if high - low <= RELATIVE_TOLERANCE * (1 + 1e-9):
        return high
    return float(brentq(excess, low, high, xtol=RELATIVE_TOLERANCE / 4))


def _rdp_noise_multiplier(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, composed: tuple[Mechanism, ...]
) -> float:
    def excess(log_noise: float) -> float:
        mechanism = Mechanism(math.exp(log_noise), sample_rate, steps)
        return _rdp((*composed, mechanism), delta) - target_epsilon

    low, high = (math.log(edge) for edge in NOISE_RANGE)
    if excess(high) > 0:
        beside = " beside the warm-up" * bool(composed)
        ways = "ask the warm-up for less (fewer images, more noise)" if composed else "train fewer steps"
        raise RecipeError(
            f"no noise reaches epsilon {target_epsilon:g} with delta {delta:g} in {steps} steps at sample "
            f"rate {sample_rate:g}{beside}: {ways}, or ask for a larger privacy.epsilon"
        )
    if excess(low) <= 0:
        raise RecipeError(MET_BY_ANY_NOISE)
    return math.exp(brentq(excess, low, high, xtol=RELATIVE_TOLERANCE))


def _epsilon(history: tuple[Mechanism, ...], delta: float) -> float:
    if not history:
        return 0.0
    bound = _rdp(history, delta)
    tight = _pld(history, delta, _grid(bound, history))
    if tight > bound * (1 + AGREEMENT) + 1 / ROUNDING:
        raise PrivsynError(
            f"the accountants disagree (PLD {tight:.6g} above its upper bound RDP {bound:.6g}): "
            "do not use this claim, and report the privacy settings that led here"
        )
    return tight


def _grid(epsilon: float, history: tuple[Mechanism, ...]) -> float:
    """The discretisation: finer for a small epsilon and for many steps, whose single loss is small."""
    steps = sum(part.steps for part in history)
    return max(FINEST, min(GRID * epsilon, COARSEST) * min(1.0, math.sqrt(2000 / max(1, steps))))


@lru_cache(maxsize=256)
def _pld(history: tuple[Mechanism, ...], delta: float, grid: float, units: int = 1) -> float:
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=grid)
    for part in history:
        accountant.compose(_event(part) if units == 1 else _group_event(part, units), part.steps)
    found = float(accountant.get_epsilon(delta))
    return math.ceil(found * ROUNDING) / ROUNDING if math.isfinite(found) else math.inf


@lru_cache(maxsize=256)
def _rdp(history: tuple[Mechanism, ...], delta: float) -> float:
    bound = _rdp_at(NEAR_ORDERS, history, delta)
    decides = 20 * math.log(1 / delta) / max(bound, 1e-9)  # far above the order that gives the bound
    further = tuple(order for order in FAR_ORDERS if order <= decides)
    return min(bound, _rdp_at(further, history, delta)) if further else bound


def _rdp_at(orders: Sequence[int], history: tuple[Mechanism, ...], delta: float) -> float:
    accountant = RdpAccountant(orders, NeighboringRelation.ADD_OR_REMOVE_ONE)
    for part in history:
        accountant.compose(_event(part), part.steps)
    return float(accountant.get_epsilon(delta))


def _rdp_within(budget: float, delta: float, order: int) -> float:
    """How many Gaussian mechanisms fit, up to a factor: RDP of the budget at this order, divided by it.

    Conversion of Canonne, Kamath and Steinke 2020, https://arxiv.org/abs/2004.00010, proposition 12.
    """
    return (budget - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)) / order


def _event(mechanism: Mechanism) -> DpEvent:
    return PoissonSampledDpEvent(mechanism.sample_rate, GaussianDpEvent(mechanism.noise_multiplier))


def _group_event(mechanism: Mechanism, units: int) -> DpEvent:
    if mechanism.sample_rate == 1:  # all of them are in every step
        return GaussianDpEvent(mechanism.noise_multiplier / units)
    odds = {k: float(binom.pmf(k, units, mechanism.sample_rate)) for k in range(units + 1)}
    odds = {k: chance for k, chance in odds.items() if chance > 0}  # the smallest may be 0 in floating point
    return MixtureOfGaussiansDpEvent(mechanism.noise_multiplier, list(odds), list(odds.values()))


def _taken(history: Sequence[Mechanism]) -> tuple[Mechanism, ...]:
    return tuple(part for part in history if part.steps > 0)


def _rounded_up(value: float) -> float:
    """To five significant digits, so that the number in the claim is the number that was used."""
    scale = 10.0 ** (4 - math.floor(math.log10(value)))
    return math.ceil(value * scale) / scale
