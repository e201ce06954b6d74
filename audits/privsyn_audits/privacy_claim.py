"""The model's own privacy claim as a finding, so that a policy can demand one.

Threat: claim. Nothing is measured here; the claim is mathematics about the training run, and the other
audits are what could contradict it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings

NAME, VERSION = "privacy-claim", "1"


def run(evidence: Evidence, settings: Settings) -> list[Finding]:  # noqa: ARG001 - the contract's signature
    """Epsilon of the claim, by unit; not conclusive where there is no finite or no valid bound."""
    claim = evidence.claim
    if claim is None:
        return [_finding(applicable=False, reason="the set comes without a model, so nothing is claimed")]
    if claim.get("imported"):
        return [_finding(conclusive=False, reason="the model was imported: nothing is known about a bound")]
    if claim["kind"] != "dp":
        return [
            _finding(conclusive=False, reason="the model was trained without differential privacy: no bound")
        ]
    if claim.get("valid_for_release") is False:
        return [
            _finding(
                conclusive=False, reason="the claim is not valid: its noise can be repeated (insecure_seed)"
            )
        ]
    return [_finding(value=float(claim["epsilon"]), details=_terms(claim))]


def _terms(claim: Mapping[str, Any]) -> dict[str, Any]:
    return {key: claim[key] for key in ("unit", "delta", "neighbouring")}


def _finding(**known: Any) -> Finding:
    return Finding(audit=NAME, version=VERSION, threat="claim", statistic="epsilon", **known)
