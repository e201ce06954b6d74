"""Is any synthetic image a training image, pixel for pixel, also when flipped or turned?

Threat: synthetic set only. A single copy is a finding. An identical image can be a
coincidence only where images carry almost no information (blank ones). Copies of holdout images show how
often that happens; they are the baseline.
"""

from __future__ import annotations

import hashlib

import numpy as np

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.bit_depth import Images

NAME = "exact-copies"
AUDIT = AuditId(NAME, "1", "synthetic-only")


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Count synthetic images equal to a training image under one of the eight symmetries of the square."""
    synthetic = _digests(evidence, evidence.synthetic.images)
    train, holdout = (set(_digests(evidence, part.images)) for part in (evidence.train, evidence.holdout))
    copies = [index for index, digest in enumerate(synthetic) if digest in train]
    controls = Controls(positive=_planted(evidence, settings, train), negative=_fresh(evidence, train))
    return [
        Finding.measured(
            AUDIT,
            "copies",
            value=float(len(copies)),
            n=evidence.sizes(),
            baseline=float(sum(digest in holdout for digest in synthetic)),
            controls=controls,
            power=Power(smallest_leak=1.0, description="one exact copy, flipped or turned or not, is found"),
            details={"copies": list(copies[:100])},
            doubt=controls.fault("no copy could be planted"),
        )
    ]


def symmetric_digest(image: Images) -> str:
    """A digest that is the same for all eight flips and rotations of an image (H, W, C)."""
    turns = [np.rot90(side, turn) for side in (image, image[:, ::-1]) for turn in range(4)]
    return min(hashlib.sha256(turn.tobytes()).hexdigest() for turn in turns)


def _digests(evidence: Evidence, images: Images) -> list[str]:
    def compute() -> Arrays:
        digests = [bytes.fromhex(symmetric_digest(image)) for image in images]
        return {"digests": np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)}

    return [each.tobytes().hex() for each in evidence.kept("symmetric digests", compute, images)["digests"]]


def _planted(evidence: Evidence, settings: Settings, train: set[str]) -> Control:
    source = evidence.generator(NAME, settings).integers(len(evidence.train.images))
    planted = np.rot90(evidence.train.images[source][:, ::-1])
    return Control(
        passed=symmetric_digest(planted) in train,
        description="one training image, mirrored and turned, is found",
    )


def _fresh(evidence: Evidence, train: set[str]) -> Control:
    found = sum(digest in train for digest in _digests(evidence, evidence.test.images))
    return Control(
        passed=found == 0, description=f"{len(evidence.test.images)} images of test patients: {found} found"
    )
