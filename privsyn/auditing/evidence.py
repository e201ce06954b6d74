"""What an audit is given and what it returns: the whole interface of a plug-in.

An audit is a function behind an entry point of the group `privsyn.audits`:

    def run(evidence: Evidence, settings: Settings) -> list[Finding]

See audits/README.md for one in 30 lines. It is long, and one module all the same: a plug-in imports its whole
interface from here, and most of the length is what the fields and methods mean.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.cache import Arrays, Cache, depending
from privsyn.auditing.findings import Control, Finding, Settings
from privsyn.auditing.statistics.blind_baseline import BlindClassifier, BlindGuess, appearance
from privsyn.auditing.statistics.permutation import redrawn_members
from privsyn.bit_depth import Images
from privsyn.claim.document import Claim
from privsyn.cohort.cohort import Cohort, Part, units_of_parts
from privsyn.cohort.split import patient_strata
from privsyn.diffusion.model import DiffusionModel
from privsyn.errors import PrivsynError
from privsyn.features.embed import CHEAP, EMBEDDINGS, Embedding, Floats, Told, Whitening, told
from privsyn.features.inference import OpenNetwork
from privsyn.progress import SILENT, Progress
from privsyn.synthetic.dataset import SyntheticSet
from privsyn.training.canaries import Canaries

FEW = 16  # images are as quick to embed as to look up
PERMUTATIONS = 9_999  # of the members, for exact tests


class FineTune(Protocol):
    """Train a copy of a model on a few images, without DP: the leak that a model audit must find."""

    def __call__(
        self,
        model: DiffusionModel,
        images: Images,
        labels: NDArray[np.int64],
        *,
        steps: int,
        learning_rate: float = ...,
        seed: int,
    ) -> DiffusionModel: ...


class TrainShadow(Protocol):
    """Train a fresh model by the recipe of the one under audit on rows (n,) of the cohort; INTERNAL."""

    def __call__(self, rows: NDArray[np.int64], *, seed: int) -> DiffusionModel: ...


@dataclass(frozen=True)
class Shadows:
    """How many shadow models were asked for, and what trains one."""

    count: int
    train: TrainShadow


@dataclass(frozen=True, eq=False)
class CanaryRecord:
    """The canaries of a training, and what an adversary inside of it read about them.

    Attributes:
        planted: pictures, labels, kinds and coins, checked against the commitment.
        white_box: (m,) scores from the noised sums, high = in; `None` without DP.
    """

    planted: Canaries
    white_box: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class Population:
    """The patients among whom members were drawn: train and holdout together.

    Attributes:
        images: (n, H, W, C); first all of train, then all of holdout.
        rows: (n,) row of each image in the cohort.
        unit: (n,) unit of each image, 0 to units - 1. A unit is a patient, or several who share an image.
        is_member: (units,) True in train.
        strata: (units,) label within which members were drawn at random.
    """

    images: Images
    rows: NDArray[np.int64]
    unit: NDArray[np.int64]
    is_member: NDArray[np.bool_]
    strata: NDArray[np.int64]


class Evidence:
    """What an audit may look at, computed on first use and shared by all audits of a run.

    The three parts of the cohort have one use each: `train` are the members, `holdout` the non-members of
    every test, `test` serves calibration and negative controls and never stands in for non-members.

    Args:
        cohort: the prepared real images.
        synthetic: the set under audit.
        model: the generator, if there is one.
        claim: of the model, if there is one.
        fine_tune: makes the over-fitted model of a positive control.
        canaries: of the model's training, if any were planted.
        shadows: models of the same recipe to train, if any were asked for.
        biomarkers: names of those that the recipe asks for, beyond what every image has.
        networks: that the policy names; embeddings beside the built-in ones.
        cache: keeps what is dear to compute; None keeps it in memory.
    """

    def __init__(
        self,
        cohort: Cohort,
        synthetic: SyntheticSet,
        *,
        model: DiffusionModel | None = None,
        claim: Claim | None = None,
        fine_tune: FineTune | None = None,
        canaries: CanaryRecord | None = None,
        shadows: Shadows | None = None,
        biomarkers: Sequence[str] = (),
        networks: Sequence[OpenNetwork] = (),
        cache: Cache | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.canaries = canaries
        self.cohort, self.synthetic = cohort, synthetic
        self.model, self.claim, self.fine_tune = model, claim, fine_tune
        self.shadows = shadows
        self.biomarkers = tuple(biomarkers)
        self._networks = {network.name: network for network in networks}
        self.progress = progress
        self.cache = cache or Cache(None, {})
        self._embedded: dict[str, dict[bytes, Floats]] = {}
        self._grown: dict[str, set[bytes]] = {}  # images of each embedding that the cache does not have

    def about(self, synthetic: SyntheticSet) -> Evidence:
        """The same evidence about another synthetic set; what was computed of the cohort is kept."""
        other = copy.copy(self)
        other.synthetic = synthetic
        return other

    @cached_property
    def train(self) -> Part:
        return self.cohort.part("train")

    @cached_property
    def holdout(self) -> Part:
        return self.cohort.part("holdout")

    @cached_property
    def test(self) -> Part:
        return self.cohort.part("test")

    @cached_property
    def population(self) -> Population:
        """Train and holdout as one population with its permutation units."""
        train, holdout = self.train, self.holdout
        images = np.concatenate([train.images, holdout.images])
        labels = np.concatenate([train.labels, holdout.labels])
        unit = units_of_parts(train, holdout)
        is_member = np.zeros(unit.max() + 1, dtype=np.bool_)
        is_member[unit[: len(train.images)]] = True
        strata = np.array(list(patient_strata(labels, unit).values()), dtype=np.int64)
        return Population(images, np.concatenate([train.rows, holdout.rows]), unit, is_member, strata)

    def units(self, part: str) -> NDArray[np.int64]:
        """(n,) what the split moved together with each image of a part, as in `population`."""
        train = len(self.train.labels)
        if part == "test":
            return units_of_parts(self.test)
        return self.population.unit[:train] if part == "train" else self.population.unit[train:]

    @cached_property
    def looks(self) -> NDArray[np.float64]:
        """(units, k) what somebody sees of each unit of the population who knows nothing else."""
        of = self.population

        def compute() -> Arrays:
            return {"looks": appearance(self.embedding("lite0-mid", of.images), of.unit)}

        return self.kept("looks", compute)["looks"]

    @cached_property
    def blind(self) -> BlindClassifier:
        """Guesses who is in train from the images alone."""
        generator = np.random.default_rng([0, *b"blind folds"])
        return BlindClassifier.of(self.looks, self.population.strata, generator)

    @cached_property
    def blind_guess(self) -> BlindGuess:
        """What it guesses, and what it would of members drawn anew."""
        is_member = self.population.is_member
        chance = self.kept("blind guess", lambda: {"aucs": self.blind.aucs(self.redrawn)})["aucs"][1:]
        scores = self.blind.scores(self.redrawn[:, :1])[:, 0]
        return BlindGuess(scores[is_member], scores[~is_member], chance)

    @cached_property
    def redrawn(self) -> NDArray[np.int8]:
        """(units, 10,000) who is a member (1): in truth, then in random draws within strata.

        The draws are the same for every audit, policy and seed.
        """
        of = self.population

        def compute() -> Arrays:
            generator = np.random.default_rng([0, *b"members redrawn"])
            labels = redrawn_members(of.is_member, of.strata, PERMUTATIONS, generator)
            return {"bits": np.packbits(labels.view(np.bool_), axis=1)}

        bits = self.kept("members redrawn", compute)["bits"]
        return np.unpackbits(bits, axis=1, count=PERMUTATIONS + 1).view(np.int8)

    def alike(self, level: float) -> Control:
        """Train and holdout are alike to the blind guess; what every membership finding rests on."""
        guess = self.blind_guess
        p_value = guess.p_value(guess.auc)
        what = f"train against holdout by their images alone: p {p_value:.2g}"
        return Control(passed=p_value > level, description=what, p_value=p_value)

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the embeddings that the policy brings along, in its order."""
        return tuple(self._networks)

    def told(self, name: str) -> Told:
        """What a reader must know to compare numbers in an embedding: network, sha256, size, resizing."""
        self._embedder(name)
        return self._networks[name].told() if name in self._networks else told(name)

    def embedding(self, name: str, images: Images) -> Floats:
        """Rows (n, d) of an embedding, built in or of `networks`; an image embedded before is not again.

        Raises:
            PrivsynError: no embedding has that name.
        """
        embedder, key = self._embedder(name), self._key(name)
        if name in CHEAP or not len(images):
            return embedder(images, self.progress)
        if key not in self._embedded:
            self._embedded[key] = _rows_by_digest(self.cache.read(key))
        known = self._embedded[key]
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {digest: row for row, digest in enumerate(digests) if digest not in known}
        if new:
            rows = embedder(images[list(new.values())], self.progress)
            known.update(zip(new, rows, strict=True))
            self._grown.setdefault(key, set()).update(new)
        return np.stack([known[digest] for digest in digests])

    def _embedder(self, name: str) -> Embedding:
        known: dict[str, Embedding] = {**EMBEDDINGS, **self._networks}
        if name not in known:
            raise PrivsynError(f"no embedding is called {name!r}: choose from {', '.join(known)}")
        return known[name]

    def _key(self, name: str) -> str:
        """What rows are kept under: another network of the same name has another."""
        return self._networks[name].network.key if name in self._networks else name

    def representation(self, name: str) -> Callable[[Images], Floats]:
        """The embedding as distances are taken in it: whitened on `test` patients, who are on neither side.

        What is cheap, pixels, stays as it is.
        """
        if name in CHEAP:
            return partial(self.embedding, name)
        key = self._key(name)

        def fit() -> Arrays:
            return vars(Whitening.fit(self.embedding(name, self.test.images)))

        def place(images: Images) -> Floats:
            def compute() -> Arrays:
                return {"rows": whitening(self.embedding(name, images))}

            known = self.kept(f"{key}, whitened", compute, images) if len(images) > FEW else compute()
            return known["rows"]

        whitening = Whitening(**self.kept(f"whitening of {key}", fit))
        return place

    def keep_embeddings(self) -> None:
        """Write the embeddings of the cohort to the cache, if any are new."""
        sides = (self.population.images, self.test.images)
        wanted = {hashlib.sha256(image.tobytes()).digest() for side in sides for image in side}
        for key in sorted(key for key, new in self._grown.items() if new & wanted):
            known = self._embedded[key]
            there = sorted(wanted & known.keys())
            digests = np.frombuffer(b"".join(there), np.uint8).reshape(-1, 32)
            self.cache.write(key, {"digests": digests, "rows": np.stack([known[each] for each in there])})
        self._grown.clear()

    def kept(self, name: str, compute: Callable[[], Arrays], *depends: NDArray[Any]) -> Arrays:
        """Arrays that are dear to compute, computed once for cohort and model. Do not change them.

        Args:
            name: says what they depend on in words and numbers: attack, seed, part; never a policy's level.
            depends: arrays on which they depend, by content.
        """
        return self.cache.arrays(depending(name, *depends), compute)

    def computed(self, name: str, compute: Callable[[], Arrays], *depends: NDArray[Any]) -> Arrays:
        """The same of what depends on the synthetic set too: on its pixels and labels."""
        return self.kept(name, compute, *depends, self.synthetic.images, self.synthetic.labels)

    def generator(self, audit: str, settings: Settings) -> np.random.Generator:
        """A random generator of an audit's own: one seed gives one result, whatever else runs."""
        return np.random.default_rng([settings.seed, *audit.encode()])

    def sizes(self) -> dict[str, int]:
        """Images and patients on every side, for `Finding.n`."""
        sizes = {"synthetic_images": len(self.synthetic.images)}
        for name, part in (("train", self.train), ("holdout", self.holdout), ("test", self.test)):
            sizes[f"{name}_images"] = len(part.images)
            sizes[f"{name}_patients"] = len(np.unique(part.patients))
        return sizes


def _rows_by_digest(stored: Arrays | None) -> dict[bytes, Floats]:
    if stored is None:
        return {}
    return {digest.tobytes(): row for digest, row in zip(stored["digests"], stored["rows"], strict=True)}


Audit = Callable[[Evidence, Settings], list[Finding]]
