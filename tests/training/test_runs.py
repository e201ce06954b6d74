"""Two runs in one study: neither claims the other's weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from digits_study import KillAt, Killed, copied, prepared

from privsyn.errors import CheckpointError, StudyError
from privsyn.progress import Advance
from privsyn.study import Study
from privsyn.synthetic.sampling import sample
from privsyn.training.checkpoint import check_own_run, load_state, newest
from privsyn.training.loop import train


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    settings = ("train.steps=6", "train.checkpoint_every=2", "privacy.noise_multiplicity=1")
    return prepared(tmp_path_factory.mktemp("runs"), *settings)


class Meanwhile:
    """A listener that does something once, when a step of the training is done."""

    def __init__(self, step: float, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - one length fits all
        done = 0

        def advance(amount: int = 1, **facts: str) -> None:  # noqa: ARG001
            nonlocal done
            done += amount
            if name == "train" and done == self.step:
                self.act()

        yield advance


def test_a_second_training_is_refused_while_one_runs(template: Study, tmp_path: Path) -> None:
    """`train --dp --force`, `--resume` and `sample` wait for the plain training that runs."""
    study, refused = copied(template, tmp_path), []

    def try_others() -> None:
        for other in (
            lambda: train(study, dp=True, force=True),
            lambda: train(study, resume=True),
            lambda: sample(study, count=2),
        ):
            with pytest.raises(StudyError, match=r"in use by `privsyn train`") as told:
                other()
            refused.append(told.value)

    claim = train(study, progress=Meanwhile(3, try_others))
    assert len(refused) == 3
    assert claim.bound is None
    assert load_state(newest(study.checkpoints)).recipe.privacy.dp is False


def test_a_run_whose_folder_was_taken_over_claims_nothing(template: Study, tmp_path: Path) -> None:
    """Where locks do not hold, a run still never writes among, or claims, the checkpoints of another."""
    study, other = copied(template, tmp_path / "one"), copied(template, tmp_path / "other")
    with pytest.raises(Killed):
        train(other, dp=True, progress=KillAt(4))

    def take_over() -> None:
        shutil.rmtree(study.model)
        shutil.copytree(other.model, study.model)

    with pytest.raises(CheckpointError, match="belongs to another training"):
        train(study, progress=Meanwhile(3, take_over))
    assert not study.privacy_file.exists()
    assert load_state(newest(study.checkpoints)).recipe.privacy.dp is True
    with pytest.raises(CheckpointError, match="belongs to another training"):
        check_own_run(study.checkpoints, "somebody else")
