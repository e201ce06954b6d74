"""Guidance needs a model that was trained with hidden labels, and a label is never ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits_study import copied, prepared

from privsyn.errors import RecipeError
from privsyn.recipe import find_shipped, load_recipe
from privsyn.synthetic.sampling import sample
from privsyn.training.loop import train


@pytest.mark.parametrize("recipe", ["digits", "chest-xray-28-dp"])
def test_a_recipe_without_hidden_labels_takes_no_guidance(recipe: str) -> None:
    """Two shipped recipes hide none; guidance 1 asks for none."""
    file = find_shipped("recipes", recipe)
    assert load_recipe(file).train.label_dropout == 0
    with pytest.raises(RecipeError, match=r"guidance_scale other than 1 needs .*label_dropout above 0"):
        load_recipe(file, ["sample.guidance_scale=2.0"])


@pytest.mark.parametrize("setting", ["sample.guidance_scale=0.0", "train.label_dropout=1.0"])
def test_no_setting_ignores_the_label(setting: str) -> None:
    """An image drawn without its class, or from a model that saw no class, would be labelled falsely."""
    with pytest.raises(RecipeError, match=setting.partition("=")[0]):
        load_recipe(find_shipped("recipes", "toy"), [setting])


def test_a_model_trained_without_hidden_labels_is_not_guided(tmp_path: Path) -> None:
    """What the model was trained with decides, and not what the recipe says now."""
    steps = ("train.steps=2", "train.checkpoint_every=2", "sample.steps=2")
    study = copied(prepared(tmp_path, *steps, "train.label_dropout=0.0"), tmp_path)
    train(study)
    guided = ["train.label_dropout=0.1", "sample.guidance_scale=2.0"]
    with pytest.raises(RecipeError, match=r"trained with train\.label_dropout = 0"):
        sample(study, count=2, settings=guided)
    assert not study.synthetic.exists()
    assert len(sample(study, count=2).images) == 2
