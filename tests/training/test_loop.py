from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_study import KillAt, Killed, copied, prepared, weights

from privsyn.claim.document import Mechanism
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.diffusion.model import to_float
from privsyn.dp.accounting import epsilon
from privsyn.errors import CheckpointError, RecipeError, StudyError
from privsyn.files import read_json, tree_digests
from privsyn.recipe import Train
from privsyn.study import Study, init
from privsyn.training.checkpoint import load_model
from privsyn.training.loop import ema_decay, rate_of_step, train
from privsyn.training.shadow import finetune

SHORT = ("train.steps=12", "train.checkpoint_every=5", "train.warmup_steps=3")
DP = ("privacy.dp=true", "privacy.epsilon=1.0", "privacy.delta=9e-4")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *SHORT)


def logged(study: Study) -> list[dict[str, object]]:
    return [json.loads(line) for line in study.training_log.read_text().splitlines()]


def own_claim(study: Study) -> dict[str, Any]:
    """The claim without what the ledger says of other trainings on the same patients."""
    document = read_json(study.privacy_file)
    return {key: value for key, value in document.items() if key not in ("ledger", "cumulative")}


def killed_and_resumed(study: Study, step: int) -> Study:
    with pytest.raises(Killed):
        train(study, progress=KillAt(step))
    assert not study.privacy_file.exists()
    train(study, resume=True)
    return study


def test_training_learns_and_leaves_a_whole_model(template: Study, tmp_path: Path) -> None:
    """The loss falls, the newest two checkpoints stay, and claim and recipe say what was done."""
    study = copied(template, tmp_path, "train.steps=60", "train.checkpoint_every=20")
    document = train(study).to_document()
    first, *_, last = (float(str(entry["loss"])) for entry in logged(study)[1:])
    assert last < 0.75 * first
    assert [folder.name for folder in sorted(study.checkpoints.iterdir())] == ["step-000040", "step-000060"]
    assert document == read_json(study.privacy_file)
    assert document["kind"] == "none"
    assert document["provenance"]["steps_done"] == 60
    model, recipe, digest = load_model(study.model)
    assert document["provenance"]["weights_sha256"] == digest
    assert document["provenance"]["recipe_sha256"] == recipe.digest
    assert read_json(study.resolved_recipe_file)["sha256"] == recipe.digest
    assert not model.training


def test_the_log_says_first_that_it_is_internal(template: Study, tmp_path: Path) -> None:
    """Whoever opens it reads that before any number."""
    study = copied(template, tmp_path)
    train(study)
    assert "INTERNAL" in str(logged(study)[0]["notice"])
    assert [entry["step"] for entry in logged(study)[1:]] == [5, 10, 12]


@pytest.mark.parametrize("settings", [(), (*DP, "privacy.insecure_seed=7"), ("model.dropout=0.2",)])
@pytest.mark.parametrize("step", [3, 8])
def test_a_killed_run_resumes_to_the_same_bits(
    template: Study, tmp_path: Path, settings: tuple[str, ...], step: int
) -> None:
    """Weights, EMA, optimiser, claim and log are those of an unbroken run; with privacy, if noise repeats."""
    whole = copied(template, tmp_path / "whole", *settings)
    train(whole)
    broken = killed_and_resumed(copied(template, tmp_path / "broken", *settings), step)
    assert weights(broken) == weights(whole)
    assert own_claim(broken) == own_claim(whole)
    assert logged(broken) == logged(whole)


def test_a_killed_private_run_resumes_to_the_same_accounting(template: Study, tmp_path: Path) -> None:
    """Noise is drawn afresh, the steps add up to what was planned, and epsilon to what was asked."""
    study = killed_and_resumed(copied(template, tmp_path, *DP), 8)
    document = read_json(study.privacy_file)
    mechanism = {key: document["mechanism"][key] for key in ("noise_multiplier", "sample_rate", "steps")}
    assert mechanism["steps"] == 12
    assert mechanism["sample_rate"] == 32 / 1000
    assert document["epsilon"] == epsilon([Mechanism(**mechanism)], 9e-4)
    assert 0.99 < document["epsilon"] <= 1
    assert document["mechanism"]["composed"] == []


