from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from digits_study import KillAt, Killed, copied, in_16_bits, prepared

from privsyn.claim.words import EXACT_COUNTS
from privsyn.cohort.cohort import load_cohort
from privsyn.diffusion.model import DiffusionModel
from privsyn.errors import PrivsynError, RecipeError, StudyError, SyntheticError
from privsyn.files import read_json, write_json
from privsyn.recipe import Sample
from privsyn.study import Study
from privsyn.synthetic import sampling
from privsyn.synthetic.dataset import read_synthetic
from privsyn.synthetic.sampling import COMPUTE_BATCH, balanced_labels, draw, sample
from privsyn.training.checkpoint import load_model
from privsyn.training.loop import train
from privsyn.training.warmup import noisy_proportions

WANTED = Sample(steps=4, guidance_scale=1.5, batch_size=8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = prepared(tmp_path_factory.mktemp("trained"), "train.steps=20")
    train(study)
    return study


@pytest.fixture(scope="module")
def model(trained: Study) -> DiffusionModel:
    return load_model(trained.model)[0]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++", "heun"])
def test_neither_batch_size_nor_threads_nor_processes_change_a_byte(
    model: DiffusionModel, sampler: str
) -> None:
    """1, 7, 64 images in flight, or all; one thread or two; in one go or in parts: the same bytes."""
    labels = balanced_labels(COMPUTE_BATCH * 2 + 5, [1.0] * 10)
    wanted = WANTED.model_copy(update={"sampler": sampler, "churn": 3.0})
    sizes = [wanted.model_copy(update={"batch_size": size}) for size in (1, 7, 64, 1000)]
    drawn = [draw(model, labels, wanted=each, seed=3) for each in sizes]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        drawn.append(draw(model, labels, wanted=sizes[-1], seed=3))
    finally:
        torch.set_num_threads(threads)
    parts = [slice(0, COMPUTE_BATCH), slice(COMPUTE_BATCH, None)]
    apart = [draw(model, labels[part], wanted=wanted, seed=3, first=part.start) for part in parts]
    drawn.append(np.concatenate(apart))
    assert drawn[0].shape == (len(labels), 8, 8, 1)
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)


def test_a_part_begins_where_a_chunk_does(model: DiffusionModel) -> None:
    """Elsewhere the same image would be rounded in another place of its chunk."""
    with pytest.raises(ValueError, match="multiple of 32"):
        draw(model, np.zeros(3, np.int64), wanted=WANTED, seed=3, first=5)


def test_an_image_depends_on_its_place_seed_and_label_alone(model: DiffusionModel) -> None:
    """A longer set begins with the shorter one; another seed shares no image; nor do two places."""
    labels = np.zeros(COMPUTE_BATCH, np.int64)
    long, short = (draw(model, labels[:n], wanted=WANTED, seed=3) for n in (COMPUTE_BATCH, 5))
    other = draw(model, labels, wanted=WANTED, seed=4)
    np.testing.assert_array_equal(long[:5], short)
    everything = np.concatenate([long, other]).reshape(2 * COMPUTE_BATCH, -1)
    assert len(np.unique(everything, axis=0)) == 2 * COMPUTE_BATCH


def test_labels_are_balanced_and_interleaved() -> None:
    """Equal weights go round and round; others are met to the largest remainder; a class may be left out."""
    assert balanced_labels(7, [1, 1, 1]).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert np.bincount(balanced_labels(10, [0.5, 0.3, 0.25])).tolist() == [5, 3, 2]
    assert np.bincount(balanced_labels(1000, [0.9, 0.1])[:100]).tolist() == [90, 10]
    assert set(balanced_labels(9, [1, 0, 2]).tolist()) == {0, 2}


def test_a_set_is_written_with_its_provenance(trained: Study, tmp_path: Path) -> None:
    """The set reads back as drawn and says which model, recipe, seed and settings made it."""
    study = copied(trained, tmp_path)
    drawn = sample(study, count=23, settings=["sample.steps=3", "sample.sampler=ddim", "seed=9"])
    assert drawn.images.shape == (23, 8, 8, 1)
    assert np.bincount(drawn.labels).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]
    _, recipe, digest = load_model(study.model)
    assert drawn.provenance is not None
    expected = {"model_sha256": digest, "recipe_sha256": recipe.digest, "seed": 9, "steps": 3, "eta": 0.0}
    expected |= {"sampler": "ddim", "near_copies_rejected": False}
    assert expected.items() <= drawn.provenance.to_dict().items()
    assert drawn.provenance.generator == "privsyn"
    assert drawn.provenance.count == 23


def test_no_card_is_written_for_weights_that_the_claim_does_not_name(trained: Study, tmp_path: Path) -> None:
    """Weights from elsewhere, or an edited claim: nothing is drawn and nothing is promised."""
    study = copied(trained, tmp_path)
    claim = read_json(study.privacy_file)
    claim["provenance"]["weights_sha256"] = "0" * 64
    write_json(study.privacy_file, claim)
    with pytest.raises(StudyError, match="claim of other weights"):
        sample(study, count=2)
    assert not study.synthetic.exists()


def test_only_a_finished_model_is_drawn_from(trained: Study, tmp_path: Path) -> None:
    """A training that was killed has no claim yet; a set that is there is not overwritten by accident."""
    unfinished = copied(trained, tmp_path / "unfinished")
    with pytest.raises(Killed):
        train(unfinished, force=True, progress=KillAt(5))
    with pytest.raises(StudyError, match="privsyn train"):
        sample(unfinished, count=2)
    study = copied(trained, tmp_path)
    sample(study, count=2)
    before = read_json(study.synthetic / "croissant.json")
    with pytest.raises(PrivsynError, match="--force"):
        sample(study, count=3)
    assert read_json(study.synthetic / "croissant.json") == before
    assert len(sample(study, count=3, force=True).labels) == 3


