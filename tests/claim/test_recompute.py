"""The privacy claim computed again: never below what dp-accounting gives, and sharp where claims are made."""

from __future__ import annotations

import pytest
from dp_accounting import PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant

from privsyn.claim.document import Mechanism
from privsyn.claim.recompute import LEAST_SHARE, ORDERS, EpsilonFunction, epsilon_bound, recompute
from privsyn.dp.accounting import epsilon

WHOSE = {"unit": "patient", "neighbouring": "add-or-remove-one"}
OTHERWISE = {"sampling": "poisson", "composed": [], "expected_units": 1000}
TRAININGS = [  # noise, rate, steps as trainings have them: a unit is expected in several steps
    (0.7, 0.01, 2000), (1.1, 0.1, 1000), (1.2563, 0.15, 150),
    (2.0, 0.3, 200), (5.0, 1.0, 16), (20.0, 0.5, 1000),
]  # fmt: skip


@pytest.mark.parametrize(("noise", "rate", "steps"), TRAININGS)
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_it_equals_renyi_dp_of_dp_accounting(noise: float, rate: float, steps: int, delta: float) -> None:
    """At the same integer orders, to 1e-9; and it is never below the figure by privacy loss distributions."""
    bound = epsilon_bound([Mechanism(noise, rate, steps)], delta)
    accountant = RdpAccountant(list(ORDERS))
    accountant.compose(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps))
    assert bound == pytest.approx(accountant.get_epsilon(delta), rel=1e-9)
    exact = epsilon([Mechanism(noise, rate, steps)], delta)
    assert LEAST_SHARE * bound < exact <= bound


def test_queries_add_up() -> None:
    """A warm-up is composed with the training by adding at each order, not by adding epsilons."""
    training, warm_up = Mechanism(1.2563, 0.15, 150), Mechanism(5.0, 1.0, 16)
    together = epsilon_bound([training, warm_up], 1e-5)
    apart = [epsilon_bound([query], 1e-5) for query in (training, warm_up)]
    assert max(apart) < together < sum(apart)


def test_an_honest_claim_is_confirmed_and_a_better_one_is_not() -> None:
    """Exactly where dp-accounting is at hand; without it bounded, and open if it is far too good."""
    mechanism = {
        "noise_multiplier": 1.1,
        "sample_rate": 0.1,
        "steps": 1000,
        "sampling": "poisson",
        "composed": [],
    }
    exact = epsilon([Mechanism(1.1, 0.1, 1000)], 1e-5)

    def asked(claimed: float, accountant: EpsilonFunction | None) -> tuple[str, str]:
        claim = {**WHOSE, "epsilon": claimed, "delta": 1e-5, "mechanism": {**mechanism, **OTHERWISE}}
        found = recompute(claim, accountant)
        return found.method, found.outcome

    assert asked(exact, epsilon) == ("exact", "confirmed")
    assert asked(0.99 * exact, epsilon) == ("exact", "contradicted")
    assert asked(exact, None) == ("bound", "bounded")
    assert asked(2 * exact, None) == ("bound", "confirmed")
    assert asked(0.1 * exact, None) == ("bound", "unlikely")
