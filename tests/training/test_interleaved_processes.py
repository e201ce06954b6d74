"""Two real processes in one study, one of them killed or not: claims, charges and sets stay honest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from digits_study import KillAt, Killed, prepared
from interleaving import check_honest

from privsyn.study import Study
from privsyn.training.loop import train

QUICK = ("train.steps=40", "train.checkpoint_every=5", "privacy.noise_multiplicity=1", "sample.steps=2")
WORDS = {
    "train": ["train", "--no-dp", "--force"],
    "train --dp": ["train", "--dp", "--force"],
    "train --resume": ["train", "--resume"],
    "sample": ["sample", "--count", "4", "--force"],
    "prepare --force": ["prepare", "digits", "--force"],
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a study, in which a training with DP has begun, and of its home."""
    folder = tmp_path_factory.mktemp("begun")
    study = prepared(folder, *QUICK)
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setenv("PRIVSYN_HOME", str(folder / "home"))
        train(study, dp=True, progress=KillAt(12))
    return folder


@pytest.mark.slow  # seconds each, most of them for imports
@pytest.mark.parametrize("seed", range(12))
def test_two_processes_in_one_study_leave_honest_claims(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """The second comes while the first works or imports; in half of the cases the first is killed."""
    copy, coins = Path(shutil.copytree(begun, tmp_path / "copy")), random.Random(seed)
    monkeypatch.setenv("PRIVSYN_HOME", str(copy / "home"))
    names = [coins.choice(list(WORDS)) for _ in range(2)]
    first = _started(copy / "study", names[0])
    time.sleep(coins.uniform(1.0, 8.0))
    second = _started(copy / "study", names[1])
    if coins.random() < 0.5:
        time.sleep(coins.uniform(0.0, 3.0))
        with suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
    codes = [process.wait(timeout=240) for process in (first, second)]
    assert set(codes) <= {0, 1, 2, -signal.SIGKILL}, names
    check_honest(Study(copy / "study"), locked=True)


def _started(study: Path, name: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "privsyn", *WORDS[name], "--study", str(study)]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
