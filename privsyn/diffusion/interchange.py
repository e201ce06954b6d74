"""Reads networks that diffusers saved; nothing is imported from diffusers, and no pickle is opened.

`interchange_unet` converts the network and its weights, `interchange_process` the schedule, in both
directions and exactly. Two things differ: here the last row of the class embedding stands for "class not
given", and images whose size is not a multiple of 2^(levels - 1) are padded with zeros, right and below, in
every pass; with diffusers the caller must do that (docs/diffusers.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from privsyn.diffusion.interchange_process import process_settings
from privsyn.diffusion.interchange_unet import from_diffusers, unet_settings
from privsyn.errors import CheckpointError, PrivsynError, RecipeError
from privsyn.files import file_digest, read_json
from privsyn.strict_json import JsonObject

PIPELINE, CONFIG, SCHEDULER = "model_index.json", "config.json", "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
LABEL_WEIGHTS = "network.label.weight"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclass(frozen=True)
class Imported:
    """A network that diffusers saved, as sections of a recipe and weights.

    Attributes:
        settings: sections of a recipe: `data` (channels, and size if it is known), `model`, and `diffusion`
            (learned_variance and, if there was a scheduler, timesteps, schedule and target).
        weights: name in `DiffusionModel` (`network. ...`) to float32 tensor. The class embedding,
            `LABEL_WEIGHTS`, has `classes` rows and is missing if that is 0: `labelled` makes it fit.
        classes: rows of the class embedding, 0 if the network knows no classes.
        sha256: of the weights file (hex).
    """

    settings: dict[str, JsonObject]
    weights: dict[str, Tensor]
    classes: int
    sha256: str


def read_diffusers(folder: Path) -> Imported:
    """Read a pipeline's folder (`model_index.json`) or that of a `UNet2DModel` alone (`config.json`).

    Sampling settings (variance, clipping, spacing of steps) are ignored: `[sample]` of the recipe has them.

    Raises:
        RecipeError: our network or process cannot express it; the field is named.
        CheckpointError: the weights are missing, broken, in parts, or a pickle.
        PrivsynError: a file is missing or not JSON.
    """
    unet, scheduler = _parts(folder)
    config = _document(unet / CONFIG)
    settings = unet_settings(config, str(unet / CONFIG))
    if scheduler is not None:
        settings["diffusion"] |= process_settings(
            _document(scheduler / SCHEDULER),
            str(scheduler / SCHEDULER),
            learned_variance=settings["diffusion"]["learned_variance"] is True,
        )
    file = _weights_file(unet)
    try:
        theirs = load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} is broken ({error}): fetch or save it again") from None
    weights = from_diffusers(theirs, config, str(file))
    return Imported(settings, weights, len(weights.get(LABEL_WEIGHTS, ())), file_digest(file))


def labelled(imported: Imported, classes: int) -> dict[str, Tensor]:
    """The weights for a recipe with so many classes: the class embedding gets `classes` + 1 rows.

    `classes` + 1 rows are taken as they are, the last for "class not given". If only that one is missing, it
    becomes the mean of the others: a guess that was never trained, so guidance means little. A network
    without classes gets rows of zeros: it predicts the same for every class until it is trained.

    Raises:
        RecipeError: the network knows another number of classes.
    """
    rows = imported.weights.get(LABEL_WEIGHTS)
    if rows is None:
        rows = torch.zeros(classes + 1, imported.weights["network.time.2.bias"].shape[0])
    elif len(rows) == classes:
        rows = torch.cat([rows, rows.mean(dim=0, keepdim=True)])
    elif len(rows) != classes + 1:
        raise RecipeError(
            f"the network has {len(rows)} class embeddings (num_class_embeds), and data.classes names "
            f"{classes}: name {len(rows)} classes, or {len(rows) - 1} if its last embedding stands for "
            '"class not given"'
        )
    return imported.weights | {LABEL_WEIGHTS: rows}


def _parts(folder: Path) -> tuple[Path, Path | None]:
    """Where the network and the scheduler are."""
    if (folder / PIPELINE).is_file():
        index = _document(folder / PIPELINE)
        filled = [name for name, part in index.items() if isinstance(part, Sequence) and any(part)]
        parts = [name for name in filled if not name.startswith("_")]
        strange = sorted(set(parts) - {"unet", "scheduler"})
        if strange or "unet" not in parts:
            raise RecipeError(
                f"{folder / PIPELINE}: a pipeline with {', '.join(strange) or 'no unet'}, and ours have a "
                "unet and a scheduler alone, for pixels and without text: use another model"
            )
        return folder / "unet", folder / "scheduler" if "scheduler" in parts else None
    if (folder / CONFIG).is_file():
        return folder, None
    raise PrivsynError(
        f"{folder} has neither {PIPELINE} nor {CONFIG}: name a folder that save_pretrained of diffusers wrote"
    )


def _document(path: Path) -> JsonObject:
    document = read_json(path)
    if not isinstance(document, Mapping):
        raise PrivsynError(f"{path} is not a JSON object: fetch or save it again")
    return dict(document)


def _weights_file(unet: Path) -> Path:
    """The one safetensors file.

    Raises:
        CheckpointError: there is none; the message says how to convert what there is.
    """
    if (unet / WEIGHTS).is_file():
        return unet / WEIGHTS
    again = 'in Python with diffusers: UNet2DModel.from_pretrained("FOLDER").save_pretrained("NEW"'
    if (unet / f"{WEIGHTS}.index.json").is_file():
        raise CheckpointError(
            f'{unet}: the weights are in several files: save them as one {again}, max_shard_size="100GB")'
        )
    pickles = sorted(path.name for path in unet.iterdir() if path.suffix in PICKLES) if unet.is_dir() else []
    if pickles:
        raise CheckpointError(
            f"{unet / pickles[0]} is a pickle, which can run as a program when it is opened, so it is not "
            f"read: if you trust it, save it as {WEIGHTS}, {again})"
        )
    raise CheckpointError(f"{unet} has no {WEIGHTS}: save it again, {again})")
