"""The membership attacks on real models: an over-trained one is caught, a fresh one is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from homes import new_home
from real_cohorts import few_chests, make_cohort

from privsyn.auditing.attacks.denoising import ATTACKS
from privsyn.auditing.attacks.sampled_patients import ModelAttackContext
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.model_under_audit import ModelUnderAudit
from privsyn.auditing.plugins import installed
from privsyn.auditing.statistics.roc import auc
from privsyn.cohort.cohort import Cohort
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.synthetic.dataset import SyntheticSet
from privsyn.training.checkpoint import load_model
from privsyn.training.loop import train
from privsyn.training.shadow import finetune

SETTINGS = [  # 64 members against about 1,000 non-members, at 8 px so that it takes a minute
    "data.size=8",
    "data.resize=fit",
    'data.classes=["normal", "pneumonia"]',
    "data.split=[0.054, 0.845, 0.101]",
    "model.channels=16",
    "train.steps=1500",
    "train.batch_size=16",
    "train.ema_decay=0.95",
    "train.checkpoint_every=5000",
]
ABOVE_CHANCE = {  # AUC of the scores as they are, of which each attack is to show at least so much
    "loss-grid": 0.65,
    "label-drop": 0.6,
    "sima": 0.75,
    "pia": 0.65,
    "pfami": 0.6,
}  # secmi sees only far longer over-training


@pytest.fixture(scope="module")
def over_trained(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> tuple[Cohort, Path]:
    folder = tmp_path_factory.mktemp("over-trained")
    source = few_chests(folder / "few.npz", shared_data, 1200)
    cohort = make_cohort(folder / "study", "toy", source, folder / "home", *SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        train(folder / "study")
    return cohort, folder / "study" / "model"


@pytest.fixture(scope="module")
def caught(over_trained: tuple[Cohort, Path]) -> tuple[Evidence, dict[str, Finding]]:
    """The evidence about the over-trained model, with its scores kept, and the findings."""
    cohort, folder = over_trained
    evidence = evidence_of(cohort, load_model(folder)[0])
    return evidence, attack(evidence)


def evidence_of(cohort: Cohort, model: DiffusionModel | None, *, controls: bool = True) -> Evidence:
    test = cohort.part("test")
    synthetic = SyntheticSet(test.images[:10], test.labels[:10], cohort.classes, None, "0" * 64)
    return Evidence(cohort, synthetic, ModelUnderAudit(model, fine_tune=finetune if controls else None))


def attack(evidence: Evidence) -> dict[str, Finding]:
    findings = installed()["membership-model"].load()(evidence, Settings(alpha=0.025))
    return {finding.statistic: finding for finding in findings}


@pytest.mark.slow  # trains for minutes
def test_a_model_over_trained_on_64_images_is_caught(
    over_trained: tuple[Cohort, Path], caught: tuple[Evidence, dict[str, Finding]]
) -> None:
    """Its members are told from 1,000 held-out patients far beyond chance, with both controls in order."""
    cohort, findings = over_trained[0], caught[1]
    assert len(cohort.part("train").images) in (64, 65)
    assert len(cohort.part("holdout").images) >= 1000
    auc, tpr = findings["auc"], findings["tpr-at-1%-fpr"]
    assert auc.conclusive, auc.reason
    assert auc.interval is not None
    assert auc.interval[0] > 0.75
    assert tpr.interval is not None
    assert tpr.interval[0] > 0.05
    assert "10000 are needed" in findings["tpr-at-0.1%-fpr"].reason


@pytest.mark.slow  # trains for minutes
def test_every_attack_sees_the_over_trained_model(caught: tuple[Evidence, dict[str, Finding]]) -> None:
    """Each but SecMI tells members from others by itself; the finding lists each with its interval."""
    evidence, findings = caught
    assert evidence.model is not None
    context = ModelAttackContext(evidence, evidence.model, Settings())
    members, others = context.scores("train"), context.scores("holdout")  # kept: nothing is computed again
    found = {name: auc(members[name], others[name]) for name in ATTACKS}
    assert {name for name, least in ABOVE_CHANCE.items() if found[name] < least} == set(), found
    table = findings["auc"].details["attacks"]
    assert isinstance(table, dict)
    assert table.keys() == ATTACKS.keys()


@pytest.mark.slow  # trains for minutes
def test_a_fresh_model_is_not_caught(over_trained: tuple[Cohort, Path]) -> None:
    """Untrained weights cannot distinguish members from non-members."""
    cohort, folder = over_trained
    _, recipe, _ = load_model(folder)
    auc = attack(evidence_of(cohort, build_model(recipe).eval(), controls=False))["auc"]
    assert auc.interval is not None
    assert auc.interval[0] <= 0.5 <= auc.interval[1]
    assert auc.controls.negative is not None
    assert auc.controls.negative.passed
    assert not auc.conclusive  # nobody showed that a leak would have been found


@pytest.mark.slow  # trains for minutes
def test_people_are_the_same_whoever_asks(over_trained: tuple[Cohort, Path]) -> None:
    """Two inquiries with one seed choose the same clusters in the same order, with their own images."""
    cohort, folder = over_trained
    evidence = evidence_of(cohort, load_model(folder)[0])
    assert evidence.model is not None
    first, second = (
        ModelAttackContext(evidence, evidence.model, Settings(seed=4)).patients for _ in range(2)
    )
    for part, patients in first.items():
        np.testing.assert_array_equal(patients.cluster, second[part].cluster)
        np.testing.assert_array_equal(patients.images, second[part].images)
    train, population = first["train"], evidence.population
    for image, owner in zip(train.images[:5], train.owner[:5], strict=True):
        own = population.images[population.cluster == train.cluster[owner]]
        assert (own == image).all(axis=(1, 2, 3)).any()


def test_without_a_model_it_is_not_applicable(digits_cohort: Cohort) -> None:
    """A set that comes alone cannot be attacked through its model, and the findings say so."""
    findings = attack(evidence_of(digits_cohort, None))
    assert [finding.applicable for finding in findings.values()] == [False] * 3
