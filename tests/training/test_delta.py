"""Delta: small by default, below one in the real number of units, in words, and judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from claims import dp_claim
from digits_study import copied, prepared

from privsyn import ledger
from privsyn.claim import words
from privsyn.claim.document import Mechanism
from privsyn.claim.reader import read_claim
from privsyn.dp import accounting
from privsyn.dp.accounting import default_delta, group_epsilon
from privsyn.errors import RecipeError, Refused
from privsyn.recipe import find_shipped, load_recipe
from privsyn.release.claim_check import check_claim
from privsyn.study import Study
from privsyn.training import claiming
from privsyn.training.loop import train

QUICK = ("train.steps=2", "privacy.noise_multiplicity=1", "train.batch_size=4")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *QUICK)


def test_by_default_a_hundredth_of_a_unit_is_promised_nothing() -> None:
    """delta = 1 / (100 n) for the declared n."""
    assert default_delta(4000) == pytest.approx(2.5e-6)


def test_a_recipe_whose_delta_is_one_in_its_units_is_refused() -> None:
    """Before anything else is looked at."""
    with pytest.raises(RecipeError, match=r"privacy\.delta must be far below one in privacy\.expected_units"):
        load_recipe(find_shipped("recipes", "toy"), ["privacy.dp=true", "privacy.delta=0.001"])


@pytest.mark.parametrize("settings", [("privacy.delta=0.09",), ()])
def test_a_declared_number_of_units_cannot_excuse_a_delta(
    template: Study, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """Few units are declared, and about 1,080 trained on: refused without naming how many."""
    study = copied(template, tmp_path, "privacy.expected_units=8", *settings)
    with pytest.raises(RecipeError, match="not below one in the number of training images") as caught:
        train(study, dp=True)
    assert not any(letter.isdigit() for letter in str(caught.value))
    assert ledger.populations() == []
    assert not study.model.exists()


def test_a_warm_up_counts_the_units_for_those_outside(template: Study, tmp_path: Path) -> None:
    """The claim states a noisy number beside the declared one; delta is judged by the larger."""
    study = copied(template, tmp_path, "privacy.expected_units=300", "warmup.images=8", "warmup.steps=2")
    claim = train(study, dp=True)
    assert claim.bound is not None
    real = 1092  # with the key of the tests
    assert claim.bound.noisy_units == pytest.approx(real, abs=4 * 5 * 10**0.5)
    assert claim.bound.units == claim.bound.noisy_units > claim.bound.expected_units == 300
    assert read_claim(claim.to_document(), "") == claim
    assert claim.public_document()["mechanism"]["noisy_units"] == claim.bound.noisy_units


def test_delta_is_said_in_words() -> None:
    """As a chance for one unit, and as an expected number among all."""
    told = words.nothing_promised("image", 1 / 107_800, 1078.0)
    assert told == (
        "Delta is the chance that nothing is promised: at most 1 in 107,800 for one image, and for 0.01 of "
        "about 1,078 images in expectation."
    )
    claim = dp_claim()
    for text in (words.paragraph(claim), words.in_full(claim), check_claim(_true(claim)).words):
        assert "the chance that nothing is promised: at most 1 in 1" in text


def _true(claim: object) -> dict[str, object]:
    """The public document, with an epsilon that its parameters give."""
    document = claim.public_document()  # type: ignore[attr-defined]
    return document | {"epsilon": 100.0}


def test_a_released_claim_whose_delta_is_one_in_its_units_is_refused() -> None:
    """By `verify`, from the declared or the counted number of units, whatever epsilon says."""
    document = _true(dp_claim(delta=0.0009))
    assert check_claim(document).state == "ok"
    for changed in ({"expected_units": 1200}, {"noisy_units": 1200.0}):
        mechanism = document["mechanism"] | changed  # type: ignore[operator]
        with pytest.raises(Refused, match="publishing one of about 1,200 patients in the clear"):
            check_claim(document | {"mechanism": mechanism})


def test_what_a_patient_gets_is_known_before_anything_is_spent(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accountant that fails for groups fails while nothing is charged."""

    def fails(*_: object) -> float:
        raise RecipeError("no figure for groups")

    monkeypatch.setattr(claiming, "group_epsilon", fails)
    study = copied(template, tmp_path)
    with pytest.raises(RecipeError, match="no figure for groups"):
        train(study, dp=True)
    assert ledger.populations() == []


@pytest.mark.parametrize(
    "mechanism",
    [
        Mechanism(5.0, 1.0, 8), Mechanism(0.2, 1.0, 1), Mechanism(0.2, 0.5, 1), Mechanism(1.0, 1e-9, 100),
        Mechanism(0.3, 1 - 1e-10, 10), Mechanism(1e6, 0.5, 5), Mechanism(2.0, 0.0001, 10_000),
    ],
)  # fmt: skip
def test_groups_have_a_figure_for_any_mechanism(mechanism: Mechanism) -> None:
    """It grows with the group, and is at least that of one unit; for rate 1 it is the Gaussian's own."""
    one = accounting.epsilon([mechanism], 1e-5)
    two, eight = (group_epsilon([mechanism], 1e-5, units) for units in (2, 8))
    assert one <= two * 1.01 + 1e-5
    assert two <= eight
    if mechanism.sample_rate == 1:
        wider = Mechanism(mechanism.noise_multiplier / 8, 1.0, mechanism.steps)
        assert eight == pytest.approx(accounting.epsilon([wider], 1e-5), rel=1e-3)
