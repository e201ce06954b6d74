"""The privacy claim of a model as a value: the promise, the protected unit, and the numbers behind both.

`Claim.to_document` is the only writer of `model/privacy.json`, and `claim.reader` its only reader. A claim
with a bound is a tuple of queries of private data, none of them privileged: moments, features, DP-SGD. All
in it is public by declaration or follows from public numbers, except `provenance`, `ledger` and `cumulative`,
which `Claim.public_document` leaves out. Standard library only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

from privsyn.strict_json import JsonObject

SCHEMA_VERSION = 1
WHAT = "the privacy claim"
NEIGHBOURING = "add-or-remove-one"
SAMPLING = "poisson"
DP_SGD = "dp-sgd"  # name of the query that the steps of a private training are
REPEATED = "-repeated"  # follows the name of a query some of whose steps were taken again

Unit = Literal["image", "file", "study", "patient"]
UNITS: tuple[Unit, ...] = get_args(Unit)  # the finest first

CLASS_COUNTS = "of the training images: declared public"
FILTERED = (
    "near copies were rejected by comparing with the training images, a query that the claim does not cover"
)


@dataclass(frozen=True)
class Mechanism:
    """`steps` Gaussian mechanisms on Poisson samples of the units; what an accountant needs to know.

    Attributes:
        noise_multiplier: standard deviation of the noise divided by the sensitivity of the query.
        sample_rate: chance q of every unit to be in a step; PUBLIC, not derived from private counts.
        steps: T.
    """

    noise_multiplier: float
    sample_rate: float
    steps: int

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


@dataclass(frozen=True)
class Clipping:
    """What DP-SGD states beside its noise.

    Attributes:
        clip_norm: largest norm of what one unit adds to a step.
        noise_multiplicity: diffusion noise draws per image, averaged before clipping.
        max_images_per_unit: of one unit in one step.
    """

    clip_norm: float
    noise_multiplicity: int
    max_images_per_unit: int


@dataclass(frozen=True)
class Query:
    """One query of private data.

    Attributes:
        name: `central-images`, `class-covariance`, `dp-sgd` ...
        clipping: of DP-SGD; None for a query whose sensitivity is fixed by its form.
    """

    name: str
    mechanism: Mechanism
    clipping: Clipping | None = None

    def to_dict(self) -> JsonObject:
        return {
            "name": self.name,
            **self.mechanism.to_dict(),
            **(asdict(self.clipping) if self.clipping else {}),
        }


def mechanisms(queries: Sequence[Query]) -> tuple[Mechanism, ...]:
    """What an accountant composes."""
    return tuple(query.mechanism for query in queries)


@dataclass(frozen=True)
class Accountant:
    """What computed epsilon: method, library and its version."""

    name: str
    library: str
    version: str


@dataclass(frozen=True)
class GroupEpsilon:
    """What a claim per image, file or study is worth to a patient with so many of them, at the same delta."""

    units: int
    epsilon: float
    delta: float


@dataclass(frozen=True)
class Bound:
    """A promise of differential privacy.

    Attributes:
        queries: all of them; epsilon is of their composition.
        epsilon_rdp: by Renyi-DP, a looser upper bound by other means.
        expected_units: declared number of units; PUBLIC.
        noisy_units: number of units with noise, if a query of the claim counted them.
        not_covered: what the promise does not protect, a sentence each.
        invalid: why nothing may be released on it; "" if it may.
    """

    epsilon: float
    delta: float
    epsilon_rdp: float
    queries: tuple[Query, ...]
    expected_units: int
    accountant: Accountant
    group: tuple[GroupEpsilon, ...] = ()
    not_covered: tuple[str, ...] = ()
    invalid: str = ""
    neighbouring: str = NEIGHBOURING
    sampling: str = SAMPLING
    noisy_units: float | None = None

    @property
    def units(self) -> float:
        """About how many units there are, for judging delta: the larger of what is declared and counted."""
        return max(self.expected_units, self.noisy_units or 0.0)

    def to_dict(self) -> JsonObject:
        """The last query is written as `mechanism`, all others as composed with it."""
        *others, last = self.queries
        return {
            "neighbouring": self.neighbouring,
            "epsilon": self.epsilon,
            "delta": self.delta,
            "epsilon_rdp": self.epsilon_rdp,
            "mechanism": {
                **last.to_dict(),
                "sampling": self.sampling,
                "expected_units": self.expected_units,
                **({} if self.noisy_units is None else {"noisy_units": self.noisy_units}),
                "composed": [query.to_dict() for query in others],
            },
            "accountant": asdict(self.accountant),
            "group": [asdict(each) for each in self.group],
            "not_covered": list(self.not_covered),
            "valid_for_release": not self.invalid,
            "reason": self.invalid,
        }


@dataclass(frozen=True)
class PublicQuantities:
    """What a claim treats as known to everybody.

    Attributes:
        classes: names.
        size, channels: of an image, in pixels.
        value_range: lowest and highest level.
        hyper_parameters: which recipe, by digest; "" where it is not known.
        expected_units: declared; None without a bound.
        init_sha256: of weights that were declared public and that the training started from.
        class_counts: the exact class counts of the training images were declared public, and the set follows
            them; of a set alone.
    """

    classes: tuple[str, ...]
    size: int
    channels: int
    value_range: tuple[int, int]
    hyper_parameters: str = ""
    expected_units: int | None = None
    init_sha256: str | None = None
    class_counts: bool = False

    def to_dict(self) -> JsonObject:
        document: JsonObject = {
            "classes": list(self.classes),
            "size": self.size,
            "channels": self.channels,
            "value_range": list(self.value_range),
        }
        if self.hyper_parameters:
            document["hyper_parameters"] = self.hyper_parameters
        if self.expected_units is not None:
            document["expected_units"] = self.expected_units
        if self.init_sha256 is not None:
            document["init_from"] = {"weights_sha256": self.init_sha256, "declaration": "public"}
        if self.class_counts:
            document["class_counts"] = CLASS_COUNTS
        return document


@dataclass(frozen=True)
class ModelProvenance:
    """Which files a model came from; INTERNAL.

    Attributes:
        cohort_fingerprint, cohort_sha256: None for an imported model.
        weights_sha256: of the averaged weights that are sampled from.
        steps_done: optimiser steps in them.
        imported_sha256: of the file that an imported model came from.
    """

    recipe_sha256: str
    cohort_fingerprint: str | None
    cohort_sha256: str | None
    weights_sha256: str
    steps_done: int
    imported_sha256: str | None = None

    def to_dict(self) -> JsonObject:
        document: JsonObject = asdict(self)
        if self.imported_sha256 is None:
            del document["imported_sha256"]
        return document


@dataclass(frozen=True)
class CanaryCommitment:
    """Canaries of a training; the digest of them and their coins was written before its first step."""

    planted: int
    commitment: str
    statement: str


@dataclass(frozen=True)
class LedgerEntry:
    """Where a training is recorded: the newest entry of it, and the hash of that entry."""

    population: str
    entry: int
    head: str


@dataclass(frozen=True)
class CumulativeCost:
    """What several trainings on a population cost one unit of it together.

    Attributes:
        epsilon: by PLD, rounded up; None if nothing bounds it.
        epsilon_rdp: by RDP, looser. Both hold for a sequence of trainings that was fixed beforehand; for
            trainings chosen by looking at earlier ones, only a grant that was set first is a guarantee.
        delta: at which both hold; None if no training of this kind named one.
        charges: trainings in it.
        finite: whether there is a bound at all.
        note: what the reader must know beside the number.
    """

    unit: str
    neighbouring: str
    epsilon: float | None
    epsilon_rdp: float | None
    delta: float | None
    charges: int
    finite: bool
    note: str

    def to_dict(self) -> JsonObject:
        return asdict(self)


@dataclass(frozen=True)
class Claim:
    """The privacy claim of a model.

    Attributes:
        unit: what is protected, or would be.
        statement: the promise, or that there is none, in one sentence.
        bound: None where nothing bounds what the model reveals.
        public_data: the images were declared public, and nothing is promised to anybody.
        imported: the model was trained elsewhere, on unknown images.
        provenance, ledger, cumulative: INTERNAL.
    """

    unit: Unit
    statement: str
    public: PublicQuantities
    provenance: ModelProvenance
    bound: Bound | None = None
    public_data: bool = False
    imported: bool = False
    canaries: CanaryCommitment | None = None
    ledger: LedgerEntry | None = None
    cumulative: CumulativeCost | None = None

    @property
    def kind(self) -> Literal["dp", "none"]:
        return "none" if self.bound is None else "dp"

    @property
    def is_valid(self) -> bool:
        """Whether there is a bound on which images may be released."""
        return self.bound is not None and not self.bound.invalid

    def of_set(self, *, near_copies_rejected: bool, exact_class_counts: bool = False) -> Claim:
        """The claim for a set drawn from the model: void where the training images were looked at again.

        Args:
            exact_class_counts: the set has the class proportions of the training images, declared public.
        """
        public = replace(self.public, class_counts=exact_class_counts)
        if self.bound is None or not near_copies_rejected:
            return replace(self, public=public)
        earlier = self.bound.invalid.removesuffix(".")
        reason = f"{earlier}; {FILTERED}" if earlier else FILTERED
        return replace(self, public=public, bound=replace(self.bound, invalid=reason))

    def to_document(self) -> JsonObject:
        """`model/privacy.json`."""
        document: JsonObject = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "unit": self.unit,
            "statement": self.statement,
            "public": self.public.to_dict(),
            "public_data": self.public_data,
            "ledger": None if self.ledger is None else asdict(self.ledger),
            "cumulative": None if self.cumulative is None else self.cumulative.to_dict(),
            "provenance": self.provenance.to_dict(),
            **({} if self.bound is None else self.bound.to_dict()),
        }
        if self.imported:
            document["imported"] = True
        if self.canaries is not None:
            document["canaries"] = asdict(self.canaries)
        return document

    def public_document(self) -> JsonObject:
        """What of it may leave: not its provenance, nor the ledger's view of other studies."""
        document: JsonObject = {
            "kind": self.kind,
            "unit": self.unit,
            "public": self.public.to_dict(),
            **({} if self.bound is None else self.bound.to_dict()),
        }
        return {**document, "imported": True} if self.imported else document
