"""Does the synthetic set tell its training patients from patients who were held out?

Threat: synthetic set only. No single attack dominates, so several were declared beforehand:

`gan-leaks`      nearer to the set than to real references (Chen et al. 2020, calibrated,
                 https://arxiv.org/abs/1909.03935)
`density-ratio`  likelier under the set than under the references (DOMIAS, van Breugel et al. 2023,
                 https://arxiv.org/abs/2302.12580), by kernel densities of principal components
`discriminator`  taken for synthetic by a classifier of set against references
`linear`         along the shift of the set's class mean from the population's: the optimal attack on a
                 generator that only adds noise to the mean (Dwork et al. 2015,
                 https://doi.org/10.1109/FOCS.2015.46); it finds what no distance can see

References are `test` patients, so that train and holdout are equally unseen. The population's means and
components are taken over train and holdout together: they cannot know who is in train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from privsyn.audit.contract import Evidence, Finding, Settings
from privsyn.audit.membership import Attacks, Question, Sides, Statistic, Trial, findings
from privsyn.audit.plant import LIGHT
from privsyn.features.embed import Floats, Images
from privsyn.features.neighbours import nearest

NAME, VERSION = "membership-synthetic", "1"
REPRESENTATIONS = ("pixels", "lite0-mid")
COMPONENTS = 24  # that discriminators see
DENSITY_COMPONENTS = 8  # a kernel density in more dimensions is all noise
WHITENED = 256  # components of pixels along which the whitened linear attack looks

Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Drawn:
    """A synthetic set, or one with copies planted into it."""

    images: Images
    labels: NDArray[np.int64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR of the strongest attack, train against holdout."""
    generator = evidence.generator(NAME, settings)
    attacker = _Attacker(evidence)
    is_member = evidence.population.is_member
    scores = attacker.scores(Drawn(evidence.synthetic.images, evidence.synthetic.labels))
    question = Question(
        audit=NAME,
        version=VERSION,
        threat="synthetic-only",
        n=evidence.sizes(),
        positive=lambda statistic, smallest: attacker.planted(statistic, smallest, generator),
        negative=_placebo(scores, is_member, generator),
        blind=evidence.alike(settings.control_level),
    )
    return findings(_sides(scores, is_member), question, settings)


