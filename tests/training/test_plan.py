"""What is said before any privacy is spent."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from digits_study import prepared
from homes import new_home

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.cohort.cohort import load_cohort
from privsyn.dp.accounting import epsilon
from privsyn.errors import RecipeError
from privsyn.files import tree_digests
from privsyn.recipe import find_shipped, load_recipe
from privsyn.study import Study, init
from privsyn.training.loop import train
from privsyn.training.plan import declaration, doubts, plan

QUICK = ("train.steps=40", "privacy.noise_multiplicity=2", "privacy.max_images_per_unit=3")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The same recipe with a cohort."""
    return prepared(tmp_path_factory.mktemp("plan"), *QUICK)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of a recipe alone, before there is a cohort; it leaves no trace in the study, and makes no ledger."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        alone = init(folder / "study", recipe="toy", policy="internal-review", settings=QUICK)
        before = tree_digests(alone.root)
        found = plan(alone).to_document()
        assert tree_digests(alone.root) == before
        assert ledger.populations() == []
    return found


def test_the_plan_is_what_training_will_claim(study: Study, planned: dict[str, Any]) -> None:
    """Noise multiplier, epsilon and delta are those of the claim that `train` writes afterwards."""
    document = train(study, dp=True).to_document()
    for key in ("epsilon", "delta", "epsilon_rdp"):
        assert planned["claim"][key] == document[key]
    assert planned["claim"]["unit"] == "patient"  # what the recipe asks for; the cohort has no patient ids
    assert plan(study).to_document()["claim"]["unit"] == document["unit"] == "image"
    for key in ("noise_multiplier", "sample_rate", "steps", "clip_norm"):
        assert planned["claim"][key] == document["mechanism"][key]
    assert planned["ledger"] is None  # there was no cohort to ask for


def test_batch_and_steps_change_the_signal_and_draws_do_not(planned: dict[str, Any]) -> None:
    """A larger batch helps, more steps help little, draws only calm a unit's own gradient, and cost time."""
    by_change = {each["change"]: each for each in planned["variations"]}
    here = by_change["as it stands"]
    assert by_change["batch 16"]["relative"] < 1 < by_change["batch 64"]["relative"]
    assert by_change["steps 20"]["relative"] < 1 < by_change["steps 80"]["relative"]
    draws = by_change["draws 4"]
    assert draws["noise_multiplier"] == here["noise_multiplier"]
    assert draws["draw_noise"] == pytest.approx(here["draw_noise"] / math.sqrt(2))
    assert draws["seconds"] > here["seconds"]


def test_the_signal_is_that_of_the_formula(planned: dict[str, Any]) -> None:
    """sqrt(T) B / (sigma sqrt(P)), with the numbers of the plan itself."""
    claim, parameters = planned["claim"], planned["network"]["parameters"]
    expected = math.sqrt(40) * 32 / (claim["noise_multiplier"] * math.sqrt(parameters))
    assert planned["signal_to_noise"] == pytest.approx(expected)


def test_each_budget_is_kept_by_the_noise_it_is_given(planned: dict[str, Any]) -> None:
    """epsilon 1, 3, 8 and 10: never too little noise, and at most 2 % too much."""
    assert [each["epsilon"] for each in planned["budgets"]] == [1, 3, 8, 10]
    delta, rate = planned["claim"]["delta"], planned["claim"]["sample_rate"]
    for each in planned["budgets"]:
        spent = [epsilon([Mechanism(each["noise_multiplier"] * by, rate, 40)], delta) for by in (1, 0.98)]
        assert spent[0] <= each["epsilon"] < spent[1]


def test_time_and_memory_are_measured_from_one_image_to_the_cap(planned: dict[str, Any]) -> None:
    """Which lies between, only the cohort could tell."""
    seconds = planned["cost"]["seconds_by_images_per_unit"]
    assert list(seconds) == ["1", "3"]
    assert min(seconds.values()) > 0  # which is longer is a matter of what else the machine does
    assert planned["cost"]["peak_bytes"] > 2**26
    assert planned["cost"]["measured_on"] == "noise"


def test_it_tells_what_the_ledger_will_say(study: Study) -> None:
    """What was spent, what it would be, and a refusal in advance."""
    train(study, dp=True, epsilon=2.0, settings=["train.steps=2"], force=True)
    population = ledger.register(load_cohort(study.cohort).training_patients)
    ledger.grant(population, unit="image", epsilon=4.0, delta=1e-3)
    found = plan(study).to_document()["ledger"]
    assert found["population"] == population
    assert found["before"]["epsilon"] < 2.0 < 4.0 < found["after"]["epsilon"]
    assert not found["allowed"]
    assert "4.0 is granted" in found["reason"]


def test_what_is_declared_and_what_is_doubtful_is_said() -> None:
    """expected_units is public; a delta near one in n, a huge epsilon and hopeless noise are pointed out."""
    recipe = load_recipe(find_shipped("recipes", "toy"), ["privacy.delta=0.0009", "privacy.epsilon=50"])
    assert "privacy.expected_units = 1000 is declared PUBLIC" in declaration(recipe)
    for doubt, here in (
        ("promises nothing to 0.9 patients", 9.0),
        ("above 10", 9.0),
        ("noise is below 1", 0.9),
    ):
        assert any(doubt in said for said in doubts(recipe, here))
    assert doubts(load_recipe(find_shipped("recipes", "toy")), 2.0) == []


def test_a_recipe_that_does_not_say_enough_is_refused(tmp_path: Path) -> None:
    """Without a public number of units there is no plan, and the message says what giving it declares."""
    study = init(tmp_path / "study", recipe="toy", policy="internal-review")
    text = study.recipe_file.read_text().replace("expected_units", "# expected_units")
    study.recipe_file.write_text(text)
    with pytest.raises(RecipeError, match=r"privacy\.expected_units: a PUBLIC estimate .* anybody may know"):
        plan(study)
