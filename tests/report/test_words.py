"""Numbers, verdicts and rules as people read them."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest

from privsyn.auditing.verdict import VerdictOutcome
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


def test_no_verdict_promises_safety() -> None:
    """Not even a pass says more than that the set was not falsified."""
    for verdict in get_args(VerdictOutcome):
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
    assert words.requirement_in_words("upper", "<=", 0.55) == "upper bound at most 0.55"
    assert words.requirement_in_words("value", "==", 0) == "value exactly 0"


def test_words_need_only_the_standard_library() -> None:
    """The commands, which must start fast, can use the same words."""
    code = (
        "import sys, privsyn.report.words; "
        "sys.exit(str({'numpy', 'jinja2', 'matplotlib', 'pydantic'} & sys.modules.keys() or 0) != '0')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
