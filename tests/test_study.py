"""The study folder: made whole or not at all, with copies that keep their comments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from privsyn.errors import PrivsynError, RecipeError, StudyError
from privsyn.recipe import shipped
from privsyn.study import init, open_study, set_in_toml


@pytest.fixture
def policy(tmp_path: Path) -> str:
    path = tmp_path / "policy.toml"
    path.write_text("# the steward's\n", encoding="utf-8")
    return str(path)


def test_a_new_study_holds_copies_with_settings_and_comments(tmp_path: Path, policy: str) -> None:
    """Settings land in the copied recipe, whose comments stay; the policy is copied as it stands."""
    study = init(
        tmp_path / "study", recipe="toy", policy=policy, settings=["train.steps=7", "data.resize=fit"]
    )
    text = study.recipe_file.read_text(encoding="utf-8")
    assert "# PUBLIC" in text
    assert (study.recipe().train.steps, study.recipe().data.resize) == (7, "fit")
    assert study.policy_file.read_text(encoding="utf-8") == "# the steward's\n"
    assert open_study(study.root).name == "study"
    assert sorted(path.name for path in study.root.iterdir()) == ["policy.toml", "recipe.toml", "study.toml"]


def test_an_empty_folder_may_become_a_study_and_a_full_one_may_not(tmp_path: Path, policy: str) -> None:
    """What is there already stays untouched."""
    (tmp_path / "empty").mkdir()
    init(tmp_path / "empty", recipe="toy", policy=policy)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(StudyError, match="not an empty folder"):
        init(tmp_path / "full", recipe="toy", policy=policy)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine.txt"]


def test_the_networks_of_a_policy_come_along(tmp_path: Path) -> None:
    """At the same place beside it; one that is named by its whole path stays where it is."""
    (tmp_path / "rules" / "nets").mkdir(parents=True)
    (tmp_path / "rules" / "nets" / "chest.onnx").write_bytes(b"weights")
    policy = tmp_path / "rules" / "mine.toml"
    policy.write_text(
        'networks = [{ file = "nets/chest.onnx" }, { file = "/data/other.onnx" }]', encoding="utf-8"
    )
    study = init(tmp_path / "study", recipe="toy", policy=str(policy))
    assert (study.root / "nets" / "chest.onnx").read_bytes() == b"weights"
    assert len([path for path in study.root.rglob("*") if path.is_file()]) == 4


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('networks = [{ file = "gone.onnx" }]', "'gone.onnx' that is not in its folder"),
        ('networks = [{ file = "../outside.onnx" }]', "'../outside.onnx' that is not in its folder"),
        ("networks = [", "is not TOML"),
    ],
)
def test_a_policy_that_cannot_come_along_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """With what to do, and nothing is left behind."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "outside.onnx").touch()
    (tmp_path / "rules" / "mine.toml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyError, match=said):
        init(tmp_path / "study", recipe="toy", policy=str(tmp_path / "rules" / "mine.toml"))
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("settings", [["train.stepz=3"], ["seed.deep=1"]])
def test_a_refused_setting_leaves_nothing_behind(tmp_path: Path, policy: str, settings: list[str]) -> None:
    """The study is made whole or not at all."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RecipeError):
        init(tmp_path / "study", recipe="toy", policy=policy, settings=settings)
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_without_a_study_says_how_to_get_one(tmp_path: Path) -> None:
    """The hint names the flag and the command."""
    with pytest.raises(StudyError, match=r"--study DIR, or make one with `privsyn init`"):
        open_study(tmp_path)


def test_what_is_missing_names_the_command_that_makes_it(tmp_path: Path, policy: str) -> None:
    """`need` is the one place that says `run ... first`."""
    study = init(tmp_path / "study", recipe="toy", policy=policy)
    with pytest.raises(PrivsynError, match="has no cohort yet: run `privsyn prepare SOURCE` first"):
        study.need(study.cohort, "prepare SOURCE")


def test_settings_make_sections_that_a_recipe_lacks() -> None:
    """A recipe without [sample] gets one, and what was there stays as it was."""
    text = set_in_toml("# top\n[data]\nsize = 8  # px\n", ["sample.count=3", "data.size=9"])
    assert text.startswith("# top\n[data]\nsize = 9")
    assert "# px" in text
    assert "[sample]\ncount = 3" in text


def test_the_card_names_files_without_their_places(tmp_path: Path) -> None:
    """A recipe of one's own is recorded by its name; no path gets into the study."""
    own = tmp_path / "secret-place" / "mine.toml"
    own.parent.mkdir()
    own.write_text(shipped("recipes")["toy"].read_text(encoding="utf-8"), encoding="utf-8")
    study = init(tmp_path / "study", recipe=str(own), policy="internal-review")
    texts = [path.read_text(encoding="utf-8") for path in study.root.iterdir()]
    assert any('recipe = "mine"' in text for text in texts)
    assert not any("secret-place" in text for text in texts)


def test_a_study_is_worked_on_by_one_command_at_a_time(tmp_path: Path, policy: str) -> None:
    """The second is refused at once and told who holds it; a lock of a process that is gone holds nothing."""
    study = init(tmp_path / "study", recipe="toy", policy=policy)
    told = rf"in use by `privsyn train` \(process {os.getpid()} on .*: wait"
    with (
        study.exclusively("train"),
        pytest.raises(StudyError, match=told),
        open_study(study.root).exclusively("sample"),
    ):
        pytest.fail("two commands worked on one study")
    assert not (study.root / ".in-use").exists()
    program = (
        "import os, sys\nfrom privsyn.study import open_study\n"
        "with open_study(sys.argv[1]).exclusively('prepare'):\n    os._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(study.root)], check=False).returncode == 9
    assert "privsyn prepare" in (study.root / ".in-use").read_text(encoding="utf-8")
    with study.exclusively("train"):
        assert "privsyn train" in (study.root / ".in-use").read_text(encoding="utf-8")
