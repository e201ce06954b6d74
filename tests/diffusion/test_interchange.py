"""Our networks and processes against diffusers' own, both ways; what cannot be mapped is refused by name."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file

from privsyn.diffusion.interchange import LABEL_WEIGHTS, WEIGHTS, labelled, read_diffusers
from privsyn.diffusion.interchange_process import (
    BETAS,
    SCHEDULER_DEFAULTS,
    process_settings,
    scheduler_config,
)
from privsyn.diffusion.interchange_unet import UNET_DEFAULTS, from_diffusers, to_diffusers, unet_config
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.errors import CheckpointError, PrivsynError, RecipeError
from privsyn.recipe import Recipe

SMALL: dict[str, Any] = {"channels": 8, "multipliers": [1, 2, 2], "groups": 4, "attention_levels": [2]}
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "grey, one block": {},
    "RGB, two blocks": {"channels": 3, "model": {"blocks": 2}},
    "attention on every level": {"model": {"attention_levels": [0, 1, 2]}},
    "attention in the middle alone": {"model": {"attention_levels": []}},
    "several heads": {"model": {"head_channels": 4, "attention_levels": [1, 2]}},
    "scale and shift": {"model": {"scale_shift": True}},
    "learned variance, RGB": {"channels": 3, "learned": True},
    "one level": {"model": {"multipliers": [1], "attention_levels": [0]}},
    "narrowing, seven classes": {"model": {"multipliers": [1, 3, 2], "blocks": 3}, "classes": 7},
    "an odd width": {"model": {"channels": 9, "groups": 3}},
}


def recipe(
    channels: int = 1, classes: int = 3, learned: bool = False, model: Any = None, diffusion: Any = None
) -> Recipe:
    return Recipe.model_validate(
        {
            "data": {"size": 16, "channels": channels, "classes": [f"class {i}" for i in range(classes)]},
            "model": {**SMALL, **(model or {})},
            "diffusion": {"learned_variance": learned, **(diffusion or {})},
            "sample": {"steps": 10},
        }
    )


def randomised(model: DiffusionModel) -> DiffusionModel:
    """Every weight random, those that start at zero or one included."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval().requires_grad_(False)


def said(network: Any, channels: int, classes: int | None) -> torch.Tensor:
    """What a network says of four fixed noisy images."""
    images = torch.randn(4, channels, 16, 16, generator=torch.Generator().manual_seed(2))
    times, labels = torch.tensor([0, 1, 500, 999]), torch.arange(4) % (classes or 1)
    with torch.no_grad():
        if isinstance(network, UNet2DModel):
            return network(images, times, class_labels=None if classes is None else labels).sample
        return network(images, times, labels)  # type: ignore[no-any-return]


def their(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> UNet2DModel:
    network = UNet2DModel.from_config(config)
    network.load_state_dict(weights)
    return network.eval()


def theirs_small(**changes: Any) -> UNet2DModel:
    """A small network of theirs with random weights."""
    torch.manual_seed(3)
    settings: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "num_class_embeds": 4,
    }
    return UNet2DModel(**(settings | changes)).eval()


def ours_of(folder: Path, classes: int, channels: int = 1) -> DiffusionModel:
    """Our model with the network in a folder of theirs."""
    imported = read_diffusers(folder)
    names = [str(number) for number in range(classes)]
    data = {"size": 16, "channels": channels, "classes": names} | imported.settings["data"]
    model = build_model(Recipe.model_validate({**imported.settings, "data": data}))
    model.load_state_dict(labelled(imported, classes))
    return model.eval()


def edited(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_their_network_with_our_weights_says_what_ours_says(name: str) -> None:
    """To 1e-5, and the weights come back bit by bit."""
    wanted = recipe(**CONFIGURATIONS[name])
    ours, channels, classes = (
        randomised(build_model(wanted)),
        wanted.data.channels,
        len(wanted.data.classes) + 1,
    )
    config, weights = unet_config(wanted), to_diffusers(ours.state_dict())
    expected = said(ours.network, channels, classes)
    assert expected.std() > 0.1
    torch.testing.assert_close(
        said(their(config, weights), channels, classes), expected, atol=1e-5, rtol=1e-5
    )
    back = from_diffusers(weights, config, "here")
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in ours.state_dict().items())


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_config_comes_back_as_the_settings_it_was_made_from(name: str, tmp_path: Path) -> None:
    """Also through their own files: a pipeline that they saved gives our recipe's sections."""
    wanted = recipe(**CONFIGURATIONS[name])
    network = their(unet_config(wanted), to_diffusers(build_model(wanted).state_dict()))
    DDPMPipeline(network, DDPMScheduler.from_config(scheduler_config(wanted))).save_pretrained(tmp_path)
    settings = read_diffusers(tmp_path).settings
    classes = {"classes": list(wanted.data.classes)}
    again = Recipe.model_validate({**settings, "data": settings["data"] | classes})
    assert again.model.model_copy(update={"blocks": wanted.model.blocks}) == wanted.model
    assert again.data == wanted.data
    assert again.diffusion == wanted.diffusion


