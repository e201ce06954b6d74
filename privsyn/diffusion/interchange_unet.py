"""Converts our U-Net to diffusers' `UNet2DModel`, and back: its `config.json` and its weights.

https://github.com/huggingface/diffusers, models/unets/unet_2d.py. What either side cannot express is refused,
and the field is named.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from privsyn.diffusion.model import build_model
from privsyn.diffusion.networks.unet import NETWORK
from privsyn.errors import CheckpointError, RecipeError
from privsyn.recipe import Recipe, parse
from privsyn.strict_json import JsonObject, JsonValue

Config: TypeAlias = Mapping[str, JsonValue]  # of a config.json

LAYOUT = "0.32.0"  # the oldest diffusers that pyproject.toml allows

# What UNet2DModel takes where a config.json is silent; a test compares it with the signature.
UNET_DEFAULTS: Config = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896],
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
    "num_train_timesteps": None,  # of the learned time embedding, which is refused
}
# The values that our network can express, for fields that it cannot vary.
UNET_ONLY: Mapping[str, tuple[JsonValue, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "freq_shift": (0,),
    "flip_sin_to_cos": (True, False),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_padding": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "norm_eps": (1e-5,),
    "resnet_time_scale_shift": ("default", "scale_shift"),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "in_channels": (1, 3),
}
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True}  # whether it attends
UP = {"UpBlock2D": False, "AttnUpBlock2D": True}

# Where a module is, ours and theirs; # is a number, the same in both.
PLACES = (
    ("time.0", "time_embedding.linear_1"),
    ("time.2", "time_embedding.linear_2"),
    ("label", "class_embedding"),
    ("conv_in", "conv_in"),
    ("down.#.blocks.#", "down_blocks.#.resnets.#"),
    ("down.#.attention.#", "down_blocks.#.attentions.#"),
    ("downsample.#", "down_blocks.#.downsamplers.0"),
    ("middle1", "mid_block.resnets.0"),
    ("middle_attention", "mid_block.attentions.0"),
    ("middle2", "mid_block.resnets.1"),
    ("up.#.blocks.#", "up_blocks.#.resnets.#"),
    ("up.#.attention.#", "up_blocks.#.attentions.#"),
    ("upsample.#", "up_blocks.#.upsamplers.0"),
    ("norm_out", "conv_norm_out"),
    ("conv_out", "conv_out"),
)
# A layer inside a residual or attention block, where the names differ.
LAYERS = {
    "embed": "time_emb_proj",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
CONFIG_OF_ANOTHER = "the weights and config.json are not of one network, so save both again"
BEFORE_0_15 = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def unet_config(recipe: Recipe) -> JsonObject:
    """The `config.json` of the `UNet2DModel` that equals a recipe's network.

    Raises:
        RecipeError: there is none.
    """
    model, channels = recipe.model, recipe.data.channels
    if model.network != NETWORK.name:
        raise RecipeError(
            f'model.network is "{model.network}", which diffusers does not have: it cannot be exported'
        )
    if len(set(model.blocks_per_level)) > 1:
        raise RecipeError(
            f"model.blocks is {list(model.blocks_per_level)}, and diffusers has one number for all levels "
            "(layers_per_block): only a model trained with one number can be exported"
        )
    if model.multipliers[0] != 1:
        raise RecipeError(
            f"model.multipliers begins with {model.multipliers[0]}, and diffusers embeds time at the width "
            "of the first level: only a model whose multipliers begin with 1 can be exported"
        )
    attends = [level in model.attention_levels for level in range(len(model.multipliers))]
    return {
        "_class_name": "UNet2DModel",
        "_diffusers_version": LAYOUT,
        **UNET_DEFAULTS,
        "sample_size": recipe.data.size,
        "in_channels": channels,
        "out_channels": channels * (2 if recipe.diffusion.learned_variance else 1),
        "block_out_channels": [model.channels * multiplier for multiplier in model.multipliers],
        "down_block_types": [_named(DOWN, here) for here in attends],
        "up_block_types": [_named(UP, here) for here in reversed(attends)],
        "layers_per_block": model.blocks_per_level[0],
        "norm_num_groups": model.groups,
        "attn_norm_num_groups": model.groups,  # else there is no norm before the middle's attention
        "attention_head_dim": model.head_channels,
        "num_class_embeds": len(recipe.data.classes) + 1,
        "resnet_time_scale_shift": "scale_shift" if model.scale_shift else "default",
        "dropout": model.dropout,
    }


def unet_settings(config: Config, where: str) -> dict[str, JsonObject]:
    """The sections `data`, `model` and `diffusion` whose network equals that of a `config.json`.

    Args:
        where: begins every message.

    Raises:
        RecipeError: our network cannot express a field; the message names it.
    """
    _check_fields(config, where)
    get = {field: config.get(field, default) for field, default in UNET_DEFAULTS.items()}
    channels, multipliers = _widths(get, where)
    has_scale_shift = get["resnet_time_scale_shift"] == "scale_shift"
    if get["num_class_embeds"] is not None:
        whole_number(get["num_class_embeds"], "num_class_embeds", where)
    inputs, outputs = whole_number(get["in_channels"], "in_channels", where), get["out_channels"]
    if outputs not in (inputs, 2 * inputs):
        raise refused(where, "out_channels", outputs, "in_channels, or twice as many")
    model: JsonObject = {
        "network": NETWORK.name,
        "channels": channels,
        "multipliers": multipliers,
        "blocks": whole_number(get["layers_per_block"], "layers_per_block", where),
        "attention_levels": _attention_levels(get, len(multipliers), where),
        **_head_channels(get, [channels * multiplier for multiplier in multipliers], where),
        "groups": _groups(get, channels, has_scale_shift, where),
        "dropout": get["dropout"],
        "scale_shift": has_scale_shift,
    }
    settings: dict[str, JsonObject] = {
        "data": {**_size(get["sample_size"], where), "channels": inputs},
        "model": model,
        "diffusion": {"learned_variance": outputs != inputs},
    }
    _recipe_of(settings, where)  # refuses what any recipe refuses
    return settings


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of a `DiffusionModel` under the names of `UNet2DModel`; the tensors are the same."""
    return {_their_name(name.removeprefix("network.")): value for name, value in weights.items()}


