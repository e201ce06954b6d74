"""A whole audited study of handwritten digits, with names that try to break a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from privsyn.claim.reader import read_claim
from privsyn.cohort.cohort import Cohort
from privsyn.cohort.prepare import prepare
from privsyn.files import file_digest, read_json, write_json
from privsyn.study import Study, init
from privsyn.synthetic.dataset import read_synthetic, write_synthetic
from privsyn.synthetic.provenance import Provenance

HOSTILE = '<script>alert("x")</script>'
CLASSES = [*"0123456", HOSTILE, '=HYPERLINK("a")&amp;', r"$\alpha$ {{ 7 * 7 }}"]
MODEL, RECIPE = "ab" * 32, "cd" * 32
CONTROLS = {
    "positive": {"passed": True, "description": "12 perturbed training images planted", "p_value": 3e-9},
    "negative": {"passed": True, "description": "test patients in place of the set", "p_value": 0.42},
}

PRIVACY: dict[str, Any] = {
    "schema_version": 1,
    "kind": "dp",
    "unit": "patient",
    "neighbouring": "add-or-remove-one",
    "epsilon": 7.99431,
    "delta": 5.0119e-4,
    "epsilon_rdp": 9.1,
    "mechanism": {
        "name": "dp-sgd",
        "noise_multiplier": 1.2345,
        "sample_rate": 0.128,
        "steps": 500,
        "clip_norm": 0.001,
        "sampling": "poisson",
        "noise_multiplicity": 8,
        "max_images_per_unit": 4,
        "expected_units": 1000,
        "composed": [],
    },
    "accountant": {"name": "pld", "library": "dp-accounting", "version": "0.6.0"},
    "statement": "The bound holds for each patient.",
    "public": {
        "classes": CLASSES,
        "size": 8,
        "channels": 1,
        "value_range": [0, 255],
        "hyper_parameters": f"the whole recipe, sha256 {RECIPE}",
        "expected_units": 1000,
    },
    "public_data": False,
    "group": [],
    "not_covered": ["what is true of patients in general", "the choice of hyper-parameters"],
    "valid_for_release": True,
    "reason": "",
    "ledger": None,
    "cumulative": None,
    "provenance": {
        "recipe_sha256": RECIPE,
        "cohort_fingerprint": "0e" * 32,
        "cohort_sha256": "0f" * 32,
        "weights_sha256": MODEL,
        "steps_done": 500,
    },
}


def alter(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON document of the study in place."""
    document = read_json(path)
    change(document)
    write_json(path, document)


