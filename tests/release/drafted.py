"""A small finished study whose audit is made up, so that a draft takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from homes import new_home

from privsyn.auditing.policy import load_policy
from privsyn.claim.reader import read_claim
from privsyn.cohort.prepare import prepare
from privsyn.files import file_digest, json_digest, read_json, write_json
from privsyn.report.html import report
from privsyn.study import Study, init
from privsyn.synthetic.dataset import read_synthetic, write_synthetic
from privsyn.synthetic.provenance import ClassCounts, Provenance

WEIGHTS = "ab" * 32
AUC_ON_REAL_DATA = 0.5378913
POLICY = """
title = "for tests"
purpose = "to test"

[[rules]]
id = "members-not-told-apart"
audit = "membership-model"
statistic = "auc"
side = "lower"
op = "<="
threshold = 0.55
rationale = "an attacker must do no better than chance"
waivable_by = ["data-custodian"]

[[checklist]]
id = "opt-outs-applied"
question = "Were the images of those who objected removed?"
role = "data-custodian"
reference = "choice of this policy"

[[checklist]]
id = "residual-risk"
question = "Is the remaining risk acceptable?"
role = "privacy-officer"
reference = "choice of this policy"

[[checklist]]
id = "clinically-plausible"
question = "Do the images look like what they are to show?"
role = "clinical-lead"
reference = "choice of this policy"
"""
CLAIM = {
    "schema_version": 1,
    "kind": "dp",
    "statement": "a promise",
    "unit": "patient",
    "neighbouring": "add-or-remove-one",
    "epsilon": 8.0,
    "delta": 1e-5,
    "epsilon_rdp": 9.0,
    "mechanism": {
        "name": "dp-sgd",
        "noise_multiplier": 1.1,
        "sample_rate": 0.1,
        "steps": 10,
        "clip_norm": 0.001,
        "sampling": "poisson",
        "noise_multiplicity": 2,
        "max_images_per_unit": 4,
        "expected_units": 40,
        "composed": [],
    },
    "accountant": {"name": "pld", "library": "dp-accounting", "version": "0.6.0"},
    "group": [],
    "public": {"classes": ["a", "b"], "size": 8, "channels": 1, "value_range": [0, 255]},
    "public_data": False,
    "not_covered": ["the class list"],
    "valid_for_release": True,
    "reason": "",
    "ledger": None,
    "cumulative": None,
    "provenance": {
        "weights_sha256": WEIGHTS,
        "cohort_fingerprint": "private",
        "cohort_sha256": "ef" * 32,
        "recipe_sha256": "cd" * 32,
        "steps_done": 10,
    },
}


def write_set(
    study: Study,
    *,
    seed: int = 0,
    force: bool = False,
    near_copies_rejected: bool = False,
    class_counts: ClassCounts = "declared",
) -> None:
    """Draw the study's synthetic set again."""
    images = np.random.default_rng(seed).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    provenance = Provenance(
        version="0.1.0",
        model_sha256=WEIGHTS,
        recipe_sha256="cd" * 32,
        seed=seed,
        count=20,
        near_copies_rejected=near_copies_rejected,
        class_counts=class_counts,
        sampling={},
    )
    write_synthetic(
        study.synthetic,
        images,
        np.arange(20) % 2,
        ["a", "b"],
        name="s",
        claim=read_claim(CLAIM),
        provenance=provenance,
        force=force,
    )


def write_audit(
    study: Study,
    *,
    verdict: str = "pass",
    partial: bool = False,
    attempt: int = 1,
    waivable_by: Sequence[str] = ("data-custodian",),
) -> None:
    """Write what an audit of the study's set would leave, with one rule."""
    finding = {
        "audit": "membership-model",
        "version": "1",
        "threat": "model",
        "statistic": "auc",
        "value": AUC_ON_REAL_DATA,
    }
    write_json(study.findings_file, {"schema_version": 1, "findings": [finding]})
    rule = {
        "id": "members-not-told-apart",
        "severity": "block",
        "outcome": verdict,
        "audit": "membership-model",
        "statistic": "auc",
        "scope": {},
        "side": "lower",
        "op": "<=",
        "threshold": 0.55,
        "value": AUC_ON_REAL_DATA,
        "interval": [0.51, AUC_ON_REAL_DATA],
        "rationale": "an attacker must do no better than chance",
        "reason": f"measured {AUC_ON_REAL_DATA}",
        "waivable_by": list(waivable_by),
    }
    cohort = read_json(study.cohort / "cohort.json")
    found = read_synthetic(study.synthetic, size=8, channels=1, classes=["a", "b"])
    document = {
        "schema_version": 1,
        "verdict": verdict,
        "partial": partial,
        "attempt": attempt,
        "policy": {"title": "for tests", "purpose": "to test", "error_rate": 0.05},
        "cohort_fingerprint": cohort["fingerprint"],
        "inputs": {
            "policy": load_policy(study.policy_file).digest,
            "recipe": json_digest("recipe"),
            "synthetic": found.digest,
            "findings": file_digest(study.findings_file),
        },
        "plugins": [{"name": "membership-model", "version": "1", "distribution": "privsyn"}],
        "privsyn_version": "0.1.0",
        "rules": [rule],
    }
    write_json(study.verdict_file, document)


def make_study(root: Path) -> Study:
    """A study that has everything a release needs."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(root / "source.npz", images=images, labels=np.arange(40) % 2)
    (root / "policy.toml").write_text(POLICY, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(root / "home"))
        settings = ['data.classes=["a", "b"]']
        study = init(root / "study", recipe="toy", policy=str(root / "policy.toml"), settings=settings)
        prepare(study, root / "source.npz")
    write_json(study.privacy_file, CLAIM)
    write_set(study)
    write_audit(study)
    report(study)
    return study