def test_other_classes_than_the_models_are_refused(trained: Study, tmp_path: Path) -> None:
    """A class list that was edited after training would put wrong names on images."""
    study = copied(trained, tmp_path)
    with pytest.raises(RecipeError, match=r"data\.classes"):
        sample(study, settings=['data.classes=["a", "b"]'])


def test_a_set_holds_the_classes_that_were_asked_for(trained: Study, tmp_path: Path) -> None:
    """As many of each as named, none of the others; what is not a class, or nothing at all, is refused."""
    study = copied(trained, tmp_path)
    settings = ["sample.steps=2"]
    drawn = sample(study, classes={"3": 5, "7": 2}, settings=settings)
    assert np.bincount(drawn.labels, minlength=10).tolist() == [0, 0, 0, 5, 0, 0, 0, 2, 0, 0]
    with pytest.raises(RecipeError, match="no class is called 'three'"):
        sample(study, classes={"three": 5}, settings=settings, force=True)
    with pytest.raises(RecipeError, match="nor all be 0"):
        sample(study, classes={"3": 0}, settings=settings, force=True)
    with pytest.raises(RecipeError, match="leave out"):
        sample(study, count=3, classes={"3": 1}, settings=settings, force=True)


def test_class_counts_are_private_until_they_are_declared_public(trained: Study, tmp_path: Path) -> None:
    """`like="cohort"` is refused, and with the declaration follows the training images' counts."""
    study = copied(trained, tmp_path)
    with pytest.raises(RecipeError, match=r"sample\.counts_are_public"):
        sample(study, count=50, like="cohort")
    drawn = sample(
        study, count=50, like="cohort", settings=["sample.steps=1", "sample.counts_are_public=true"]
    )
    there = np.bincount(load_cohort(study.cohort).part("train").labels, minlength=10)
    assert np.abs(np.bincount(drawn.labels, minlength=10) - 50 * there / there.sum()).max() <= 1


WARM = ("privacy.dp=true", "warmup.images=1", "warmup.covariance_noise=4.0", "warmup.steps=5")


def test_a_private_set_never_depends_on_the_exact_class_counts(
    trained: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its proportions are those of the noisy counts; the cohort is not even read."""
    study = copied(trained, tmp_path, *WARM, "train.steps=2", "sample.steps=1")
    train(study, force=True)
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "load_cohort", lambda _: pytest.fail("the cohort was read"))
        drawn = sample(study, count=50, like="cohort")
    noisy = noisy_proportions(study.class_means)
    assert noisy is not None
    assert min(noisy) >= 0
    np.testing.assert_array_equal(drawn.labels, balanced_labels(50, noisy))
    assert drawn.provenance is not None
    assert drawn.provenance.class_counts == "noisy"
    assert EXACT_COUNTS not in (study.synthetic / "README.md").read_text(encoding="utf-8")


def test_exact_class_counts_are_declared_in_every_document(trained: Study, tmp_path: Path) -> None:
    """Provenance, card and metadata of a private set say that the counts were declared public."""
    study = copied(trained, tmp_path, "privacy.dp=true", "train.steps=2", "sample.steps=1")
    train(study, force=True)
    with pytest.raises(RecipeError, match="no noisy counts"):
        sample(study, count=50, like="cohort")
    drawn = sample(study, count=50, like="cohort", settings=["sample.counts_are_public=true"])
    assert drawn.provenance is not None
    assert drawn.provenance.class_counts == "exact, declared public"
    for document in ("README.md", "croissant.json"):
        assert EXACT_COUNTS in (study.synthetic / document).read_text(encoding="utf-8")
    balanced = sample(study, count=50, settings=["sample.counts_are_public=true"], force=True)
    assert balanced.provenance is not None
    assert balanced.provenance.class_counts == "declared"
    assert EXACT_COUNTS not in (study.synthetic / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [(), WARM])
def test_16_bits_are_trained_on_and_drawn(trained: Study, tmp_path: Path, settings: tuple[str, ...]) -> None:
    """With and without DP, warm-up and canaries included; the set is as fine as the cohort, and says so."""
    short = ("train.steps=3", "train.canaries=8", "diffusion.learned_variance=true")
    study = in_16_bits(copied(trained, tmp_path, *short, *settings))
    train(study, force=True)
    drawn = sample(study, count=24, settings=["sample.steps=3"])
    assert drawn.images.dtype == np.uint16
    assert len(np.unique(drawn.images)) > 256
    assert drawn.images.max() > 40_000
    assert "grey, 16 bits per channel" in (study.synthetic / "README.md").read_text(encoding="utf-8")
    with pytest.raises(SyntheticError, match="16 bits"):
        read_synthetic(study.synthetic, size=8, channels=1, classes=drawn.classes)


def test_a_recipe_of_another_bit_depth_than_the_cohort_is_not_trained_by(
    trained: Study, tmp_path: Path
) -> None:
    """Neither 16 bits by a recipe of 8, nor the other way round."""
    study = copied(trained, tmp_path)
    with pytest.raises(RecipeError, match="bit_depth"):
        train(study, settings=["data.bit_depth=16"], force=True)
    with pytest.raises(RecipeError, match="bit_depth"):
        train(in_16_bits(study), settings=["data.bit_depth=8"], force=True)
