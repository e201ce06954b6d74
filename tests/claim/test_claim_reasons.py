"""The reason against a claim, and its figures, are the same wherever they are shown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from claims import dp_claim, no_claim

from privsyn.claim.document import CLASS_COUNTS, FILTERED, Claim, Mechanism, Query
from privsyn.claim.reader import read_claim
from privsyn.claim.words import (
    EXACT_COUNTS,
    figures,
    in_full,
    paragraph,
    parameters,
    public_quantities,
    rounded_up,
    summary,
    why_none,
)
from privsyn.training.claiming import INSECURE

IMPORTED = replace(no_claim(), imported=True)


@pytest.mark.parametrize(
    ("value", "shown"), [(7.99047, "7.991"), (8.0, "8"), (8.00001, "8.001"), (1e-5, "1e-05")]
)
def test_a_bound_is_never_rounded_down(value: float, shown: str) -> None:
    """Four significant digits, and at least the value."""
    assert rounded_up(value) == shown
    assert float(rounded_up(value)) >= value


def test_every_form_gives_the_same_figures() -> None:
    """One line, card and report: epsilon and delta read alike."""
    claim = dp_claim(epsilon=7.99047, delta=0.000501187)
    assert claim.bound is not None
    assert figures(claim.bound) == "epsilon = 7.991, delta = 0.0005012"
    for form in (summary, paragraph, in_full):
        assert figures(claim.bound) in form(claim)
    shown = dict(parameters(claim))
    assert (shown["Epsilon"], shown["Delta"]) == ("7.991", "0.0005012")


@pytest.mark.parametrize(
    "claim", [no_claim(), IMPORTED, dp_claim(invalid=INSECURE), dp_claim(invalid=FILTERED)]
)
def test_every_form_gives_the_same_reason(claim: Claim) -> None:
    """Why there is no valid bound stands in each form, and no other reason does."""
    reasons = {
        why_none(each)
        for each in (no_claim(), IMPORTED, dp_claim(invalid=INSECURE), dp_claim(invalid=FILTERED))
    }
    assert len(reasons) == 4
    for form in (summary, paragraph, in_full):
        text = form(claim).lower()
        assert [reason for reason in reasons if reason.lower() in text] == [why_none(claim)]


def test_a_valid_bound_has_no_reason_against_it() -> None:
    """`why_none` is empty exactly where the bound holds."""
    assert why_none(dp_claim()) == ""
    assert dp_claim().is_valid
    assert not any(each.is_valid for each in (no_claim(), IMPORTED, dp_claim(invalid=FILTERED)))


def test_a_void_claim_that_is_voided_again_keeps_both_reasons() -> None:
    """Repeatable noise and rejected near copies are both named."""
    both = dp_claim(invalid=INSECURE).of_set(near_copies_rejected=True)
    assert INSECURE.removesuffix(".") in why_none(both)
    assert FILTERED in why_none(both)
    assert dp_claim().of_set(near_copies_rejected=False) == dp_claim()


def test_exact_class_counts_that_were_declared_are_told_in_every_form() -> None:
    """Card, report, statement and document name them, read back, and the bound stays valid."""
    told = dp_claim().of_set(near_copies_rejected=False, exact_class_counts=True)
    assert told.is_valid
    for form in (paragraph, in_full):
        assert EXACT_COUNTS in form(told)
        assert EXACT_COUNTS not in form(dp_claim())
    assert "class counts of the training images: declared public" in public_quantities(told.public)
    assert told.public_document()["public"]["class_counts"] == CLASS_COUNTS
    assert read_claim(told.to_document()) == told
    assert told.of_set(near_copies_rejected=False) == dp_claim()


def test_a_claim_without_dp_sgd_can_be_stated() -> None:
    """No query is privileged: moments alone make a claim, are read back, and are put into words."""
    claim = dp_claim()
    assert claim.bound is not None
    moments = (
        Query("central-images", Mechanism(5.0, 1.0, 4)),
        Query("class-covariance", Mechanism(1.5, 1.0, 1)),
    )
    alone = replace(claim, bound=replace(claim.bound, queries=moments))
    assert read_claim(alone.to_document()) == alone
    assert "CLASS-COVARIANCE over 1 steps" in in_full(alone)
    assert "clips" not in in_full(alone)
    assert dict(parameters(alone))["Further queries included"].startswith("central-images: 4")


@pytest.mark.parametrize("claim", [dp_claim(), dp_claim(invalid=INSECURE), no_claim(), IMPORTED])
def test_what_is_written_is_read_back(claim: Claim) -> None:
    """`read_claim` is the inverse of `to_document`."""
    assert read_claim(claim.to_document()) == claim


def test_what_leaves_tells_nothing_of_the_inside() -> None:
    """Provenance, ledger and total stay; the reason of a void claim goes along."""
    document = dp_claim(invalid=FILTERED).public_document()
    assert {"provenance", "ledger", "cumulative", "canaries"}.isdisjoint(document)
    assert document["reason"] == FILTERED
    assert document["valid_for_release"] is False
