"""A whole recipe: its sections together, and the rules that hold between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from privsyn.claim.document import UNITS, Unit
from privsyn.errors import RecipeError
from privsyn.files import json_digest
from privsyn.recipe.documents import apply_settings, parse, read_toml
from privsyn.recipe.sections import (
    IN_COLOUR,
    Data,
    Diffusion,
    Model,
    Privacy,
    Quality,
    Sample,
    Section,
    Train,
    Warmup,
)


class Recipe(Section):
    """How to train and sample, whole and checked."""

    seed: int = Field(0, ge=0, lt=2**63, description="one seed for split, weights and samples")
    data: Data
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    privacy: Privacy = Privacy()
    warmup: Warmup = Warmup()
    sample: Sample = Sample()
    quality: Quality = Quality()

    @model_validator(mode="after")
    def _check_sampling(self) -> Self:
        if self.sample.steps > self.diffusion.timesteps:
            raise ValueError("sample.steps exceeds diffusion.timesteps")
        weights = self.sample.class_weights
        if weights is not None and (
            len(weights) != len(self.data.classes) or min(weights) < 0 or not sum(weights)
        ):
            raise ValueError("sample.class_weights needs one weight >= 0 per class, not all zero")
        return self

    @model_validator(mode="after")
    def _check_guidance(self) -> Self:
        if self.sample.guidance_scale != 1 and not self.train.label_dropout:
            raise ValueError(
                "sample.guidance_scale other than 1 needs a model trained with train.label_dropout above 0: "
                "without it, nothing was learned to guide away from"
            )
        return self

    @model_validator(mode="after")
    def _check_sample_rates(self) -> Self:
        expected = self.privacy.expected_units
        if self.privacy.dp and expected is None:
            raise ValueError(
                "DP training needs privacy.expected_units: a PUBLIC estimate of the number of training "
                f"{self.privacy.unit}s. Declaring it says that anybody may know this number; sample rate, "
                "divisor and delta come from it, and the cohort is never counted for them"
            )
        if self.privacy.dp and expected is not None and self.train.batch_size > expected:
            raise ValueError(
                "train.batch_size exceeds privacy.expected_units: the sample rate would be above 1"
            )
        if self.privacy.dp and expected is not None and (self.privacy.delta or 0) >= 1 / expected:
            raise ValueError(
                "privacy.delta must be far below one in privacy.expected_units, or it allows publishing one "
                "of them in the clear: leave it out (its default is 1 / (100 expected_units)), or lower it"
            )
        if expected is not None and (self.warmup.expected_units or 0) > expected:
            raise ValueError(
                "warmup.expected_units exceeds privacy.expected_units: the sample rate would be above 1"
            )
        return self

    @model_validator(mode="after")
    def _check_warmup(self) -> Self:
        if self.warmup.covariance_noise is None:
            return self
        if not self.warmup.images:
            raise ValueError(
                "warmup.covariance_noise needs warmup.images: the covariance is around the noisy means"
            )
        if self.warmup.covariance_size > self.data.size:
            raise ValueError("warmup.covariance_size exceeds data.size: no grid is finer than the pixels")
        return self

    @model_validator(mode="after")
    def _check_training(self) -> Self:
        if self.train.tune == "attention" and self.train.init_from is None:
            raise ValueError(
                "train.tune = attention needs train.init_from: the rest of a fresh network would never learn"
            )
        if self.privacy.dp and self.train.compile is True:
            raise ValueError(
                "train.compile is for training without DP, whose passes differ in shape: leave it auto"
            )
        if self.data.channels == 1 and (coloured := IN_COLOUR.intersection(self.quality.biomarkers)):
            raise ValueError(f"quality.biomarkers: {min(coloured)} is for data.channels = 3")
        if self.privacy.dp and self.privacy.public_data:
            raise ValueError("privacy.public_data protects no patient: train without differential privacy")
        return self

    @property
    def digest(self) -> str:
        """sha256 (hex) of the resolved recipe, defaults included."""
        return json_digest(self.model_dump(mode="json"))

    def claiming(self, certain: Unit) -> Recipe:
        """The recipe with a privacy unit no coarser than `certain`, the finest that a cohort is certain of.

        Raises:
            RecipeError: the unit is finer than that, and no image: the cohort does not know such units.
        """
        unit = self.privacy.unit
        if UNITS.index(unit) < UNITS.index(certain) and unit != "image":
            raise RecipeError(
                f"privacy.unit is {unit}, and the cohort knows what belongs to one {certain}: set it to "
                f"{certain}, which protects more, or to image"
            )
        return self if unit in {certain, "image"} else self.with_settings([f"privacy.unit={certain}"])

    def with_settings(self, settings: Sequence[str]) -> Recipe:
        """This recipe with `section.key=value` assignments applied, checked again as a whole."""
        return parse(
            apply_settings(self.model_dump(mode="json", exclude_none=True), settings), Recipe, "--set"
        )


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `section.key=value` settings.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value does not fit.
    """
    return parse(apply_settings(read_toml(path), settings), Recipe, str(path))
