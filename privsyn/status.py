"""What a study has, what is stale and why, and what to do next.

A station is stale when what it was made from is no longer what lies beside it: judged by the digests that
every artefact carries, never by file times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from privsyn.auditing.policy import load_policy
from privsyn.files import file_digest, read_json, tree_digest, tree_digests
from privsyn.release.artefacts import source_of
from privsyn.release.bundle import read_bundle
from privsyn.release.manifest import BUNDLE
from privsyn.study import Study, as_study
from privsyn.synthetic.dataset import read_provenance

State = Literal["missing", "done", "stale"]
# Given on the command line rather than in the recipe, so a difference there is no news.
_FLAGS = {"privacy.dp", "privacy.epsilon", "train.canaries"}


@dataclass(frozen=True)
class Station:
    """One artefact of the study.

    Attributes:
        detail: what it is, or why it is stale.
        next: the command that makes it, or makes it anew; `None` when it is done.
    """

    name: str
    state: State
    detail: str
    next: str | None


def status(study: Study | Path | str) -> list[Station]:
    """The stations of a study in the order of work.

    Raises:
        PrivsynError: the recipe, the policy or an artefact cannot be read.
    """
    opened = as_study(study)
    stations = (_settings, _cohort, _model, _synthetic, _audit, _reports, _release)
    return [station(opened) for station in stations]


def advice(study: Study | Path | str) -> list[str]:
    """What can be done about a verdict that is not `pass`; empty if there is none."""
    opened = as_study(study)
    if not opened.verdict_file.exists():
        return []
    verdict = read_json(opened.verdict_file)
    if verdict["verdict"] == "pass":
        return []
    open_rules = [rule for rule in verdict["rules"] if rule["outcome"] in ("fail", "inconclusive")]
    told = [f"{rule['id']}: {rule['outcome']}: {rule['reason'] or rule['rationale']}" for rule in open_rules]
    return [*told, *_REMEDIES[verdict["verdict"]]]


_REMEDIES = {
    "fail": (
        "a failed audit says that patients show through. Protect them more: train with --dp, a smaller "
        "--epsilon or fewer steps; remove duplicates; gather more patients. Then sample and audit again.",
        "loosening the policy is the data steward's decision alone, and repeated audits are counted.",
    ),
    "inconclusive": (
        "an inconclusive audit could not have seen a leak: give it more. Draw more synthetic images "
        "(privsyn sample --count N --force), or prepare a cohort with more patients in holdout and test.",
    ),
}


def _settings(study: Study) -> Station:
    study.recipe()
    rules = len(load_policy(study.policy_file).rules)
    return Station(
        "recipe and policy", "done", f"recipe.toml can be used; policy.toml has {rules} rules", None
    )


def _cohort(study: Study) -> Station:
    path = study.cohort / "cohort.json"
    if not path.exists():
        return Station("cohort", "missing", "", "privsyn prepare SOURCE")
    document, recipe = read_json(path), study.recipe()
    made = {"seed": document["seed"], **document.get("data", {})}  # which earlier cohorts do not tell
    wanted = {**recipe.data.model_dump(mode="json"), "seed": recipe.seed}
    different = [key for key, value in wanted.items() if made.get(key, value) != value]
    if different:
        detail = f"recipe.toml has another {', '.join(different)}"
        return Station("cohort", "stale", detail, "privsyn prepare SOURCE --force")
    images = sum(part["images"] for part in document["counts"].values())
    patients = sum(part["patients"] for part in document["counts"].values())
    return Station("cohort", "done", f"{images} images of {patients} patients", None)


def _model(study: Study) -> Station:
    if not study.privacy_file.exists():
        begun = study.checkpoints.is_dir() and any(study.checkpoints.iterdir())
        detail = "training has begun and is not finished" if begun else ""
        return Station("model", "missing", detail, "privsyn train" + " --resume" * begun)
    claim, again = read_json(study.privacy_file), "privsyn train --force"
    if claim.get("imported"):
        return Station("model", "done", "imported; privacy claim: none", None)
    if claim["provenance"].get("cohort_sha256") != _of_cohort(study, "records_sha256"):
        return Station("model", "stale", "trained on another cohort, or another split of it", again)
    trained = read_json(study.resolved_recipe_file)["recipe"]
    different = _differences(trained, study.recipe().model_dump(mode="json"))
    if different:
        detail = f"recipe.toml has another {', '.join(different)} (edited since, or changed by --set)"
        return Station("model", "stale", detail, again)
    return Station("model", "done", f"privacy claim: {claim['kind']}", None)


def _differences(trained: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Settings that shape a model and differ; how to sample is not among them."""
    flat = {
        f"{section}.{key}"
        for section in ("data", "model", "diffusion", "train", "privacy", "warmup")
        for key in wanted[section]
        if trained.get(section, {}).get(key) != wanted[section][key]
    }
    return sorted(flat - _FLAGS) + ["seed"] * (trained["seed"] != wanted["seed"])


