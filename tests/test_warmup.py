"""The warm-up on noisy class means, as part of a training."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from digits_study import KillAt, Killed, copied, prepared, weights
from safetensors.torch import load_file

from privsyn import ledger
from privsyn.checkpoint import load_model
from privsyn.dp.accounting import Mechanism, epsilon
from privsyn.files import file_digest, read_json
from privsyn.progress import Advance
from privsyn.recipe import find_shipped, load_recipe
from privsyn.study import Study
from privsyn.train import train
from privsyn.warmup import queries

SHORT = ("train.steps=4", "train.checkpoint_every=2", "privacy.dp=true", "privacy.epsilon=3.0")
WARM = ("warmup.images=2", "warmup.noise_multiplier=6.0", "warmup.steps=30")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *SHORT, *WARM)


def test_it_is_off_unless_asked_for() -> None:
    """Shipped recipes spend nothing on it; without DP there is nothing to spend."""
    toy = load_recipe(find_shipped("recipes", "toy"), ["privacy.dp=true"])
    assert queries(toy) == ()
    assert queries(toy.with_settings(["privacy.dp=false", *WARM])) == ()
    asked = toy.with_settings([*WARM, "warmup.expected_units=250"])
    assert queries(asked) == (Mechanism(6.0, 0.25, 2),)


def test_it_is_paid_for_by_the_same_budget(template: Study, tmp_path: Path) -> None:
    """Claim and ledger hold both mechanisms; together they cost what was asked for, and no more."""
    study = copied(template, tmp_path)
    document = train(study)
    composed = [{"name": "central-images", **Mechanism(6.0, 1.0, 2).to_dict()}]
    assert document["mechanism"]["composed"] == composed
    sgd = Mechanism(*(document["mechanism"][key] for key in ("noise_multiplier", "sample_rate", "steps")))
    assert document["epsilon"] == epsilon([Mechanism(6.0, 1.0, 2), sgd], document["delta"])
    assert 2.99 < document["epsilon"] <= 3.0
    (population,) = ledger.populations()
    assert population.entries[-1].mechanisms == (Mechanism(6.0, 1.0, 2), sgd)
    assert document["cumulative"]["epsilon"] == pytest.approx(document["epsilon"], rel=1e-3)


def test_the_network_learns_from_the_means(template: Study, tmp_path: Path) -> None:
    """Before the first private step the weights have moved, and the mean of zeros has a hole in it."""
    study = copied(template, tmp_path)
    with pytest.raises(Killed):
        train(study, progress=KillAt(2))
    means = load_file(study.central_images)["means"]
    assert means.shape == (2, 10, 8, 8, 1)
    assert means.dtype == torch.uint8
    zeros = means[:, 0].float().mean(dim=0)[..., 0]
    assert zeros[2:6, 3:5].mean() < zeros[2:6, [2, 5]].mean()
    warm, _, _ = load_model(study.model)
    cold, _, _ = load_model(_cold(template, tmp_path).model)
    moved = [(a - b).norm() for a, b in zip(warm.parameters(), cold.parameters(), strict=True)]
    assert max(float(gap) for gap in moved) > 0


def _cold(template: Study, tmp_path: Path) -> Study:
    study = copied(template, tmp_path / "cold", "warmup.images=0")
    train(study)
    return study


def test_a_killed_warm_up_does_not_ask_twice(template: Study, tmp_path: Path) -> None:
    """The means of a run that died are read again; the patients are not."""

    class KillWarmUp(KillAt):
        def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
            return super().stage("train" if name == "warm up" else name, total)

    study = copied(template, tmp_path)
    with pytest.raises(Killed):
        train(study, progress=KillWarmUp(10))
    asked = file_digest(study.central_images)
    document = train(study, resume=True)
    assert file_digest(study.central_images) == asked
    assert document["mechanism"]["composed"][0]["steps"] == 2
    (population,) = ledger.populations()
    assert [charge.state for charge in population.entries] == ["settled"]


def test_two_runs_get_different_noise_and_a_repeatable_one_the_same(template: Study, tmp_path: Path) -> None:
    """The means are noisy from the operating system, unless a seed for tests says otherwise."""
    means, digests = [], []
    for name in ("one", "two"):
        study = copied(template, tmp_path / name, "train.steps=1")
        train(study)
        means.append(load_file(study.central_images)["means"])
        seeded = copied(template, tmp_path / f"seeded-{name}", "train.steps=1", "privacy.insecure_seed=3")
        train(seeded)
        digests.append(weights(seeded))
        assert not read_json(seeded.privacy_file)["valid_for_release"]
    assert (means[0] != means[1]).float().mean() > 0.2
    assert digests[0] == digests[1]
