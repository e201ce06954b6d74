"""Membership attacks on the synthetic set: theory for the mean, copies, and honest sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gaussian_cohorts import mean_revealing_set, noise_cohort, noise_images
from privsyn_audits.membership_synthetic import linear
from scipy import stats

from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.auditing.statistics.roc import auc, auc_interval, tpr_at_fpr
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet


def attack(
    evidence: Evidence, images: np.ndarray, labels: np.ndarray, alpha: float = 0.05
) -> dict[str, Finding]:
    of_them = evidence.about(SyntheticSet(images, labels, evidence.cohort.classes, None, "0" * 64))
    findings = installed()["membership-synthetic"].load()(of_them, Settings(alpha=alpha))
    return {finding.statistic: finding for finding in findings}


def lower(finding: Finding) -> float:
    assert finding.interval is not None
    return finding.interval[0]


@pytest.mark.parametrize(
    ("members", "dimension", "drawn", "spread"),
    [(1000, 10_000, None, 0.0), (1000, 1000, None, 0.0), (400, 4000, 400, 1.0), (400, 4000, 4000, 1.0)],
)
def test_the_attack_on_a_released_mean_follows_theory(
    members: int, dimension: int, drawn: int | None, spread: float
) -> None:
    """AUC = Phi(mu / sqrt 2), TPR = Phi(mu - z), mu = sqrt(d / n / (1 + n / m)): within their intervals."""
    generator = np.random.default_rng(7)
    inside, outside = generator.normal(0, 1, (2, members, dimension)).astype(np.float32)
    mean = inside.mean(axis=0)
    released = mean[None] if drawn is None else mean + generator.normal(0, spread, (drawn, dimension))
    mu = np.sqrt(dimension / members / (1 + (0 if drawn is None else members / drawn)))
    label, labels = np.zeros(len(released), np.int64), np.zeros(members, np.int64)
    scores = [linear(side, labels, released, label, centre=0.0) for side in (inside, outside)]
    low, high = auc_interval(*scores, 0.99)
    assert low <= stats.norm.cdf(mu / np.sqrt(2)) <= high
    point = tpr_at_fpr(*scores, 0.05, 0.99)
    assert point is not None
    expected = [stats.norm.cdf(mu - stats.norm.isf(rate)) for rate in point.fpr_interval]
    assert point.tpr_interval[0] <= expected[1]
    assert expected[0] <= point.tpr_interval[1]


def test_the_mean_of_a_thousand_vectors_gives_its_members_away() -> None:
    """n = 1000, d = 10,000: AUC .987, and 79.8 % of members at 1 % FPR; within Clopper-Pearson at 99 %."""
    generator = np.random.default_rng(3)
    inside, outside = generator.normal(0, 1, (2, 1000, 10_000)).astype(np.float32)
    zeros = np.zeros(1000, np.int64)
    scores = [linear(side, zeros, inside.mean(0)[None], zeros[:1], centre=0.0) for side in (inside, outside)]
    assert auc(*scores) == pytest.approx(0.987, abs=0.006)
    threshold = stats.norm.isf(0.01) * np.std(scores[1])  # of theory: z of a centred score
    caught = int((scores[0] > threshold).sum())
    interval = stats.binomtest(caught, 1000).proportion_ci(0.99)
    assert interval.low <= 0.798 <= interval.high


def test_knowing_the_population_helps_the_attack() -> None:
    """With the centre taken over members and non-members together the AUC is at least as high."""
    generator = np.random.default_rng(5)
    inside, outside = generator.normal(0, 1, (2, 300, 900)).astype(np.float32)
    everybody, zeros = np.concatenate([inside, outside]), np.zeros(600, np.int64)
    released = inside.mean(axis=0) + generator.normal(0, 1, (300, 900))
    known, blind = (linear(everybody, zeros, released, zeros[:300], centre=centre) for centre in (None, 0.0))
    assert auc(known[:300], known[300:]) >= auc(blind[:300], blind[300:])


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    cohort = noise_cohort(tmp_path_factory.mktemp("noise"), 1200, 32, "[0.3333, 0.3333, 0.3334]")
    nothing = np.zeros((1, 32, 32, 1), np.uint8)
    return Evidence(cohort, SyntheticSet(nothing, np.zeros(1, np.int64), cohort.classes, None, "0" * 64))


def test_a_generator_that_only_reveals_the_mean_fails(noise: Evidence, tmp_path: Path) -> None:
    """N(mean(train), I): no image is a copy, nearest neighbours detect nothing, and yet it must fail."""
    images, labels = mean_revealing_set(noise.cohort, 1000, np.random.default_rng(1))
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    for policy in ("internal-review", "public-release"):
        verdict = audit(
            synthetic=tmp_path / "set.npz",
            cohort=noise.cohort.folder,
            policy=policy,
            out=tmp_path / policy,
            only=["nearest-neighbour", "membership-synthetic"],
        )
        outcomes = {row.id: row.outcome for row in verdict.rules}
        assert outcomes["no-near-copies"] != "fail"
        assert outcomes["membership-from-the-set"] == "fail"
        assert verdict.outcome == "fail"


def test_honest_noise_does_not(noise: Evidence) -> None:
    """Fresh noise reveals no member, and both controls pass."""
    generator = np.random.default_rng(2)
    found = attack(noise, noise_images(1000, 32, generator), np.arange(1000) % 2)
    assert lower(found["auc"]) <= 0.5
    assert found["auc"].conclusive, found["auc"].reason


Strangers = tuple[Cohort, np.ndarray, np.ndarray]


def test_copies_of_training_patients_are_caught(strangers: Strangers) -> None:
    """Half of 597 fresh digits replaced by copies: the AUC sees it; 1 % FPR would need more people."""
    cohort, fresh, of_them = strangers
    evidence = Evidence(cohort, SyntheticSet(fresh, of_them, cohort.classes, None, "0" * 64))
    honest = attack(evidence, fresh, of_them)
    assert lower(honest["auc"]) <= 0.5
    assert honest["auc"].conclusive, honest["auc"].reason
    assert not honest["tpr-at-1%-fpr"].conclusive
    assert "1000 are needed" in honest["tpr-at-1%-fpr"].reason
    images, labels, train = fresh.copy(), of_them.copy(), evidence.train
    rows = np.random.default_rng(4).choice(len(train.images), 300, replace=False)
    images[:300], labels[:300] = LIGHT.plant(train.images[rows]), train.labels[rows]
    assert lower(attack(evidence, images, labels)["auc"]) > 0.5


@pytest.mark.slow
def test_honest_sets_raise_alarms_at_the_nominal_rate(strangers: Strangers) -> None:
    """Over 200 honest sets, a bound above chance comes up in at most 5 % plus 2 standard errors."""
    cohort, fresh, of_them = strangers
    evidence = Evidence(cohort, SyntheticSet(fresh, of_them, cohort.classes, None, "0" * 64))
    alarms = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).choice(len(fresh), 200, replace=False)
        alarms += lower(attack(evidence, fresh[rows], of_them[rows])["auc"]) > 0.5
    assert alarms / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
