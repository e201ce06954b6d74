"""Run the audits that a policy asks for, and hold their findings against it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import privsyn
from privsyn.auditing.cache import FOLDER, Cache
from privsyn.auditing.evidence import Audit, CanaryRecord, Evidence, Shadows
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.policy import Policy, judge, load_policy
from privsyn.bit_depth import bit_depth_of
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.dp.claim import as_sampled
from privsyn.errors import PrivsynError, StudyError
from privsyn.features.inference import OpenNetwork, open_network
from privsyn.files import json_digest, read_json, whole_folder, write_json
from privsyn.home import count_attempt
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Biomarker, Recipe, find_shipped, load_recipe, nearest
from privsyn.study import Study, as_study
from privsyn.synthetic.dataset import SyntheticSet, read_synthetic
from privsyn.training.canaries import planted
from privsyn.training.checkpoint import load_model, load_state, newest
from privsyn.training.plan import training_seconds
from privsyn.training.shadow import finetune, train_shadow

GROUP = "privsyn.audits"
SHADOW_AUDIT = "membership-shadow"
FEWEST_SHADOWS = 6  # with fewer, none has two models with and two without each patient to be judged by


@dataclass(frozen=True)
class Plugin:
    """An installed audit and the distribution that answers for it."""

    name: str
    distribution: str
    version: str
    entry_point: importlib.metadata.EntryPoint

    def load(self) -> Audit:
        loaded: Audit = self.entry_point.load()
        return loaded

    def to_dict(self) -> dict[str, str]:
        return {"name": self.name, "distribution": self.distribution, "version": self.version}


@dataclass(frozen=True)
class Question:
    """What is audited against what: every input of one audit run, as files; and what its images can show."""

    synthetic: Path
    cohort: Path
    policy: Path
    out: Path
    model: Path | None = None
    biomarkers: tuple[Biomarker, ...] = ()


def audit(
    study: Study | Path | str | None = None,
    *,
    synthetic: Path | None = None,
    cohort: Path | None = None,
    policy: str | Path | None = None,
    out: Path | None = None,
    only: Sequence[str] = (),
    shadows: int = 0,
    force: bool = False,
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Audit a synthetic set and write `findings.json` and `verdict.json`; returns the verdict document.

    Args:
        study: the study to audit; leave it out to audit a set that another generator made.
        synthetic, cohort, policy, out: replace the study's own; without a study all four are needed.
        only: run these audits alone; the verdict is then marked `partial`.
        shadows: models to train by the study's recipe for the audit `membership-shadow`; even, 6 or more.
        force: replace an audit that is there already.

    Raises:
        PrivsynError: an input is missing or broken, an audit is unknown, or `out` exists.
    """
    question = _question(study, synthetic, cohort, policy, out)
    if question.out.exists() and not force:
        raise StudyError(
            f"{question.out} already exists: pass --force to audit again (the attempt is counted)"
        )
    rules = _chosen(load_policy(question.policy), only)
    _check_shadows(shadows, rules)
    evidence, recipe_digest = _evidence(question, rules, shadows, progress)
    plugins = [plugin for name, plugin in installed().items() if name in rules.audits]
    findings = [finding for plugin in plugins for finding in _run(plugin, evidence, rules)]
    evidence.keep_embeddings()
    _check_unique(findings)
    outcome, rows = judge(rules, findings)
    document = {"schema_version": 1, "findings": [finding.model_dump(mode="json") for finding in findings]}
    verdict = {
        "schema_version": 1,
        "verdict": outcome,
        "partial": bool(only),
        "attempt": count_attempt(evidence.cohort.fingerprint, partial=bool(only)),
        "policy": {"title": rules.title, "purpose": rules.purpose, "error_rate": rules.error_rate},
        "cohort_fingerprint": evidence.cohort.fingerprint,
        "inputs": {
            "policy": load_policy(question.policy).digest,
            "recipe": recipe_digest,
            "synthetic": evidence.synthetic.digest,
            "findings": json_digest(document),
        },
        "plugins": [plugin.to_dict() for plugin in plugins],
        "privsyn_version": privsyn.__version__,
        "rules": rows,
    }
    with whole_folder(question.out, replace=force) as folder:
        write_json(folder / "findings.json", document)
        write_json(folder / "verdict.json", verdict)
    return verdict


def installed() -> dict[str, Plugin]:
    """Every audit that is installed, ours and others', by name.

    Raises:
        PrivsynError: two distributions offer an audit of the same name.
    """
    found: dict[str, Plugin] = {}
    for point in importlib.metadata.entry_points(group=GROUP):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "unknown"
        if point.name in found and found[point.name].distribution != distribution:
            raise PrivsynError(
                f"{distribution} and {found[point.name].distribution} both offer an audit {point.name!r}: "
                "uninstall one of them"
            )
        found[point.name] = Plugin(point.name, distribution, version, point)
    return found


def _question(
    study: Study | Path | str | None,
    synthetic: Path | None,
    cohort: Path | None,
    policy: str | Path | None,
    out: Path | None,
) -> Question:
    policy_file = None if policy is None else find_shipped("policies", str(policy))
    if study is not None:
        of = as_study(study)
        own = synthetic is None and cohort is None
        return Question(
            synthetic=synthetic or of.need(of.synthetic, "sample"),
            cohort=cohort or of.need(of.cohort, "prepare"),
            policy=policy_file or of.policy_file,
            out=out or of.audit,
            model=of.model if own and of.privacy_file.exists() else None,
            biomarkers=load_recipe(of.recipe_file).quality.biomarkers if cohort is None else (),
        )
    if synthetic is None or cohort is None or policy_file is None or out is None:
        raise StudyError("auditing without a study needs --synthetic, --cohort, --policy and --out together")
    return Question(Path(synthetic), Path(cohort), policy_file, Path(out))


