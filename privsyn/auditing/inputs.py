"""Reads the inputs of an audit from files: cohort, synthetic set, and the model that drew it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from privsyn.auditing.cache import FOLDER, Cache
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.model_under_audit import UNKNOWN_ORIGIN, CanaryRecord, ModelUnderAudit, Shadows
from privsyn.auditing.policy import Policy
from privsyn.bit_depth import bit_depth_of
from privsyn.claim.document import Claim
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.errors import StudyError
from privsyn.features.inference import OpenNetwork, open_network
from privsyn.progress import Progress
from privsyn.recipe import Biomarker, Recipe
from privsyn.synthetic.dataset import SyntheticSet, read_synthetic
from privsyn.training.canaries import planted
from privsyn.training.checkpoint import load_state, newest
from privsyn.training.finished import load_finished
from privsyn.training.plan import training_seconds
from privsyn.training.shadow import finetune, train_shadow


@dataclass(frozen=True)
class AuditInputs:
    """Every input of one audit, as files.

    Attributes:
        out: where findings and verdict are written.
        model: folder of the model; None where it is not known.
        biomarkers: those of the recipe, which say what the images can show.
    """

    synthetic: Path
    cohort: Path
    policy: Path
    out: Path
    model: Path | None = None
    biomarkers: tuple[Biomarker, ...] = ()


@dataclass(frozen=True, eq=False)
class _LoadedModel:
    """The model under audit, and what of it is named in the verdict and the cache.

    Attributes:
        recipe_sha256: None where no model of a study drew the set.
        weights_sha256: the cache is about them; None where no audit looks at the model.
    """

    under_audit: ModelUnderAudit = UNKNOWN_ORIGIN
    recipe_sha256: str | None = None
    weights_sha256: str | None = None


def read_evidence(
    inputs: AuditInputs, policy: Policy, shadows: int, progress: Progress
) -> tuple[Evidence, str | None]:
    """The evidence, and the digest of the recipe that the model was trained by.

    Raises:
        PrivsynError: an input is missing or broken, or they do not belong together.
    """
    cohort = load_cohort(inputs.cohort)
    networks = _networks(policy, inputs.policy.parent, cohort)
    synthetic = read_synthetic(
        inputs.synthetic,
        size=cohort.size,
        channels=cohort.channels,
        bit_depth=bit_depth_of(cohort.images),
        classes=cohort.classes,
    )
    audited = _model(inputs.model, cohort, synthetic, shadows, progress)
    evidence = Evidence(
        cohort,
        synthetic,
        audited.under_audit,
        biomarkers=inputs.biomarkers,
        networks=networks,
        cache=_cache(cohort, audited.weights_sha256),
        progress=progress,
    )
    return evidence, audited.recipe_sha256


def _model(
    folder: Path | None, cohort: Cohort, synthetic: SyntheticSet, shadows: int, progress: Progress
) -> _LoadedModel:
    if folder is None or synthetic.provenance is None:  # the model of such a set is not known
        return _LoadedModel()
    finished = load_finished(folder)
    model, recipe, weights = finished.model, finished.recipe, finished.weights_sha256
    drawn = synthetic.provenance
    claim = finished.claim.of_set(
        near_copies_rejected=drawn.near_copies_rejected, exact_class_counts=drawn.exact_class_counts
    )
    if claim.imported:  # its training patients are not known, so attacks on it have no members
        _check_drawn_by(synthetic, weights)
        return _LoadedModel(ModelUnderAudit(claim=claim), recipe.digest)
    _check_lineage(cohort, synthetic, claim, weights)
    under_audit = ModelUnderAudit(
        model,
        claim,
        finetune,
        canaries=_canaries(folder, recipe, claim),
        shadows=_shadows(shadows, cohort, recipe, folder.parent, progress),
    )
    return _LoadedModel(under_audit, recipe.digest, weights)


def _networks(policy: Policy, folder: Path, cohort: Cohort) -> list[OpenNetwork]:
    """The networks of the policy, opened before any audit runs, so that a wrong file is reported at once."""
    networks = [open_network(network, folder) for network in policy.networks]
    for network in networks:
        network.check(cohort.channels)
    return networks


def _cache(cohort: Cohort, weights: str | None) -> Cache:
    whole = cohort.document.records_sha256 != ""  # else the digest does not cover the split
    return Cache(cohort.folder / FOLDER if whole else None, {"cohort": cohort.digest, "model": weights})


def _shadows(count: int, cohort: Cohort, recipe: Recipe, root: Path, progress: Progress) -> Shadows | None:
    """What trains the shadow models; shows the expected time before it begins."""
    if not count:
        return None
    minutes = count * training_seconds(recipe) / 60
    with progress.stage(f"{count} shadow models will be trained, about {minutes:.1f} minutes", 1) as advance:
        advance()
    return Shadows(count, partial(train_shadow, recipe, cohort, root=root, progress=progress))


def _canaries(model: Path, recipe: Recipe, claim: Claim) -> CanaryRecord | None:
    """The canaries that were planted, if claim and newest checkpoint commit to them."""
    found, claimed = planted(model, recipe.data), claim.canaries.commitment if claim.canaries else None
    state = load_state(newest(model / "checkpoints"))
    if {found.commitment if found else None} != {state.canaries_sha256, claimed}:
        raise StudyError(
            f"the canaries of {model} are not those that its claim commits to: restore them, or run "
            "`privsyn train --force`"
        )
    if found is None:
        return None
    return CanaryRecord(found, np.array(state.canary_scores) if state.canary_scores else None)


def _check_lineage(cohort: Cohort, synthetic: SyntheticSet, claim: Claim, weights: str) -> None:
    """The members must be the patients that the model was trained on; else every attack is meaningless."""
    if claim.provenance.cohort_sha256 != cohort.digest:
        raise StudyError("the model was trained on another cohort or split: run `privsyn train --force`")
    _check_drawn_by(synthetic, weights)


def _check_drawn_by(synthetic: SyntheticSet, weights: str) -> None:
    if synthetic.provenance is not None and synthetic.provenance.model_sha256 != weights:
        raise StudyError(
            "the synthetic set was drawn from another model than the study has now: run `privsyn sample`"
        )
