"""What was computed about a cohort is kept beside it, by content, and by nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from privsyn.audit.cache import FOLDER, Cache
from privsyn.audit.run import audit
from privsyn.cohort.cohort import Cohort
from privsyn.progress import Advance

QUICK = ["exact-copies", "blind-baseline", "membership-synthetic"]


class Stages:
    """Notes the stages of a run with their totals."""

    def __init__(self) -> None:
        self.seen: dict[str, int] = {}

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        self.seen[name] = self.seen.get(name, 0) + total

        def advance(amount: int = 1, **facts: str) -> None:
            """The totals are enough."""

        yield advance


def test_a_second_policy_embeds_no_image_of_the_cohort_again(tmp_path: Path, digits_cohort: Cohort) -> None:
    """The first audit embeds cohort and set; one under another policy only what its controls plant."""
    cohort = tmp_path / "cohort"
    shutil.copytree(digits_cohort.folder, cohort, ignore=shutil.ignore_patterns(FOLDER))
    holdout = digits_cohort.part("test")
    np.savez(tmp_path / "set.npz", images=holdout.images[:200], labels=holdout.labels[:200])
    embedded = []
    for policy in ("internal-review", "trusted-environment"):
        stages = Stages()
        audit(
            synthetic=tmp_path / "set.npz",
            cohort=cohort,
            policy=policy,
            out=tmp_path / policy,
            only=QUICK,
            progress=stages,
        )
        embedded.append(stages.seen["embed images (lite0-mid)"])
    assert embedded[0] > len(digits_cohort.records)
    assert embedded[1] <= 2 * 200
    assert {file.suffix for file in (cohort / FOLDER).iterdir()} == {".safetensors"}
    assert (cohort / FOLDER).stat().st_mode & 0o077 == 0


def test_arrays_are_found_again_only_for_what_they_are_about(tmp_path: Path) -> None:
    """Another model, or another name, computes anew; the same finds what was kept, bit for bit."""
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"scores": np.arange(3.0)}

    for about in ({"model": "a"}, {"model": "a"}, {"model": "b"}):
        kept = Cache(tmp_path / FOLDER, about).arrays("loss", compute)
        np.testing.assert_array_equal(kept["scores"], [0, 1, 2])
    Cache(tmp_path / FOLDER, {"model": "b"}).arrays("other", compute)
    assert len(calls) == 3


def test_a_broken_file_counts_as_absent(tmp_path: Path) -> None:
    """A cut-off or foreign file is replaced, never believed."""
    cache = Cache(tmp_path / FOLDER, {})
    cache.write("loss", {"scores": np.ones(2)})
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_bytes(file.read_bytes()[:20])
    assert cache.read("loss") is None
    again = Cache(tmp_path / FOLDER, {}).arrays("loss", lambda: {"scores": np.zeros(2)})
    np.testing.assert_array_equal(again["scores"], [0, 0])


def test_a_folder_that_cannot_be_written_to_keeps_nothing(tmp_path: Path) -> None:
    """A read-only cohort can be audited; things are then kept in memory alone."""
    (tmp_path / "file").write_text("not a folder")
    cache = Cache(tmp_path / "file" / FOLDER, {})
    first = cache.arrays("x", lambda: {"x": np.ones(1)})
    assert cache.arrays("x", lambda: {"x": np.zeros(1)}) is first
