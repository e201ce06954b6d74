"""The privacy claim as people read it: bounds are never rounded down, and nothing is left out."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privsyn.claim import words
from privsyn.claim.document import (
    Accountant,
    Bound,
    Claim,
    Clipping,
    CumulativeCost,
    GroupEpsilon,
    Mechanism,
    ModelProvenance,
    PublicQuantities,
    Query,
)

BOUND = Bound(
    epsilon=7.99431,
    delta=5.0119e-4,
    epsilon_rdp=9.1,
    queries=(Query("dp-sgd", Mechanism(1.2345, 0.128, 500), Clipping(0.001, 8, 4)),),
    expected_units=1000,
    accountant=Accountant("pld", "dp-accounting", "0.6.0"),
)
CLAIM = Claim(
    unit="patient",
    statement="The bound holds for each patient.",
    public=PublicQuantities(classes=("a",), size=8, channels=1, value_range=(0, 255)),
    provenance=ModelProvenance("cd" * 32, "0e" * 32, "0f" * 32, "ab" * 32, 500),
    bound=BOUND,
)


def claim(**changes: Any) -> Claim:
    return replace(CLAIM, bound=replace(BOUND, **changes))


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_bound_is_never_rounded_down(bound: float) -> None:
    """An epsilon or delta is printed at its value or above it, by at most one unit of the fourth digit."""
    shown = float(words.rounded_up(bound))
    assert bound <= shown <= bound * 1.001001


def test_rounding_up_keeps_short_numbers() -> None:
    """0.1 is 0.1, although its binary value lies above it."""
    assert [words.rounded_up(value) for value in (8, 0.1, 7.99431, 5e-4)] == ["8", "0.1", "7.995", "0.0005"]


def test_detection_limit_is_met_by_randomised_response() -> None:
    """Randomised response with odds e^epsilon reaches the bound: tells the truth with e^eps / (1 + e^eps)."""
    for epsilon in (0.1, 1.0, 4.0):
        truth = math.exp(epsilon) / (1 + math.exp(epsilon))
        assert words.detection_limit(epsilon, 0.0, 1 - truth) == pytest.approx(truth)


def test_detection_limit_at_its_ends() -> None:
    """Epsilon 0 is guessing, delta adds to it, and no epsilon gives more than everybody."""
    assert words.detection_limit(0.0, 0.0, 0.01) == pytest.approx(0.01)
    assert words.detection_limit(0.0, 0.05, 0.01) == pytest.approx(0.06)
    assert words.detection_limit(1.0, 0.0, 0.01) == pytest.approx(0.01 * math.e)
    assert words.detection_limit(1e6, 0.0, 0.01) == 1.0


def test_claim_names_epsilon_delta_unit_relation_and_mechanism() -> None:
    """A dp claim says everything that the number epsilon alone does not."""
    text = words.in_full(claim())
    for part in (
        "epsilon = 7.995",
        "delta = 0.0005012",
        "adding or removing everything that belongs to one patient",
        "DP-SGD over 500 steps",
        "probability 0.128 (Poisson sampling)",
        "dp-accounting 0.6.0 (PLD)",
    ):
        assert part in text, part
    assert len(text.split("\n\n")) == 3


def test_claim_says_when_epsilon_is_too_large_to_help() -> None:
    """Epsilon 8 does not by itself rule an attack out, and the words say so; epsilon 1 does."""
    weak = "the bound alone does not rule that attack out"
    assert weak in words.in_full(claim())
    strong = words.in_full(claim(epsilon=1.0, delta=1e-6))
    assert weak not in strong
    assert "can rightly name at most 2.72 % of the patients" in strong


def test_claim_without_bound_and_without_claim() -> None:
    """Without DP there is no bound, for another generator's set no claim; neither has parameters."""
    none = replace(CLAIM, unit="image", bound=None)
    assert "There is no bound." in words.in_full(none)
    assert "about one image" in words.in_full(none)
    assert "No claim." in words.in_full(None)
    for each in (none, None):
        assert words.parameters(each) == []


def test_parameters_list_further_queries() -> None:
    """Every other query of private data is part of the claim and is named."""
    query = Query("central-images", Mechanism(noise_multiplier=5.0, sample_rate=0.5, steps=2))
    assert dict(words.parameters(claim()))["Further queries included"] == "none"
    listed = words.parameters(claim(queries=(query, *BOUND.queries)))
    assert dict(listed)["Further queries included"] == (
        "central-images: 2 at sample rate 0.5 with noise multiplier 5"
    )


def test_parameters_say_what_images_and_other_trainings_cost() -> None:
    """Groups of images where the unit is an image, and the ledger's total where the reader may see it."""
    total = CumulativeCost("image", "add-or-remove-one", 9.5, 10.0, 1e-5, 3, finite=True, note="")
    group = (GroupEpsilon(units=2, epsilon=19.07026, delta=1e-5),)
    per_study = replace(claim(group=group), unit="study")
    told = dict(words.parameters(replace(per_study, cumulative=total)))
    assert told["Epsilon for a patient with 2 studies"] == "19.08"
    for text in (words.paragraph(per_study), words.in_full(per_study)):
        assert "NOT a bound for the patient" in text
        assert "epsilon for a patient is 19.08 with 2 studies" in text
    assert "study, NOT for the patient" in words.summary(per_study)
    for text in (words.paragraph(claim()), words.in_full(claim()), words.summary(claim())):
        assert "NOT" not in text
    assert told["All trainings on these patients so far"] == "epsilon 9.5 over 3, delta 1e-05"
    note = "no finite bound: 1 of the trainings have none"
    unbounded = replace(total, epsilon=None, epsilon_rdp=None, finite=False, note=note)
    told = dict(words.parameters(replace(CLAIM, cumulative=unbounded)))
    assert told["All trainings on these patients so far"] == note
    assert not [name for name in dict(words.parameters(claim())) if "images so" in name or "so far" in name]


def test_public_quantities_are_lines() -> None:
    """Each quantity is one `name: value` line; what is not known is left out."""
    public = PublicQuantities(
        classes=("a", "b"), size=28, channels=1, value_range=(0, 255), expected_units=3500, init_sha256="ab"
    )
    assert words.public_quantities(public) == [
        "classes: a, b",
        "size: 28",
        "channels: 1",
        "value range: 0, 255",
        "expected units: 3,500",
        "init from: weights sha256 ab, declaration public",
    ]


@pytest.mark.parametrize("reason", ["the noise can be repeated", "the noise can be repeated."])
def test_an_invalid_claim_gives_its_reason_and_no_other(reason: str) -> None:
    """The reason that the claim carries is the one in the text, and it ends with one full stop."""
    invalid = claim(invalid=reason)
    assert words.in_full(invalid).startswith("NOT VALID: the noise can be repeated. What follows is void.")
    assert words.paragraph(invalid).startswith(
        "No valid bound is claimed: the noise can be repeated. This set"
    )
    assert words.summary(invalid) == "NOT VALID for release: the noise can be repeated"
    filtered = invalid.of_set(near_copies_rejected=True)
    assert words.why_none(filtered).startswith("the noise can be repeated; near copies were rejected")
