"""What was computed about a cohort is kept beside it, by content, and by nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from real_cohorts import digits_and_fresh

from privsyn.auditing.cache import FOLDER, Arrays, Cache, depending
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.progress import Advance
from privsyn.synthetic.dataset import SyntheticSet

QUICK = [
    "exact-copies",
    "blind-baseline",
    "nearest-neighbour",
    "membership-synthetic",
    "attributes",
    "outliers",
]


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


@dataclass(frozen=True)
class Bench:
    """A cohort of its own, and an honest set of 200 images to audit against it."""

    root: Path
    cohort: Path

    def findings(self, out: str, policy: str, synthetic: str = "set.npz") -> tuple[bytes, int]:
        """What an audit writes, and how many images it embedded."""
        stages = Stages()
        audit(
            synthetic=self.root / synthetic,
            cohort=self.cohort,
            policy=policy,
            out=self.root / out,
            only=[name for name in QUICK if name != "attributes" or policy == "public-release"],
            progress=stages,
        )
        written = (self.root / out / "findings.json").read_bytes()
        return written, stages.seen.get("embed images (lite0-mid)", 0)

    def forget(self) -> None:
        shutil.rmtree(self.cohort / FOLDER)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    cohort, images, labels = digits_and_fresh(tmp_path, 700)
    np.savez(tmp_path / "set.npz", images=images[:100], labels=labels[:100])
    return Bench(tmp_path, cohort.folder)


def test_a_second_policy_computes_little_and_finds_bit_for_bit_the_same(bench: Bench) -> None:
    """Findings under two policies are those of a cold cache, whichever came first."""
    first, embedded = bench.findings("first", "trusted-environment")
    assert embedded > 700
    second, embedded = bench.findings("second", "public-release")
    assert embedded <= 2 * 100 + 2 * 256  # of attributes, which the first policy does not ask for
    again, embedded = bench.findings("again", "trusted-environment")
    assert (again, embedded) == (first, 0)
    assert bench.findings("once more", "public-release") == (second, 0)
    assert {file.suffix for file in (bench.cohort / FOLDER).iterdir()} == {".safetensors"}
    assert (bench.cohort / FOLDER).stat().st_mode & 0o077 == 0
    bench.forget()
    assert bench.findings("cold", "public-release")[0] == second
    assert bench.findings("warm", "trusted-environment")[0] == first


class Listening(Cache):
    """Notes what the audits look for."""

    def __init__(self) -> None:
        super().__init__(None, {})
        self.asked: set[str] = set()

    def arrays(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        self.asked.add(name)
        return super().arrays(name, compute)


def test_one_pixel_or_one_label_or_another_seed_never_hits(tmp_path: Path) -> None:
    """What depends on the set or on a seed is looked for under another name."""
    cohort, images, labels = digits_and_fresh(tmp_path, 700)
    images, labels, cache = images[:60], labels[:60], Listening()
    evidence = Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64), cache=cache)

    def names(pixel: int = 0, label: int = 0, seed: int = 0) -> set[str]:
        changed, relabelled = images.copy(), labels.copy()
        changed[0, 0, 0, 0] += pixel
        relabelled[0] = (relabelled[0] + label) % len(cohort.classes)
        of_it = evidence.about(SyntheticSet(changed, relabelled, cohort.classes, None, "0" * 64))
        cache.asked.clear()
        for audit_name in QUICK:
            installed()[audit_name].load()(of_it, Settings(seed=seed))
        return set(cache.asked)

    def of_set(found: set[str]) -> set[str]:
        words = ("scores;", "planted", "nearest in", "looked up", "of train by", "of holdout by", "pairs")
        return {name for name in found if any(word in name for word in words) and "references" not in name}

    known = names()
    assert known >= names()
    assert len(of_set(known)) > 10
    assert not of_set(known) & names(pixel=1)
    assert not of_set(known) & names(label=1)
    seeded = {name for name in known if "seed" in name}
    assert seeded
    assert not seeded & names(seed=1)


def test_another_cohort_never_hits(tmp_path: Path) -> None:
    """The same name under another digest of the cohort is computed again."""
    kept = [
        Cache(tmp_path / FOLDER, {"cohort": digest}).arrays("looks", partial(dict, looks=np.array([value])))
        for digest, value in (("a", 1), ("b", 2), ("a", 3))
    ]
    assert [int(arrays["looks"][0]) for arrays in kept] == [1, 2, 1]


def test_content_is_type_shape_and_values() -> None:
    """Arrays with equal bytes are not the same if they mean something else."""
    rows = np.arange(6, dtype=np.int64)
    others = [rows.reshape(2, 3), rows.view(np.uint64), rows + 1, rows.astype(np.int32)]
    names = {depending("x", each) for each in (rows, *others)} | {depending("x", rows, rows), depending("x")}
    assert len(names) == 7
    assert depending("x", rows) == depending("x", np.arange(12)[::2] // 2)


def test_arrays_are_found_again_only_for_what_they_are_about(tmp_path: Path) -> None:
    """Another model, or another name, computes again; the same finds what was kept, bit for bit."""
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