def alter_findings(study: Study, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the findings, with a verdict that judged them."""
    alter(study.findings_file, change)
    digest = file_digest(study.findings_file)
    alter(study.verdict_file, lambda verdict: verdict["inputs"].update(findings=digest))


def build(folder: Path) -> Study:
    """A study in `folder` with every artefact that the reports read."""
    policy = folder / "policy.toml"
    policy.write_text("# how to judge is no matter of the report\n", encoding="utf-8")
    classes = json.dumps(CLASSES)
    study = init(
        folder / "digits <b>&", recipe="toy", policy=str(policy), settings=[f"data.classes={classes}"]
    )
    digits = load_digits()
    images = (digits.images * (255 / 16)).astype(np.uint8)
    np.savez(folder / "digits.npz", images=images, labels=digits.target)
    cohort = prepare(study, folder / "digits.npz")
    _write_synthetic(study, cohort)
    write_json(study.privacy_file, PRIVACY)
    _write_log(study.training_log)
    _write_audit(study, cohort)
    return study


def _write_synthetic(study: Study, cohort: Cohort) -> None:
    """Blends of two test images of a class: like patients, yet copies of none."""
    test, generator = cohort.part("test"), np.random.default_rng(0)
    labels = np.repeat(np.arange(len(CLASSES)), 20)
    pairs = [generator.choice(np.flatnonzero(test.labels == label), 2, replace=False) for label in labels]
    blends = [(test.images[a].astype(int) + test.images[b]) // 2 for a, b in pairs]
    write_synthetic(
        study.synthetic,
        np.stack(blends).astype(np.uint8),
        labels,
        CLASSES,
        name=study.name,
        claim=read_claim(PRIVACY),
        provenance=Provenance(
            version="0.1.0",
            model_sha256=MODEL,
            recipe_sha256=RECIPE,
            seed=0,
            count=len(labels),
            near_copies_rejected=False,
            class_counts="declared",
            sampling={"steps": 50, "eta": 1.0, "guidance_scale": 1.0},
        ),
    )


def _write_log(path: Path) -> None:
    generator = np.random.default_rng(1)
    losses = 1 / (1 + np.arange(300) / 40) + 0.12 + generator.normal(0, 0.03, 300)
    lines = [json.dumps({"step": step, "loss": float(loss)}) for step, loss in enumerate(losses)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_audit(study: Study, cohort: Cohort) -> None:
    synthetic = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES)
    write_json(study.findings_file, {"schema_version": 1, "findings": _findings(cohort, synthetic.images)})
    write_json(
        study.verdict_file,
        {
            "schema_version": 1,
            "verdict": "fail",
            "partial": False,
            "attempt": 3,
            "policy": {
                "title": "Internal review",
                "purpose": f"For colleagues. {HOSTILE}",
                "error_rate": 0.05,
            },
            "cohort_fingerprint": cohort.fingerprint,
            "inputs": {
                "policy": "1b" * 32,
                "recipe": RECIPE,
                "synthetic": synthetic.digest,
                "findings": file_digest(study.findings_file),
            },
            "plugins": [{"name": "nearest-neighbour", "version": "0.1.7", "distribution": "privsyn"}],
            "privsyn_version": "0.1.0",
            "rules": _rules(),
        },
    )


def _findings(cohort: Cohort, images: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    n = {"synthetic_images": 200, "train_images": 1079, "train_patients": 1077}
    power = {"smallest_leak": 0.03, "description": f"copies of 3 % would have been found {HOSTILE}"}
    common = {"version": "0.1.7", "n": n, "controls": CONTROLS, "power": power, "confidence": 0.99}
    nearest = {"audit": "nearest-neighbour", "threat": "synthetic-only", "statistic": "tail-share"}
    failed = {**CONTROLS, "negative": {"passed": False, "description": "called a copier"}}
    return [
        {
            **common,
            **nearest,
            "scope": {"space": "pixels", "class": HOSTILE},
            "value": 0.5123,
            "interval": [0.4712, 0.5614],
            "baseline": 0.5,
            "details": {"pairs": _pairs(cohort, images)},
        },
        {
            **common,
            **nearest,
            "scope": {"space": "lite0"},
            "value": 0.5876,
            "interval": [0.5431, 0.6328],
            "controls": failed,
            "power": None,
            "conclusive": False,
            "reason": "the negative control was called a copier",
        },
        {
            **common,
            "audit": "membership-model",
            "threat": "model",
            "statistic": "auc",
            "value": 0.6381,
            "interval": [0.6121, 0.6643],
            "baseline": 0.5,
            "details": {"roc": _roc()},
        },
        {
            "audit": "canary",
            "version": "0.1.7",
            "threat": "canary",
            "statistic": "epsilon",
            "applicable": False,
            "reason": "no canaries were planted",
        },
    ]


def _pairs(cohort: Cohort, images: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
    def nearest(image: np.ndarray[Any, Any], split: str) -> tuple[int, float]:
        part = cohort.part(split)
        distances = np.sqrt(((part.images.astype(float) - image) ** 2).sum(axis=(1, 2, 3)))
        return int(part.rows[distances.argmin()]), float(distances.min())

    rows = [(i, *nearest(images[i], "train"), *nearest(images[i], "holdout")) for i in range(0, 120, 10)]
    keys = ("synthetic", "train", "train_distance", "holdout", "holdout_distance")
    pairs = [{**dict(zip(keys, row, strict=True)), "mirrored": row[0] % 30 == 0} for row in rows]
    return sorted(pairs, key=lambda pair: pair["train_distance"] / pair["holdout_distance"])


def _roc() -> dict[str, list[float]]:
    generator = np.random.default_rng(2)
    members, outsiders = generator.normal(0.5, 1, 1079), np.sort(generator.normal(0, 1, 1000))[::-1]
    tpr = [float((members >= threshold).mean()) for threshold in outsiders]
    return {"fpr": [0.0, *(np.arange(1, 1001) / 1000).tolist()], "tpr": [0.0, *tpr]}


def _rules() -> list[dict[str, Any]]:
    def rule(identifier: str, outcome: str, audit: str, statistic: str, **rest: Any) -> dict[str, Any]:
        base = {
            "id": identifier,
            "severity": "block",
            "outcome": outcome,
            "audit": audit,
            "statistic": statistic,
        }
        blank = {"scope": {}, "side": "lower", "op": "<=", "value": None, "interval": None, "reason": ""}
        return base | blank | {"rationale": "Why this limit."} | rest

    return [
        rule(
            "near-copies",
            "pass",
            "nearest-neighbour",
            "tail-share",
            scope={"space": "pixels", "class": HOSTILE},
            threshold=0.5,
            value=0.4712,
            interval=[0.4712, 0.5614],
        ),
        rule(
            "near-copies-lite0",
            "inconclusive",
            "nearest-neighbour",
            "tail-share",
            scope={"space": "lite0"},
            threshold=0.5,
            reason="its negative control failed with 1,077 patients",
        ),
        rule(
            "membership",
            "fail",
            "membership-model",
            "auc",
            threshold=0.55,
            value=0.6121,
            interval=[0.6121, 0.6643],
            rationale=f"Nobody may tell who was trained on. {HOSTILE}",
            reason="0.6121 is above 0.55",
        ),
        rule("canaries", "accepted", "canary", "epsilon", severity="warn", side="upper", threshold=10.0),
    ]


MEASURES = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
NETWORK = {
    "network": f"a network {HOSTILE}",
    "sha256": "579344248a93" + "7e" * 26,
    "size": 112,
    "resize": "bicubic, antialias",
    "dimension": 1280,
}
SUBGROUPS = ("40-59", HOSTILE, "unknown")


def add_quality(study: Study, classes: list[str] = CLASSES) -> None:
    """Add what audits of quality find, and the rules that judge it, to a study with an audit."""
    found = [*_fidelity(classes), *_utility(classes), *_rare(classes)]
    alter_findings(study, lambda document: document["findings"].extend(found))
    rows = [_judged(each) for each in found if each["statistic"] in ("coverage", "utility_gap")]
    alter(study.verdict_file, lambda verdict: verdict["rules"].extend(rows))


def _measured(audit: str, statistic: str, scope: dict[str, str], **known: Any) -> dict[str, Any]:
    base = {"audit": audit, "version": "1", "threat": "quality", "statistic": statistic, "scope": scope}
    rest = {"confidence": 0.95, "n": {"synthetic_images": 100}, "controls": CONTROLS, "details": {}}
    return base | rest | known


def _fidelity(classes: list[str]) -> list[dict[str, Any]]:
    found = []
    for nth, scope in enumerate([{}, *({"class": name} for name in classes)]):
        for measure in MEASURES:
            where = {"network": "lite0", **scope}
            seen = _measured("fidelity", measure, where, value=0.8 - nth / 20, baseline=0.95)
            seen |= {"interval": [0.7 - nth / 20, 0.9 - nth / 20], "details": {"network": NETWORK}}
            found.append(seen)
    found[0]["details"] = {"network": NETWORK, "map": _map(len(classes))}
    pairs = _measured("fidelity", "ms_ssim_diversity", {}, value=0.31, interval=[0.3, 0.32], baseline=0.29)
    return [*found, {**pairs, "details": {"pairs": 500}}]


def _map(classes: int) -> dict[str, Any]:
    generator = np.random.default_rng(3)
    labels = np.repeat(np.arange(classes), 60 // classes)
    centres = generator.normal(0, 4, (classes, 2))[labels]
    points = {
        kind: np.round(centres + generator.normal(0, spread, centres.shape), 4).tolist()
        for kind, spread in (("real", 1.5), ("synthetic", 1))
    }
    return {**points, "real_labels": labels.tolist(), "synthetic_labels": labels.tolist()}


def _utility(classes: list[str]) -> list[dict[str, Any]]:
    scopes = [{}, *({"class": name} for name in classes), *({"subgroup": name} for name in SUBGROUPS)]
    known: dict[str, Any] = {"baseline": 0.0, "details": {"privacy": "measured without noise"}}
    return [
        _measured(
            "utility",
            "utility_gap",
            {"classifier": classifier, **scope},
            value=nth / 100,
            interval=[nth / 100 - 0.0123, nth / 100 + 0.0123],
            **known,
        )
        for classifier in ("small-network", "forest")
        for nth, scope in enumerate(scopes)
    ]


def _rare(classes: list[str]) -> list[dict[str, Any]]:
    failed = {**CONTROLS, "negative": {"passed": False, "description": "test patients cover little"}}
    why = f"control failed: test patients cover little {HOSTILE}"
    scope = {"class": classes[-1]}
    unsure = {"controls": failed, "conclusive": False, "reason": why}
    return [
        _measured("coverage-of-rare", "rare_coverage", scope, value=0.4, interval=[0.3, 0.5], **unsure),
        _measured("coverage-of-rare", "rare_copies", scope, applicable=False, reason="no class is rare"),
        _measured("blank-images", "share", {}, value=0.25, interval=[0.2, 0.3], confidence=0.9, controls={}),
    ]


def _judged(finding: dict[str, Any]) -> dict[str, Any]:
    """The row of the verdict for one finding, as `privsyn.auditing.policy.judge` writes it."""
    wants_much = finding["statistic"] == "coverage"
    value = finding["interval"][0 if wants_much else 1]
    holds = value >= 0.5 if wants_much else value <= 0.05
    keys = ("audit", "statistic", "scope", "interval")
    return {
        **{key: finding[key] for key in keys},
        "id": "covers" if wants_much else "teaches",
        "severity": "warn" if wants_much else "block",
        "outcome": "pass" if holds else "fail",
        "side": "lower" if wants_much else "upper",
        "op": ">=" if wants_much else "<=",
        "threshold": 0.5 if wants_much else 0.05,
        "value": value,
        "reason": "" if holds else f"{finding['statistic']} {value:.4g} is out of bounds",
        "rationale": f"Why this limit. {HOSTILE}",
    }
