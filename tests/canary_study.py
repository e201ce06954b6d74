"""A tiny study with canaries, and DP-SGD broken in the ways that canaries must show."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits_study import copied, prepared
from opacus.optimizers.optimizer import DPOptimizer

from privsyn.auditing.statistics.one_run import EpsilonLowerBound, lower_bound
from privsyn.study import Study
from privsyn.training import steps
from privsyn.training.canaries import planted
from privsyn.training.checkpoint import load_state, newest
from privsyn.training.loop import train

DELTA = 1e-5
SMALL = (  # some 90 patients and a network of 3,000 weights: a private training takes about a second
    "data.split=[0.05, 0.05, 0.9]",
    "model.channels=4",
    "model.groups=2",
    "model.multipliers=[1]",
    "model.attention_levels=[]",
    "train.steps=20",
    "train.batch_size=20",
    "train.checkpoint_every=10",
    "train.warmup_steps=2",
)
PRIVATE = (
    "privacy.dp=true",
    "privacy.epsilon=2.0",
    f"privacy.delta={DELTA}",
    "privacy.expected_units=100",
    "privacy.noise_multiplicity=1",
)


def small_study(folder: Path) -> Study:
    return prepared(folder, *SMALL, *PRIVATE)


def bound_of(
    study: Study, folder: Path, canaries: int, alpha: float = 0.05
) -> tuple[EpsilonLowerBound, dict[str, Any]]:
    """Train a copy of the study; its white-box bound and its claim."""
    copy = copied(study, folder)
    claim = train(copy, canaries=canaries).to_document()
    state = load_state(newest(copy.checkpoints))
    found = planted(copy.model, state.recipe.data)
    assert found is not None
    return lower_bound(np.array(state.canary_scores), found.is_in, DELTA, alpha), claim


def no_clipping(patch: pytest.MonkeyPatch) -> None:
    """Gradients are summed as they are."""

    def clip_and_accumulate(self: DPOptimizer) -> None:
        for parameter, gradients in zip(self.params, self.grad_samples, strict=True):
            had, found = parameter.summed_grad, gradients.sum(dim=0)
            parameter.summed_grad = found if had is None else had + found

    patch.setattr(DPOptimizer, "clip_and_accumulate", clip_and_accumulate)


def noise_times(factor: float) -> Callable[[pytest.MonkeyPatch], None]:
    """Noise that is scaled otherwise than is accounted for."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = steps.private_optimizer

        def wrong(*given: Any, noise_multiplier: float, **named: Any) -> DPOptimizer:
            return right(*given, noise_multiplier=factor * noise_multiplier, **named)

        patch.setattr(steps, "private_optimizer", wrong)

    return apply


def always_sampled(patch: pytest.MonkeyPatch) -> None:
    """Every unit in every step, accounted for as a Poisson sample."""

    def everybody(number: int, sample_rate: float, generator: torch.Generator) -> list[int]:  # noqa: ARG001
        return list(range(number))

    patch.setattr(steps, "poisson_sample", everybody)


BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "clipping off": no_clipping,
    "noise off": noise_times(0.0),
    "noise divided by the batch": noise_times(1 / 20),
    "every patient in every step": always_sampled,
}
