"""The null hypothesis of every membership test: patients were put into train and holdout at random.

Under it every permutation of the member labels within a stratum is equally likely. Whether it is plausible at
all is tested without the model, by the blind baseline (`privsyn.auditing.statistics.blind_baseline`).
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control
from privsyn.auditing.statistics.blind_baseline import (
    BlindBaseline,
    BlindClassifier,
    appearance_components,
)
from privsyn.auditing.statistics.permutation import Labels, permuted_members

PERMUTATIONS = 9_999  # of the members, for exact tests


class NullHypothesis:
    """Permutations of the members, and how well train is told from holdout without the model."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.population = evidence, evidence.population

    @cached_property
    def appearance(self) -> NDArray[np.float64]:
        """(clusters, k) principal components of the images of each cluster of the population."""
        of = self.population

        def compute() -> Arrays:
            rows = self.evidence.embedding("lite0-mid", of.images)
            return {"appearance": appearance_components(rows, of.cluster)}

        return self.evidence.kept("looks", compute)["appearance"]

    @cached_property
    def member_labels(self) -> Labels:
        """(clusters, 10,000) which clusters are members (1): in truth, then in permutations within strata.

        The permutations are the same for every audit, policy and seed.
        """
        of = self.population

        def compute() -> Arrays:
            generator = np.random.default_rng([0, *b"members redrawn"])
            labels = permuted_members(of.is_member, of.strata, PERMUTATIONS, generator)
            return {"bits": np.packbits(labels.view(np.bool_), axis=1)}

        bits = self.evidence.kept("members redrawn", compute)["bits"]
        return np.unpackbits(bits, axis=1, count=PERMUTATIONS + 1).view(np.int8)

    @cached_property
    def classifier(self) -> BlindClassifier:
        """Guesses from the images alone which patients are in train."""
        generator = np.random.default_rng([0, *b"blind folds"])
        return BlindClassifier.of(self.appearance, self.population.strata, generator)

    @cached_property
    def blind_baseline(self) -> BlindBaseline:
        """Its scores for the true members, and its AUC for permuted ones."""
        is_member, labels = self.population.is_member, self.member_labels

        def compute() -> Arrays:
            return {"aucs": self.classifier.aucs(labels)}

        chance = self.evidence.kept("blind guess", compute)["aucs"][1:]
        scores = self.classifier.scores(labels[:, :1])[:, 0]
        return BlindBaseline(scores[is_member], scores[~is_member], chance)

    def control(self, level: float) -> Control:
        """Train and holdout cannot be told apart without the model, as every membership test assumes."""
        p_value = self.blind_baseline.p_value(self.blind_baseline.auc)
        what = f"train against holdout by their images alone: p {p_value:.2g}"
        return Control(passed=p_value > level, description=what, p_value=p_value)
