"""Shadow models on real images: an over-fitted target is caught, an honest one is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from real_cohorts import few_chests, make_cohort

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.model_under_audit import ModelUnderAudit, Shadows
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import Cohort
from privsyn.errors import PrivsynError
from privsyn.files import tree_digests
from privsyn.home import home
from privsyn.recipe import Recipe, load_recipe
from privsyn.synthetic.dataset import SyntheticSet
from privsyn.training.shadow import finetune, train_shadow

SETTINGS = [
    "data.size=8",
    "data.resize=fit",
    'data.classes=["normal", "pneumonia"]',
    "data.split=[0.35, 0.35, 0.3]",
    "train.batch_size=16",
    "train.checkpoint_every=5000",
    "privacy.expected_units=60",
]
OVER_FITTED, HONEST = 300, 20  # steps


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Cohort:
    folder = tmp_path_factory.mktemp("shadows")
    source = few_chests(folder / "few.npz", shared_data, 140)
    return make_cohort(folder / "study", "toy", source, folder / "home", *SETTINGS)


def recipe_of(cohort: Cohort, *settings: str) -> Recipe:
    return load_recipe(cohort.folder.parent / "recipe.toml", [*settings])


def attack(cohort: Cohort, steps: int | None, count: int = 6) -> dict[str, Finding]:
    """The audit of a model that was trained for so many steps by the recipe that its shadows follow."""
    test = cohort.part("test")
    synthetic = SyntheticSet(test.images[:10], test.labels[:10], cohort.classes, None, "0" * 64)
    model, shadows = None, None
    if steps is not None:
        train_one = partial(train_shadow, recipe_of(cohort, f"train.steps={steps}"), cohort)
        model = train_one(cohort.part("train").rows, seed=77)
        shadows = Shadows(count, train_one) if count else None
    under_audit = ModelUnderAudit(model, fine_tune=finetune, shadows=shadows)
    evidence = Evidence(cohort, synthetic, under_audit)
    findings = installed()["membership-shadow"].load()(evidence, Settings())
    return {finding.statistic: finding for finding in findings}


@pytest.mark.slow  # seven trainings
def test_an_over_fitted_model_is_caught(cohort: Cohort) -> None:
    """49 members are told from 49 held-out patients with six shadows, and both controls are in order."""
    auc = attack(cohort, OVER_FITTED)["auc"]
    assert auc.conclusive, auc.reason
    assert auc.interval is not None
    assert auc.interval[0] > 0.55
    assert auc.n["shadow_models"] == 6


def test_an_honest_model_is_not_caught(cohort: Cohort) -> None:
    """No membership signal after twenty steps; the overfitted copy shows that a leak is detectable."""
    auc = attack(cohort, HONEST)["auc"]
    assert auc.conclusive, auc.reason
    assert auc.interval is not None
    assert auc.interval[0] <= 0.5


def test_without_shadows_or_model_it_is_not_applicable(cohort: Cohort) -> None:
    """Shadow models are trained only if asked for, and the finding says how."""
    assert attack(cohort, 1, count=0)["auc"].reason.endswith("use --shadows N")
    assert not attack(cohort, None)["auc"].applicable


def test_a_shadow_repeats_and_leaves_nothing_behind(cohort: Cohort) -> None:
    """One seed gives one model, another seed another; neither ledger nor study learns of them."""
    rows, recipe = cohort.part("holdout").rows, recipe_of(cohort, "train.steps=3")
    before = [tree_digests(folder) for folder in (cohort.folder.parent, home()) if folder.exists()]
    first, second, other = (train_shadow(recipe, cohort, rows, seed=seed) for seed in (1, 1, 2))
    assert before == [tree_digests(folder) for folder in (cohort.folder.parent, home()) if folder.exists()]
    weights = [torch.nn.utils.parameters_to_vector(model.parameters()) for model in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_shadow_of_a_private_recipe_is_private(cohort: Cohort) -> None:
    """It trains with the noise of the recipe, so no two are alike whatever the seed."""
    recipe = recipe_of(cohort, "train.steps=2", "privacy.dp=true", "privacy.noise_multiplicity=1")
    rows = cohort.part("holdout").rows
    one, other = (train_shadow(recipe, cohort, rows, seed=1) for _ in range(2))
    assert not np.array_equal(
        *(torch.nn.utils.parameters_to_vector(model.parameters()).numpy() for model in (one, other))
    )


@pytest.mark.parametrize("count", [4, 7])
def test_too_few_or_odd_shadows_are_refused(tmp_path: Path, cohort: Cohort, count: int) -> None:
    """Before anything is trained."""
    with pytest.raises(PrivsynError, match="even, and 6 or more"):
        audit(
            synthetic=cohort.folder,
            cohort=cohort.folder,
            policy="internal-review",
            out=tmp_path / "out",
            shadows=count,
        )


def test_shadows_that_no_rule_asks_for_are_refused(tmp_path: Path, cohort: Cohort) -> None:
    """Training them would be for nothing."""
    rules = tmp_path / "policy.toml"
    rules.write_text(
        'title = "t"\npurpose = "p"\n[[rules]]\nid = "r"\naudit = "exact-copies"\nstatistic = "copies"\n'
        'side = "value"\nop = "<="\nthreshold = 0\nrationale = "Choice of this policy."\n'
    )
    with pytest.raises(PrivsynError, match="no rule asks for membership-shadow"):
        audit(synthetic=cohort.folder, cohort=cohort.folder, policy=rules, out=tmp_path / "out", shadows=6)
