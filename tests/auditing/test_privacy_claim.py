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
    found = installed()["privacy-claim"].load()(evidence, Settings())
    assert [each.statistic for each in found] == ["epsilon", "protects-patients", "delta-times-units"]
    if claim is None or claim.bound is None or claim.bound.invalid:
        assert len({(each.conclusive, each.applicable, each.reason) for each in found}) == 1
    else:
        assert found[1].value == (1.0 if claim.unit == "patient" else 0.0)
        assert found[2].value == claim.bound.delta * claim.bound.units
    finding: Finding = found[0]
    return finding


def test_a_valid_claim_is_its_epsilon(digits_cohort: Cohort) -> None:
    """With the unit, delta and neighbouring relation that it holds for."""
    finding = audited(digits_cohort, dp_claim(epsilon=7.5))
    assert (finding.value, finding.conclusive) == (7.5, True)
    audited(digits_cohort, replace(dp_claim(), unit="study"))
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
