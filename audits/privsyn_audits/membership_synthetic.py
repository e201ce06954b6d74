"""Does the synthetic set reveal which patients were in train and which were held out?

Threat: synthetic set only. No single attack dominates, so several are declared in advance:

`gan-leaks`      nearer to the set than to real references (Chen et al. 2020, calibrated,
                 https://arxiv.org/abs/1909.03935)
`density-ratio`  likelier under the set than under the references (DOMIAS, van Breugel et al. 2023,
                 https://arxiv.org/abs/2302.12580), by kernel densities of principal components
`discriminator`  classified as synthetic by a classifier of set against references
`linear`         along the shift of the set's class mean from the population's: the optimal attack on a
                 generator that only adds noise to the mean (Dwork et al. 2015,
                 https://doi.org/10.1109/FOCS.2015.46); it finds what no distance can see

References are `test` patients, so that train and holdout are equally unseen. The population's means and
components are taken over train and holdout together, so they do not depend on who is in train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privsyn.auditing.attacks.membership import (
    Attacks,
    AttackScores,
    ControlTrial,
    FindingContext,
    Statistic,
    findings,
)
from privsyn.auditing.attacks.null_hypothesis import NullHypothesis
from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Finding, Settings
from privsyn.auditing.population import MembershipPopulation
from privsyn.auditing.statistics.density import log_density
from privsyn.bit_depth import Images
from privsyn.features.embed import FeatureRows
from privsyn.features.neighbours import Neighbours, nearest, nearest_after

NAME = "membership-synthetic"
AUDIT = AuditId(NAME, "2", "synthetic-only")
REPRESENTATIONS = ("pixels", "lite0-mid")
DISCRIMINATOR_COMPONENTS = 24  # that discriminators see
DENSITY_COMPONENTS = 8  # a kernel density in more dimensions is all noise
BLOCK = 256  # copies are embedded and kept so many at a time; a multiple of the ways to disturb
WHITENED = 256  # components of pixels along which the whitened linear attack looks

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PlantedEmbeddings:
    """Copies of training images that replace some images of the set.

    Attributes:
        places: (k,) rows of the replaced images.
        copies, turned: (k, d) by view, embeddings of the copies and of their mirror images.
        labels: (k,) of the copies.
    """

    places: NDArray[np.int64]
    copies: Mapping[str, FeatureRows]
    turned: Mapping[str, FeatureRows]
    labels: NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR of the strongest attack, train against holdout."""
    generator = evidence.generator(NAME, settings)
    attacker = _Attacker(evidence)
    is_member = evidence.population.is_member
    scores = evidence.computed(f"{NAME}, scores", lambda: attacker.scores(None))
    context = FindingContext(
        audit=AUDIT,
        n=evidence.sizes(),
        positive=lambda statistic, smallest: attacker.planted(statistic, smallest, settings),
        negative=_placebo(scores, is_member, generator),
        blind=NullHypothesis(evidence).control(settings.control_level),
    )
    return findings(_sides(scores, evidence.population), context, settings)


