"""Two commands in one study take turns at random, killed or not: claims, charges and sets stay honest."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from digits_study import KillAt, Killed, prepared
from interleaving import check_honest, interleave

from privsyn.study import Study
from privsyn.synthetic.sampling import sample
from privsyn.training.loop import train

QUICK = (
    "train.steps=4", "train.checkpoint_every=2", "privacy.noise_multiplicity=1", "privacy.epsilon=4.0",
    "model.channels=4", "model.multipliers=[1]", "model.attention_levels=[]", "model.groups=2",
    "sample.steps=2",
)  # fmt: skip
START = ("fresh", "begun", "begun with DP", "done", "done with DP")


@pytest.fixture(scope="module")
def starts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each start: a study and its home."""
    folder = tmp_path_factory.mktemp("interleavings")
    for start in START:
        study = prepared(folder / start, *QUICK)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PRIVSYN_HOME", str(folder / start / "home"))
            _bring_to(start, study)
    return folder


def _bring_to(start: str, study: Study) -> None:
    dp = start.endswith("with DP")
    if start.startswith("begun"):
        with suppress(Killed):
            train(study, dp=dp, progress=KillAt(3))
    elif start.startswith("done"):
        train(study, dp=dp)
        sample(study, count=4)


def _interleaved(starts: Path, folder: Path, patch: pytest.MonkeyPatch, seed: int, *, locked: bool) -> None:
    """20 interleavings, each in a copy of a study and of its home."""
    coins = random.Random(seed)
    for number in range(20):
        start = coins.choice(START)
        copy = Path(shutil.copytree(starts / start, folder / str(number)))
        patch.setenv("PRIVSYN_HOME", str(copy / "home"))
        study = Study(copy / "study")
        story = interleave(study, coins, locked=locked)
        try:
            check_honest(study, locked=locked)
        except Exception as fault:
            raise AssertionError(f"interleaving {number}: {start}, {story}") from fault


@contextmanager
def _no_lock(_study: Study, _command: str) -> Iterator[None]:
    yield


@pytest.mark.parametrize("seed", range(10))
def test_two_commands_that_take_turns_leave_honest_claims(
    starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """200 random interleavings in all: the second command is refused, or comes after the first."""
    _interleaved(starts, tmp_path, monkeypatch, seed, locked=True)


@pytest.mark.parametrize("seed", range(100, 103))
def test_where_locks_do_not_hold_no_reader_takes_a_false_claim(
    starts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Run ids, digests and the ledger alone: a claim beside other weights is refused by whoever reads it."""
    monkeypatch.setattr(Study, "exclusively", _no_lock)
    _interleaved(starts, tmp_path, monkeypatch, seed, locked=False)
