"""Checkpoints: safetensors and JSON, whole or absent; every tensor file is checked by its sha256 when read.

    model/checkpoints/step-000500/{model,ema,optimizer}.safetensors, state.json

No pickle: a checkpoint is data from elsewhere, and must not run as a program (docs/decisions).
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from privsyn.claim.document import DP_SGD, Mechanism, Query
from privsyn.claim.reader import read_claim, read_query
from privsyn.diffusion.interchange import CONFIG, LABEL_WEIGHTS, PIPELINE, labelled, read_diffusers
from privsyn.diffusion.model import DiffusionModel, build_model, precision_on
from privsyn.diffusion.networks import find_network
from privsyn.dp.adam import AdamBC
from privsyn.dp.dirac_canaries import add_canary_weights
from privsyn.errors import CheckpointError, PrivsynError, RecipeError
from privsyn.files import file_digest, read_json, whole_folder, write_json
from privsyn.recipe import Recipe, parse
from privsyn.recipe import Train as TrainSettings
from privsyn.strict_json import Fields, JsonObject

SCHEMA_VERSION = 2
KEEP = 2  # the newest, and one to fall back on by hand, which takes steps again that are charged again
WEIGHTS, EMA, OPTIMIZER, STATE = "model.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class State:
    """What a checkpoint says beside its tensors.

    Attributes:
        step: optimiser steps done.
        queries: every query of the private data so far, in order; empty without DP.
        reference: names this training in the ledger; random.
        init_sha256: sha256 (hex) of the weights it started from, if it did.
        canaries_sha256: commitment to the canaries that were planted, if any were.
        canary_scores: white-box scores of the canaries so far; empty where none are taken.
    """

    step: int
    recipe: Recipe
    cohort_sha256: str
    queries: tuple[Query, ...]
    reference: str
    init_sha256: str | None = None
    canaries_sha256: str | None = None
    canary_scores: tuple[float, ...] = ()

    @property
    def planned(self) -> tuple[Query, ...]:
        """The queries that will have been made when the last step is done."""
        return self.with_steps(self.recipe.train.steps).queries

    @property
    def dp_sgd(self) -> Mechanism:
        """The numbers of DP-SGD, with the steps taken so far."""
        (query,) = (query for query in self.queries if query.name == DP_SGD)
        return query.mechanism

    def with_steps(self, steps: int) -> State:
        """The state after so many steps of DP-SGD; every one counts against the budget."""
        return replace(
            self,
            queries=tuple(
                replace(query, mechanism=replace(query.mechanism, steps=steps))
                if query.name == DP_SGD
                else query
                for query in self.queries
            ),
        )


@dataclass(frozen=True)
class Training:
    """The three things that learn.

    Attributes:
        ema: the exponential moving average of `model`; what samples are drawn from.
        canary_weights: one extra weight per canary, held by the optimiser alone; only with DP.
    """

    model: DiffusionModel
    ema: DiffusionModel
    optimizer: torch.optim.Optimizer
    canary_weights: torch.nn.Parameter | None = None


def fresh_training(recipe: Recipe, device: torch.device) -> Training:
    """Weights from the recipe's seed, EMA equal to them, an optimiser without memory.

    Raises:
        RecipeError: only attention is to learn, and the network has none.
    """
    settings = recipe.train
    # on CUDA convolutions in bf16 want their channels last; on a CPU it made no difference
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    model = build_model(recipe).to(device).to(memory_format=layout)  # type: ignore[call-overload]
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    model.precision = precision_on(device, settings.precision)
    if settings.tune == "attention":
        _only_attention_learns(model, recipe)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind = AdamBC if recipe.privacy.dp and recipe.privacy.adam_bias_correction else torch.optim.AdamW
    optimizer = kind(learning, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    scored = recipe.privacy.dp and recipe.train.canaries > 0
    canary_weights = add_canary_weights(optimizer, recipe.train.canaries, device) if scored else None
    return Training(model, ema, optimizer, canary_weights)


def _only_attention_learns(model: DiffusionModel, recipe: Recipe) -> None:
    """Hold all weights but those of attention and of the class embedding (as in DP-LDM, arXiv:2305.15759)."""
    blocks = find_network(recipe.model.network).attention
    attention = [module for module in model.modules() if isinstance(module, blocks)]
    if not attention:
        raise RecipeError("train.tune is attention, and the network has none: set model.attention_levels")
    model.requires_grad_(False)
    for module in (*attention, model.network.label):
        module.requires_grad_(True)


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return checkpoints / f"step-{step:06d}"


def check_own_run(checkpoints: Path, reference: str) -> None:
    """See that all checkpoints there are of one run, so that no run touches or names those of another.

    Raises:
        CheckpointError: another training has taken the folder over.
    """
    for folder in _found(checkpoints):
        try:
            owner = str(read_json(folder / STATE)["reference"])
        except (PrivsynError, KeyError, TypeError):  # broken, and so of no run
            continue
        if owner != reference:
            raise CheckpointError(
                f"{checkpoints} now belongs to another training, so this one stops and claims nothing: "
                "see `privsyn status`"
            )


def save_checkpoint(checkpoints: Path, training: Training, state: State) -> None:
    """Write `step-NNNNNN` in one piece, then drop all but the newest.

    Raises:
        CheckpointError: the folder holds checkpoints of another run.
    """
    check_own_run(checkpoints, state.reference)
    tensors = {
        WEIGHTS: training.model.state_dict(),
        EMA: training.ema.state_dict(),
        OPTIMIZER: _flat(training.optimizer),
    }
    with whole_folder(step_folder(checkpoints, state.step), replace=True) as folder:
        for name, values in tensors.items():
            save_file({key: value.contiguous() for key, value in values.items()}, folder / name)
        digests = {name: file_digest(folder / name) for name in tensors}
        write_json(folder / STATE, _document(state, digests))
    for old in _found(checkpoints)[:-KEEP]:
        _discard(old)


def newest(checkpoints: Path) -> Path:
    """The folder of the checkpoint with the most steps.

    Raises:
        CheckpointError: there is none.
    """
    found = _found(checkpoints)
    if not found:
        raise CheckpointError(f"{checkpoints} holds no checkpoint: run `privsyn train`")
    return found[-1]


def load_state(folder: Path) -> State:
    """Read a checkpoint's state and check every file it names.

    Raises:
        CheckpointError: a file is missing, cut short or altered. Nothing falls back to an older checkpoint by
            itself, for that would quietly undo steps.
    """
    try:
        document = read_json(folder / STATE)
        if document["schema_version"] != SCHEMA_VERSION:
            raise _broken(folder, f"{STATE} is not of version {SCHEMA_VERSION}")
        for name in (WEIGHTS, EMA, OPTIMIZER):
            _check(folder, name, document["files"][name])
        return State(
            step=int(document["step"]),
            recipe=parse(document["recipe"], Recipe, str(folder / STATE)),
            cohort_sha256=str(document["cohort_sha256"]),
            queries=tuple(read_query(Fields(part, STATE)) for part in document["queries"]),
            reference=str(document["reference"]),
            init_sha256=document["init_sha256"],
            canaries_sha256=document.get("canaries_sha256"),
            canary_scores=tuple(float(score) for score in document.get("canary_scores", ())),
        )
    except CheckpointError:
        raise
    except (PrivsynError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _broken(folder, f"{STATE} cannot be used ({error})") from None


def load_training(folder: Path, state: State, device: torch.device) -> Training:
    """The training as it was when the checkpoint was written."""
    training = fresh_training(state.recipe, device)
    for module, name in ((training.model, WEIGHTS), (training.ema, EMA)):
        module.load_state_dict(load_file(folder / name, device=str(device)))
    memory = _nested(load_file(folder / OPTIMIZER, device=str(device)))
    training.optimizer.load_state_dict({**training.optimizer.state_dict(), "state": memory})
    return training


def start_from(folder: Path, training: Training, settings: TrainSettings) -> tuple[str, str | None]:
    """Begin a training with public weights: of a finished model of ours, or of a diffusers folder.

    The class embedding of ours is taken over only if there are equally many classes; all else must fit.

    Returns:
        sha256 (hex) of the weights, and the population that the ledger charged for them.

    Raises:
        RecipeError: the model is missing or broken, was not declared public, or has another
            network.
    """
    where = f"train.init_from {str(folder)!r}"
    theirs = any((folder / name).is_file() for name in (PIPELINE, CONFIG))
    try:
        start = (_of_diffusers if theirs else _of_ours)(folder, training.model)
    except PrivsynError as error:
        raise RecipeError(f"{where} cannot be used: {error}") from None
    if start.declared_public is None:
        is_public, key, cure = settings.init_is_public, "train.init_is_public", ", or declare it if you know"
    else:
        is_public, key, cure = start.declared_public, "privacy.public_data", ""
    if not is_public:
        raise RecipeError(
            f"{where}: its images were not declared public ({key}), so starting from it would spend its "
            f"patients' privacy: name another model{cure}"
        )
    try:
        training.model.load_state_dict(start.weights)
        training.ema.load_state_dict(start.weights)
    except RuntimeError:
        raise RecipeError(
            f"{where} is another network: [model], data.size and data.channels must be those that it was "
            "trained with"
        ) from None
    return start.sha256, start.population


@dataclass(frozen=True)
class _Start:
    """Weights to start from.

    Attributes:
        declared_public: what the claim beside them declares of their images; None if there is no claim.
        population: that the ledger charged for them.
    """

    weights: dict[str, Tensor]
    sha256: str
    declared_public: bool | None
    population: str | None = None


def _of_ours(folder: Path, wanted: DiffusionModel) -> _Start:
    """Weights of a finished model; a claim about other weights declares nothing."""
    model, _, digest = load_model(folder)
    file = folder / "privacy.json"
    claim = read_claim(read_json(file), str(file))
    weights, ours = model.state_dict(), wanted.state_dict()
    if weights.keys() >= ours.keys() and weights[LABEL_WEIGHTS].shape != ours[LABEL_WEIGHTS].shape:
        weights[LABEL_WEIGHTS] = ours[LABEL_WEIGHTS]
    if claim.provenance.weights_sha256 != digest:
        return _Start(weights, digest, declared_public=False)
    return _Start(weights, digest, claim.public_data, claim.ledger.population if claim.ledger else None)


def _of_diffusers(folder: Path, wanted: DiffusionModel) -> _Start:
    """The same of a diffusers folder; a claim comes with an export of ours alone."""
    imported, file = read_diffusers(folder), folder / "privacy.json"
    declared = None
    if file.is_file():
        declared = Fields(read_json(file), str(file)).document.get("public_data") is True
    return _Start(labelled(imported, wanted.null_label), imported.sha256, declared)


def load_model(model_folder: Path) -> tuple[DiffusionModel, Recipe, str]:
    """The EMA weights of the newest checkpoint below `study.model`, ready to sample from, on the CPU.

    Returns:
        The model in eval mode, the recipe it was trained by, and the sha256 (hex) of its weights file.

    Raises:
        CheckpointError: there is no checkpoint, or the newest is broken.
    """
    folder = newest(model_folder / "checkpoints")
    state = load_state(folder)
    model = build_model(state.recipe)
    model.load_state_dict(load_file(folder / EMA))
    return model.eval().requires_grad_(False), state.recipe, file_digest(folder / EMA)


def _document(state: State, digests: Mapping[str, str]) -> JsonObject:
    return {
        "schema_version": SCHEMA_VERSION,
        "step": state.step,
        "recipe": state.recipe.model_dump(mode="json"),
        "cohort_sha256": state.cohort_sha256,
        "queries": [query.to_dict() for query in state.queries],
        "reference": state.reference,
        "init_sha256": state.init_sha256,
        "canaries_sha256": state.canaries_sha256,
        "canary_scores": list(state.canary_scores),
        "files": dict(digests),
    }


def _found(checkpoints: Path) -> list[Path]:
    return sorted(path for path in checkpoints.glob("step-*") if path.is_dir())


def _discard(folder: Path) -> None:
    """Remove a checkpoint so that none is ever found in part."""
    doomed = folder.with_name(f".partial-{folder.name}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _check(folder: Path, name: str, digest: str) -> None:
    path = folder / name
    if not path.is_file():
        raise _broken(folder, f"{name} is missing")
    if file_digest(path) != digest:
        raise _broken(folder, f"{name} is cut short or was altered")


def _broken(folder: Path, fault: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: {fault}; put the folder back from a backup, or train again with `privsyn train --force`"
    )


def _flat(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    memory = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in memory.items() for key, value in values.items()}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    memory: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        index, key = name.split(".")
        memory.setdefault(int(index), {})[key] = value
    return memory
