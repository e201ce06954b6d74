"""The membership attack on real models: an over-trained one is caught, a fresh one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_cohorts import make_cohort

from privsyn.audit.contract import Evidence, Finding, Settings
from privsyn.audit.run import installed
from privsyn.checkpoint import load_model
from privsyn.cohort.cohort import Cohort
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.synthetic import SyntheticSet
from privsyn.train import finetune, train

SETTINGS = [  # 64 members against about 1,000 non-members, 14 px so that it takes half a minute
    "data.size=14",
    "data.resize=fit",
    'data.classes=["normal", "pneumonia"]',
    "data.split=[0.011, 0.2, 0.789]",
    "model.channels=16",
    "train.steps=1200",
    "train.batch_size=16",
    "train.ema_decay=0.95",
    "train.checkpoint_every=5000",
]


@pytest.fixture(scope="module")
def over_trained(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> tuple[Cohort, Path]:
    folder = tmp_path_factory.mktemp("over-trained")
    source = shared_data / "pneumoniamnist.npz"
    cohort = make_cohort(folder / "study", "toy", source, folder / "home", *SETTINGS)
    train(folder / "study")
    return cohort, folder / "study" / "model"


def attack(cohort: Cohort, model: DiffusionModel | None) -> dict[str, Finding]:
    test = cohort.part("test")
    synthetic = SyntheticSet(test.images[:10], test.labels[:10], cohort.classes, None, "0" * 64)
    evidence = Evidence(cohort, synthetic, model=model, fine_tune=finetune)
    findings = installed()["membership-model"].load()(evidence, Settings(alpha=0.025))
    return {finding.statistic: finding for finding in findings}


def test_a_model_over_trained_on_64_images_is_caught(over_trained: tuple[Cohort, Path]) -> None:
    """Its members are told from 1,000 held-out patients far beyond chance, with both controls in order."""
    cohort, folder = over_trained
    assert len(cohort.part("train").images) in (64, 65)
    assert len(cohort.part("holdout").images) >= 1000
    model, _, _ = load_model(folder)
    findings = attack(cohort, model)
    auc, tpr = findings["auc"], findings["tpr-at-1%-fpr"]
    assert auc.conclusive, auc.reason
    assert auc.interval is not None
    assert auc.interval[0] > 0.6
    assert tpr.interval is not None
    assert tpr.interval[0] > 0.02


def test_a_fresh_model_is_not_caught(over_trained: tuple[Cohort, Path]) -> None:
    """Weights that never saw an image cannot favour anybody."""
    cohort, folder = over_trained
    _, recipe, _ = load_model(folder)
    auc = attack(cohort, build_model(recipe))["auc"]
    assert auc.interval is not None
    assert auc.interval[0] <= 0.5 <= auc.interval[1]
    assert auc.controls.negative is not None
    assert auc.controls.negative.passed


def test_without_a_model_it_is_not_applicable(over_trained: tuple[Cohort, Path]) -> None:
    """A set that comes alone cannot be attacked through its model, and the findings say so."""
    findings = attack(over_trained[0], None)
    assert [finding.applicable for finding in findings.values()] == [False, False]
