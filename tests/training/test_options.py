"""What [train] offers beside steps and rates: each does what it says, alone and beside the rest."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_study import copied, prepared
from homes import new_home

from privsyn.diffusion.batches import noise_draws
from privsyn.diffusion.check import check_recipe
from privsyn.diffusion.model import precision_on
from privsyn.dp.adam import AdamBC
from privsyn.dp.generators import CPU, keyed_generator
from privsyn.errors import RecipeError
from privsyn.exchange.diffusers import export
from privsyn.recipe import Recipe, Train, find_shipped, load_recipe
from privsyn.study import Study
from privsyn.training.checkpoint import fresh_training, load_model, newest
from privsyn.training.loop import rate_of_step, train
from privsyn.training.steps import plain_step, to_compile


def toy(*settings: str) -> Recipe:
    return load_recipe(find_shipped("recipes", "toy"), settings)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("options"), "train.steps=4", "train.checkpoint_every=4")


def stepped(parts: int, *settings: str) -> torch.Tensor:
    """All weights after one plain step of SGD, so that a difference in gradients shows as it is."""
    training = fresh_training(toy(*settings), CPU)
    for weight in training.model.parameters():
        weight.data.add_(0.02 * torch.randn(weight.shape, generator=keyed_generator(CPU, weight.numel())))
    draws = noise_draws(training.model.train(), 1, 10, keyed_generator(CPU, 1))
    plain_step(training.model, torch.optim.SGD(training.model.parameters(), lr=0.1), draws, parts)
    return torch.cat([weight.detach().flatten() for weight in training.model.parameters()])


def test_a_batch_in_parts_is_the_same_step() -> None:
    """Also where the parts are not equally large: 10 images in 3 parts."""
    exact = "train.precision=float32"  # bf16 rounds a sum of other parts otherwise
    torch.testing.assert_close(stepped(3, exact), stepped(1, exact), rtol=1e-5, atol=1e-6)


def test_bf16_is_near_float32_and_the_weights_stay_float32() -> None:
    """The step differs by rounding and not more; so do losses."""
    exact, rounded = stepped(1, "train.precision=float32"), stepped(1, "train.precision=bf16")
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0, atol=2e-3)


def test_precision_is_left_to_the_device_unless_it_is_given() -> None:
    """`auto` is bf16 only where a device computes in it."""
    assert precision_on(CPU, "float32") == torch.float32
    assert precision_on(CPU, "bf16") == torch.bfloat16
    able = torch.cpu._is_avx512_bf16_supported()
    assert precision_on(CPU, "auto") == (torch.bfloat16 if able else torch.float32)


def test_compiling_is_left_to_long_runs_on_cuda() -> None:
    """On a CPU only if it is asked for."""
    assert to_compile(toy("train.compile=true"), CPU)
    assert not to_compile(toy("train.steps=100000"), CPU)
    assert to_compile(toy("train.steps=100000"), torch.device("cuda"))
    assert not to_compile(toy("train.steps=10"), torch.device("cuda"))


def test_a_cosine_falls_to_nothing_after_the_warm_up() -> None:
    """Full rate at its start, half in the middle, nearly none in the last step."""
    settings = Train(learning_rate=1.0, warmup_steps=10, steps=110, schedule="cosine")
    rates = [rate_of_step(step, settings) for step in range(110)]
    assert rates[:10] == [pytest.approx((step + 1) / 11) for step in range(10)]
    assert rates[10] == 1
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx((1 + math.cos(math.pi * 0.99)) / 2)


@pytest.mark.parametrize("dp", [False, True])
def test_tuning_attention_moves_nothing_else(study: Study, tmp_path: Path, dp: bool) -> None:
    """Attention and the class embedding learn, all other weights stay as they began; with DP too."""
    public = copied(study, tmp_path / "public", "privacy.public_data=true")
    with pytest.MonkeyPatch.context() as patch:  # elsewhere: these patients must not be ours
        patch.setenv("PRIVSYN_HOME", new_home(tmp_path / "elsewhere"))
        train(public)
    start = f'train.init_from="{public.model}"'
    own = copied(study, tmp_path / "own")
    train(own, dp=dp, settings=["train.tune=attention", start])
    trained, _, _ = load_model(own.model)
    begun = load_model(public.model)[0].state_dict()
    moved = {name for name, weight in trained.state_dict().items() if not torch.equal(weight, begun[name])}
    assert moved
    assert all("attention" in name or name == "network.label.weight" for name in moved)


def test_a_network_without_attention_cannot_tune_it() -> None:
    """The middle of a U-Net always attends; a Swin U-Net without Swin levels has none."""
    swin = ("model.network=swin-unet", "model.heads=[1, 1]", "model.windows=[2, 2]")
    with pytest.raises(RecipeError, match=r"set model\.attention_levels"):
        fresh_training(
            toy(*swin, "model.attention_levels=[]", "train.tune=attention", "train.init_from=x"), CPU
        )


def test_the_bias_correction_is_for_dp_alone(study: Study, tmp_path: Path) -> None:
    """With DP the optimiser knows the noise's variance, resumes with its memory, and gives a valid claim."""
    assert isinstance(
        fresh_training(toy("privacy.adam_bias_correction=true"), CPU).optimizer, torch.optim.AdamW
    )
    own = copied(study, tmp_path, "privacy.adam_bias_correction=true")
    claim = train(own, dp=True).to_document()
    assert claim["valid_for_release"] is True
    optimizer = fresh_training(load_model(own.model)[1], CPU).optimizer
    assert isinstance(optimizer, AdamBC)
    assert (newest(own.checkpoints) / "optimizer.safetensors").stat().st_size > 1000


