"""The model's own privacy claim as a finding, so that a policy can demand one.

Threat: claim. Nothing is measured here. The claim follows from the parameters of the training; the other
audits could contradict it.
"""

from __future__ import annotations

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Finding, Settings
from privsyn.claim.document import CLASS_COUNTS
from privsyn.claim.words import why_none

AUDIT = AuditId("privacy-claim", "1", "claim")
STATISTIC = "epsilon"
FOR_PATIENTS = "protects-patients"  # 1 if the unit is the patient, 0 if it is less
UNPROMISED = "delta-times-units"  # units to whom nothing is promised, in expectation; from public numbers
STATISTICS = (STATISTIC, FOR_PATIENTS, UNPROMISED)


def run(evidence: Evidence, settings: Settings) -> list[Finding]:  # noqa: ARG001 - the contract's signature
    """Epsilon of the claim; not conclusive where there is no finite or no valid bound."""
    claim = evidence.claim
    if claim is None:
        reason = "the set comes without a model, so nothing is claimed"
        return [Finding.not_applicable(AUDIT, each, reason) for each in STATISTICS]
    if claim.bound is None or claim.bound.invalid:
        reason = f"there is no valid bound: {why_none(claim)}"
        return [Finding.inconclusive(AUDIT, each, reason) for each in STATISTICS]
    details = {"unit": claim.unit, "delta": claim.bound.delta, "neighbouring": claim.bound.neighbouring}
    if claim.public.class_counts:
        details["class_counts"] = CLASS_COUNTS
    return [
        Finding.measured(AUDIT, STATISTIC, value=claim.bound.epsilon, details=details),
        Finding.measured(
            AUDIT, FOR_PATIENTS, value=float(claim.unit == "patient"), details={"unit": claim.unit}
        ),
        Finding.measured(
            AUDIT,
            UNPROMISED,
            value=claim.bound.delta * claim.bound.units,
            details={"units": claim.bound.units},
        ),
    ]
