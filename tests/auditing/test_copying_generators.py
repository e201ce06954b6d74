"""Generators that copy, and generators that are merely smooth: which fail the audits, and how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from real_cohorts import chest_and_fresh
from scipy import ndimage

from privsyn.auditing.attacks.planted_leaks import LIGHT, PERTURBATIONS
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet

Strangers = tuple[Cohort, np.ndarray, np.ndarray]
COPIES = 40

WAYS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact": lambda image: image,
    **PERTURBATIONS,
    "blurred": lambda image: ndimage.gaussian_filter(image, (0.4, 0.4, 0)),
}


def exposed(evidence: Evidence, images: np.ndarray, alpha: float = 0.05) -> Finding:
    labels = np.zeros(len(images), np.int64)
    of_them = evidence.about(SyntheticSet(images, labels, evidence.cohort.classes, None, "0" * 64))
    (finding,) = installed()["nearest-neighbour"].load()(of_them, Settings(alpha=alpha))
    assert finding.interval is not None
    return finding


def among_fresh(fresh: np.ndarray, copies: np.ndarray, seed: int) -> np.ndarray:
    """400 fresh images, of which the last gave way to copies."""
    rows = np.random.default_rng(seed).choice(len(fresh), 400 - len(copies), replace=False)
    return np.concatenate([fresh[rows], copies])


@pytest.fixture(scope="module")
def evidence(strangers: Strangers) -> Evidence:
    cohort, images, labels = strangers
    return Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64))


@pytest.mark.parametrize("way", ["exact", "JPEG quality 60", "brightness +10 %", "blurred"])
def test_a_tenth_of_copies_is_caught_whatever_was_done_to_them(
    evidence: Evidence, strangers: Strangers, way: str
) -> None:
    """40 copies among 400 images of 8 px raise the lower bound; the bound is never above the truth."""
    generator = np.random.default_rng(0)
    rows = generator.choice(len(evidence.train.images), COPIES, replace=False)
    copies = np.stack([WAYS[way](image) for image in evidence.train.images[rows]])
    finding = exposed(evidence, among_fresh(strangers[1], copies, 0))
    assert finding.interval is not None
    assert 0 < finding.interval[0] <= COPIES


def test_exact_copies_hidden_among_over_dispersed_images_fail(strangers: Strangers, tmp_path: Path) -> None:
    """10 % exact copies and 90 % images of too much contrast, for which distance scores look fine, fail."""
    cohort, fresh, labels = strangers
    train = cohort.part("train")
    loud = np.clip(127.5 + 1.4 * (fresh[:540].astype(float) - 127.5), 0, 255).round().astype(np.uint8)
    images = np.concatenate([loud, train.images[:60]])
    np.savez(tmp_path / "set.npz", images=images, labels=np.concatenate([labels[:540], train.labels[:60]]))
    verdict = audit(
        synthetic=tmp_path / "set.npz",
        cohort=cohort.folder,
        policy="internal-review",
        out=tmp_path / "audit",
        only=["exact-copies", "nearest-neighbour"],
    )
    outcomes = {row.id: row.outcome for row in verdict.rules}
    assert outcomes == {"no-exact-copies": "fail", "no-near-copies": "fail"}
    assert verdict.outcome == "fail"


@pytest.mark.slow
def test_leaks_of_the_printed_size_are_found_as_often_as_printed(
    evidence: Evidence, strangers: Strangers
) -> None:
    """Over 100 sets with other copies, as many as power names: found in 80 %, within 2 standard errors."""
    power = exposed(evidence, among_fresh(strangers[1], strangers[1][:0], 0)).power
    assert power is not None
    assert power.smallest_leak is not None
    found, size = 0, int(power.smallest_leak)
    for seed in range(100):
        rows = np.random.default_rng(500 + seed).choice(len(evidence.train.images), size, replace=False)
        copies = LIGHT.plant(evidence.train.images[rows])
        finding = exposed(evidence, among_fresh(strangers[1], copies, seed))
        assert finding.interval is not None
        found += finding.interval[0] > 0
    assert found / 100 >= 0.8 - 2 * np.sqrt(0.8 * 0.2 / 100)


SMOOTH: dict[str, Callable[[Strangers], np.ndarray]] = {
    "blurred": lambda strangers: ndimage.gaussian_filter(strangers[1], (0, 1, 1, 0)),
    "averaged": lambda strangers: _averaged(strangers[1], len(strangers[1])),
    "low contrast": lambda strangers: (127.5 + 0.5 * (strangers[1] - 127.5)).round().astype(np.uint8),
    "mode dropping": lambda strangers: strangers[1][strangers[2] == 1],
}
SPLITS = 4


def _averaged(images: np.ndarray, count: int) -> np.ndarray:
    """Blends of two images outside train and holdout; blends of the holdout itself would lie close to it."""
    pairs = np.random.default_rng(0).integers(len(images), size=(count, 2))
    return images[pairs].mean(axis=1).round().astype(np.uint8)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_smooth_sets_pass_and_the_same_with_two_per_cent_of_copies_fail(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path
) -> None:
    """Blurred, averaged, flat or one-sided sets of chest X-rays expose no patient; 2 % of copies do.

    Over four splits of the cohort: each kind raises at most one alarm at 5 % (chance of more: .014 each), and
    the copies are found in at least three.
    """
    alarms, found = dict.fromkeys(SMOOTH, 0), dict.fromkeys(SMOOTH, 0)
    for seed in range(SPLITS):
        folder = tmp_path_factory.mktemp("chest")
        source = shared_data / "pneumoniamnist.npz"
        strangers = chest_and_fresh(folder, source, settings=[f"seed={seed}"])
        cohort, train = strangers[0], strangers[0].part("train").images
        evidence = Evidence(cohort, SyntheticSet(*strangers[1:], cohort.classes, None, "0" * 64))
        for kind, smooth in SMOOTH.items():
            images = smooth(strangers)
            copies = np.random.default_rng(seed).choice(len(train), round(0.02 * len(images)), replace=False)
            leaky = np.concatenate([LIGHT.plant(train[copies]), images[len(copies) :]])
            alarms[kind] += _lower(exposed(evidence, images)) > 0
            found[kind] += _lower(exposed(evidence, leaky)) > 0
    assert {kind: count for kind, count in alarms.items() if count > 1} == {}
    assert {kind: count for kind, count in found.items() if count < SPLITS - 1} == {}


def _lower(finding: Finding) -> float:
    assert finding.interval is not None
    return finding.interval[0]


def test_the_fresh_images_share_nobody_with_the_cohort(strangers: Strangers) -> None:
    """No fresh digit equals one of the cohort, but for those that scikit-learn's data hold twice."""
    cohort, fresh, _ = strangers
    known = {image.tobytes() for image in np.load(cohort.folder / "images.npy")}
    assert sum(image.tobytes() in known for image in fresh) <= 2
