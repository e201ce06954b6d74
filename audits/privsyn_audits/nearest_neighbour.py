"""Do synthetic images sit on training patients more than on held-out ones?

Threat: synthetic set only. Two independent representations are judged together by the test of
`privsyn.auditing.attacks.exposure`, each image queried with its mirror image.
"""

from __future__ import annotations

from privsyn.auditing.attacks.exposure import EmbeddingSpace, ExposureTest
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings

NAME, VERSION = "nearest-neighbour", "2"
REPRESENTATIONS = ("pixels", "lite0-mid")


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """How many training patients are exposed because they were trained on."""
    spaces = [EmbeddingSpace.of(name, evidence) for name in REPRESENTATIONS]
    judged = ExposureTest(evidence, spaces, evidence.generator(NAME, settings))
    return [
        Finding(
            audit=NAME,
            version=VERSION,
            threat="synthetic-only",
            statistic="copied-patients",
            scope={"representation": " + ".join(REPRESENTATIONS)},
            **judged.measured(settings),
        )
    ]
