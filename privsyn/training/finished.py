"""A finished model together with its claim, and the check that the claim names these very weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privsyn.claim.document import Claim
from privsyn.claim.reader import read_claim
from privsyn.diffusion.model import DiffusionModel
from privsyn.errors import StudyError
from privsyn.files import read_json
from privsyn.recipe import Recipe
from privsyn.training.checkpoint import load_model


@dataclass(frozen=True, eq=False)
class FinishedModel:
    """What images are drawn from, and what is promised about it.

    Attributes:
        model: the averaged weights, in eval mode on the CPU.
        recipe: that it was trained by.
        weights_sha256: of the weights file.
        claim: about exactly these weights.
    """

    model: DiffusionModel
    recipe: Recipe
    weights_sha256: str
    claim: Claim


def load_finished(model_folder: Path) -> FinishedModel:
    """Load a study's model with its claim.

    Raises:
        CheckpointError: there is no checkpoint, or the newest is broken.
        StudyError: the claim is about other weights, such as those of an earlier or another training.
    """
    file = model_folder / "privacy.json"
    claim = read_claim(read_json(file), str(file))
    model, recipe, weights_sha256 = load_model(model_folder)
    if claim.provenance.weights_sha256 != weights_sha256:
        raise StudyError(
            f"{file} is the claim of other weights than {model_folder} has: train again with --force"
        )
    return FinishedModel(model, recipe, weights_sha256, claim)
