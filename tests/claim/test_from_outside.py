"""Released claims, computed again from what is released alone, by three accountants that are not ours."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from fft_accountant import fft_epsilon
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant

from privsyn.claim.document import Mechanism, mechanisms
from privsyn.cohort.cohort import Cohort
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe, find_shipped, load_recipe
from privsyn.training.budget import planned_query
from privsyn.training.claiming import check_delta, claim_of_training
from privsyn.training.warmup import warm_up_queries

TOY = load_recipe(find_shipped("recipes", "toy"), ["privacy.dp=true"])


def released(recipe: Recipe, nobody: Cohort) -> dict[str, Any]:
    """What leaves of the claim of a training by this recipe that took all of its steps."""
    sgd = planned_query(recipe)
    whole = Mechanism(sgd.mechanism.noise_multiplier, sgd.mechanism.sample_rate, recipe.train.steps)
    queries = (*warm_up_queries(recipe), type(sgd)(sgd.name, whole, sgd.clipping))
    claim = claim_of_training(recipe, nobody, queries, steps=recipe.train.steps, weights_sha256="0" * 64)
    document: dict[str, Any] = json.loads(json.dumps(claim.public_document()))
    return document


def stated(document: dict[str, Any]) -> list[Mechanism]:
    parts = [document["mechanism"], *document["mechanism"]["composed"]]
    return [Mechanism(each["noise_multiplier"], each["sample_rate"], each["steps"]) for each in parts]


def pld_epsilon(parts: list[Mechanism], delta: float) -> float:
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3)
    for part in parts:
        event = PoissonSampledDpEvent(part.sample_rate, GaussianDpEvent(part.noise_multiplier))
        accountant.compose(event, part.steps)
    return float(accountant.get_epsilon(delta))


def random_recipe(seed: int) -> Recipe:
    """A recipe as somebody might write it: budget, delta, size, batch, steps and warm-up at random."""
    draw = np.random.default_rng(seed)
    units = int(draw.integers(200, 5000))
    asked = [
        f"privacy.epsilon={draw.choice([0.7, 1.0, 3.0, 8.0])}",
        f"privacy.expected_units={units}",
        f"train.batch_size={int(units * draw.uniform(0.02, 0.3)) + 1}",
        f"train.steps={int(draw.integers(5, 400))}",
    ]
    if draw.random() < 0.5:
        asked.append(f"privacy.delta={draw.uniform(0.001, 0.5) / units:.3g}")
    if draw.random() < 0.6:
        asked += [
            f"warmup.images={int(draw.integers(1, 9))}",
            f"warmup.noise_multiplier={draw.uniform(20, 60):.3g}",
        ]
        if draw.random() < 0.5:
            asked.append(f"warmup.covariance_noise={draw.uniform(10, 30):.3g}")
    return TOY.with_settings(asked)


@pytest.mark.parametrize("seed", range(10))
def test_ten_random_claims_hold_by_three_other_accountants(seed: int, nobody: Cohort) -> None:
    """By dp-accounting on a grid of ours, by Opacus' PRV, and by an FFT accountant written for this test."""
    document = released(random_recipe(seed), nobody)
    parts, delta, claimed = stated(document), document["delta"], document["epsilon"]
    assert document["valid_for_release"] is True
    assert claimed <= random_recipe(seed).privacy.epsilon
    assert pld_epsilon(parts, delta) == pytest.approx(claimed, rel=0.02, abs=2e-3)
    assert fft_epsilon(parts, delta) == pytest.approx(claimed, rel=2e-3, abs=1e-3)
    prv = PRVAccountant()
    prv.history = [(each.noise_multiplier, each.sample_rate, each.steps) for each in parts]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its first guess by RDP, and of a logarithm at sample rate 1
        assert prv.get_epsilon(delta, eps_error=0.02) == pytest.approx(claimed, abs=0.05)


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_no_option_makes_a_claim_better_than_it_is(nobody: Cohort, data: st.DataObject) -> None:
    """Whatever a modeller sets: a valid claim holds at delta = 1 / n, for the real n, to 1.5 times epsilon.

    The real number of units is another than the declared one; the unit is never coarser than the cohort's.
    """
    real = data.draw(st.integers(20, 20_000), "real units")
    declared = data.draw(st.one_of(st.just(real), st.integers(1, 50_000)), "expected_units")
    certain = data.draw(st.sampled_from(["image", "file", "study", "patient"]), "certain unit")
    asked = [
        f"privacy.expected_units={declared}",
        f"privacy.epsilon={data.draw(st.sampled_from([0.5, 1.0, 8.0, 50.0]), 'epsilon')}",
        f"train.batch_size={data.draw(st.integers(1, declared), 'batch')}",
        f"train.steps={data.draw(st.integers(1, 300), 'steps')}",
        f"privacy.unit={data.draw(st.sampled_from(['image', 'patient']), 'unit')}",
    ]
    delta = data.draw(st.one_of(st.none(), st.floats(1e-9, 0.5)), "delta")
    asked += [] if delta is None else [f"privacy.delta={delta!r}"]
    if data.draw(st.booleans(), "warm-up"):
        asked += ["warmup.images=4", f"warmup.noise_multiplier={data.draw(st.floats(0.5, 50), 'noise')!r}"]
    if data.draw(st.booleans(), "seeded"):
        asked += ["privacy.insecure_seed=3"]
    try:
        recipe = TOY.with_settings(asked).claiming(certain)
        check_delta(recipe, real)
        document = released(recipe, nobody)
    except RecipeError:
        return  # refused in words
    if document["valid_for_release"]:
        assert document["unit"] in {"image", certain}
        assert pld_epsilon(stated(document), 1 / real) <= 1.5 * document["epsilon"] + 1e-2
        assert document["group"] or document["unit"] == "patient"
    else:
        assert recipe.privacy.insecure_seed is not None


def test_mechanisms_of_a_claim_are_those_of_its_document(nobody: Cohort) -> None:
    """The test's reading and the product's own agree, so that nothing is composed that is not released."""
    recipe = random_recipe(1)
    document = released(recipe, nobody)
    assert len(stated(document)) == 1 + len(mechanisms(warm_up_queries(recipe)))