@pytest.mark.parametrize(
    "changes",
    [
        {"flip_sin_to_cos": False},
        {
            "flip_sin_to_cos": False,
            "block_out_channels": (9, 18),
            "norm_num_groups": 3,
            "attention_head_dim": 9,
        },
        {"attention_head_dim": None, "layers_per_block": 3},
        {"act_fn": "swish", "in_channels": 3, "out_channels": 6, "dropout": 0.5},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4},
        {"num_class_embeds": None, "sample_size": None},
        {"sample_size": (16, 16), "time_embedding_dim": 32},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_our_network_with_their_weights_says_what_theirs_says(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """A network of theirs that was saved alone, in every form that ours can take."""
    network = theirs_small(**changes)
    network.save_pretrained(tmp_path)
    classes = network.config.num_class_embeds
    ours = ours_of(tmp_path, 3, network.config.in_channels)
    channels = network.config.in_channels
    expected = said(network, channels, classes)
    torch.testing.assert_close(said(ours.network, channels, classes), expected, atol=1e-5, rtol=1e-5)


def test_attention_by_its_old_names_is_read(tmp_path: Path) -> None:
    """Before version 0.15 the layers of attention were called otherwise; they and we read both."""
    network = theirs_small()
    network.save_pretrained(tmp_path)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(tmp_path / WEIGHTS)
    for new, name in old.items():
        weights = {each.replace(f".{new}.", f".{name}."): value for each, value in weights.items()}
    save_file(weights, tmp_path / WEIGHTS, {"format": "pt"})
    torch.testing.assert_close(said(UNet2DModel.from_pretrained(tmp_path), 1, 4), said(network, 1, 4))
    torch.testing.assert_close(
        said(ours_of(tmp_path, 3).network, 1, 4), said(network, 1, 4), atol=1e-5, rtol=1e-5
    )


def test_half_precision_is_read_as_it_is(tmp_path: Path) -> None:
    """float16 numbers are float32 numbers, too."""
    network = theirs_small().half()
    network.save_pretrained(tmp_path)
    imported = read_diffusers(tmp_path)
    assert {value.dtype for value in imported.weights.values()} == {torch.float32}
    assert torch.equal(imported.weights[LABEL_WEIGHTS], network.class_embedding.weight.float())


def test_an_image_of_any_size_is_padded_by_us_alone() -> None:
    """Given the padding that ours adds itself, theirs says the same of 13 pixels."""
    wanted = recipe()
    ours = randomised(build_model(wanted)).network
    theirs = their(unet_config(wanted), to_diffusers(ours.state_dict()))
    images = torch.randn(2, 1, 13, 13, generator=torch.Generator().manual_seed(4))
    times, labels = torch.tensor([7, 70]), torch.tensor([0, 3])
    padded = torch.nn.functional.pad(images, (0, 3, 0, 3))
    with torch.no_grad():
        found = theirs(padded, times, class_labels=labels).sample[..., :13, :13]
        torch.testing.assert_close(found, ours(images, times, labels), atol=1e-5, rtol=1e-5)


def test_class_embeddings_are_made_to_fit(tmp_path: Path) -> None:
    """As many as classes and one: as they are. One less: the mean is added. None: zeros. Others: refused."""
    theirs_small(num_class_embeds=4).save_pretrained(tmp_path / "some")
    some = read_diffusers(tmp_path / "some")
    assert some.classes == 4
    assert torch.equal(labelled(some, 3)[LABEL_WEIGHTS], some.weights[LABEL_WEIGHTS])
    with_null = labelled(some, 4)[LABEL_WEIGHTS]
    assert torch.equal(with_null[:4], some.weights[LABEL_WEIGHTS])
    torch.testing.assert_close(with_null[4], some.weights[LABEL_WEIGHTS].mean(dim=0))
    with pytest.raises(RecipeError, match=r"4 class embeddings.*data\.classes names 7: name 4 classes, or 3"):
        labelled(some, 7)
    theirs_small(num_class_embeds=None).save_pretrained(tmp_path / "none")
    none = read_diffusers(tmp_path / "none")
    assert (none.classes, LABEL_WEIGHTS in none.weights) == (0, False)
    assert torch.equal(labelled(none, 2)[LABEL_WEIGHTS], torch.zeros(3, 32))


def test_what_a_config_leaves_out_is_taken_as_they_take_it() -> None:
    """Our table of their defaults is theirs."""
    for signature, ours in (
        (inspect.signature(UNet2DModel.__init__), UNET_DEFAULTS),
        (inspect.signature(DDPMScheduler.__init__), SCHEDULER_DEFAULTS),
    ):
        defaults = {name: each.default for name, each in signature.parameters.items() if name != "self"}
        known = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
        assert dict(ours) == {name: known[name] for name in ours}
        assert ours is SCHEDULER_DEFAULTS or known.keys() == ours.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "UNet2DConditionModel"),
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("time_embedding_dim", 48),
        ("freq_shift", 1),
        ("mid_block_type", None),
        ("mid_block_scale_factor", 1.4),
        ("downsample_padding", 0),
        ("downsample_type", "resnet"),
        ("upsample_type", "resnet"),
        ("act_fn", "mish"),
        ("norm_eps", 1e-6),
        ("norm_num_groups", 3),
        ("norm_num_groups", None),
        ("attn_norm_num_groups", 2),
        ("resnet_time_scale_shift", "spatial"),
        ("add_attention", False),
        ("class_embed_type", "timestep"),
        ("num_class_embeds", 0),
        ("in_channels", 4),
        ("out_channels", 3),
        ("sample_size", [16, 24]),
        ("sample_size", "16"),
        ("block_out_channels", [8, 12]),
        ("block_out_channels", 8),
        ("layers_per_block", 0),
        ("attention_head_dim", 3),
        ("down_block_types", ["DownBlock2D", "SkipDownBlock2D"]),
        ("up_block_types", ["UpBlock2D", "AttnUpBlock2D"]),
        ("up_block_types", ["AttnUpBlock2D"]),
        ("a_field_of_the_future", 1),
    ],
)
def test_a_network_that_ours_cannot_be_is_refused_by_the_field(
    tmp_path: Path, field: str, value: Any
) -> None:
    """The message names the file and the field."""
    theirs_small().save_pretrained(tmp_path)
    edited(tmp_path / "config.json", **{field: value})
    with pytest.raises(RecipeError, match=rf"config\.json: .*\b{field}\b"):
        read_diffusers(tmp_path)