class _Attacker:
    """The population, the references, and what the attacks know of them whatever the set is."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.population = evidence, evidence.population
        self.views = [_View.of(name, evidence) for name in REPRESENTATIONS]
        self.label = np.concatenate([evidence.train.labels, evidence.holdout.labels])

    def scores(self, drawn: Drawn) -> dict[str, Scores]:
        """(units,) scores of every attack; a unit counts by its most member-like image."""
        found = {}
        for view in self.views:
            rows = view.embed(drawn.images)
            found[f"gan-leaks on {view.name}"] = view.nearer(rows, view.embed(drawn.images[:, :, ::-1]))
            found[f"density-ratio on {view.name}"] = view.likelier(rows)
            found[f"discriminator on {view.name}"] = view.taken_for(rows)
            found[f"linear on {view.name}"] = linear(view.rows, self.label, rows, drawn.labels)
        pixels = self.views[0]
        whitened = pixels.whitened
        found["linear on whitened pixels"] = linear(
            whitened(pixels.rows), self.label, whitened(pixels.embed(drawn.images)), drawn.labels
        )
        return {name: self._per_unit(each) for name, each in found.items()}

    def planted(self, statistic: Statistic, smallest: float, generator: np.random.Generator) -> Trial | None:
        """The attacks on the set with copies planted of twice as many patients as are seen."""
        train, synthetic = self.evidence.train, self.evidence.synthetic
        wanted = int(np.ceil(2 * statistic.given_away(smallest) * len(np.unique(train.patients))))
        size = min(wanted, len(train.images), len(synthetic.images))
        rows = generator.choice(len(train.images), size, replace=False)
        places = generator.choice(len(synthetic.images), size, replace=False)
        images, labels = synthetic.images.copy(), synthetic.labels.copy()
        images[places], labels[places] = LIGHT.plant(train.images[rows]), train.labels[rows]
        scores = self.scores(Drawn(images, labels))
        what = f"{size} {LIGHT.name} planted into the set"
        return Trial(_sides(scores, self.population.is_member), what)

    def _per_unit(self, scores: Scores) -> Scores:
        most = np.full(len(self.population.is_member), -np.inf)
        np.maximum.at(most, self.population.unit, scores)
        return most


@dataclass(frozen=True, eq=False)
class _View:
    """One representation of population and references.

    Attributes:
        rows: (n, d) the population's.
        references: (r, d) test images'; `turned` their mirror images'.
    """

    name: str
    embed: Callable[[Images], Floats]
    rows: Floats
    references: Floats
    turned: Floats

    @classmethod
    def of(cls, name: str, evidence: Evidence) -> _View:
        embed, test = evidence.representation(name), evidence.test.images
        return cls(name, embed, embed(evidence.population.images), embed(test), embed(test[:, :, ::-1]))

    def nearer(self, rows: Floats, turned: Floats) -> Scores:
        """log of the distance to the references over that to the set, mirror images included."""
        return self._from_references - _log_distance(self.rows, rows, turned)

    def likelier(self, rows: Floats) -> Scores:
        """log density under the set minus that under the references."""
        return self._log_density(rows) - self._under_references

    def taken_for(self, rows: Floats) -> Scores:
        """Log odds of being synthetic, by a classifier of set against references."""
        some = [self._components(side) for side in (rows, self.references)]
        classifier = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
        )
        classifier.fit(np.concatenate(some), np.repeat([1, 0], [len(side) for side in some]))
        odds: Scores = classifier.decision_function(self._components(self.rows))
        return odds

    @cached_property
    def whitened(self) -> Callable[[Floats], Floats]:
        fitted = self._pca(WHITENED, whiten=True)
        return lambda rows: np.asarray(fitted.transform(rows), np.float32)

    def _log_density(self, rows: Floats) -> Scores:
        """Of the population, under kernels around these rows."""
        around, at = (self._components(side)[:, :DENSITY_COMPONENTS].T for side in (rows, self.rows))
        density: Scores = stats.gaussian_kde(around).logpdf(at)
        return density

    @cached_property
    def _under_references(self) -> Scores:
        return self._log_density(self.references)

    @cached_property
    def _from_references(self) -> Scores:
        return _log_distance(self.rows, self.references, self.turned)

    @cached_property
    def _components(self) -> Callable[[Floats], Scores]:
        fitted = self._pca(COMPONENTS)
        return lambda rows: np.asarray(fitted.transform(rows), np.float64)

    def _pca(self, components: int, whiten: bool = False) -> PCA:
        most = min(components, len(self.rows) // 2, self.rows.shape[1])
        return PCA(max(most, 1), whiten=whiten, random_state=0).fit(self.rows)


def linear(
    rows: Floats,
    labels: NDArray[np.int64],
    drawn: Floats,
    drawn_labels: NDArray[np.int64],
    centre: float | None = None,
) -> Scores:
    """<x - c, mean of the set - c> / |x - c| for each row x (n, d), by class, the mean leaving nobody out.

    For vectors N(0, I) whose mean over n members is released, centre 0, its AUC is Phi(sqrt(d / n) / sqrt 2)
    (`docs/audits.md`). With the population's mean as the centre c it is at least that, for c also holds who
    is NOT in the set. A class of which the set has none is compared with the whole set.
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


def _log_distance(rows: Floats, *sides: Floats) -> Scores:
    distances = np.min([nearest(rows, side, 1).distances[:, 0] for side in sides], axis=0)
    logs: Scores = np.log(np.maximum(distances, 1e-6))
    return logs


def _sides(scores: dict[str, Scores], is_member: NDArray[np.bool_]) -> Attacks:
    return {name: Sides(each[is_member], each[~is_member]) for name, each in scores.items()}


def _placebo(
    scores: dict[str, Scores], is_member: NDArray[np.bool_], generator: np.random.Generator
) -> Trial:
    """Half of the holdout in place of the members, against the other half."""
    held_out = generator.permutation(np.flatnonzero(~is_member))
    half = len(held_out) // 2
    sides = {name: Sides(each[held_out[:half]], each[held_out[half:]]) for name, each in scores.items()}
    return Trial(sides, f"{half} holdout patients in place of the members")
