"""Exports a model to a folder that diffusers loads, and imports one; see docs/diffusers.md.

`export` also hands the other formats, which are of the synthetic set, to `layout`.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from privsyn import __version__
from privsyn.bit_depth import DTYPES, white
from privsyn.claim.document import SCHEMA_VERSION, Claim
from privsyn.claim.words import figures, why_none
from privsyn.diffusion.interchange import (
    CONFIG,
    PIPELINE,
    SCHEDULER,
    WEIGHTS,
    Imported,
    labelled,
    read_diffusers,
)
from privsyn.diffusion.interchange_process import scheduler_config
from privsyn.diffusion.interchange_unet import LAYOUT, to_diffusers, unet_config
from privsyn.errors import PrivsynError, RecipeError, StudyError
from privsyn.exchange.layout import MODEL_FORMAT, export_set
from privsyn.files import file_digest, whole_folder, write_json, write_text
from privsyn.recipe import Model, Recipe
from privsyn.strict_json import JsonObject
from privsyn.study import Study, as_study
from privsyn.training.checkpoint import EMA, State, fresh_training, newest, save_checkpoint
from privsyn.training.claiming import imported_claim
from privsyn.training.finished import load_finished
from privsyn.training.loop import resolved_recipe

CARD, CLAIM = "README.md", "privacy.json"


def export(
    study: Study | Path | str,
    *,
    format: str = MODEL_FORMAT,  # noqa: A002 - the name of the option
    out: Path | str,
    force: bool = False,
) -> Path:
    """Write the study's finished model (its EMA weights), or its synthetic set, as a folder for another tool.

    The folder is as internal as what is in it, unless its claim and those who govern the data allow more.

    Args:
        format: "diffusers": the model, as `DiffusionPipeline.from_pretrained` loads it. "imagefolder",
            "webdataset" or "dicom": the synthetic set, see `privsyn.exchange.layout.export_set`.
        out: the folder to write, whole or not at all.
        force: replace what was exported there in the same format.

    Returns:
        The folder.

    Raises:
        StudyError: there is no finished model or no set, or the model's claim is of other weights.
        RecipeError: the format cannot express the model.
        PrivsynError: the format is unknown, or `out` exists.
    """
    study, out = as_study(study), Path(out)
    if format != MODEL_FORMAT:
        export_set(study, format=format, out=out, force=force)
        return out
    study.need(study.privacy_file, "train")
    finished = load_finished(study.model)
    model, recipe, claim = finished.model, finished.recipe, finished.claim
    if out.exists() and force and not all((out / name).is_file() for name in (PIPELINE, CLAIM)):
        raise PrivsynError(f"{out} is not an exported model, so it is not replaced: choose another place")
    with whole_folder(out, replace=force) as folder:
        for name, document in _documents(recipe, claim).items():
            write_json(folder / name, document)
        save_file(to_diffusers(model.state_dict()), folder / "unet" / WEIGHTS, {"format": "pt"})
        write_text(folder / CARD, _card(recipe, claim))
    return out


def _documents(recipe: Recipe, claim: Claim) -> dict[str, JsonObject]:
    """The JSON files of an exported model by their path."""
    return {
        PIPELINE: {
            "_class_name": "DDPMPipeline",
            "_diffusers_version": LAYOUT,
            "unet": ["diffusers", "UNet2DModel"],
            "scheduler": ["diffusers", "DDPMScheduler"],
        },
        f"unet/{CONFIG}": unet_config(recipe),
        f"scheduler/{SCHEDULER}": scheduler_config(recipe),
        CLAIM: {
            **claim.public_document(),
            "schema_version": SCHEMA_VERSION,
            "statement": claim.statement,
            "public_data": claim.public_data,
        },
    }


def import_model(folder: Path | str, study: Study | Path | str, *, force: bool = False) -> Claim:
    """Make a network that diffusers saved the study's model, to be sampled from.

    How it was trained is not known: the claim is `none`, the ledger is not charged, and no other
    model may start from it as from public weights.

    Args:
        folder: of a pipeline, or of a `UNet2DModel` alone; of the process of the latter nothing is known, and
            `[diffusion]` of the recipe must be right.
        force: replace the model that the study has.

    Returns:
        The privacy claim: none.

    Raises:
        StudyError: there is a model already.
        RecipeError: it cannot be one of our networks, or not the recipe's; says what to write into it.
        CheckpointError: the weights cannot be used.
        PrivsynError: a file is missing or not JSON.
    """
    study, folder = as_study(study), Path(folder)
    with study.exclusively("import"):
        if study.model.exists() and not force:
            raise StudyError(f"{study.model} already exists: pass --force to replace it")
        recipe = study.recipe(["privacy.dp=false"])
        imported = read_diffusers(folder)
        _check_fit(imported, recipe, folder)
        training = fresh_training(recipe, torch.device("cpu"))
        weights = labelled(imported, len(recipe.data.classes))
        for module in (training.model, training.ema):
            module.load_state_dict(weights)
        # No cohort has this digest, so an imported model cannot be resumed.
        state = State(0, recipe, "imported", (), secrets.token_hex(16), imported.sha256)
        with whole_folder(study.model, replace=force) as partial:
            checkpoints = partial / study.checkpoints.name
            save_checkpoint(checkpoints, training, state)
            weights_sha256 = file_digest(newest(checkpoints) / EMA)
            claim = imported_claim(recipe, weights_sha256=weights_sha256, source_sha256=imported.sha256)
            write_json(partial / study.resolved_recipe_file.name, resolved_recipe(recipe))
            write_json(partial / study.privacy_file.name, claim.to_document())
        return claim


def _check_fit(imported: Imported, recipe: Recipe, folder: Path) -> None:
    """See that the recipe describes the network and, as far as it is known, its process.

    Raises:
        RecipeError: it does not; says what to write into it.
    """
    ours, theirs = _facts(recipe.model), _facts(Model(**imported.settings["model"]))
    for section, part in (("data", recipe.data), ("diffusion", recipe.diffusion)):
        for key, value in imported.settings[section].items():
            ours[f"{section}.{key}"], theirs[f"{section}.{key}"] = getattr(part, key), value
    changes = [_assignment(key, value) for key, value in theirs.items() if ours[key] != value]
    if changes:
        raise RecipeError(f"recipe.toml does not describe {folder}: it needs {', '.join(changes)}")
    classes = len(recipe.data.classes)
    if not imported.classes and classes > 1:
        raise RecipeError(
            f"{folder} knows no classes, so labels of {classes} classes would mean nothing: name one class "
            "in data.classes, or train from it (train.init_from)"
        )


def _facts(model: Model) -> dict[str, Any]:
    """What of `[model]` decides the network, each value in one spelling."""
    values = model.model_dump(exclude={"dropout"})
    values["blocks"] = model.blocks_per_level
    values["attention_levels"] = tuple(sorted(set(model.attention_levels)))
    return {f"model.{key}": value for key, value in values.items()}


def _assignment(key: str, value: Any) -> str:
    return f"no {key}" if value is None else f"{key} = {json.dumps(value)}"


def _card(recipe: Recipe, claim: Claim) -> str:
    """The model card; class names stand in a fenced block, one JSON string a line, so none can close it."""
    classes = recipe.data.classes
    return _CARD.format(
        version=__version__,
        size=recipe.data.size,
        kind="grey" if recipe.data.channels == 1 else "RGB",
        bits=recipe.data.bit_depth,
        classes="\n".join(f"{label}: {json.dumps(name)}" for label, name in enumerate(classes)),
        null=len(classes),
        claim=_claim_in_words(claim),
        loop=loop("PATH/OF/THIS/FOLDER", min(50, recipe.diffusion.timesteps), recipe.data.bit_depth),
    )


def _claim_in_words(claim: Claim) -> str:
    if claim.bound is None:
        return f"No bound is claimed. {claim.statement}\n\n{_INTERNAL}"
    if not claim.is_valid:
        return f"No valid bound is claimed: {why_none(claim)}\n\n{_INTERNAL}"
    bound = f"Differential privacy for the {claim.unit} ({claim.bound.neighbouring}): {figures(claim.bound)}."
    return f"{bound} {claim.statement} It holds for the weights, whatever is done with them.\n\n{_BOUNDED}"


def loop(folder: str, steps: int, bit_depth: int = 8) -> str:
    """The Python program that samples with labels from an exported folder; docs/diffusers.md shows it."""
    dtype = DTYPES[bit_depth]
    return _LOOP.format(folder=folder, steps=steps, half=white(dtype) / 2, dtype=dtype)


_INTERNAL = (
    "**This folder is INTERNAL**, as confidential as the images it was trained on, unless those who govern "
    "them allow more: the weights of a model without differential privacy can reveal patients, and whole "
    "training images have been drawn out of diffusion models (Carlini et al. 2023, https://arxiv.org/abs/2301.13188)."
)
_BOUNDED = (
    "**This folder is INTERNAL** until those who govern the data allow more: the bound says how much it can "
    "reveal, and not that anybody has agreed to it. `privacy.json` has all parameters, and what the bound "
    "does not cover."
)
_LOOP = """\
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("{folder}")
unet, scheduler, side = pipeline.unet, pipeline.scheduler, pipeline.unet.config.sample_size
pad = -side % 2 ** (len(unet.config.block_out_channels) - 1)  # 0 for most sizes
labels, generator = torch.tensor([0, 1]), torch.Generator().manual_seed(0)
total, steps = scheduler.config.num_train_timesteps, {steps}
scheduler.set_timesteps(timesteps=[round(total - i * total / steps) - 1 for i in range(steps)])
x = torch.randn(len(labels), unet.config.in_channels, side, side, generator=generator)
for t in scheduler.timesteps:
    with torch.no_grad():
        said = unet(torch.nn.functional.pad(x, (0, pad, 0, pad)), t, class_labels=labels).sample
    step = scheduler.step(said[..., :side, :side], t, x, generator=generator)
    x = step.prev_sample
images = ((step.pred_original_sample + 1) * {half}).round().to(torch.{dtype}).permute(0, 2, 3, 1).numpy()
"""
_CARD = """\
---
library_name: diffusers
tags:
- medical
---

# A class-conditional diffusion model of medical images

For images of {size} x {size} pixels, {kind}, {bits} bits per channel. These are the averaged (EMA) weights
that privsyn {version} draws samples from. What it draws is synthetic, and not for diagnosis or for any
decision about a person.

## Privacy

{claim}

## Labels

```text
{classes}
```

The class embedding has one row more: {null} stands for "class not told", for classifier-free guidance.

## How to sample

`DDPMPipeline` cannot be told a class, so calling the pipeline fails. This draws `images`, uint{bits} of
the shape (N, height, width, channels), one for each of `labels`:

```python
{loop}```
"""
