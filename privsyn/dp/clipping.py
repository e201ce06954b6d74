"""DP-SGD steps: one clipped gradient per unit, however many images and noise draws it has, plus noise.

DP-SGD (Abadi et al. 2016, algorithm 1, https://arxiv.org/abs/1607.00133) with noise multiplicity (Dockhorn et
al. 2023, section 3.2, https://arxiv.org/abs/2210.09929): the mean over a unit's images and their K draws is
clipped once, so draws cost no privacy. `privsyn.dp.gradients` computes the gradients; clipping and
summation are those of Opacus' `DPOptimizer`; noise comes from a cipher (`privsyn.dp.noise`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from opacus.optimizers.optimizer import DPOptimizer, _check_processed_flag, _mark_as_processed
from torch import Tensor, nn

from privsyn.dp.cipher_stream import CipherStream
from privsyn.dp.gradients import UnitGradients
from privsyn.dp.layers import check_supported
from privsyn.dp.noise import noised


@dataclass(frozen=True)
class StepFacts:
    """What a private step observed. Without noise, hence INTERNAL: none of it may leave the study.

    Attributes:
        loss: mean over the units that counted; nan if there were none.
        units: in this Poisson sample.
        dropped: units whose gradient was not finite and counted as zero.
    """

    loss: float
    units: int
    dropped: int


class PrivateOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' optimiser, which clips and sums, with noise from a cipher.

    Attributes:
        stream: of the noise of the next step.
    """

    stream: CipherStream

    def add_noise(self) -> None:
        """Noise every parameter's sum once, as Opacus does with its own generator."""
        for parameter in self.params:
            _check_processed_flag(parameter.summed_grad)
            deviation = self.noise_multiplier * self.max_grad_norm
            parameter.grad = noised(parameter.summed_grad, deviation, self.stream).view_as(parameter)
            _mark_as_processed(parameter.summed_grad)


def private_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    noise_multiplier: float,
    clip_norm: float,
    divisor: int,
    watch: Callable[[Sequence[Tensor]], None] | None = None,
) -> PrivateOptimizer:
    """Wrap an optimiser in Opacus' `DPOptimizer`; gradients reach it in units of the clip norm.

    A small clip norm normalises every unit's gradient. Dividing by it and by the divisor afterwards is
    post-processing; the former keeps Adam's eps (1e-8) negligible beside gradients that would otherwise be
    about as small.

    Args:
        divisor: PUBLIC expected number of units per step, whatever the number in a sample.
        watch: called with every step's noised sum, one tensor per parameter, before the weights change; used
            by audits, and must not modify it.
    """
    check_supported(model)
    private = PrivateOptimizer(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=None,  # not used where it only sums
        loss_reduction="sum",  # Opacus' own division walks through all weights once for each of them
    )

    def rescale(dp_optimizer: DPOptimizer) -> None:
        if watch is not None:
            watch([parameter.grad for parameter in dp_optimizer.params])
        for parameter in dp_optimizer.params:
            parameter.grad /= clip_norm * divisor

    private.attach_step_hook(rescale)
    return private


def private_step(
    optimizer: PrivateOptimizer, passes: Iterable[UnitGradients], stream: CipherStream
) -> StepFacts:
    """One noisy step on a Poisson sample; an empty sample still gets its noise.

    Args:
        passes: gradients and losses of the sample's units, computed lazily; how the sample is divided cannot
            change the sum.
        stream: of the noise; must be secret, and fresh for every step.
    """
    optimizer.stream = stream
    losses: list[Tensor] = []
    for gradients, loss in passes:
        losses.append(_zero_where_not_finite(gradients, loss))
        _add_up(optimizer, gradients)
    # A last call without units makes an empty sample no special case.
    _add_up(optimizer, [weight.new_zeros(0, *weight.shape) for weight in optimizer.params], last=True)
    seen = torch.cat(losses) if losses else torch.empty(0)
    kept = seen[seen.isfinite()]
    return StepFacts(kept.mean().item() if len(kept) else float("nan"), len(seen), len(seen) - len(kept))


def _zero_where_not_finite(gradients: Sequence[Tensor], losses: Tensor) -> Tensor:
    """Zero the gradients of units that are not finite, in place, and set their losses to nan."""
    if torch.stack(torch._foreach_norm(list(gradients))).norm().isfinite():  # nearly always
        return losses
    lengths = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients]).norm(dim=0)
    finite = lengths.isfinite()
    for gradient in gradients:
        gradient[~finite] = 0
    return losses.where(finite, torch.nan)


def _add_up(optimizer: PrivateOptimizer, gradients: Sequence[Tensor], *, last: bool = False) -> None:
    """Pass units to Opacus, which clips and sums them; with `last`, it also adds noise and takes the step."""
    for parameter, gradient in zip(optimizer.params, gradients, strict=True):
        parameter.grad_sample = gradient
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