def test_two_private_runs_never_share_noise(template: Study, tmp_path: Path) -> None:
    """The recipe's seed fixes the first weights, and with privacy nothing after them."""
    found = []
    for name in ("one", "two"):
        study = copied(template, tmp_path / name, *DP, "train.steps=2")
        train(study)
        model, _, _ = load_model(study.model)
        found.append(torch.cat([parameter.flatten() for parameter in model.parameters()]))
    assert (found[0] != found[1]).float().mean() > 0.99


def test_without_privacy_the_seed_decides_the_model(template: Study, tmp_path: Path) -> None:
    """Two runs of one recipe are bit-identical; another seed gives another model."""
    digests = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        study = copied(template, tmp_path / name, "train.steps=3", f"seed={seed}")
        train(study)
        digests.append(weights(study))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_nothing_private_is_shown_while_training_privately(template: Study, tmp_path: Path) -> None:
    """The loss appears without privacy; with it, only the speed by public numbers and epsilon do."""
    plain, private = KillAt(math.inf), KillAt(math.inf)
    train(copied(template, tmp_path / "plain"), progress=plain)
    train(copied(template, tmp_path / "private", *DP), progress=private)
    assert {name for facts in plain.facts for name in facts} == {"images/s", "loss"}
    assert {name for facts in private.facts for name in facts} == {"images/s", "epsilon"}
    assert float(private.facts[-1]["epsilon"]) <= 1


def test_only_training_patients_are_read(template: Study, tmp_path: Path) -> None:
    """Other pixels in holdout and test change nothing."""
    one, other = (copied(template, tmp_path / name, "train.steps=3") for name in ("one", "other"))
    images = np.load(other.cohort / "images.npy")
    images[(load_cohort(other.cohort).records["split"] != "train").to_numpy()] = 77
    np.save(other.cohort / "images.npy", images)
    train(one)
    train(other)
    assert weights(one) == weights(other)


