"""The model that drew a synthetic set, and what may be done with it in an audit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.claim.document import Claim
from privsyn.diffusion.model import DiffusionModel
from privsyn.training.canaries import Canaries


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
    """Train a new model by the recipe of the one under audit on rows (n,) of the cohort; INTERNAL."""

    def __call__(self, rows: NDArray[np.int64], *, seed: int) -> DiffusionModel: ...


@dataclass(frozen=True)
class Shadows:
    """How many shadow models to train, and the function that trains one."""

    count: int
    train: TrainShadow


@dataclass(frozen=True, eq=False)
class CanaryRecord:
    """The canaries of a training, and the scores that an adversary inside of it recorded.

    Attributes:
        planted: images, labels, kinds and coins, checked against the commitment.
        white_box: (m,) scores from the noised sums, high = in; `None` without DP.
    """

    planted: Canaries
    white_box: NDArray[np.float64] | None


@dataclass(frozen=True, eq=False)
class ModelUnderAudit:
    """What is known of the model; every field is `None` for a set of unknown origin.

    Attributes:
        model: the generator; `None` also for an imported model, whose members are not known.
        claim: of the model, for the set under audit.
        fine_tune: makes the over-fitted model of a positive control.
        canaries: of the model's training, if any were planted.
        shadows: models of the same recipe to train, if any were asked for.
    """

    model: DiffusionModel | None = None
    claim: Claim | None = None
    fine_tune: FineTune | None = None
    canaries: CanaryRecord | None = None
    shadows: Shadows | None = None


UNKNOWN_ORIGIN = ModelUnderAudit()
