"""Are isolated patients or rare classes copied, or one patient many times?

Threat: synthetic set only. An average can hide that a generator copies just the few patients who differ from
all others. So the test of `privsyn.auditing.attacks.exposure` is repeated for groups of patients, chosen
independently of who is in train. Two more results are for the internal reader: the largest number of images
that expose one patient, and a table of the most exposed training patients.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import JsonValue

from privsyn.auditing.attacks.embedding_space import EmbeddingSpace, Matches
from privsyn.auditing.attacks.exposure import ExposureTest
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.features.neighbours import nearest

NAME = "outliers"
AUDIT = AuditId(NAME, "2", "synthetic-only")
COPIED = "copied-patients"
REPRESENTATIONS = ("pixels", "lite0-mid")
ISOLATED = 0.1  # share of the patients that counts as isolated (choice)
NEIGHBOUR = 5  # the distance to it measures isolation; more robust than the first
RARE = 0.1  # a class with a smaller share of the patients is rare (choice)
MIN_GROUP_PATIENTS = 10  # training patients; copies of fewer cannot be significant
EXPOSED_QUANTILE = 0.99  # of test patients' exposure; an image above it exposes a patient
MOST_BY_CHANCE = 3  # images of test patients that may expose one and the same patient
SAMPLED = 20  # training patients whose copies are tried
TABLE = 50

Ints = NDArray[np.int64]
Group = NDArray[np.bool_]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Copied patients in every group, and the most images that expose one training patient."""
    spaces = [EmbeddingSpace.of(name, evidence) for name in REPRESENTATIONS]
    overall = ExposureTest(evidence, spaces, evidence.generator(NAME, settings))
    index = spaces[1].indexes[0]
    far = evidence.kept("isolated clusters", lambda: {"group": isolated(spaces[1])}, index.content)["group"]
    groups = {"isolated": far} | rare_classes(evidence)
    level = settings.alpha / len(groups)
    copied = [_copied(overall, name, group, settings, level) for name, group in groups.items()]
    return [*copied, _most_copies(overall)]


def isolated(space: EmbeddingSpace) -> Group:
    """(clusters,) the tenth of the clusters with the largest median distance to images of other clusters."""
    (index,) = space.indexes
    own = min(int(np.bincount(index.clusters).max()), 64)
    found = nearest(index.rows, index.rows, NEIGHBOUR + own)
    foreign = np.where(index.clusters[found.indices] == index.clusters[:, None], np.inf, found.distances)
    distance = np.sort(foreign, axis=1)[:, :NEIGHBOUR][:, -1]
    distance = np.where(np.isfinite(distance), distance, found.distances[:, -1])
    of_cluster = pd.Series(distance).groupby(index.clusters).median().to_numpy()
    far: Group = of_cluster >= np.quantile(of_cluster, 1 - ISOLATED)
    return far


def rare_classes(evidence: Evidence) -> dict[str, Group]:
    """The clusters of every rare class; the class of a cluster is its most frequent label."""
    of_cluster = evidence.population.labels
    labels, counts = np.unique(of_cluster, return_counts=True)
    rare = labels[counts < RARE * len(of_cluster)]
    return {f"rare class {evidence.cohort.classes[label]}": of_cluster == label for label in rare}


def _copied(overall: ExposureTest, name: str, group: Group, settings: Settings, level: float) -> Finding:
    """How many training patients of a group are exposed because they were trained on."""
    is_member = overall.evidence.population.is_member
    members, others = int((group & is_member).sum()), int((group & ~is_member).sum())
    n = {"group_train_patients": members, "group_holdout_patients": others}
    scope = {"group": name}
    if min(members, 10 * others) < MIN_GROUP_PATIENTS:
        reason = f"the group has {members} training and {others} held-out patients: too few for a test"
        sizes = overall.evidence.sizes() | n
        return Finding.inconclusive(AUDIT, COPIED, reason, scope=scope, n=sizes, baseline=0.0)
    settings = settings.model_copy(update={"alpha": level})
    return overall.among(group).finding(AUDIT, COPIED, settings, scope=scope, n=n)