def test_scale_shift_without_a_norm_in_the_middle_is_refused(tmp_path: Path) -> None:
    """Theirs leaves that norm out unless told its groups; ours always has it."""
    theirs_small(resnet_time_scale_shift="scale_shift").save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match="attn_norm_num_groups is null"):
        read_diffusers(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"blocks": [1, 2, 1]}}, r"model\.blocks.*layers_per_block"),
        ({"model": {"multipliers": [2, 2, 4]}}, r"model\.multipliers begins with 2"),
        (
            {"model": {"network": "swin-unet", "heads": [2, 2, 2], "windows": [4, 4, 4]}},
            r'model\.network is "swin-unet"',
        ),
    ],
)
def test_a_network_that_theirs_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    """The setting of the recipe is named."""
    with pytest.raises(RecipeError, match=told):
        unet_config(recipe(**changes))


@pytest.mark.parametrize("timesteps", [10, 50, 1000])
@pytest.mark.parametrize("schedule", BETAS)
@pytest.mark.parametrize("target", ["v", "epsilon", "x0"])
def test_their_scheduler_is_our_process(schedule: str, timesteps: int, target: str) -> None:
    """The same signal at every step, and the same settings when it is read back."""
    settings = {"schedule": schedule, "timesteps": timesteps, "target": target}
    wanted = recipe(diffusion=settings)
    scheduler = DDPMScheduler.from_config(json.loads(json.dumps(scheduler_config(wanted))))
    ours = build_model(wanted).process.log_snrs.sigmoid().numpy()
    np.testing.assert_allclose(scheduler.alphas_cumprod.numpy(), ours, atol=1e-6)
    assert process_settings(dict(scheduler.config), "", learned_variance=False) == {
        "schedule": schedule, "timesteps": timesteps, "target": target,
    }  # fmt: skip


