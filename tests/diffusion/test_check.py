"""A sampler or a network is added by declaring it: recipes, schema, training and sampling follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from digits_study import prepared, weights
from homes import new_home
from torch import Tensor, nn

from privsyn import ledger
from privsyn.cli import main
from privsyn.diffusion import networks, samplers
from privsyn.diffusion.check import check_recipe, recipe_schema
from privsyn.diffusion.model import build_model
from privsyn.diffusion.networks.declaration import DenoisingNetwork, Frame, NetworkDeclaration
from privsyn.diffusion.process import Process
from privsyn.diffusion.samplers import Denoise, Noise, Sampler
from privsyn.errors import RecipeError
from privsyn.recipe import Model, Recipe, find_shipped, load_recipe
from privsyn.synthetic.sampling import draw, sample
from privsyn.training.loop import train
from privsyn.training.plan import plan

TOY = find_shipped("recipes", "toy")


def toy(*settings: str) -> Recipe:
    return load_recipe(TOY, settings)


def one_jump(
    denoise: Denoise,
    process: Process,  # noqa: ARG001
    start: Tensor,
    times: list[float],
    *,
    noise: Noise,  # noqa: ARG001
    eta: float = 0.0,
) -> Tensor:
    """Ask the network once, and draw an image of the level `eta` all the same."""
    denoise(start, torch.full((len(start),), times[0], dtype=torch.float64))
    return torch.full_like(start, eta)


class Pixelwise(DenoisingNetwork):
    """A 1x1 convolution and the class embedding."""

    def __init__(self, frame: Frame) -> None:
        super().__init__()
        self.label = nn.Embedding(frame["labels"], frame["outputs"])
        self.conv = nn.Conv2d(frame["image_channels"], frame["outputs"], 1)

    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        out: Tensor = self.conv(x) + self.label(labels)[:, :, None, None]
        return out


def build(model: Model, frame: Frame) -> Pixelwise:  # noqa: ARG001
    return Pixelwise(frame)


def check(model: Model) -> None:
    if model.channels != 8:
        raise RecipeError("model.channels must be 8")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler and a network beside those that ship."""
    jump = Sampler("jump", one_jump, settings=("eta",), times=lambda *_: [0.0], evaluations=lambda _: 1)
    monkeypatch.setitem(samplers.SAMPLERS, "jump", jump)
    pixelwise = NetworkDeclaration("pixelwise", build, check)
    monkeypatch.setitem(networks.NETWORKS, "pixelwise", pixelwise)


@pytest.mark.usefixtures("added")
def test_a_declared_sampler_can_be_named_in_a_recipe() -> None:
    """Its settings come from `[sample]`; recipe and schema take its name, and sampling runs it."""
    recipe = toy("sample.sampler=jump", "sample.eta=0.5")
    check_recipe(recipe)
    assert "jump" in recipe_schema()["$defs"]["Sample"]["properties"]["sampler"]["enum"]
    images = draw(build_model(recipe), np.zeros(3, np.int64), wanted=recipe.sample, seed=0)
    assert (images == round(255 * 0.75)).all()


@pytest.mark.usefixtures("added")
@pytest.mark.parametrize("dp", [False, True])
def test_a_declared_network_can_be_trained_and_sampled(tmp_path: Path, dp: bool) -> None:
    """With DP too: its layers have rules; settings that it does not take are refused by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(tmp_path / "home"))
        study = prepared(tmp_path, "model.network=pixelwise", "train.steps=2", "sample.count=3")
        train(study, dp=dp)
        assert "ema.safetensors" in weights(study)
        assert len(sample(study).images) == 3
    assert "pixelwise" in recipe_schema()["$defs"]["Model"]["properties"]["network"]["enum"]
    with pytest.raises(RecipeError, match="heads belongs to the network swin-unet, not to pixelwise"):
        check_recipe(toy("model.network=pixelwise", "model.heads=[1, 1]"))
    with pytest.raises(RecipeError, match=r"model\.channels must be 8"):
        check_recipe(toy("model.network=pixelwise", "model.channels=16"))


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("sample.sampler=dpm-solver", "sample.sampler 'dpm-solver' is unknown: did you mean 'dpm-solver++'?"),
        ("model.network=swin", "model.network 'swin' is unknown: did you mean 'swin-unet'?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_when_the_recipe_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: str, words: str
) -> None:
    """By `init`, `recipes check`, `plan` and `train`, before anything is written or spent."""
    file = tmp_path / "recipe.toml"
    section, _, assignment = setting.partition(".")
    key, _, value = assignment.partition("=")
    lines = TOY.read_text(encoding="utf-8").splitlines()
    lines.insert(lines.index(f"[{section}]") + 1, f'{key} = "{value}"')
    file.write_text("\n".join(lines), encoding="utf-8")
    for command in (["init", str(tmp_path / "new"), "--recipe", str(file)], ["recipes", "check", str(file)]):
        assert main(command) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "new").exists()
    study = prepared(tmp_path)
    for work in (plan, train):
        with pytest.raises(RecipeError) as caught:
            work(study, settings=[setting])
        assert words in str(caught.value)
    assert not study.model.exists()


def test_sampling_with_an_unknown_sampler_charges_nothing(tmp_path: Path) -> None:
    """The name is checked before the training images are looked at for near copies."""
    study = prepared(tmp_path, "train.steps=1")
    train(study)
    before = ledger.overview()
    with pytest.raises(RecipeError, match="did you mean 'ddim'"):
        sample(study, settings=["sample.sampler=dddim"], reject_near_copies=True)
    assert ledger.overview() == before


def test_the_schema_names_what_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`privsyn recipes schema` lists the samplers and networks."""
    main(["recipes", "schema"])
    sections = json.loads(capsys.readouterr().out)["recipe"]["$defs"]
    names = ["ddpm", "ddim", "dpm-solver++", "heun"]
    assert sections["Sample"]["properties"]["sampler"]["enum"] == names
    assert sorted(sections["Model"]["properties"]["network"]["enum"]) == ["swin-unet", "unet"]
