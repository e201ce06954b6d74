"""What a study has, what is stale and why, and what to do next.

An artefact is stale when it was made from something else than the study has now. Digests decide that, never
file times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from privsyn.auditing.policy import load_policy
from privsyn.auditing.verdict import VerdictOutcome
from privsyn.claim.document import Claim
from privsyn.cohort.document import CohortDocument, read_document
from privsyn.files import file_digest, read_json, tree_digest, tree_digests
from privsyn.recipe import Recipe
from privsyn.release.artefacts import source_of
from privsyn.release.bundle import read_bundle
from privsyn.release.manifest import BUNDLE
from privsyn.report.documents import load_claim, load_verdict
from privsyn.strict_json import JsonValue
from privsyn.study import Study, as_study
from privsyn.synthetic.dataset import read_provenance

StationState = Literal["missing", "done", "stale"]
# Options of `privsyn train` may set these, so a model that differs from recipe.toml in them is not stale.
_FLAGS = {"privacy.dp", "privacy.epsilon", "train.canaries"}


@dataclass(frozen=True)
class Station:
    """One artefact of the study.

    Attributes:
        detail: what it is, or why it is stale.
        next: the command that makes it or replaces it; `None` when it is done.
    """

    name: str
    state: StationState
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
    verdict = load_verdict(opened.verdict_file)
    if verdict.outcome == "pass":
        return []
    reasons = [
        f"{rule.id}: {rule.outcome}: {rule.reason or rule.rationale}"
        for rule in verdict.rules
        if rule.outcome in ("fail", "inconclusive")
    ]
    return [*reasons, *_REMEDIES[verdict.outcome]]


_REMEDIES: dict[VerdictOutcome, tuple[str, ...]] = {
    "fail": (
        "a failed audit means that the set may reveal patients. Protect them better: train with --dp, with "
        "a smaller --epsilon or fewer steps; remove duplicates; add patients. Then sample and audit again.",
        "only the data steward may loosen the policy, and repeated audits are counted.",
    ),
    "inconclusive": (
        "an inconclusive audit has too little data to see a leak. Draw more synthetic images "
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
    document, recipe = read_document(path), study.recipe()
    different = document.outdated_by(recipe.data.model_dump(mode="json"))
    if different:
        detail = f"recipe.toml has another {', '.join(different)}"
        return Station("cohort", "stale", detail, "privsyn prepare SOURCE --force")
    images = sum(part.images for part in document.counts.values())
    patients = sum(part.patients for part in document.counts.values())
    return Station("cohort", "done", f"{images} images of {patients} patients", None)


def _model(study: Study) -> Station:
    claim, again = _claim(study), "privsyn train --force"
    if claim is None:
        begun = study.checkpoints.is_dir() and any(study.checkpoints.iterdir())
        detail = "training has begun and is not finished" if begun else ""
        return Station("model", "missing", detail, "privsyn train" + " --resume" * begun)
    if claim.imported:
        return Station("model", "done", "imported; privacy claim: none", None)
    cohort = _cohort_document(study)
    if claim.provenance.cohort_sha256 != (cohort and cohort.records_sha256):
        return Station("model", "stale", "trained on another cohort, or another split of it", again)
    recipe = study.recipe() if cohort is None else study.recipe().claiming(cohort.unit)
    different = _differences(read_json(study.resolved_recipe_file)["recipe"], recipe)
    if different:
        detail = f"recipe.toml has another {', '.join(different)} (edited since, or changed by --set)"
        return Station("model", "stale", detail, again)
    return Station("model", "done", f"privacy claim: {claim.kind}", None)


def _differences(trained: Mapping[str, Mapping[str, JsonValue]], recipe: Recipe) -> list[str]:
    """Settings that shape a model and differ; how to sample is not among them.

    Args:
        trained: the recipe of the model, as JSON.
    """
    wanted = recipe.model_dump(mode="json")
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
    provenance, claim = read_provenance(study.synthetic), _claim(study)
    if (provenance and provenance.model_sha256) != (claim and claim.provenance.weights_sha256):
        return Station("synthetic set", "stale", "drawn from another model", "privsyn sample --force")
    return Station("synthetic set", "done", f"{provenance.count} images" if provenance else "", None)


def _audit(study: Study) -> Station:
    if not study.verdict_file.exists():
        return Station("audit", "missing", "", "privsyn audit")
    verdict = load_verdict(study.verdict_file)
    judged, present = asdict(verdict.inputs), _inputs(study)
    different = [name for name, digest in present.items() if judged[name] != digest]
    cohort = _cohort_document(study)
    if verdict.cohort_fingerprint != (cohort and cohort.fingerprint):
        different.append("cohort")
    if different:
        return Station("audit", "stale", f"judged another {', '.join(different)}", "privsyn audit --force")
    detail = f"verdict: {verdict.outcome}, attempt {verdict.attempt}"
    if verdict.partial:
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
    inputs = asdict(load_verdict(study.verdict_file).inputs) if study.verdict_file.exists() else {}
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


def _cohort_document(study: Study) -> CohortDocument | None:
    path = study.cohort / "cohort.json"
    return read_document(path) if path.exists() else None


def _claim(study: Study) -> Claim | None:
    """The claim of the study's finished model; None if there is none yet."""
    return load_claim(study.privacy_file) if study.privacy_file.exists() else None
