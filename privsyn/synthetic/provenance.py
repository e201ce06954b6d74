"""Provenance of a synthetic set: model, sampler and seed. Shipped in every shard; holds nothing private."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from privsyn.errors import Refused, SyntheticError
from privsyn.strict_json import Fields, JsonObject

GENERATOR = "privsyn"
ClassCounts = Literal["declared", "noisy", "exact, declared public"]
CLASS_COUNTS: tuple[ClassCounts, ...] = get_args(ClassCounts)
Scalar = bool | int | float | str | None


@dataclass(frozen=True)
class Provenance:
    """The model, sampler and seed that drew a set.

    Attributes:
        version: of privsyn.
        model_sha256: of the averaged weights that it was drawn from.
        recipe_sha256: of the recipe that the model was trained by.
        seed: of sampling.
        count: images.
        near_copies_rejected: the training images were looked at again, which voids a DP claim.
        class_counts: where the class proportions came from: what was declared, balanced by default; the noisy
            counts that the warm-up paid for; or the exact counts of the training images, which no DP claim
            protects.
        sampling: sampler and its settings, by their names in `[sample]` of a recipe.
    """

    version: str
    model_sha256: str
    recipe_sha256: str
    seed: int
    count: int
    near_copies_rejected: bool
    class_counts: ClassCounts
    sampling: Mapping[str, Scalar]
    generator: str = GENERATOR

    @property
    def exact_class_counts(self) -> bool:
        """Whether the set follows the exact class counts of the training images."""
        return self.class_counts == "exact, declared public"

    def to_dict(self) -> JsonObject:
        """One flat object, as every shard carries it."""
        return {
            "generator": self.generator,
            "version": self.version,
            "model_sha256": self.model_sha256,
            "recipe_sha256": self.recipe_sha256,
            "seed": self.seed,
            **self.sampling,
            "count": self.count,
            "near_copies_rejected": self.near_copies_rejected,
            "class_counts": self.class_counts,
        }

    def public_dict(self) -> JsonObject:
        """What a public report shows of it; recipe and count stand there elsewhere."""
        document = self.to_dict()
        for name in ("recipe_sha256", "count"):
            del document[name]
        return document


_OWN = frozenset(Provenance.__dataclass_fields__) - {"sampling"}


def read_provenance_of(document: Any, where: str) -> Provenance:
    """Parse what a shard says of its origin.

    Args:
        where: the shard, named in messages.

    Raises:
        SyntheticError: it is not what this version writes.
    """
    try:
        fields = Fields(document, f"the provenance in {where}")
        if fields.text("generator") != GENERATOR:
            fields.refuse("is of another generator")
        sampling = {key: value for key, value in fields.document.items() if key not in _OWN}
        if not all(isinstance(value, Scalar) for value in sampling.values()):
            fields.refuse("has a setting that is not a number, a text, true, false or null")
        return Provenance(
            version=fields.text("version"),
            model_sha256=fields.digest("model_sha256"),
            recipe_sha256=fields.digest("recipe_sha256"),
            seed=fields.integer("seed", least=0),
            count=fields.integer("count", least=1),
            near_copies_rejected=fields.flag("near_copies_rejected"),
            class_counts=fields.choice("class_counts", CLASS_COUNTS),
            sampling=sampling,
        )
    except Refused as refusal:
        raise SyntheticError(f"{refusal}: draw the set again with `privsyn sample`") from None
