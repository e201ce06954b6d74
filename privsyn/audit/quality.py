"""What all quality audits share: findings about usefulness, which no attacker is behind.

A rule that asks a quality to be at least so high is passed by evidence, not by the lack of it: it judges the
unfavourable end of the interval. Passing all of several such rules needs no correction for their number
(an intersection-union test, Berger 1982), so each interval holds for its own finding.
"""

from __future__ import annotations

from typing import Any

from privsyn.audit.contract import Finding

CONFIDENCE = 0.95
NOT_DP = "measured on private images without noise: not differentially private, not for release"


def quality_finding(**known: Any) -> Finding:
    """A finding of threat `quality`, marked as a measurement of private images."""
    known = {"threat": "quality", "confidence": CONFIDENCE, **known}
    if known.get("interval") is None:
        known["confidence"] = None
    return Finding.model_validate({**known, "details": {"privacy": NOT_DP, **known.get("details", {})}})
