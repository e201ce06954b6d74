"""The outliers audit on real digits: copies of the isolated, of a rare class, and of one alone."""

from __future__ import annotations

import numpy as np
import pytest
from privsyn_audits.outliers import NEIGHBOUR, REPRESENTATIONS, isolated, rare_classes, run
from real_cohorts import blends
from sklearn.neighbors import NearestNeighbors

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace
from privsyn.auditing.attacks.exposure import ExposureTest
from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.cohort.cohort import Cohort
from privsyn.synthetic.dataset import SyntheticSet

COUNT = 300
ISOLATED, MOST = "isolated", "most-copies-of-one-patient"


def about(cohort: Cohort, images: np.ndarray) -> SyntheticSet:
    return SyntheticSet(images, np.zeros(len(images), np.int64), cohort.classes, None, "0" * 64)


@pytest.fixture(scope="module")
def evidence(digits_cohort: Cohort) -> Evidence:
    """Shared by the tests below, so that the cohort is embedded once."""
    return Evidence(digits_cohort, about(digits_cohort, digits_cohort.part("test").images))


def with_some(evidence: Evidence, images: np.ndarray, seed: int = 0, count: int = COUNT) -> np.ndarray:
    """Honest blends of test images, the first of which give way to others."""
    honest, _ = blends(evidence.test, count, np.random.default_rng(seed))
    honest[: len(images)] = images
    return honest


def findings(evidence: Evidence, images: np.ndarray) -> dict[str, Finding]:
    """By group, and the count of copies by its name."""
    found = run(evidence.about(about(evidence.cohort, images)), Settings())
    return {finding.scope.get("group", finding.statistic): finding for finding in found}


def lower(finding: Finding) -> float:
    assert finding.interval is not None
    return finding.interval[0]


def members(evidence: Evidence, group: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """One image each of some training clusters of a group."""
    population = evidence.population
    first = np.unique(population.cluster, return_index=True)[1]
    of_them = np.flatnonzero(group & population.is_member)
    return population.images[first[np.random.default_rng(seed).choice(of_them, count, replace=False)]]


def test_an_honest_set_exposes_no_group_and_nobody_often(evidence: Evidence) -> None:
    """Blends of test patients: conclusive, every lower bound 0, no exposure beyond chance."""
    found = findings(evidence, with_some(evidence, evidence.test.images[:0]))
    assert ISOLATED in found
    for name, finding in found.items():
        assert finding.conclusive, finding.reason
        if name == MOST:
            assert finding.value is not None
            assert finding.value <= 3
        else:
            assert lower(finding) == 0
            assert finding.confidence == pytest.approx(1 - 2 * 0.05 / (len(found) - 1))


def test_copies_of_the_isolated_are_found(evidence: Evidence) -> None:
    """40 isolated training patients copied: found as such, and they lead the table of the most exposed."""
    group = isolated(EmbeddingSpace.of("lite0-mid", evidence))
    copies = members(evidence, group, 40)
    found = findings(evidence, with_some(evidence, LIGHT.plant(copies)))
    assert 0 < lower(found[ISOLATED]) <= 40
    table = found[MOST].details["patients"]
    assert isinstance(table, list)
    assert len(table) == 50
    shown = evidence.cohort.images[[row["row"] for row in table[:20]]]
    known = {image.tobytes() for image in copies}
    assert sum(image.tobytes() in known for image in shown) >= 15


def test_copies_of_a_rare_class_are_found(evidence: Evidence) -> None:
    """40 copied training patients of one rare class are found in that class and in no other."""
    rare = rare_classes(evidence)
    assert len(rare) >= 2
    name, *others = rare
    found = findings(evidence, with_some(evidence, LIGHT.plant(members(evidence, rare[name], 40))))
    assert lower(found[name]) > 0
    assert [lower(found[other]) for other in others] == [0] * len(others)


def test_many_copies_of_one_patient_are_counted(evidence: Evidence) -> None:
    """20 disturbed copies of one image: most are counted, the patient leads the table, no bound is given."""
    copied = evidence.train.images[7]
    finding = findings(evidence, with_some(evidence, LIGHT.plant(np.repeat(copied[None], 20, axis=0))))[MOST]
    assert finding.value is not None
    assert finding.baseline is not None
    assert finding.value >= 12 > finding.baseline
    assert finding.interval is None
    table = finding.details["patients"]
    assert isinstance(table, list)
    assert table[0]["row"] == evidence.train.rows[7]
    assert table[0]["images"] == finding.value


def test_isolation_is_the_distance_to_the_fifth_neighbour(evidence: Evidence) -> None:
    """Where no patient has two images the group equals scikit-learn's top tenth by distance."""
    space = EmbeddingSpace.of("lite0-mid", evidence)
    (index,) = space.indexes
    single = np.bincount(index.clusters).max() == 1
    assert single
    distances, _ = NearestNeighbors(n_neighbors=NEIGHBOUR + 1).fit(index.rows).kneighbors(index.rows)
    far = distances[:, -1] >= np.quantile(distances[:, -1], 0.9)
    assert (isolated(space) == far).mean() > 0.995


@pytest.mark.slow
def test_honest_sets_raise_alarms_at_the_nominal_rate(evidence: Evidence) -> None:
    """Over 200 honest sets some group's p-value is at most its share of .05 in 5 % plus 2 standard errors.

    The lower bound of a finding exceeds 0 exactly where this p-value is at most its level.
    """
    spaces = [EmbeddingSpace.of(name, evidence) for name in REPRESENTATIONS]
    groups = {"isolated": isolated(spaces[1])} | rare_classes(evidence)
    alarms = 0
    for seed in range(200):
        images = with_some(evidence, evidence.test.images[:0], seed=100 + seed, count=120)
        of_them = evidence.about(about(evidence.cohort, images))
        everybody = ExposureTest(of_them, spaces, np.random.default_rng(seed))
        judged = [everybody.among(group) for group in groups.values()]
        alarms += any(test.test.p_value(test.found) <= 0.05 / len(groups) for test in judged)
    assert alarms / 200 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 200)
