"""What `prepare --set` says is part of the study, and a cohort of other settings or keys is not used."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from digits_study import copied, prepared
from homes import new_home

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.document import read_document
from privsyn.cohort.prepare import prepare
from privsyn.errors import CohortError, PrivsynError, RecipeError
from privsyn.home import has_patient_key, key_check
from privsyn.status import status
from privsyn.study import Study, init
from privsyn.training.loop import train
from privsyn.training.plan import plan

QUICK = ("train.steps=2", "train.checkpoint_every=2", "privacy.noise_multiplicity=1")
SPLIT = "data.split=[0.5, 0.25, 0.25]"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("stale"), *QUICK)


def _cohort_state(study: Study) -> str:
    return next(station.state for station in status(study) if station.name == "cohort")


def test_settings_of_prepare_are_kept_in_the_recipe(tmp_path: Path) -> None:
    """`prepare --set` changes recipe.toml, keeps its comments, and leaves a cohort that is not stale."""
    study = init(tmp_path / "study", recipe="toy", policy="internal-review", settings=QUICK)
    comments = [line for line in study.recipe_file.read_text().splitlines() if line.startswith("#")]
    prepare(study, "digits", settings=[SPLIT])
    text = study.recipe_file.read_text()
    assert tomllib.loads(text)["data"]["split"] == [0.5, 0.25, 0.25]
    assert [line for line in text.splitlines() if line.startswith("#")] == comments
    assert _cohort_state(study) == "done"
    assert train(study).kind == "none"


def test_settings_that_the_recipe_has_already_change_no_byte(template: Study, tmp_path: Path) -> None:
    """Only what differs is written."""
    study = copied(template, tmp_path)
    before = study.recipe_file.read_bytes()
    prepare(study, "digits", settings=["train.steps=2"], force=True)
    assert study.recipe_file.read_bytes() == before


def test_settings_of_a_refused_source_are_not_kept(template: Study, tmp_path: Path) -> None:
    """Without a new cohort the recipe stays as it is."""
    study = copied(template, tmp_path)
    before = study.recipe_file.read_bytes()
    with pytest.raises(CohortError):
        prepare(study, tmp_path / "nothing", settings=[SPLIT], force=True)
    assert study.recipe_file.read_bytes() == before


def test_killed_between_cohort_and_recipe_the_cohort_is_stale(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`status` and `train` both say so, and naming the settings again is enough."""
    study = copied(template, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Study, "keep", _killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(study, "digits", settings=[SPLIT], force=True)
    assert _cohort_state(study) == "stale"
    with pytest.raises(RecipeError, match=r"another data\.split .*prepare SOURCE --force"):
        train(study)
    study.keep([SPLIT])
    assert train(study).kind == "none"


def _killed(_study: Study, _settings: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("setting", [SPLIT, "data.near_duplicates=link", "data.size=16"])
def test_a_training_with_other_data_settings_is_refused(
    template: Study, tmp_path: Path, setting: str
) -> None:
    """In recipe.toml or by `train --set`: the error names the setting, and nothing is begun."""
    study, key = copied(template, tmp_path), setting.partition("=")[0]
    with pytest.raises(RecipeError, match=key):
        train(study, settings=[setting])
    study.keep([setting])
    assert _cohort_state(study) == "stale"
    with pytest.raises(RecipeError, match=key):
        train(study)
    assert not study.model.exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_home_that_does_not_know_the_key_says_so(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Neither `train` nor `plan` takes known patients for new ones, and no key is made on the way."""
    study, other = copied(template, tmp_path), tmp_path / "other"
    monkeypatch.setenv("PRIVSYN_HOME", new_home(other, b"k" * 32) if known else str(other))
    for command in (train, plan):
        with pytest.raises(PrivsynError, match=r"another patient key than .*other has: set PRIVSYN_HOME"):
            command(study)
    assert has_patient_key() is known
    assert not study.model.exists()


def test_the_cohort_names_its_key(template: Study) -> None:
    """By an HMAC that does not reveal it."""
    assert read_document(template.cohort / "cohort.json").key_check == key_check()
    assert load_cohort(template.cohort).document.key_check == key_check()
