"""What an audit may look at: parts of the cohort, the synthetic set, the model, and cached computation.

An audit is a function behind an entry point of the group `privsyn.audits`:

    def run(evidence: Evidence, settings: Settings) -> list[Finding]

See audits/README.md for one in 30 lines. What it returns is in `privsyn.auditing.findings`, what attacks on
membership share in `privsyn.auditing.attacks`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.cache import Arrays, Cache
from privsyn.auditing.embeddings import Embeddings
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.model_under_audit import (
    UNKNOWN_ORIGIN,
    CanaryRecord,
    FineTune,
    ModelUnderAudit,
    Shadows,
)
from privsyn.auditing.population import MembershipPopulation
from privsyn.bit_depth import Images
from privsyn.claim.document import Claim
from privsyn.cohort.cohort import Cohort, Part, clusters_of_parts
from privsyn.diffusion.model import DiffusionModel
from privsyn.features.embed import EmbeddingInfo, FeatureRows
from privsyn.features.inference import OpenNetwork
from privsyn.progress import SILENT, Progress
from privsyn.synthetic.dataset import SyntheticSet


class Evidence:
    """What an audit may look at, computed on first use and shared by all audits of a run.

    The three parts of the cohort have one use each: `train` are the members, `holdout` the non-members of
    every test, `test` serves calibration and negative controls and never stands in for non-members.

    Args:
        cohort: the prepared real images.
        synthetic: the set under audit.
        under_audit: the model that drew the set, if it is known.
        biomarkers: names of those that the recipe asks for, beyond what every image has.
        networks: that the policy names; embeddings beside the built-in ones.
        cache: keeps what is expensive to compute; None keeps it in memory.
    """

    def __init__(
        self,
        cohort: Cohort,
        synthetic: SyntheticSet,
        under_audit: ModelUnderAudit = UNKNOWN_ORIGIN,
        *,
        biomarkers: Sequence[str] = (),
        networks: Sequence[OpenNetwork] = (),
        cache: Cache | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.cohort, self.synthetic, self.under_audit = cohort, synthetic, under_audit
        self.biomarkers = tuple(biomarkers)
        self.cache, self.progress = cache or Cache(None, {}), progress
        self._embeddings = Embeddings(networks, self.cache, progress)

    def about(self, synthetic: SyntheticSet) -> Evidence:
        """The same evidence about another synthetic set; what was computed of the cohort is kept."""
        other = copy.copy(self)
        other.synthetic = synthetic
        return other

    @property
    def model(self) -> DiffusionModel | None:
        """The generator; None if the set comes without one, or with an imported one."""
        return self.under_audit.model

    @property
    def claim(self) -> Claim | None:
        """The privacy claim for the set; None if its generator is not known."""
        return self.under_audit.claim

    @property
    def fine_tune(self) -> FineTune | None:
        """Makes the over-fitted model of a positive control."""
        return self.under_audit.fine_tune

    @property
    def canaries(self) -> CanaryRecord | None:
        """Canaries of the model's training, if any were planted."""
        return self.under_audit.canaries

    @property
    def shadows(self) -> Shadows | None:
        """Shadow models to train, if any were asked for."""
        return self.under_audit.shadows

    @cached_property
    def train(self) -> Part:
        """The members."""
        return self.cohort.part("train")

    @cached_property
    def holdout(self) -> Part:
        """The non-members."""
        return self.cohort.part("holdout")

    @cached_property
    def test(self) -> Part:
        """For calibration and negative controls."""
        return self.cohort.part("test")

    @cached_property
    def population(self) -> MembershipPopulation:
        """Train and holdout together, with the clusters that permutation tests permute."""
        return MembershipPopulation.of(self.cohort.images, self.train, self.holdout)

    def part(self, name: str) -> Part:
        """`train`, `holdout` or `test`, by name."""
        part: Part = getattr(self, name)
        return part

    def clusters(self, part: str) -> NDArray[np.int64]:
        """(n,) cluster of each image of a part: what the split moved together, as in `population`."""
        if part == "test":
            return clusters_of_parts(self.test)
        members = len(self.train.labels)
        return self.population.cluster[:members] if part == "train" else self.population.cluster[members:]

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the embeddings that the policy brings along, in its order."""
        return self._embeddings.networks

    def embedding_info(self, name: str) -> EmbeddingInfo:
        """What a reader must know to compare numbers in an embedding: network, sha256, size, resizing."""
        return self._embeddings.info(name)

    def embedding(self, name: str, images: Images) -> FeatureRows:
        """(n, d) rows of an embedding, built in or of `networks`; each image is embedded once.

        Raises:
            PrivsynError: no embedding has that name.
        """
        return self._embeddings.rows(name, images)

    def representation(self, name: str) -> Callable[[Images], FeatureRows]:
        """The embedding in which distances are taken: whitened on `test` patients, who are in neither group.

        Pixels stay as they are.
        """
        return self._embeddings.whitened(name, self.test.images)

    def keep_embeddings(self) -> None:
        """Write the embeddings of the cohort to the cache, if any are new."""
        self._embeddings.save(self.population.images, self.test.images)

    def kept(self, name: str, compute: Callable[[], Arrays], *depends: NDArray[np.generic]) -> Arrays:
        """Arrays that are expensive to compute, computed once for cohort and model. Do not change them.

        Args:
            name: says what they depend on in words and numbers: attack, seed, part; never a policy's level.
            depends: arrays on which they depend, by content.
        """
        return self.cache.kept(name, compute, *depends)

    def computed(self, name: str, compute: Callable[[], Arrays], *depends: NDArray[np.generic]) -> Arrays:
        """The same for what also depends on the pixels and labels of the synthetic set."""
        return self.kept(name, compute, *depends, self.synthetic.images, self.synthetic.labels)

    def generator(self, audit: str, settings: Settings) -> np.random.Generator:
        """A random generator of an audit's own: one seed gives one result, whatever else runs."""
        return np.random.default_rng([settings.seed, *audit.encode()])

    def sizes(self) -> dict[str, int]:
        """Images and patients of the set and of each part, for `Finding.n`."""
        sizes = {"synthetic_images": len(self.synthetic.images)}
        for name, part in (("train", self.train), ("holdout", self.holdout), ("test", self.test)):
            sizes[f"{name}_images"] = len(part.images)
            sizes[f"{name}_patients"] = len(np.unique(part.patients))
        return sizes


Audit = Callable[[Evidence, Settings], list[Finding]]
