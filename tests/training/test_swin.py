"""The Swin U-Net in training: a small one on real chest X-rays, the full one for a step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.study import init
from privsyn.synthetic.sampling import sample
from privsyn.training.diagnosis import dead
from privsyn.training.loop import train

TOY = (
    "data.size=32",
    "data.resize=fit",
    "model.network=swin-unet",
    "model.channels=16",
    "model.multipliers=[1, 2]",
    "model.blocks=1",
    "model.attention_levels=[1]",
    "model.heads=[2, 4]",
    "model.windows=[4, 4]",
    "diffusion.learned_variance=true",
    "train.batch_size=16",
    "train.checkpoint_every=100",
    "train.warmup_steps=10",
)


@pytest.mark.slow  # 55 s; private steps of one are taken below
def test_a_small_one_learns_real_chest_x_rays(tmp_path: Path, shared_data: Path) -> None:
    """Two levels at 32 px, learned variance: the loss falls by half, samples are as bright as the cohort."""
    study = init(
        tmp_path / "study",
        recipe="chest-xray-28",
        policy="internal-review",
        settings=[*TOY, "train.steps=100", "sample.steps=10"],
    )
    prepare(study, shared_data / "pneumoniamnist.npz")
    train(study)
    assert dead(study.training_log) == ""
    losses = [json.loads(line)["loss"] for line in study.training_log.read_text().splitlines()[1:]]
    assert losses[-1] < 0.5 * losses[0]
    drawn = sample(study, count=32).images
    real = load_cohort(study.cohort).part("train").images
    assert abs(drawn.mean() - real.mean()) < 40
    assert drawn.std(axis=(1, 2, 3)).mean() > 10


def test_a_small_one_takes_private_steps(tmp_path: Path, shared_data: Path) -> None:
    """The DP engine trains it, and its claim is valid."""
    settings = [*TOY, "train.steps=2", "train.batch_size=8", "privacy.noise_multiplicity=2"]
    study = init(tmp_path / "study", recipe="chest-xray-28", policy="internal-review", settings=settings)
    prepare(study, shared_data / "pneumoniamnist.npz")
    claim = train(study, dp=True).to_document()
    assert claim["kind"] == "dp"
    assert claim["valid_for_release"] is True


STEP = """
import resource, sys, time, torch
from privsyn.training.checkpoint import fresh_training
from privsyn.diffusion.batches import noise_draws
from privsyn.dp.clipping import private_optimizer, private_step
from privsyn.dp.cipher_stream import secret_stream
from privsyn.dp.generators import CPU, keyed_generator
from privsyn.recipe import find_shipped, load_recipe
from privsyn.training.steps import plain_step, planned_passes

recipe = load_recipe(find_shipped("recipes", "isynmed-oct"))
training = fresh_training(recipe, CPU)
training.model.train()
parameters = list(training.model.parameters())
draws = noise_draws(training.model, 1, 2, keyed_generator(CPU, 0))
before = [weight.detach().clone() for weight in parameters]
began = time.monotonic()
if sys.argv[1] == "dp":
    optimizer = private_optimizer(
        training.model, training.optimizer, noise_multiplier=1.0, clip_norm=1e-3, divisor=1
    )
    planned = planned_passes(training.model, recipe, CPU)(1)
    private_step(optimizer, [planned.method(training.model, parameters, draws)], secret_stream())
else:
    plain_step(training.model, training.optimizer, draws)
seconds = time.monotonic() - began
moved = sum(int((a != b).any()) for a, b in zip(before, parameters))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(sum(weight.numel() for weight in parameters), moved, len(parameters), peak, seconds)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["plain", "dp"])
def test_the_full_one_takes_a_step_in_20_gib(mode: str) -> None:
    """256 px, 116 million weights, two noise draws: forward, backward and optimiser, with and without DP."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, mode], check=True, capture_output=True, text=True, timeout=550
    )
    weights, moved, tensors, peak, _ = (float(word) for word in done.stdout.split())
    assert weights == pytest.approx(116_042_570, rel=0.02)
    # A fresh network ends in zeros, so without noise only the last layer moves; with noise all weights do.
    assert moved == tensors if mode == "dp" else moved >= 2
    assert peak < 20
