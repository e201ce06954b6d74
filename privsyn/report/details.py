"""The parts of a finding's `details` that the internal report draws; checked, because plug-ins write them."""

from __future__ import annotations

from typing import Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeInt,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from privsyn.auditing.findings import Finding
from privsyn.errors import StudyError

Kind = TypeVar("Kind")


class _Detail(BaseModel):
    model_config = ConfigDict(frozen=True)


class NearestImages(_Detail):
    """One entry of `details["pairs"]`: a synthetic image and the real ones nearest to it."""

    synthetic: NonNegativeInt
    train: NonNegativeInt
    train_distance: float
    holdout: NonNegativeInt
    holdout_distance: float
    mirrored: bool = False


class RocCurve(_Detail):
    """`details["roc"]`: rates in [0, 1], point by point."""

    fpr: list[float] = Field(min_length=1)
    tpr: list[float]

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.fpr) != len(self.tpr):
            raise ValueError("fpr and tpr differ in length")
        return self


class FeaturePlane(_Detail):
    """`details["map"]`: images as points of a plane, with the class of each."""

    real: list[tuple[FiniteFloat, FiniteFloat]] = Field(min_length=1)
    real_labels: list[NonNegativeInt]
    synthetic: list[tuple[FiniteFloat, FiniteFloat]] = Field(min_length=1)
    synthetic_labels: list[NonNegativeInt]

    @model_validator(mode="after")
    def _labelled(self) -> Self:
        for points, labels in ((self.real, self.real_labels), (self.synthetic, self.synthetic_labels)):
            if len(points) != len(labels):
                raise ValueError("points and labels differ in length")
        return self


class NetworkInfo(_Detail):
    """`details["network"]`: the network that embedded the images, and the size at which it saw them.

    Attributes:
        sha256: of its weights; "" where there are none.
        size: side in pixels to which images are resized for it; `None` if they are not resized.
    """

    network: str
    sha256: str = ""
    size: NonNegativeInt | None = None
    resize: str = ""
    dimension: NonNegativeInt | None = None


def read(finding: Finding, key: str, kind: type[Kind]) -> Kind | None:
    """Parse `finding.details[key]` as a `kind`; `None` if the key is missing.

    Raises:
        StudyError: the value has another shape.
    """
    if key not in finding.details:
        return None
    try:
        return TypeAdapter(kind).validate_python(finding.details[key])
    except ValidationError as error:
        raise StudyError(
            f"details[{key!r}] of {finding.audit} cannot be shown: {error.errors()[0]['msg']}"
        ) from None
