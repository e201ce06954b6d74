from __future__ import annotations

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from opacus.accountants import PRVAccountant, RDPAccountant

from privsyn.dp.accounting import (
    Mechanism,
    default_delta,
    epsilon,
    epsilon_rdp,
    group_epsilon,
    noise_multiplier,
)
from privsyn.errors import RecipeError

GRID = [
    (Mechanism(1.1, 0.05, 300), 1e-4),
    (Mechanism(2.4, 0.25, 150), 5e-4),
    (Mechanism(0.8, 0.01, 1000), 1e-5),
    (Mechanism(20.0, 0.1, 500), 1e-5),
]


@pytest.mark.parametrize(("mechanism", "delta"), GRID)
def test_epsilon_is_what_the_library_says_on_its_own(mechanism: Mechanism, delta: float) -> None:
    """A plain dp-accounting call with its own default grid agrees."""
    accountant = PLDAccountant()
    event = PoissonSampledDpEvent(mechanism.sample_rate, GaussianDpEvent(mechanism.noise_multiplier))
    accountant.compose(SelfComposedDpEvent(event, mechanism.steps))
    assert epsilon([mechanism], delta) == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)


@pytest.mark.parametrize(("mechanism", "delta"), GRID)
@pytest.mark.filterwarnings("ignore:Optimal order:UserWarning")  # Opacus' own list of orders is short
def test_epsilon_agrees_with_opacus(mechanism: Mechanism, delta: float) -> None:
    """Opacus' PRV accountant comes within the error it states; its RDP bound is above, as is ours."""
    history = [(mechanism.noise_multiplier, mechanism.sample_rate, mechanism.steps)]
    prv, rdp = PRVAccountant(), RDPAccountant()
    prv.history = rdp.history = history
    ours = epsilon([mechanism], delta)
    assert prv.get_epsilon(delta, eps_error=0.01) == pytest.approx(ours, abs=0.02)
    assert ours <= epsilon_rdp([mechanism], delta)
    assert ours <= rdp.get_epsilon(delta)


def test_steps_add_up_however_they_are_recorded() -> None:
    """Two halves cost what the whole costs, no step costs nothing, and more steps cost more."""
    half, whole = Mechanism(1.5, 0.1, 50), Mechanism(1.5, 0.1, 100)
    assert epsilon([half, half], 1e-4) == pytest.approx(epsilon([whole], 1e-4), abs=2e-6)
    assert epsilon([Mechanism(1.5, 0.1, 0)], 1e-4) == 0 == epsilon([], 1e-4)
    assert epsilon([half], 1e-4) < epsilon([whole], 1e-4)


def test_a_rough_figure_is_an_upper_bound() -> None:
    """What is shown while a training runs may be a little above what the claim will say, never below."""
    for mechanism, delta in GRID:
        exact, rough = epsilon([mechanism], delta), epsilon([mechanism], delta, rough=True)
        assert exact <= rough <= 1.05 * exact
    assert epsilon([], 1e-5, rough=True) == 0


def test_fine_grid_at_a_small_budget() -> None:
    """At epsilon 0.2 a coarse grid would say 12 % more (MNIST at the settings of Dockhorn et al. 2023)."""
    mechanism = Mechanism(noise_multiplier=73.9, sample_rate=4096 / 60000, steps=4395)
    assert epsilon([mechanism], 1e-5) < 0.2


@pytest.mark.parametrize(
    ("budget", "delta", "rate", "steps"), [(8, 5e-4, 0.25, 150), (1, 5e-4, 0.1, 200), (0.05, 1e-5, 0.05, 100)]
)
def test_noise_is_found_to_a_thousandth_and_never_too_small(
    budget: float, delta: float, rate: float, steps: int
) -> None:
    """The budget is kept, and a thousandth less noise would not keep it."""
    found = noise_multiplier(budget, delta, rate, steps)
    assert epsilon([Mechanism(found, rate, steps)], delta) <= budget
    assert epsilon([Mechanism(found * 0.999, rate, steps)], delta) > budget


def test_noise_leaves_room_for_what_is_composed() -> None:
    """With a warm-up in the budget the noise is larger, and both together keep to it, not much below."""
    warm_up = Mechanism(5.0, 1.0, 2)
    found = noise_multiplier(3.0, 1e-4, 0.1, 200, composed=[warm_up])
    assert found > 1.005 * noise_multiplier(3.0, 1e-4, 0.1, 200)
    assert epsilon([warm_up, Mechanism(found, 0.1, 200)], 1e-4) <= 3.0
    assert epsilon([warm_up, Mechanism(found * 0.999, 0.1, 200)], 1e-4) > 3.0
    with pytest.raises(RecipeError, match="beside the warm-up: ask the warm-up for less"):
        noise_multiplier(1.0, 1e-4, 0.1, 200, composed=[Mechanism(0.5, 1.0, 5)])


def test_a_group_of_images_costs_what_was_computed_before() -> None:
    """q = .0512, T = 2000, sigma = 1.559, delta = 1e-5: 8 for one image, 19.1 for two, 49.5 for four."""
    history = [Mechanism(1.559, 0.0512, 2000)]
    assert group_epsilon(history, 1e-5, 1) == pytest.approx(epsilon(history, 1e-5), rel=2e-3)
    found = [group_epsilon(history, 1e-5, k) for k in (2, 4)]
    assert found == pytest.approx([19.1, 49.5], rel=5e-3)


@pytest.mark.parametrize("k", [2, 5])
def test_a_group_without_sampling_is_one_gaussian(k: int) -> None:
    """If every image is in every step, k of them move the sum by k: known in closed form."""
    whole, one = [Mechanism(4.0, 1.0, 10)], [Mechanism(4.0 / k, 1.0, 10)]
    assert group_epsilon(whole, 1e-5, k) == pytest.approx(epsilon(one, 1e-5), rel=2e-3)


@pytest.mark.parametrize("budget", [1.0, 8.0])
def test_long_trainings_are_accounted_finely_enough(budget: float) -> None:
    """With 100,000 steps a coarse grid would put PLD above RDP; the noise is found, and RDP stays above."""
    for rough in (True, False):
        found = noise_multiplier(budget, 1e-5, 0.01, 100_000, rough=rough)
        assert 0.97 * budget < epsilon([Mechanism(found, 0.01, 100_000)], 1e-5) <= budget


@pytest.mark.parametrize("budget", [1e-4, 100.0])
def test_extreme_budgets_are_answered(budget: float) -> None:
    """Far smaller and far larger ones than anybody should ask for."""
    found = noise_multiplier(budget, 1e-5, 0.1, 10)
    assert epsilon([Mechanism(found, 0.1, 10)], 1e-5) <= budget


def test_a_budget_out_of_reach_is_refused() -> None:
    """The message says what to change."""
    with pytest.raises(RecipeError, match=r"larger privacy\.epsilon"):
        noise_multiplier(1e-6, 1e-9, 1.0, 10_000)


def test_default_delta_is_below_one_in_the_number_of_units() -> None:
    """A delta of 1/n would let a mechanism publish one unit in the clear."""
    assert all(default_delta(units) < 1 / units for units in (2, 100, 10**6))


@pytest.mark.parametrize(("delta", "rate", "steps"), [(0.5, 0.001, 100), (0.09, 0.001, 50)])
def test_a_delta_that_any_noise_meets_ends_in_words(delta: float, rate: float, steps: int) -> None:
    """A delta above the chance to be sampled at all promises nothing; the search for noise does not hang."""
    with pytest.raises(RecipeError, match=r"promises nothing: lower privacy\.delta"):
        noise_multiplier(8.0, delta, rate, steps)