def from_diffusers(weights: Mapping[str, Tensor], config: Config, where: str) -> dict[str, Tensor]:
    """The state dict of a `UNet2DModel` under our names (`network. ...`), in float32.

    Args:
        config: its `config.json`.
        where: begins every message.

    Raises:
        RecipeError: our network cannot express the config.
        CheckpointError: a weight is missing, superfluous, of another shape, or not of a floating type.
    """
    given = {_current_name(name): value for name, value in weights.items()}
    shapes = _shapes(config, where)
    _check_weights(given, {_their_name(name): shape for name, shape in shapes.items()}, where)
    ours = {f"network.{name}": given[_their_name(name)].float() for name in shapes}
    if not config.get("flip_sin_to_cos", True):
        ours["network.time.0.weight"] = _cosines_first(ours["network.time.0.weight"])
    return ours


def refused(where: str, field: str, value: JsonValue, needed: str) -> RecipeError:
    """The error for a field that we cannot express: its place, its value, and the values we can express."""
    text = json.dumps(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return RecipeError(f"{where}: {field} is {text}, which needs to be {needed}: use another model")


def whole_number(value: JsonValue, field: str, where: str) -> int:
    """The value, if it is a positive whole number."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise refused(where, field, value, "a whole number above 0")
    return value


def _named(types: Mapping[str, bool], attends: bool) -> str:
    return next(name for name, does in types.items() if does == attends)


def _check_fields(config: Config, where: str) -> None:
    name = config.get("_class_name", "UNet2DModel")
    if name != "UNet2DModel":
        raise refused(where, "_class_name", name, "UNet2DModel")
    unknown = sorted(field for field in config if not field.startswith("_") and field not in UNET_DEFAULTS)
    if unknown:
        raise RecipeError(
            f"{where}: the field {unknown[0]} is not one that we know, so it may mean another network: if it "
            "changes nothing, remove it from the file"
        )
    for field, values in UNET_ONLY.items():
        value = config.get(field, UNET_DEFAULTS[field])
        if value not in values:
            raise refused(where, field, value, " or ".join(json.dumps(each) for each in values))


def _widths(get: Config, where: str) -> tuple[int, list[int]]:
    """Channels of the first level, and how many times as many each level has."""
    field, given = "block_out_channels", get["block_out_channels"]
    if not isinstance(given, Sequence) or not given:
        raise refused(where, field, given, "a list of whole numbers")
    widths = [whole_number(width, field, where) for width in given]
    if any(width % widths[0] for width in widths):
        raise refused(where, field, widths, "a list of multiples of its first number")
    if get["time_embedding_dim"] not in (None, 4 * widths[0]):
        raise refused(where, "time_embedding_dim", get["time_embedding_dim"], f"{4 * widths[0]} or null")
    return widths[0], [width // widths[0] for width in widths]


def _groups(get: Config, channels: int, has_scale_shift: bool, where: str) -> int:
    """Groups of each GroupNorm."""
    groups, middle = get["norm_num_groups"], get["attn_norm_num_groups"]
    groups = whole_number(groups, "norm_num_groups", where)
    if channels % groups:
        raise refused(
            where, "norm_num_groups", groups, f"a divisor of {channels}, the first of block_out_channels"
        )
    if middle != groups and (middle is not None or has_scale_shift):  # null means none, or the same
        raise refused(where, "attn_norm_num_groups", middle, f"{groups}, as norm_num_groups")
    return groups


def _attention_levels(get: Config, levels: int, where: str) -> list[int]:
    found = []
    for field, types in (("down_block_types", DOWN), ("up_block_types", UP)):
        given = get[field]
        names = given if isinstance(given, Sequence) else ()
        attends = [types[name] for name in names if isinstance(name, str) and name in types]
        if not len(attends) == len(names) == levels:
            raise refused(where, field, given, f"a list of {levels} of {' and '.join(types)}")
        found.append(attends)
    down, up = found
    if down != up[::-1]:
        needed = "like down_block_types in reverse order: a level attends on both ways, or on none"
        raise refused(where, "up_block_types", get["up_block_types"], needed)
    return [level for level, here in enumerate(down) if here]


def _head_channels(get: Config, widths: Sequence[int], where: str) -> dict[str, int]:
    field = "attention_head_dim"
    if get[field] is None:
        return {}
    per_head = whole_number(get[field], field, where)
    if any(width % per_head for width in widths):
        raise refused(where, field, per_head, f"a divisor of each of block_out_channels, {list(widths)}")
    return {"head_channels": per_head}


def _size(given: JsonValue, where: str) -> dict[str, int]:
    if given is None:
        return {}
    sides = set(given) if isinstance(given, Sequence) and not isinstance(given, str) else {given}
    if len(sides) != 1:
        raise refused(where, "sample_size", given, "one number, for images as high as wide")
    return {"size": whole_number(sides.pop(), "sample_size", where)}


def _recipe_of(settings: Mapping[str, Config], where: str) -> Recipe:
    """A recipe with these settings, and any size and class."""
    data = {"size": 8, "classes": ["any"], **settings["data"]}
    return parse({**settings, "data": data}, Recipe, where)


def _shapes(config: Config, where: str) -> dict[str, tuple[int, ...]]:
    """Names (without `network.`) and shapes of our network's weights; as many classes as the config has."""
    with torch.device("meta"):
        network = build_model(_recipe_of(unet_settings(config, where), where)).network
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    _, width = shapes.pop("label.weight")
    classes = config.get("num_class_embeds")
    return shapes if classes is None else shapes | {"label.weight": (classes, width)}


def _check_weights(given: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    for fault, names in (
        ("is missing", wanted.keys() - given),
        ("is not of this network", given.keys() - wanted),
    ):
        if names:
            raise CheckpointError(
                f"{where}: {min(names)} {fault} ({len(names)} such weights): {CONFIG_OF_ANOTHER}"
            )
    for name, shape in wanted.items():
        found = list(given[name].shape)
        if found != list(shape):
            raise CheckpointError(
                f"{where}: {name} has the shape {found}, not {list(shape)}: {CONFIG_OF_ANOTHER}"
            )
        if not given[name].is_floating_point():
            raise CheckpointError(f"{where}: {name} is of {given[name].dtype}: save the weights as float32")


def _cosines_first(weight: Tensor) -> Tensor:
    """The first layer after the time embedding, its columns made for sines before cosines, in our order."""
    half = weight.shape[1] // 2
    return torch.cat([weight[:, half : 2 * half], weight[:, :half], weight[:, 2 * half :]], dim=1)


def _current_name(name: str) -> str:
    """What diffusers calls a weight since version 0.15."""
    place, _, rest = name.partition(".attentions.")
    if not rest:
        return name
    block, layer, kind = rest.split(".", 1)[0], *rest.rsplit(".", 2)[-2:]
    return f"{place}.attentions.{block}.{BEFORE_0_15[layer]}.{kind}" if layer in BEFORE_0_15 else name


def _their_name(name: str) -> str:
    """`down.0.blocks.1.embed.bias` to `down_blocks.0.resnets.1.time_emb_proj.bias`."""
    for ours, theirs in PLACES:
        found = re.match(re.escape(ours).replace(r"\#", r"(\d+)") + r"\.", name)
        if found:
            place = theirs
            for number in found.groups():
                place = place.replace("#", number, 1)
            *layers, kind = name[found.end() :].split(".")
            return ".".join([place, *(LAYERS.get(layer, layer) for layer in layers), kind])
    raise ValueError(f"{name} is not a weight of the plain U-Net")
