"""Are synthetic images closer to training patients than to held-out patients?

Threat: synthetic set only. Two independent representations are judged together by the test of
`privsyn.auditing.attacks.exposure`; each image is queried together with its mirror image.
"""

from __future__ import annotations

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace
from privsyn.auditing.attacks.exposure import ExposureTest
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Finding, Settings

NAME = "nearest-neighbour"
AUDIT = AuditId(NAME, "2", "synthetic-only")
REPRESENTATIONS = ("pixels", "lite0-mid")


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """How many training patients are exposed because they were trained on."""
    spaces = [EmbeddingSpace.of(name, evidence) for name in REPRESENTATIONS]
    test = ExposureTest(evidence, spaces, evidence.generator(NAME, settings))
    scope = {"representation": " + ".join(REPRESENTATIONS)}
    return [test.finding(AUDIT, "copied-patients", settings, scope=scope)]
