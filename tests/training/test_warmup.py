"""The warm-up on noisy moments of the images, as part of a training."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_study import KillAt, Killed, copied, prepared, weights
from numpy.typing import NDArray
from parts import part_of_arrays
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from privsyn import ledger
from privsyn.claim.document import Mechanism, Query
from privsyn.cohort.cohort import Part, load_cohort
from privsyn.dp.accounting import epsilon
from privsyn.dp.covariance import finer
from privsyn.errors import RecipeError
from privsyn.files import file_digest, read_json
from privsyn.progress import Advance
from privsyn.recipe import Recipe, find_shipped, load_recipe
from privsyn.study import Study
from privsyn.training.checkpoint import load_model
from privsyn.training.loop import train
from privsyn.training.warmup import noisy_moments, pictures_of, warm_up_queries

SHORT = ("train.steps=4", "train.checkpoint_every=2", "privacy.dp=true", "privacy.epsilon=3.0")
WARM = ("warmup.images=2", "warmup.noise_multiplier=6.0", "warmup.steps=30")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *SHORT, *WARM)


def test_it_is_off_unless_asked_for() -> None:
    """Shipped recipes spend nothing on it; without DP there is nothing to spend."""
    toy = load_recipe(find_shipped("recipes", "toy"), ["privacy.dp=true"])
    assert warm_up_queries(toy) == ()
    assert warm_up_queries(toy.with_settings(["privacy.dp=false", *WARM])) == ()
    asked = toy.with_settings([*WARM, "warmup.expected_units=250"])
    assert warm_up_queries(asked) == (Query("central-images", Mechanism(6.0, 0.25, 2)),)


def test_the_covariance_is_a_query_of_its_own(template: Study, tmp_path: Path) -> None:
    """It is paid for, stands in the claim and the ledger, and pictures then vary within a class."""
    study = copied(template, tmp_path, "warmup.covariance_noise=4.0", "train.steps=1")
    document = train(study).to_document()
    asked = (Mechanism(6.0, 1.0, 2), Mechanism(4.0, 1.0, 1))
    composed = document["mechanism"]["composed"]
    assert composed == [
        {"name": "central-images", **asked[0].to_dict()},
        {"name": "class-covariance", **asked[1].to_dict()},
    ]
    (population,) = ledger.populations()
    assert population.entries[-1].mechanisms[:-1] == asked
    assert document["epsilon"] <= 3.0
    moments = load_file(study.class_means)
    assert moments["directions"].shape[1:] == (1, 8, 8)
    assert len(moments["directions"]) > 2
    pictures, labels = pictures_of(moments, study.recipe())
    assert pictures.dtype == np.uint8
    assert np.bincount(labels).tolist() == [len(pictures) // 10] * 10
    assert pictures[labels == 0].std(axis=0).mean() > 10


def test_its_pictures_teach_more_than_the_means_alone(template: Study, tmp_path: Path) -> None:
    """A linear classifier that saw nothing else names more of the real digits, under each of three noises."""
    for seed in range(3):
        study = copied(
            template,
            tmp_path / str(seed),
            "warmup.images=4",
            "warmup.covariance_noise=3.0",
            "warmup.steps=1",
            "privacy.epsilon=8.0",
            f"privacy.insecure_seed={seed}",
            "train.steps=1",
        )
        train(study)
        part = load_cohort(study.cohort).part("train")
        moments = load_file(study.class_means)
        right = {}
        for name, some in (("gaussian", moments), ("means", {"means": moments["means"]})):
            pictures, labels = pictures_of(some, study.recipe())
            model = LogisticRegression(max_iter=1000).fit(flat(pictures), labels)
            right[name] = model.score(flat(part.images), part.labels)
        assert right["gaussian"] > 0.85
        assert right["gaussian"] > right["means"]


SIDE, SIZE, UNITS = 4, 16, 1000


def gaussian_part(number: int) -> tuple[Part, NDArray[np.float64]]:
    """So many images of as many patients, smooth and from a Gaussian of three directions; its covariance."""
    generator = torch.Generator().manual_seed(0)
    axes = finer(torch.randn(3, 1, SIDE, SIDE, generator=generator) * 0.08, SIZE)
    drawn = torch.tensordot(torch.randn(number, 3, generator=generator), axes, dims=1)
    images = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    patients = np.array([str(i) for i in range(number)])
    part = part_of_arrays(images, np.arange(number) % 2, patients)
    vectors = axes.flatten(1).double().numpy()
    return part, vectors.T @ vectors


def asking(declared: int, *more: str) -> Recipe:
    """For moments of `gaussian_part`, under noise that is the same in every run."""
    settings = (
        f"data.size={SIZE}",
        'data.classes=["a", "b"]',
        "privacy.dp=true",
        f"privacy.expected_units={declared}",
        "privacy.insecure_seed=1",
        "train.batch_size=1",
        "warmup.images=8",
        "warmup.covariance_noise=1.0",
        f"warmup.covariance_size={SIDE}",
        "warmup.spread=0.4",
        *more,
    )
    return load_recipe(find_shipped("recipes", "toy"), list(settings))


def covariance_of_pictures(recipe: Recipe, part: Part) -> NDArray[np.float64]:
    """Within a class, pixel by pixel on [-1, 1], of five draws from the same moments."""
    moments = noisy_moments(recipe, part)
    several = [pictures_of(moments, recipe.with_settings([f"seed={seed}"])) for seed in range(5)]
    values = np.concatenate([flat(pictures) for pictures, _ in several]) * 2 - 1
    labels = np.concatenate([labels for _, labels in several])
    centred = np.concatenate([values[labels == k] - values[labels == k].mean(axis=0) for k in range(2)])
    return centred.T @ centred / len(centred)


@pytest.mark.parametrize("declared", [UNITS // 2, UNITS, 10 * UNITS])
def test_pictures_vary_as_the_images_do_whatever_was_declared(declared: int) -> None:
    """Pixels of pictures have the spread of the images within 5 %, also on a grid coarser than the pixels."""
    part, truth = gaussian_part(UNITS)
    found = covariance_of_pictures(asking(declared), part)
    assert math.sqrt(np.trace(found) / np.trace(truth)) == pytest.approx(1, abs=0.05)


def test_the_declared_number_changes_no_moment() -> None:
    """Where all units are asked, the declared number is nowhere in means, counts and directions."""
    part, _ = gaussian_part(200)
    one, other = (noisy_moments(asking(declared), part) for declared in (100, 2000))
    for name, values in one.items():
        torch.testing.assert_close(other[name], values, rtol=0, atol=0)


def test_a_known_gaussian_comes_back() -> None:
    """With 4,000 units the whole covariance of the pictures is that of the images within a tenth."""
    part, truth = gaussian_part(4000)
    found = covariance_of_pictures(asking(4000), part)
    assert np.linalg.norm(found - truth) / np.linalg.norm(truth) < 0.1


def test_a_sample_of_the_units_gives_the_same_spread() -> None:
    """Means and covariance of a quarter of the units: the noisy number is that of a quarter too."""
    part, truth = gaussian_part(4000)
    found = covariance_of_pictures(asking(4000, "warmup.expected_units=1000"), part)
    assert math.sqrt(np.trace(found) / np.trace(truth)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("number", [1, 3])
def test_a_handful_of_units_gives_pictures_too(number: int) -> None:
    """Their noisy number is often negative; nothing divides by it."""
    part, _ = gaussian_part(number)
    for seed in range(20):
        recipe = asking(UNITS, f"privacy.insecure_seed={seed}")
        moments = noisy_moments(recipe, part)
        assert moments["directions"].isfinite().all()
        assert len(pictures_of(moments, recipe)[0]) > 0


def flat(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    scaled: NDArray[np.float64] = images.reshape(len(images), -1) / 255
    return scaled


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["warmup.covariance_noise=3.0"], "needs warmup.images"),
        (["warmup.images=1", "warmup.covariance_noise=3.0", "warmup.covariance_size=9"], "exceeds data.size"),
    ],
)
def test_a_covariance_without_means_or_finer_than_pixels_is_refused(settings: list[str], words: str) -> None:
    """What the query needs is said when the recipe is read."""
    with pytest.raises(RecipeError, match=words):
        load_recipe(find_shipped("recipes", "toy"), ["data.size=8", *settings])


def test_it_is_paid_for_by_the_same_budget(template: Study, tmp_path: Path) -> None:
    """Claim and ledger hold both mechanisms; together they cost what was asked for, and no more."""
    study = copied(template, tmp_path)
    document = train(study).to_document()
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
    means = load_file(study.class_means)["means"]
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
    asked = file_digest(study.class_means)
    document = train(study, resume=True).to_document()
    assert file_digest(study.class_means) == asked
    assert document["mechanism"]["composed"][0]["steps"] == 2
    (population,) = ledger.populations()
    assert [charge.state for charge in population.entries] == ["settled"]


def test_two_runs_get_different_noise_and_a_repeatable_one_the_same(template: Study, tmp_path: Path) -> None:
    """The means are noisy from the operating system, unless a seed for tests says otherwise."""
    means, digests = [], []
    for name in ("one", "two"):
        study = copied(template, tmp_path / name, "train.steps=1")
        train(study)
        means.append(load_file(study.class_means)["means"])
        seeded = copied(template, tmp_path / f"seeded-{name}", "train.steps=1", "privacy.insecure_seed=3")
        train(seeded)
        digests.append(weights(seeded))
        assert not read_json(seeded.privacy_file)["valid_for_release"]
    assert (means[0] != means[1]).float().mean() > 0.2
    assert digests[0] == digests[1]