def _most_copies(test: ExposureTest) -> Finding:
    """The largest number of images that expose one training patient: a number, with no interval.

    A permutation test cannot judge it: the most exposed patient is in train with probability l / (l + n)
    anyway. A test would have to assume that an honest generator's images are independent, which those of a
    generator that repeats itself are not.
    """
    is_member = test.evidence.population.is_member
    limits = [float(np.quantile(fresh.exposure, EXPOSED_QUANTILE)) for fresh in test.fresh]
    counts = images_per_cluster(test.synthetic, limits, len(is_member))
    by_chance = int(images_per_cluster(test.fresh, limits, len(is_member)).max())
    needed = _copies_needed(test, limits, by_chance)
    smallest = _for_four_of_five(needed)
    passed = smallest is not None
    controls = Controls(
        positive=_outnumbers(needed, smallest),
        negative=Control(
            passed=by_chance <= MOST_BY_CHANCE,
            description=f"of test images in place of the set at most {by_chance} expose one patient",
        ),
    )
    conclusive = passed and by_chance <= MOST_BY_CHANCE
    return Finding.measured(
        AUDIT,
        "most-copies-of-one-patient",
        value=float(counts[is_member].max()),
        baseline=float(by_chance),
        n=test.evidence.sizes(),
        controls=controls,
        power=_power(smallest),
        doubt="" if conclusive else "a control failed: the count is not reliable",
        details={"holdout": int(counts[~is_member].max()), "patients": exposure_table(test, limits, counts)},
    )


def images_per_cluster(matches: Sequence[Matches], limits: Sequence[float], clusters: int) -> Ints:
    """(clusters,) how many images expose each cluster beyond the limit of at least one space."""
    exposed = [
        np.stack([np.nonzero(found.exposure > limit)[0], found.cluster[found.exposure > limit]])
        for found, limit in zip(matches, limits, strict=True)
    ]
    pairs = np.unique(np.hstack(exposed), axis=1)
    return np.bincount(pairs[1], minlength=clusters)


def exposure_table(test: ExposureTest, limits: Sequence[float], counts: Ints) -> list[JsonValue]:
    """The most exposed training patients, as rows of the cohort; in multiples of test patients' limit."""
    population = test.evidence.population
    best = np.stack(
        [
            each.per_cluster(len(counts)) / max(limit, 1e-9)
            for each, limit in zip(test.synthetic, limits, strict=True)
        ]
    )
    exposure, space = best.max(axis=0), best.argmax(axis=0)
    order = np.argsort(-exposure, kind="stable")
    order = order[population.is_member[order] & np.isfinite(exposure[order])][:TABLE]
    return [
        {
            "row": _nearest_row(test, int(space[cluster]), int(cluster)),
            "exposure": float(exposure[cluster]),
            "images": int(counts[cluster]),
            "representation": test.spaces[space[cluster]].name,
        }
        for cluster in order
    ]


def _nearest_row(test: ExposureTest, space: int, cluster: int) -> int:
    """The row of the cohort to which the image that exposes this cluster most is nearest."""
    found = test.synthetic[space]
    place = np.where(found.cluster == cluster, found.exposure, -np.inf).argmax()
    return int(test.evidence.population.rows[found.image.flat[place]])


def _copies_needed(test: ExposureTest, limits: Sequence[float], by_chance: int) -> NDArray[np.float64]:
    """(k,) how many copies of each of some training patients outnumber chance; inf: none."""
    train, cluster = test.evidence.train, test.evidence.population.cluster
    ways = len(test.leak.ways)
    generator = test.generator.spawn(1)[0]  # independent of the level, on which the other draws depend
    rows = generator.permutation(np.flatnonzero(~pd.Series(train.patients).duplicated()))[:SAMPLED]
    found = test.match(test.leak.plant(np.repeat(train.images[rows], ways, axis=0)))
    hit = np.zeros((len(rows), ways), np.bool_)
    for matches, limit in zip(found, limits, strict=True):
        right = (matches.cluster == np.repeat(cluster[rows], ways)[:, None]) & (matches.exposure > limit)
        hit |= right.any(axis=1).reshape(hit.shape)
    seen = hit.mean(axis=1)
    needed: NDArray[np.float64] = np.divide(by_chance, seen, out=np.full(len(seen), np.inf), where=seen > 0)
    return np.floor(needed) + 1


def _for_four_of_five(needed: NDArray[np.float64]) -> int | None:
    enough = np.sort(needed)[int(np.ceil(0.8 * len(needed))) - 1]
    return int(enough) if np.isfinite(enough) else None


def _outnumbers(needed: NDArray[np.float64], smallest: int | None) -> Control | None:
    """Twice the smallest number of copies must stand out."""
    if smallest is None:
        return None
    seen = int((needed <= 2 * smallest).sum())
    what = f"{2 * smallest} lightly disturbed copies of one patient stand out for {seen} of {len(needed)}"
    return Control(passed=seen >= 0.8 * len(needed), description=what)


def _power(smallest: int | None) -> Power:
    if smallest is None:
        return Power(smallest_leak=None, description="copies of one patient do not stand out")
    return Power(
        smallest_leak=float(smallest),
        description=f"{smallest} lightly disturbed copies of one patient outnumber chance for 80 % of them",
    )