def _synthetic(study: Study) -> Station:
    if not study.synthetic.is_dir():
        return Station("synthetic set", "missing", "", "privsyn sample")
    provenance = read_provenance(study.synthetic) or {}
    if provenance.get("model_sha256") != _weights(study):
        return Station("synthetic set", "stale", "drawn from another model", "privsyn sample --force")
    return Station("synthetic set", "done", f"{provenance['count']} images", None)


def _audit(study: Study) -> Station:
    if not study.verdict_file.exists():
        return Station("audit", "missing", "", "privsyn audit")
    verdict = read_json(study.verdict_file)
    judged, present = verdict["inputs"], _inputs(study)
    different = [name for name, digest in present.items() if judged[name] != digest]
    if verdict["cohort_fingerprint"] != _of_cohort(study, "fingerprint"):
        different.append("cohort")
    if different:
        return Station("audit", "stale", f"judged another {', '.join(different)}", "privsyn audit --force")
    detail = f"verdict: {verdict['verdict']}, attempt {verdict['attempt']}"
    if verdict["partial"]:
        return Station("audit", "stale", f"{detail}, of some audits only", "privsyn audit --force")
    return Station("audit", "done", detail, None)


def _inputs(study: Study) -> dict[str, str | None]:
    """The digests that a verdict on this study as it is would name."""
    return {
        "policy": load_policy(study.policy_file).digest,
        "synthetic": tree_digest(tree_digests(study.synthetic)) if study.synthetic.is_dir() else None,
        "findings": file_digest(study.findings_file) if study.findings_file.exists() else None,
        "recipe": read_json(study.resolved_recipe_file)["sha256"] if study.privacy_file.exists() else None,
    }


def _reports(study: Study) -> Station:
    pages = (study.internal_report, study.public_report)
    if not all(page.exists() for page in pages):
        return Station("reports", "missing", "", "privsyn report")
    inputs = read_json(study.verdict_file)["inputs"] if study.verdict_file.exists() else {}
    text = study.internal_report.read_text(encoding="utf-8")
    if not inputs or not all(digest in text for digest in inputs.values() if digest):
        return Station("reports", "stale", "written for another audit", "privsyn report")
    return Station("reports", "done", str(study.internal_report.relative_to(study.root)), None)


def _release(study: Study) -> Station:
    file = study.release / BUNDLE
    if not file.exists():
        return Station("release", "missing", "", "privsyn release draft")
    bundle = read_bundle(file.read_bytes())
    stated = bundle.statement
    if any(_digest_in_study(study, name) != digest for name, digest in stated.subjects.items()):
        return Station("release", "stale", "drafted from an earlier state", "privsyn release draft --force")
    state = "sealed" if bundle.certificate else "draft"
    return Station("release", "done", f"{state}, carries the verdict {stated.verdict_outcome}", None)


def _digest_in_study(study: Study, name: str) -> str | None:
    """The digest of what a file of the release was copied from; `None` if it is gone."""
    source = source_of(name)
    origin = None if source is None else study.root / source
    return file_digest(origin) if origin is not None and origin.is_file() else None


def _of_cohort(study: Study, key: str) -> str | None:
    path = study.cohort / "cohort.json"
    return str(read_json(path)[key]) if path.exists() else None


def _weights(study: Study) -> str | None:
    return (
        str(read_json(study.privacy_file)["provenance"]["weights_sha256"])
        if study.privacy_file.exists()
        else None
    )
