from __future__ import annotations

import json
from pathlib import Path

import pytest
from digits_study import prepared

from privsyn.errors import PrivsynError
from privsyn.training.diagnosis import WINDOW, Watch, dead
from privsyn.training.loop import train


def log(folder: Path, losses: list[float | None], every: int = 10) -> Path:
    lines = [{"notice": "INTERNAL"}]
    lines += [{"step": every * (i + 1), "loss": loss} for i, loss in enumerate(losses)]
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def test_a_loss_that_is_not_finite_ends_the_run_in_words() -> None:
    """The message names the step and what to change."""
    with pytest.raises(PrivsynError, match=r"no longer finite at step 7: lower train\.learning_rate"):
        Watch().see(7, float("nan"))


def test_a_loss_that_rises_far_is_a_divergence_and_one_bad_step_is_not() -> None:
    """A single outlier passes; a window of steps at four times the first losses does not."""
    watch = Watch()
    for step in range(WINDOW):
        watch.see(step, 1.0)
    watch.see(WINDOW, 30.0)
    for step in range(WINDOW):
        watch.see(step, 1.0)
    for step in range(13):  # 14 of 20 at 4.0 are a mean above 3
        watch.see(step, 4.0)
    with pytest.raises(PrivsynError, match="training diverged: the loss rose from 1"):
        watch.see(99, 4.0)


def test_a_loss_that_did_not_fall_is_called_dead(tmp_path: Path) -> None:
    """Flat over a hundred steps: said in words. Fallen, or too short a run: nothing."""
    assert "the loss did not fall" in dead(log(tmp_path, [0.9] * 10))
    assert dead(log(tmp_path, [0.9, *[0.5] * 9])) == ""
    assert dead(log(tmp_path, [0.9] * 3)) == ""
    assert dead(log(tmp_path, [None] * 12)) == ""


def test_a_real_run_with_a_wild_rate_is_stopped(tmp_path: Path) -> None:
    """A learning rate of 10 blows digits up within a few steps, and the run says so instead of going on."""
    study = prepared(tmp_path, "train.learning_rate=10", "train.warmup_steps=0", "train.steps=200")
    with pytest.raises(PrivsynError, match=r"diverged|no longer finite"):
        train(study)
    assert not study.privacy_file.exists()