def test_augmentation_reaches_training(study: Study, tmp_path: Path) -> None:
    """The same seed with and without flips gives other weights."""
    plain, flipped = copied(study, tmp_path / "a"), copied(study, tmp_path / "b", 'train.augment=["flip"]')
    digests = []
    for each in (plain, flipped):
        train(each)
        digests.append(load_model(each.model)[2])
    assert digests[0] != digests[1]


def test_training_starts_from_a_diffusers_folder_that_is_declared_public(
    study: Study, tmp_path: Path
) -> None:
    """Its weights are where training begins; undeclared, or with our own claim, it is refused."""
    first = copied(study, tmp_path / "first")
    train(first)
    folder = tmp_path / "weights"
    export(first, out=folder)
    setting = f"train.init_from={str(folder)!r}".replace("'", '"')
    own = copied(study, tmp_path / "own", "train.learning_rate=1e-30")
    with pytest.raises(RecipeError, match=r"not declared public \(privacy\.public_data\)"):
        train(own, settings=[setting, "train.init_is_public=true"])
    (folder / "privacy.json").unlink()
    with pytest.raises(RecipeError, match=r"train\.init_is_public"):
        train(own, settings=[setting])
    claim = train(own, settings=[setting, "train.init_is_public=true"]).to_document()
    assert claim["public"]["init_from"]["declaration"] == "public"
    begun, ours = (load_model(each.model)[0].state_dict() for each in (first, own))
    for name, weight in begun.items():
        np.testing.assert_allclose(ours[name], weight, atol=1e-6, err_msg=name)


def test_settings_that_contradict_each_other_are_refused() -> None:
    """Each is named with what to do."""
    for setting, words in {
        "model.groups=8": "lower model.groups, or set model.scale_shift",
        "model.heads=[1, 1]": "model.heads belongs to the network swin-unet",
        "model.blocks=[1, 2, 3]": "model.blocks needs one number, or 2",
        "model.head_channels=3": "model.head_channels must divide",
        "model.network=swin-unet": "model.heads belongs to the network swin-unet, which needs it",
    }.items():
        with pytest.raises(RecipeError, match=words):
            check_recipe(toy(setting))
    with pytest.raises(RecipeError, match="whole timesteps"):
        toy("diffusion.learned_variance=true", "diffusion.continuous=true")
    with pytest.raises(RecipeError, match=r"lower diffusion\.law_mean instead"):
        toy("diffusion.law=normal", "diffusion.noise_shift=2")
    with pytest.raises(RecipeError, match=r"train\.tune.*needs train\.init_from"):
        toy("train.tune=attention")
    with pytest.raises(RecipeError, match=r"train\.compile"):
        toy("privacy.dp=true", "train.compile=true")
