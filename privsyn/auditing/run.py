"""Run the audits that a policy asks for, and judge their findings by it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import privsyn
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.inputs import AuditInputs, read_evidence
from privsyn.auditing.plugins import installed, run_plugins
from privsyn.auditing.policy import Policy, judge, load_policy
from privsyn.auditing.verdict import Inputs, PolicySummary, Verdict
from privsyn.errors import PrivsynError, StudyError
from privsyn.files import json_digest, whole_folder, write_json
from privsyn.home import count_attempt
from privsyn.progress import SILENT, Progress
from privsyn.recipe import find_shipped, load_recipe, nearest
from privsyn.strict_json import JsonObject
from privsyn.study import Study, as_study

SHADOW_AUDIT = "membership-shadow"
MIN_SHADOWS = 6  # with fewer, no shadow leaves two others with and two without each patient


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
) -> Verdict:
    """Audit a synthetic set and write `findings.json` and `verdict.json`.

    Args:
        study: the study to audit; leave it out to audit a set that another generator made.
        synthetic, cohort, policy, out: replace the study's own; without a study all four are needed.
        only: run these audits alone; the verdict is then marked `partial`.
        shadows: models to train by the study's recipe for the audit `membership-shadow`; even, 6 or more.
        force: replace an audit that exists already.

    Raises:
        PrivsynError: an input is missing or broken, an audit is unknown, or `out` exists.
    """
    with nullcontext() if study is None else as_study(study).exclusively("audit"):
        inputs = _inputs(study, synthetic, cohort, policy, out)
        if inputs.out.exists() and not force:
            raise StudyError(
                f"{inputs.out} already exists: pass --force to audit again (the attempt is counted)"
            )
        rules = load_policy(inputs.policy)
        chosen = _chosen(rules, only)
        _check_shadows(shadows, chosen)
        evidence, recipe_sha256 = read_evidence(inputs, chosen, shadows, progress)
        findings, verdict = _judged(evidence, rules, only, recipe_sha256)
        with whole_folder(inputs.out, replace=force) as folder:
            write_json(folder / "findings.json", findings)
            write_json(folder / "verdict.json", verdict.to_document())
        return verdict


def _judged(
    evidence: Evidence, rules: Policy, only: Sequence[str], recipe_sha256: str | None
) -> tuple[JsonObject, Verdict]:
    """`findings.json` and the verdict on it, by the rules of all audits or of some."""
    chosen, cohort = _chosen(rules, only), evidence.cohort.fingerprint
    plugins = [plugin for name, plugin in installed().items() if name in chosen.audits]
    findings = run_plugins(plugins, evidence, chosen)
    evidence.keep_embeddings()
    document: JsonObject = {
        "schema_version": 1,
        "findings": [finding.model_dump(mode="json") for finding in findings],
    }
    outcome, results = judge(chosen, findings)
    return document, Verdict(
        outcome=outcome,
        partial=bool(only),
        attempt=count_attempt(cohort, partial=bool(only)),
        policy=PolicySummary(rules.title, rules.purpose, rules.error_rate),
        cohort_fingerprint=cohort,
        inputs=Inputs(rules.digest, recipe_sha256, evidence.synthetic.digest, json_digest(document)),
        plugins=tuple(plugin.identity for plugin in plugins),
        privsyn_version=privsyn.__version__,
        rules=results,
    )


def _inputs(
    study: Study | Path | str | None,
    synthetic: Path | None,
    cohort: Path | None,
    policy: str | Path | None,
    out: Path | None,
) -> AuditInputs:
    policy_file = None if policy is None else find_shipped("policies", str(policy))
    if study is not None:
        of = as_study(study)
        own = synthetic is None and cohort is None
        return AuditInputs(
            synthetic=synthetic or of.need(of.synthetic, "sample"),
            cohort=cohort or of.need(of.cohort, "prepare"),
            policy=policy_file or of.policy_file,
            out=out or of.audit,
            model=of.model if own and of.privacy_file.exists() else None,
            biomarkers=load_recipe(of.recipe_file).quality.biomarkers if cohort is None else (),
        )
    if synthetic is None or cohort is None or policy_file is None or out is None:
        raise StudyError("auditing without a study needs --synthetic, --cohort, --policy and --out together")
    return AuditInputs(Path(synthetic), Path(cohort), policy_file, Path(out))


def _chosen(policy: Policy, only: Sequence[str]) -> Policy:
    for name in only:
        if name not in policy.audits:
            raise PrivsynError(f"the policy has no rule for an audit {name!r}{nearest(name, policy.audits)}")
    return policy.only(only) if only else policy


def _check_shadows(shadows: int, policy: Policy) -> None:
    if not shadows:
        return
    if shadows < MIN_SHADOWS or shadows % 2:
        raise PrivsynError(f"--shadows {shadows}: must be even, and {MIN_SHADOWS} or more")
    if SHADOW_AUDIT not in policy.audits:
        raise PrivsynError(f"--shadows: no rule asks for {SHADOW_AUDIT}; add one to the policy")