def _chosen(policy: Policy, only: Sequence[str]) -> Policy:
    for name in only:
        if name not in policy.audits:
            raise PrivsynError(f"the policy has no rule for an audit {name!r}{nearest(name, policy.audits)}")
    return policy.only(only) if only else policy


def _check_shadows(shadows: int, policy: Policy) -> None:
    if not shadows:
        return
    if shadows < FEWEST_SHADOWS or shadows % 2:
        raise PrivsynError(f"--shadows {shadows}: must be even, and {FEWEST_SHADOWS} or more")
    if SHADOW_AUDIT not in policy.audits:
        raise PrivsynError(f"--shadows: no rule asks for {SHADOW_AUDIT}; add one to the policy")


def _evidence(
    question: Question, rules: Policy, shadows: int, progress: Progress
) -> tuple[Evidence, str | None]:
    cohort = load_cohort(question.cohort)
    networks = _networks(rules, question.policy.parent, cohort)
    synthetic = read_synthetic(
        question.synthetic,
        size=cohort.size,
        channels=cohort.channels,
        bit_depth=bit_depth_of(cohort.images),
        classes=cohort.classes,
    )
    evidence = partial(
        Evidence, cohort, synthetic, biomarkers=question.biomarkers, networks=networks, progress=progress
    )
    if question.model is None or synthetic.provenance is None:  # a set of unknown origin has no model
        return evidence(cache=_cache(cohort)), None
    model, recipe, weights = load_model(question.model)
    claim = as_sampled(read_json(question.model / "privacy.json"), synthetic.provenance)
    if claim.get("imported"):  # whom it was trained on is unknown, so no attack on it has members
        _check_drawn_by(synthetic, weights)
        return evidence(claim=claim, cache=_cache(cohort)), recipe.digest
    _check_lineage(cohort, synthetic, claim, weights)
    whole = evidence(
        model=model,
        claim=claim,
        fine_tune=finetune,
        canaries=_canaries(question.model, recipe, claim),
        shadows=_shadows(shadows, cohort, recipe, question.model.parent, progress),
        cache=_cache(cohort, weights),
    )
    return whole, recipe.digest


def _networks(policy: Policy, folder: Path, cohort: Cohort) -> list[OpenNetwork]:
    """What the policy brings along, opened before any audit runs, so that a wrong file is known at once."""
    networks = [open_network(network, folder) for network in policy.networks]
    for network in networks:
        network.check(cohort.channels)
    return networks


def _cache(cohort: Cohort, weights: str | None = None) -> Cache:
    whole = cohort.document.records_sha256 != ""  # else the digest does not say who is in which part
    return Cache(cohort.folder / FOLDER if whole else None, {"cohort": cohort.digest, "model": weights})


def _shadows(count: int, cohort: Cohort, recipe: Recipe, root: Path, progress: Progress) -> Shadows | None:
    """What trains the shadow models; what that will take is said before it begins."""
    if not count:
        return None
    minutes = count * training_seconds(recipe) / 60
    with progress.stage(f"{count} shadow models will be trained, about {minutes:.1f} minutes", 1) as advance:
        advance()
    return Shadows(count, partial(train_shadow, recipe, cohort, root=root, progress=progress))


def _canaries(model: Path, recipe: Recipe, claim: Mapping[str, Any]) -> CanaryRecord | None:
    """What was planted, if it is what the claim and the newest checkpoint committed to."""
    found, claimed = planted(model, recipe.data), claim.get("canaries") or {}
    state = load_state(newest(model / "checkpoints"))
    if {found.commitment if found else None} != {state.canaries_sha256, claimed.get("commitment")}:
        raise StudyError(
            f"the canaries of {model} are not those that its claim commits to: restore them, or run "
            "`privsyn train --force`"
        )
    if found is None:
        return None
    return CanaryRecord(found, np.array(state.canary_scores) if state.canary_scores else None)


def _check_lineage(cohort: Cohort, synthetic: SyntheticSet, claim: dict[str, Any], weights: str) -> None:
    """Members are those whom the model was trained on: another split would make every attack meaningless."""
    if claim["provenance"].get("cohort_sha256") != cohort.digest:
        raise StudyError("the model was trained on another cohort or split: run `privsyn train --force`")
    _check_drawn_by(synthetic, weights)


def _check_drawn_by(synthetic: SyntheticSet, weights: str) -> None:
    if synthetic.provenance is not None and synthetic.provenance.get("model_sha256") != weights:
        raise StudyError(
            "the synthetic set was drawn from another model than the study has now: run `privsyn sample`"
        )


def _run(plugin: Plugin, evidence: Evidence, policy: Policy) -> list[Finding]:
    settings = Settings(alpha=policy.alpha(plugin.name), margin=policy.margin)
    with evidence.progress.stage(f"audit {plugin.name}", 1) as advance:
        findings = plugin.load()(evidence, settings)
        advance()
    stray = {finding.audit for finding in findings} - {plugin.name}
    if stray:
        raise PrivsynError(f"the audit {plugin.name!r} returned findings in the name of {sorted(stray)[0]!r}")
    return findings


def _check_unique(findings: Sequence[Finding]) -> None:
    keys = [finding.key for finding in findings]
    for key in keys:
        if keys.count(key) > 1:
            raise PrivsynError(f"two findings are called {key}: an audit must give each its own scope")
