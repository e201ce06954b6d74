"""The model's own privacy claim as a finding, so that a policy can demand one.

Threat: claim. Nothing is measured here; the claim is mathematics about the training run, and the other
audits are what could contradict it.
"""

from __future__ import annotations

from typing import Any

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.claim.words import why_none

NAME, VERSION = "privacy-claim", "1"


def run(evidence: Evidence, settings: Settings) -> list[Finding]:  # noqa: ARG001 - the contract's signature
    """Epsilon of the claim, by unit; not conclusive where there is no finite or no valid bound."""
    claim = evidence.claim
    if claim is None:
        return [_finding(applicable=False, reason="the set comes without a model, so nothing is claimed")]
    if claim.bound is None or claim.bound.invalid:
        return [_finding(conclusive=False, reason=f"there is no valid bound: {why_none(claim)}")]
    terms = {"unit": claim.unit, "delta": claim.bound.delta, "neighbouring": claim.bound.neighbouring}
    return [_finding(value=claim.bound.epsilon, details=terms)]


def _finding(**known: Any) -> Finding:
    return Finding(audit=NAME, version=VERSION, threat="claim", statistic="epsilon", **known)
