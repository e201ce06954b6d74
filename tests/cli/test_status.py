"""`privsyn status` and `privsyn.status`: what is there, what is stale and why, and what to do next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from privsyn.status import advice, status
from privsyn.study import init, set_in_toml

if TYPE_CHECKING:
    from tests.cli.conftest import Run

NAMES = ["recipe and policy", "cohort", "model", "synthetic set", "audit", "reports", "release"]


def _states(study: Path) -> dict[str, str]:
    return {station.name: station.state for station in status(study)}


def _set(file: Path, *settings: str) -> None:
    file.write_text(set_in_toml(file.read_text(encoding="utf-8"), settings), encoding="utf-8")


def test_a_new_study_misses_everything_but_its_files(tmp_path: Path) -> None:
    """Every missing station names its command, in the order of work."""
    init(tmp_path / "study", recipe="toy", policy="internal-review")
    stations = status(tmp_path / "study")
    assert [station.name for station in stations] == NAMES
    assert [station.state for station in stations] == ["done"] + ["missing"] * 6
    commands = ["prepare SOURCE", "train", "sample", "audit", "report", "release draft"]
    assert [station.next for station in stations] == [None, *(f"privsyn {command}" for command in commands)]
    assert advice(tmp_path / "study") == []


def test_a_finished_study_is_done(study: Path) -> None:
    """Nothing is stale, and nothing is left to do."""
    assert set(_states(study).values()) == {"done"}
    assert [station.next for station in status(study)] == [None] * 7


@pytest.mark.parametrize(
    ("setting", "station", "why"),
    [
        ("seed=5", "model", "seed"),
        ("data.split=[0.5, 0.25, 0.25]", "cohort", "split"),
        ('data.classes=["0", "1"]', "cohort", "classes"),
        ("train.steps=4", "model", "train.steps"),
        ("privacy.clip_norm=2.0", "model", "privacy.clip_norm"),
    ],
)
def test_an_edited_recipe_makes_what_it_shaped_stale(
    study: Path, setting: str, station: str, why: str
) -> None:
    """The reason names the setting; the command is the one that makes the artefact again."""
    _set(study / "recipe.toml", setting)
    found = next(each for each in status(study) if each.name == station)
    assert (found.state, why in found.detail) == ("stale", True)
    assert found.next is not None
    assert "--force" in found.next


@pytest.mark.parametrize("setting", ["sample.count=7", "privacy.dp=false", "privacy.epsilon=3.0"])
def test_settings_that_a_flag_may_replace_are_no_news(study: Path, setting: str) -> None:
    """How to sample, and what `train --dp --epsilon` says, does not make a model stale."""
    _set(study / "recipe.toml", setting)
    assert set(_states(study).values()) == {"done"}


def test_an_edited_policy_makes_the_verdict_stale(study: Path) -> None:
    """A comment does not; a rule does."""
    policy = study / "policy.toml"
    policy.write_text("# read\n" + policy.read_text(encoding="utf-8"), encoding="utf-8")
    assert _states(study)["audit"] == "done"
    _set(policy, "error_rate=0.01")
    assert _states(study)["audit"] == "stale"


def test_another_cohort_makes_model_and_verdict_stale(run: Run, study: Path) -> None:
    """Other images, another fingerprint."""
    assert run("prepare", "digits", "--study", study, "--force").code == 0
    states = _states(study)
    assert (states["model"], states["audit"]) == ("stale", "stale")


def test_each_new_artefact_makes_what_was_made_from_it_stale(run: Run, study: Path) -> None:
    """Train, sample, audit, report, draft: after each the next one is stale, and doing as told ends it."""
    assert run("train", "--dp", "--force", "--study", study).code == 0
    told = []
    while following := next((station.next for station in status(study) if station.next), None):
        told.append(following)
        assert run(*following.split()[1:], "--study", study).code == 0
    assert told == [
        "privsyn sample --force", "privsyn audit --force", "privsyn report", "privsyn release draft --force"
    ]  # fmt: skip


def test_a_partial_verdict_asks_for_a_whole_one(run: Run, study: Path) -> None:
    """No release accepts it, so it is not done."""
    run("audit", "--only", "exact-copies", "--force", "--study", study)
    audit = next(station for station in status(study) if station.name == "audit")
    assert (audit.state, audit.next) == ("stale", "privsyn audit --force")


def test_a_training_that_was_interrupted_is_to_be_resumed(study: Path) -> None:
    """Checkpoints without a claim: the work is not lost."""
    (study / "model" / "privacy.json").unlink()
    model = next(station for station in status(study) if station.name == "model")
    assert (model.state, model.next) == ("missing", "privsyn train --resume")


@pytest.mark.parametrize("outcome", ["fail", "inconclusive"])
def test_a_verdict_that_is_not_pass_comes_with_advice(run: Run, study: Path, outcome: str) -> None:
    """Which rules are open and why, and what can be done."""
    path = study / "audit" / "verdict.json"
    verdict = json.loads(path.read_text(encoding="utf-8"))
    verdict["verdict"] = verdict["rules"][0]["outcome"] = outcome
    path.write_text(json.dumps(verdict), encoding="utf-8")
    told = run("status", "--study", study, "--json").document["advice"]
    assert told[0].startswith(f"{verdict['rules'][0]['id']}: {outcome}: ")
    assert any("audit" in line for line in told[1:])


def test_status_never_writes(run: Run, study: Path) -> None:
    """Looking changes nothing, also where parts are gone."""
    shutil.rmtree(study / "cohort")
    before = {path: path.stat().st_mtime_ns for path in study.rglob("*")}
    assert run("status", "--study", study).code == 0
    assert {path: path.stat().st_mtime_ns for path in study.rglob("*")} == before


def test_the_same_images_dealt_anew_are_another_cohort_to_the_model(run: Run, study: Path) -> None:
    """Another seed makes other members: the model is stale, and an audit mixing them up is refused."""
    _set(study / "recipe.toml", "seed=5")
    assert run("prepare", "digits", "--study", study, "--force").code == 0
    assert _states(study)["model"] == "stale"
    ran = run("audit", "--only", "exact-copies", "--force", "--study", study)
    assert ran.code == 2
    assert "another cohort or split" in ran.err