def test_a_target_without_a_name_there_is_refused() -> None:
    """EDM also scales what the network sees, which no scheduler of theirs does."""
    with pytest.raises(RecipeError, match=r'diffusion\.target is "edm".*v, epsilon, x0'):
        scheduler_config(recipe(diffusion={"target": "edm"}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "EulerDiscreteScheduler"),
        ("num_train_timesteps", 1.5),
        ("beta_start", 0.0002),
        ("beta_end", "much"),
        ("beta_schedule", "scaled_linear"),
        ("beta_schedule", "sigmoid"),
        ("trained_betas", [0.1, 0.2]),
        ("trained_betas", "many"),
        ("prediction_type", "flow_prediction"),
        ("variance_type", "learned"),
        ("variance_type", "learned_range"),
        ("rescale_betas_zero_snr", True),
    ],
)
def test_a_process_that_ours_cannot_be_is_refused_by_the_field(
    tmp_path: Path, field: str, value: Any
) -> None:
    """The message names the file and the field; the two ends of a linear schedule are told together."""
    DDPMPipeline(theirs_small(), DDPMScheduler()).save_pretrained(tmp_path)
    assert read_diffusers(tmp_path).settings["diffusion"] == {
        "learned_variance": False, "timesteps": 1000, "schedule": "linear", "target": "epsilon",
    }  # fmt: skip
    edited(tmp_path / "scheduler" / "scheduler_config.json", **{field: value})
    named = "beta_schedule" if value == 0.0002 else field
    with pytest.raises(RecipeError, match=rf"scheduler_config\.json: {named} is"):
        read_diffusers(tmp_path)


def test_a_variance_that_was_not_learned_is_not_expected(tmp_path: Path) -> None:
    """Twice as many outputs need the scheduler that uses them."""
    DDPMPipeline(theirs_small(out_channels=2), DDPMScheduler()).save_pretrained(tmp_path)
    with pytest.raises(RecipeError, match=r"variance_type is \"fixed_small\".*learned_range"):
        read_diffusers(tmp_path)


def test_a_pipeline_that_samples_otherwise_is_read(tmp_path: Path) -> None:
    """DDIM, leading steps, thresholding: how to sample is the recipe's affair."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", thresholding=True, timestep_spacing="leading"
    )
    DDIMPipeline(theirs_small(), scheduler).save_pretrained(tmp_path)
    assert read_diffusers(tmp_path).settings["diffusion"]["schedule"] == "cosine"


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    """A `.bin` file is refused with the line that turns it into safetensors."""
    theirs_small().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin is a pickle.*save_pretrained"):
        read_diffusers(tmp_path)


def test_weights_in_parts_are_refused(tmp_path: Path) -> None:
    """With the option that saves them as one."""
    theirs_small().save_pretrained(tmp_path, max_shard_size="20KB")
    with pytest.raises(CheckpointError, match=r"in several files.*max_shard_size"):
        read_diffusers(tmp_path)


def test_weights_that_are_missing_broken_or_anothers_are_refused(tmp_path: Path) -> None:
    """By the name of the file or of the weight."""
    theirs_small().save_pretrained(tmp_path)
    file, whole = tmp_path / WEIGHTS, load_file(tmp_path / WEIGHTS)
    for change, told in (
        ({"conv_in.bias": None}, "conv_in.bias is missing"),
        ({"more.bias": torch.zeros(1)}, "more.bias is not of this network"),
        ({"conv_in.bias": torch.zeros(9)}, r"conv_in.bias has the shape \[9\], not \[8\]"),
        ({"conv_in.bias": torch.zeros(8, dtype=torch.int8)}, "conv_in.bias is of torch.int8"),
    ):
        changed = {name: value for name, value in (whole | change).items() if value is not None}
        save_file(changed, file, {"format": "pt"})
        with pytest.raises(CheckpointError, match=told):
            read_diffusers(tmp_path)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=f"{WEIGHTS} is broken"):
        read_diffusers(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"has no {WEIGHTS}"):
        read_diffusers(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """Missing, empty, no JSON, no object, or a pipeline with more parts."""
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(PrivsynError, match=r"neither model_index\.json nor config\.json"):
            read_diffusers(folder)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(PrivsynError, match=r"config\.json is not a JSON object"):
        read_diffusers(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(PrivsynError, match=r"config\.json is not valid JSON"):
        read_diffusers(tmp_path)
    parts = {
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "vqvae": [None, None],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(parts))
    with pytest.raises(RecipeError, match=r"model_index\.json: a pipeline with vae, and"):
        read_diffusers(tmp_path)
