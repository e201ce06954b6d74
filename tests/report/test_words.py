"""Numbers, verdicts and claims as people read them."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from audited_study import PRIVACY
from hypothesis import given
from hypothesis import strategies as st

from privsyn.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "\u2013"),
        (0, "0"),
        (8.0, "8"),
        (1797, "1,797"),
        (0.51234, "0.5123"),
        (12345.6, "12,346"),
        (-0.25, "-0.25"),
        (3e-9, "3e-09"),
        (1e300, "1e+300"),
    ],
)
def test_numbers_have_four_digits(value: float | None, text: str) -> None:
    """Whole numbers are whole, others have four significant digits, and nothing is a dash."""
    assert words.number(value) == text


def test_intervals_and_shares() -> None:
    """Intervals are brackets, shares are percentages, what was not measured is a dash."""
    assert words.interval((0.4712, 1.0)) == "[0.4712, 1]"
    assert words.interval(None) == words.percent(None) == words.NOTHING
    assert words.percent(0.01234) == "1.23 %"


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
    text = words.claim_in_words(PRIVACY)
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
    assert weak in words.claim_in_words(PRIVACY)
    strong = words.claim_in_words({**PRIVACY, "epsilon": 1.0, "delta": 1e-6})
    assert weak not in strong
    assert "can rightly name at most 2.72 % of the patients" in strong


def test_claim_without_bound_and_without_claim() -> None:
    """Without DP there is no bound, for another generator's set no claim; neither has parameters."""
    none = {"schema_version": 1, "kind": "none", "unit": "image"}
    assert "There is no bound." in words.claim_in_words(none)
    assert "about one image" in words.claim_in_words(none)
    assert "No claim." in words.claim_in_words(None)
    for claim in (none, None):
        assert words.claim_parameters(claim) == []
        assert words.public_quantities(claim) == words.not_covered(claim) == []


def test_parameters_list_further_queries() -> None:
    """Whatever else was asked of private data is part of the claim and is named."""
    query = {"name": "central-images", "noise_multiplier": 5.0, "sample_rate": 0.5, "steps": 2}
    mechanism = {**PRIVACY["mechanism"], "composed": [query]}  # type: ignore[dict-item]
    assert dict(words.claim_parameters(PRIVACY))["Further queries included"] == "none"
    listed = words.claim_parameters({**PRIVACY, "mechanism": mechanism})
    assert dict(listed)["Further queries included"] == (
        "central-images: 2 at sample rate 0.5 with noise multiplier 5"
    )


def test_parameters_say_what_images_and_other_trainings_cost() -> None:
    """Groups of images where the unit is an image, and the ledger's total where the reader may see it."""
    group = [{"images": 2, "epsilon": 19.07026, "delta": 1e-5}]
    total = {"finite": True, "epsilon": 9.5, "delta": 1e-5, "charges": 3, "note": ""}
    told = dict(words.claim_parameters({**PRIVACY, "group": group, "cumulative": total}))
    assert told["Epsilon for a patient with 2 images"] == "19.08"
    assert told["All trainings on these patients so far"] == "epsilon 9.5 over 3, delta 1e-05"
    unbounded = {"finite": False, "note": "no finite bound: 1 of the trainings have none"}
    told = dict(words.claim_parameters({**PRIVACY, "cumulative": unbounded}))
    assert told["All trainings on these patients so far"] == unbounded["note"]
    assert not [
        name for name in dict(words.claim_parameters(PRIVACY)) if "images so" in name or "so far" in name
    ]


def test_public_quantities_may_be_a_table() -> None:
    """Lists are taken as they are; tables become `name: value` lines."""
    assert words.public_quantities({"public": ["classes"]}) == ["classes"]
    table: dict[str, Any] = {"public": {"image_size": 28, "classes": ["a", "b"], "expected_units": 3500}}
    assert words.public_quantities(table) == ["image size: 28", "classes: a, b", "expected units: 3,500"]
    started = {"public": {"init_from": {"weights_sha256": "ab", "declaration": "public"}}}
    assert words.public_quantities(started) == ["init from: weights sha256 ab, declaration public"]


def test_no_verdict_promises_safety() -> None:
    """Not even a pass says more than that the set was not falsified."""
    for verdict in ("pass", "fail", "inconclusive"):
        text = words.verdict_in_words(verdict)
        assert "safe" not in text
        assert words.verdict_in_words(verdict, partial=True) == f"{words.PARTIAL} {text}"
    assert words.verdict_in_words("pass").startswith("Not falsified.")


@pytest.mark.parametrize(
    ("positive", "negative", "text"),
    [
        (True, True, "both passed"),
        (False, False, "both failed"),
        (None, None, "not run"),
        (True, False, "negative failed"),
        (None, True, "positive not run"),
        (False, None, "positive failed, negative not run"),
    ],
)
def test_controls_in_words(positive: bool | None, negative: bool | None, text: str) -> None:
    """Both, or only the one that is not as it should be."""
    assert words.controls_in_words(positive, negative) == text


def test_requirement_in_words() -> None:
    """A rule's side, comparison and threshold read as a phrase."""
    assert (
        words.requirement_in_words({"side": "upper", "op": "<=", "threshold": 0.55})
        == "upper bound at most 0.55"
    )
    assert words.requirement_in_words({"side": "value", "op": "==", "threshold": 0}) == "value exactly 0"


def test_words_need_only_the_standard_library() -> None:
    """The commands, which must start fast, can use the same words."""
    code = (
        "import sys, privsyn.report.words; "
        "sys.exit(str({'numpy', 'jinja2', 'matplotlib', 'pydantic'} & sys.modules.keys() or 0) != '0')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