class _Attacker:
    """The attacks, with what they know of population and references independently of the set."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.population = evidence, evidence.population
        self.label = np.concatenate([evidence.train.labels, evidence.holdout.labels])

    @cached_property
    def views(self) -> list[_Representation]:
        return [_Representation(name, self.evidence) for name in REPRESENTATIONS]

    def scores(self, planted: PlantedEmbeddings | None) -> dict[str, Scores]:
        """(clusters,) scores of every attack on the set; a cluster counts by its most member-like image."""
        found, labels = {}, self.evidence.synthetic.labels
        if planted is not None:
            labels = labels.copy()
            labels[planted.places] = planted.labels
        for view in self.views:
            rows = view.drawn(planted)
            found[f"gan-leaks on {view.name}"] = view.gan_leaks(planted)
            found[f"density-ratio on {view.name}"] = view.density_ratio(rows)
            found[f"discriminator on {view.name}"] = view.discriminator(rows)
            found[f"linear on {view.name}"] = linear(view.rows, self.label, rows, labels)
        pixels = self.views[0]
        drawn = pixels.whitened(pixels.drawn(planted))
        found["linear on whitened pixels"] = linear(pixels.whitened(pixels.rows), self.label, drawn, labels)
        return {name: self._per_cluster(each) for name, each in found.items()}

    def planted(self, statistic: Statistic, smallest: float, settings: Settings) -> ControlTrial | None:
        """The attacks on the set with copies of twice as many patients as can be detected."""
        train, synthetic = self.evidence.train, self.evidence.synthetic
        wanted = int(np.ceil(2 * statistic.given_away(smallest) * len(np.unique(train.patients))))
        size = min(wanted, len(train.images), len(synthetic.images))
        scores = self.evidence.computed(
            f"{NAME}, {size} planted, seed {settings.seed}",
            lambda: self.scores(self._copies(size, self.evidence.generator(f"{NAME}, planted", settings))),
        )
        what = f"{size} {LIGHT.name} planted into the set"
        return ControlTrial(_sides(scores, self.population), what)

    def _copies(self, size: int, generator: np.random.Generator) -> PlantedEmbeddings:
        """The first `size` copies in a fixed order, so that embeddings for other sizes are reused."""
        train = self.evidence.train
        rows, places = (generator.permutation(len(each.labels)) for each in (train, self.evidence.synthetic))
        blocks = [
            LIGHT.plant(train.images[rows[start : start + BLOCK]]) for start in range(0, max(size, 1), BLOCK)
        ]

        def placed(view: _Representation, turned: bool) -> FeatureRows:
            sides = (block[:, :, ::-1] if turned else block for block in blocks)
            return np.concatenate([view.embed(side) for side in sides])[:size]

        return PlantedEmbeddings(
            places[:size],
            {view.name: placed(view, turned=False) for view in self.views},
            {view.name: placed(view, turned=True) for view in self.views},
            train.labels[rows[:size]],
        )

    def _per_cluster(self, scores: Scores) -> Scores:
        most = np.full(len(self.population.is_member), -np.inf)
        np.maximum.at(most, self.population.cluster, scores)
        return most


@dataclass(frozen=True, eq=False)
class _Representation:
    """One representation of population, references and set."""

    name: str
    evidence: Evidence

    @cached_property
    def embed(self) -> Callable[[Images], FeatureRows]:
        return self.evidence.representation(self.name)

    @cached_property
    def rows(self) -> FeatureRows:
        """(n, d) of the population."""
        return self.embed(self.evidence.population.images)

    @cached_property
    def references(self) -> FeatureRows:
        """(r, d) of the test images."""
        return self.embed(self.evidence.test.images)

    @cached_property
    def _set(self) -> FeatureRows:
        """(2 m, d) the set, then its mirror images."""
        images = self.evidence.synthetic.images
        return np.concatenate([self.embed(images), self.embed(images[:, :, ::-1])])

    def drawn(self, planted: PlantedEmbeddings | None) -> FeatureRows:
        """(m, d) the set, with what was planted."""
        rows = self._set[: len(self._set) // 2]
        if planted is not None:
            rows = rows.copy()
            rows[planted.places] = planted.copies[self.name]
        return rows

    def gan_leaks(self, planted: PlantedEmbeddings | None) -> Scores:
        """log of the distance to the references over that to the set, mirror images included."""
        found = self._nearest
        if planted is not None:
            gone = np.concatenate([planted.places, planted.places + len(self._set) // 2])
            added = np.concatenate([planted.copies[self.name], planted.turned[self.name]])
            found = nearest_after(found, self.rows, self._set, gone, added)
        return self._from_references - _logs(found.distances)

    def density_ratio(self, rows: FeatureRows) -> Scores:
        """log density under the set minus that under the references."""
        return self._log_density(rows) - self._under_references

    def discriminator(self, rows: FeatureRows) -> Scores:
        """Log odds of being synthetic, by a classifier of set against references."""
        some = [np.asarray(self._components(side), np.float64) for side in (rows, self.references)]
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
        )
        classifier.fit(np.concatenate(some), np.repeat([1, 0], [len(side) for side in some]))
        odds: Scores = classifier.decision_function(np.asarray(self._components(self.rows), np.float64))
        return odds

    def whitened(self, rows: FeatureRows) -> FeatureRows:
        """(k, 256) components of equal variance in the population."""
        scale = np.sqrt(self._principal(WHITENED)["variance"])
        scale = np.maximum(scale, np.finfo(scale.dtype).eps)  # where nothing varies, as scikit-learn has it
        return np.asarray(self._components(rows, WHITENED) / scale, np.float32)

    def _log_density(self, rows: FeatureRows) -> Scores:
        """Of the population, under kernels around these rows."""
        around, at = (self._components(side)[:, :DENSITY_COMPONENTS] for side in (rows, self.rows))
        return log_density(np.asarray(around, np.float64), np.asarray(at, np.float64))

    @cached_property
    def _under_references(self) -> Scores:
        name = f"{NAME}, density of references in {self.name}"
        return self.evidence.kept(name, lambda: {"logs": self._log_density(self.references)})["logs"]

    @cached_property
    def _from_references(self) -> Scores:
        def compute() -> Arrays:
            turned = self.embed(self.evidence.test.images[:, :, ::-1])
            return {"logs": _logs(nearest(self.rows, np.concatenate([self.references, turned]), 1).distances)}

        return self.evidence.kept(f"{NAME}, references nearest in {self.name}", compute)["logs"]

    @cached_property
    def _nearest(self) -> Neighbours:
        def compute() -> Arrays:
            return vars(nearest(self.rows, self._set, 1))

        return Neighbours(**self.evidence.computed(f"{NAME}, nearest in {self.name}", compute))

    def _components(self, rows: FeatureRows, components: int = DISCRIMINATOR_COMPONENTS) -> FeatureRows:
        fitted = self._principal(components)
        return (rows - fitted["mean"]) @ fitted["axes"].T

    def _principal(self, components: int) -> Arrays:
        def compute() -> Arrays:
            most = min(components, len(self.rows) // 2, self.rows.shape[1])
            fitted = PCA(max(most, 1), random_state=0).fit(self.rows)
            return {"mean": fitted.mean_, "axes": fitted.components_, "variance": fitted.explained_variance_}

        return self.evidence.kept(f"{NAME}, {components} components of {self.name}", compute)


def linear(
    rows: FeatureRows,
    labels: NDArray[np.int64],
    drawn: FeatureRows,
    drawn_labels: NDArray[np.int64],
    centre: float | None = None,
) -> Scores:
    """<x - c, mean of the set - c> / |x - c| for each row x (n, d), by class.

    For vectors N(0, I) whose mean over n members is released, centre 0, its AUC is Phi(sqrt(d / n) / sqrt 2)
    (`docs/audits.md`). With the population's mean as the centre c it is at least that, because c also
    includes those who are NOT in the set. A class without synthetic images is compared with the whole set.
    """
    scores = np.empty(len(rows))
    for label in np.unique(labels):
        here, there = labels == label, drawn_labels == label
        middle = rows[here].mean(axis=0, dtype=np.float64) if centre is None else centre
        shift = drawn[there if there.any() else slice(None)].mean(axis=0, dtype=np.float64) - middle
        away = rows[here] - middle
        scores[here] = away @ shift / np.maximum(np.linalg.norm(away, axis=1), 1e-12)
        scores[here] /= max(float(np.linalg.norm(shift)), 1e-12)
    return scores


def _logs(distances: NDArray[np.float64]) -> Scores:
    logs: Scores = np.log(np.maximum(distances[:, 0], 1e-6))
    return logs


def _sides(scores: dict[str, Scores], population: MembershipPopulation) -> Attacks:
    """Those whom a coin put into train against holdout."""
    members = population.is_member & ~population.is_pinned
    return {name: AttackScores(each[members], each[~population.is_member]) for name, each in scores.items()}


def _placebo(
    scores: dict[str, Scores], is_member: NDArray[np.bool_], generator: np.random.Generator
) -> ControlTrial:
    """Half of the holdout in place of the members, against the other half."""
    held_out = generator.permutation(np.flatnonzero(~is_member))
    half = len(held_out) // 2
    sides = {
        name: AttackScores(each[held_out[:half]], each[held_out[half:]]) for name, each in scores.items()
    }
    return ControlTrial(sides, f"{half} holdout patients in place of the members")
