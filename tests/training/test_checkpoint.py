from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from digits_study import copied, prepared, weights

from privsyn.errors import CheckpointError
from privsyn.files import tree_digests
from privsyn.study import Study
from privsyn.training.checkpoint import load_model, load_state, newest
from privsyn.training.loop import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = prepared(tmp_path_factory.mktemp("trained"), "train.steps=4", "train.checkpoint_every=2")
    train(study)
    return study


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]
)
@pytest.mark.parametrize("damage", [cut_short, flipped, Path.unlink])
def test_a_damaged_checkpoint_is_refused_and_nothing_is_touched(
    trained: Study, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """Cut short, altered or missing: the message names the file and the ways out; a backup spends nothing."""
    study = copied(trained, tmp_path)
    damage(study.checkpoints / "step-000004" / name)
    before = tree_digests(study.root)
    for attempt in (lambda: load_model(study.model), lambda: train(study, resume=True)):
        with pytest.raises(CheckpointError, match=f"step-000004: {name}.*from a backup.*train --force"):
            attempt()
    assert tree_digests(study.root) == before
    shutil.rmtree(study.checkpoints / "step-000004")
    shutil.copytree(trained.checkpoints / "step-000004", study.checkpoints / "step-000004")
    train(study, resume=True)
    assert weights(study) == weights(trained)


def test_without_an_older_checkpoint_the_way_out_is_a_new_training(trained: Study, tmp_path: Path) -> None:
    """Nothing is promised that is not there."""
    study = copied(trained, tmp_path)
    shutil.rmtree(study.checkpoints / "step-000002")
    cut_short(study.checkpoints / "step-000004" / "ema.safetensors")
    with pytest.raises(CheckpointError, match="train --force"):
        load_model(study.model)


def test_state_from_another_version_is_refused(trained: Study, tmp_path: Path) -> None:
    """A layout of the future is not guessed at."""
    study = copied(trained, tmp_path)
    path = newest(study.checkpoints) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 3}))
    with pytest.raises(CheckpointError, match="not of version 2"):
        load_state(path.parent)


def test_no_checkpoint_is_said_as_such(tmp_path: Path) -> None:
    """Not a traceback about an empty list."""
    with pytest.raises(CheckpointError, match="no checkpoint: run `privsyn train`"):
        newest(tmp_path)


def test_half_written_checkpoints_are_not_seen(trained: Study, tmp_path: Path) -> None:
    """What a killed run left behind under a temporary name is not a checkpoint."""
    study = copied(trained, tmp_path)
    shutil.copytree(study.checkpoints / "step-000002", study.checkpoints / ".partial-x-step-000009")
    assert newest(study.checkpoints).name == "step-000004"
