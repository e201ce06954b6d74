"""Recipes: what ships can be used, what is wrong is named, and a digest stands for the resolved values."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from privsyn.errors import RecipeError
from privsyn.features.texture import COLOUR, MODALITY
from privsyn.recipe import (
    IN_COLOUR,
    Biomarker,
    Recipe,
    apply_settings,
    find_shipped,
    load_recipe,
    parse_setting,
    shipped,
)

CHECKOUT = Path(__file__).resolve().parents[1]
TOY = find_shipped("recipes", "toy")


@pytest.mark.parametrize("name", sorted(shipped("recipes")))
def test_every_shipped_recipe_can_be_used_with_and_without_dp(name: str) -> None:
    """A shipped recipe loads, also with `--dp`, and its header names its purpose and its command."""
    path = shipped("recipes")[name]
    load_recipe(path, ["privacy.dp=true"])
    header = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    assert header.startswith(f"# {name}: ")
    assert f"privsyn init DIR --recipe {name}" in header


def test_the_recipes_of_the_checkout_are_the_ones_that_ship() -> None:
    """No recipe or policy is forgotten, and nothing else is in the way."""
    assert set(shipped("recipes")) == {path.stem for path in (CHECKOUT / "recipes").glob("*.toml")}
    assert {"digits", "chest-xray-28", "toy"} <= set(shipped("recipes"))


@pytest.mark.parametrize("size", [8, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_toy_fits_any_size_channels_and_class_list(size: int, channels: int) -> None:
    """The toy recipe is moulded by settings alone."""
    recipe = load_recipe(
        TOY, [f"data.size={size}", f"data.channels={channels}", 'data.classes=["=1+1", "<b>"]']
    )
    assert (recipe.data.size, recipe.data.channels, recipe.data.classes) == (size, channels, ("=1+1", "<b>"))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.stepz=3", "unknown key 'train.stepz': did you mean 'steps'?"),
        ("trian.steps=3", "unknown key 'trian': did you mean 'train'?"),
        ("train.steps=soon", "train.steps"),
        ("train.steps=0", "train.steps"),
        ("data.split=[0.5, 0.5, 0.5]", "sum to 1"),
        ("data.classes=['a', 'a']", "twice"),
        ("sample.steps=2000", "sample.steps exceeds diffusion.timesteps"),
        ("sample.class_weights=[1.0]", "one weight"),
        ("model.groups=3", "multiple of model.groups"),
        ("train", "expected section.key=value"),
        ("train.steps=[1,", "not a TOML value"),
        ("seed.deep=1", "'seed' is not a section"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, told: str) -> None:
    """One line says which key, and the nearest match where there is one."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(TOY, [setting])
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_dp_needs_a_public_number_of_units(tmp_path: Path) -> None:
    """Without `expected_units` the sample rate would have to be counted from private data: refused."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[data]\nsize = 8\nclasses = ["a"]\n', encoding="utf-8")
    assert load_recipe(recipe).privacy.dp is False
    with pytest.raises(RecipeError, match="expected_units"):
        load_recipe(recipe, ["privacy.dp=true"])


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    """Missing, not TOML, not UTF-8: each says which file."""
    broken = tmp_path / "broken.toml"
    broken.write_bytes(b"[data\n")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "none.toml", broken, binary):
        with pytest.raises(RecipeError, match=path.name):
            load_recipe(path)


def test_an_unknown_shipped_name_is_answered_with_the_nearest() -> None:
    """`digit` is answered with `digits`."""
    with pytest.raises(RecipeError, match="did you mean 'digits'"):
        find_shipped("recipes", "digit")


def test_the_digest_stands_for_the_resolved_values() -> None:
    """Comments and order do not count; every value does."""
    recipe = load_recipe(TOY)
    assert recipe.digest == Recipe.model_validate_json(recipe.model_dump_json()).digest
    assert recipe.digest != recipe.with_settings(["seed=1"]).digest
    assert recipe.digest == recipe.with_settings([f"seed={recipe.seed}"]).digest


@pytest.mark.parametrize(
    ("text", "value"),
    [("x=y", "x=y"), ("3", 3), ("[1, 2]", [1, 2]), ("true", True), ("fit", "fit"), ("'3'", "3")],
)
def test_a_setting_splits_at_the_first_equals_sign(text: str, value: object) -> None:
    """What follows the first `=` is a TOML value, or a bare word taken as a string."""
    assert parse_setting(f"section.key={text}") == (["section", "key"], value)


def test_settings_do_not_touch_the_document_they_start_from() -> None:
    """A setting makes a copy."""
    document = {"train": {"steps": 1}}
    assert apply_settings(document, ["train.steps=2", "a.b.c=x=y"]) == {
        "train": {"steps": 2},
        "a": {"b": {"c": "x=y"}},
    }
    assert document == {"train": {"steps": 1}}


def test_a_recipe_names_the_biomarkers_that_there_are() -> None:
    """Those of the modality, and colour ones for colour images alone."""
    assert set(get_args(Biomarker)) == set(MODALITY)
    assert IN_COLOUR == COLOUR
    toy = load_recipe(TOY)
    named = toy.with_settings(['quality.biomarkers=["lung-opacity"]'])
    assert named.quality.biomarkers == ("lung-opacity",)
    for wrong, why in (('["lung-capacity"]', "lung-opacity"), ('["stain-ratio"]', "data.channels = 3")):
        with pytest.raises(RecipeError, match=why):
            toy.with_settings([f"quality.biomarkers={wrong}"])
