"""The model's claim as a finding: epsilon where it is valid, and else the claim's own reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from claims import dp_claim, no_claim

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.model_under_audit import ModelUnderAudit
from privsyn.auditing.plugins import installed
from privsyn.claim.document import FILTERED, Claim
from privsyn.claim.words import IMPORTED, NOT_PRIVATE
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet

SEEDED = "privacy.insecure_seed is set"


def audited(cohort: Cohort, claim: Claim | None) -> Finding:
    images = cohort.part("test").images[:4]
    synthetic = SyntheticSet(images, np.zeros(4, np.int64), cohort.classes, None, "0" * 64)
    evidence = Evidence(cohort, synthetic, ModelUnderAudit(claim=claim))
    (finding,) = installed()["privacy-claim"].load()(evidence, Settings())
    return finding


def test_a_valid_claim_is_its_epsilon(digits_cohort: Cohort) -> None:
    """With the unit, delta and neighbouring relation that it holds for."""
    finding = audited(digits_cohort, dp_claim(epsilon=7.5))
    assert (finding.value, finding.conclusive) == (7.5, True)
    assert finding.details == {"unit": "patient", "delta": 1e-5, "neighbouring": "add-or-remove-one"}
    exact = dp_claim().of_set(near_copies_rejected=False, exact_class_counts=True)
    counts = audited(digits_cohort, exact).details["class_counts"]
    assert counts == "of the training images: declared public"


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        (dp_claim(invalid=SEEDED), SEEDED),
        (dp_claim().of_set(near_copies_rejected=True), FILTERED),
        (no_claim(), NOT_PRIVATE),
        (replace(no_claim(), imported=True), IMPORTED),
    ],
)
def test_without_a_valid_bound_the_reason_is_that_of_the_claim(
    digits_cohort: Cohort, claim: Claim, reason: str
) -> None:
    """A set from which near copies were rejected is not said to have repeatable noise, nor the reverse."""
    finding = audited(digits_cohort, claim)
    assert not finding.conclusive
    assert finding.value is None
    assert reason in finding.reason
    assert (SEEDED in finding.reason) == (reason == SEEDED)


def test_a_set_without_a_model_claims_nothing(digits_cohort: Cohort) -> None:
    """The finding is not applicable, and the policy decides what that means."""
    assert not audited(digits_cohort, None).applicable