@pytest.mark.parametrize("unit", ["patient", "image"])
def test_patients_with_several_images_count_as_the_recipe_says(tmp_path: Path, unit: str) -> None:
    """Patients of 1 to 7 RGB images of odd size: units are patients or images, at most m images of each."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), generator.integers(1, 8, 60))
    np.savez(
        tmp_path / "source.npz",
        images=generator.integers(0, 256, (len(groups), 13, 13, 3), dtype=np.uint8),
        labels=groups % 2,
        groups=groups,
    )
    settings = ["data.size=13", "data.channels=3", 'data.classes=["a", "b"]', f"privacy.unit={unit}"]
    settings += ["privacy.expected_units=40", "train.batch_size=40", "privacy.max_images_per_unit=3"]
    study = init(tmp_path / "study", recipe="toy", policy="internal-review", settings=[*settings, *DP])
    prepare(study, tmp_path / "source.npz")
    document = train(study, settings=["train.steps=1"]).to_document()
    part = load_cohort(study.cohort).part("train")
    everybody = len(set(part.patients)) if unit == "patient" else len(part.labels)
    assert logged(study)[-1]["units"] == everybody  # the sample rate is 1
    assert document["unit"] == unit
    assert document["mechanism"]["sample_rate"] == 1.0


def test_a_model_is_not_overwritten_by_accident(template: Study, tmp_path: Path) -> None:
    """A second run needs --resume or --force; --force keeps the old model until the new one can start."""
    study = copied(template, tmp_path, "train.steps=3")
    train(study)
    before = tree_digests(study.model)
    with pytest.raises(StudyError, match="--resume continues it, --force replaces it"):
        train(study)
    with pytest.raises(RecipeError, match="prepare it again"):
        train(study, force=True, settings=["data.size=9"])
    with pytest.raises(RecipeError, match=r"larger privacy\.epsilon"):
        train(study, force=True, dp=True, epsilon=1e-4, settings=["privacy.delta=1e-30"])
    assert tree_digests(study.model) == before
    train(study, force=True, settings=["seed=5"])
    assert tree_digests(study.model) != before


def test_resuming_a_finished_run_changes_nothing(template: Study, tmp_path: Path) -> None:
    """There is no step left to take."""
    study = copied(template, tmp_path, "train.steps=3")
    document, before = train(study), tree_digests(study.model)
    assert train(study, resume=True) == document
    assert tree_digests(study.model) == before


def test_resume_refuses_another_recipe_or_cohort(template: Study, tmp_path: Path) -> None:
    """The message names the settings; dp and epsilon of the run need not be given again."""
    study = copied(template, tmp_path)
    with pytest.raises(Killed):
        train(study, dp=True, epsilon=1.0, settings=["train.learning_rate=1e-3"], progress=KillAt(6))
    before = tree_digests(study.root)
    with pytest.raises(CheckpointError, match=r"another train\.learning_rate: pass the same options"):
        train(study, resume=True)
    with pytest.raises(CheckpointError, match=r"another train\.learning_rate, privacy\.epsilon"):
        train(study, resume=True, epsilon=3.0)
    assert tree_digests(study.root) == before
    document = train(
        study, resume=True, settings=["train.learning_rate=1e-3", "sample.count=7"]
    ).to_document()
    assert document["kind"] == "dp"
    prepare(study, "digits", settings=["data.split=[0.5, 0.3, 0.2]"], force=True)
    with pytest.raises(CheckpointError, match="another cohort"):
        train(study, resume=True, settings=["train.learning_rate=1e-3"])


def test_what_is_missing_is_named(tmp_path: Path, template: Study) -> None:
    """No cohort, nothing to resume, an epsilon without privacy: each says what to do."""
    empty = init(tmp_path / "empty", recipe="toy", policy="internal-review")
    with pytest.raises(StudyError, match="privsyn prepare"):
        train(empty)
    study = copied(template, tmp_path)
    with pytest.raises(StudyError, match="privsyn train"):
        train(study, resume=True)
    with pytest.raises(RecipeError, match="add --dp"):
        train(study, epsilon=3.0)
    assert not study.model.exists()


def test_finetuning_learns_its_images_and_leaves_the_model_alone(template: Study, tmp_path: Path) -> None:
    """A repeatable copy in eval mode whose loss on the images has fallen."""
    study = copied(template, tmp_path)
    train(study)
    model, _, _ = load_model(study.model)
    part = load_cohort(study.cohort).part("train")
    images, labels = part.images[:16], np.array(part.labels[:16])

    def loss_of(candidate: torch.nn.Module) -> float:
        generator = torch.Generator().manual_seed(0)
        times, noise = torch.arange(0, 960, 60), torch.randn(16, 1, 8, 8, generator=generator)
        with torch.no_grad():
            return candidate(to_float(images), torch.from_numpy(labels), times, noise).mean().item()

    before = loss_of(model)
    tuned, again = (finetune(model, images, labels, steps=40, seed=3) for _ in range(2))
    assert loss_of(model) == before
    assert loss_of(tuned) == loss_of(again) < 0.8 * before
    assert not tuned.training


def test_rate_and_average_start_gently() -> None:
    """The learning rate rises linearly; the average is short while there is little to average."""
    settings = Train(learning_rate=8, warmup_steps=3, steps=103)
    assert [rate_of_step(step, settings) for step in (0, 1, 3, 100)] == [2, 4, 8, 8]
    assert rate_of_step(0, Train(learning_rate=8, warmup_steps=0)) == 8
    assert [ema_decay(step, 0.9) for step in (0, 10, 10_000)] == [0.1, 0.55, 0.9]
