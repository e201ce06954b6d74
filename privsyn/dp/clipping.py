"""What one unit may change: its gradient, clipped as ONE example, however many images and noise draws it has.

DP-SGD (Abadi et al. 2016, algorithm 1, https://arxiv.org/abs/1607.00133) with noise multiplicity (Dockhorn et
al. 2023, section 3.2, https://arxiv.org/abs/2210.09929): the mean over a unit's images and their K draws is
clipped once, so that draws cost no privacy. We only make the gradients; clipping, adding up, noise and the
public divisor are Opacus' own `DPOptimizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from opacus.optimizers.optimizer import DPOptimizer
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from privsyn.errors import RecipeError

# Arguments of the model, each (units, rows, ...): a unit's rows are its images, noise draws and all.
Batch = Sequence[Tensor]

SUPPORTED = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
SMALL_UNIT = 1024  # pixels of a unit's rows; up to here, units in turn keep the processor waiting for work
GRADIENT_FLOATS = 2**26  # of one micro-batch: 256 MiB
MOST_PIXELS = 2**14  # of one vectorised pass, whose activations are all held at once


@dataclass(frozen=True)
class StepFacts:
    """What a private step saw. Un-noised, hence INTERNAL: none of it may leave the study.

    Attributes:
        loss: mean over the units that counted; nan if there were none.
        units: in this Poisson sample.
        dropped: units whose gradient was not finite and counted as zero.
    """

    loss: float
    units: int
    dropped: int


def check_supported(model: nn.Module) -> None:
    """Refuse layers through which one unit could reach another's gradient, by name.

    Raises:
        RecipeError: a layer mixes the batch (BatchNorm), or holds weights in a way that was not checked.
    """
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        renormalises = isinstance(module, nn.Embedding) and module.max_norm is not None
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)  # also without weights of its own
        if (own and not isinstance(module, SUPPORTED)) or renormalises or mixes:
            raise RecipeError(
                f"layer {name!r} ({type(module).__name__}) cannot be trained with differential privacy: "
                "it may mix units or was never checked; use GroupNorm, Conv2d, Linear, LayerNorm, Embedding"
            )


def private_optimizer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    noise_multiplier: float,
    clip_norm: float,
    divisor: int,
) -> DPOptimizer:
    """Opacus' optimiser around ours; gradients reach ours in units of the clip norm.

    A small clip norm normalises every unit's gradient. Dividing by it afterwards is post-processing, and
    keeps Adam's eps (1e-8) negligible beside gradients that would otherwise be about as small.

    Args:
        divisor: PUBLIC expected number of units per step, whatever the number in a sample.
    """
    check_supported(model)
    # Opacus calls this mode secure: the noise is a sum of four normal draws, which closes the known attack
    # on the low bits of a single float (https://arxiv.org/abs/2107.10138).
    private = DPOptimizer(
        optimizer,
        noise_multiplier=noise_multiplier,
        max_grad_norm=clip_norm,
        expected_batch_size=divisor,
        secure_mode=True,
    )

    def rescale(dp_optimizer: DPOptimizer) -> None:
        for parameter in dp_optimizer.params:
            parameter.grad /= clip_norm

    private.attach_step_hook(rescale)
    return private


def private_step(
    model: nn.Module, optimizer: DPOptimizer, batches: Iterable[Batch], generator: torch.Generator
) -> StepFacts:
    """One noisy step on a Poisson sample, given in micro-batches; an empty sample still gets its noise.

    Args:
        model: its forward maps a unit's rows to one loss per row.
        batches: micro-batches of units; how they are cut cannot change the sum.
        generator: of the noise; must be secret, and fresh for every step.
    """
    parameters = optimizer.params
    optimizer.generator = generator
    losses: list[Tensor] = []
    for batch in batches:
        gradients, loss = unit_gradients(model, parameters, batch)
        losses.append(_zero_where_not_finite(gradients, loss))
        _add_up(optimizer, gradients)
    # Closing with no units at all makes the divisor exact and an empty sample nothing special.
    _add_up(optimizer, [parameter.new_zeros(0, *parameter.shape) for parameter in parameters], last=True)
    seen = torch.cat(losses) if losses else torch.empty(0)
    kept = seen[seen.isfinite()]
    return StepFacts(kept.mean().item() if len(kept) else float("nan"), len(seen), len(seen) - len(kept))


def units_at_once(model: nn.Module, pixels: int) -> int:
    """How many units of `pixels` (rows x H x W) fit into one micro-batch; cannot change the result's law."""
    weights = sum(parameter.numel() for parameter in model.parameters())
    by_gradients = GRADIENT_FLOATS // weights
    return max(1, min(by_gradients, MOST_PIXELS // pixels) if pixels <= SMALL_UNIT else by_gradients)


def unit_gradients(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch
) -> tuple[list[Tensor], Tensor]:
    """Gradient of every unit's mean loss, and that loss, by the faster of two ways.

    Returns:
        One (units, *shape) tensor per parameter, and the losses (units,).
    """
    rows, height, width = batch[0].shape[1], *batch[0].shape[-2:]
    way = gradients_at_once if rows * height * width <= SMALL_UNIT else gradients_in_turn
    return way(model, parameters, batch)


def gradients_in_turn(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch
) -> tuple[list[Tensor], Tensor]:
    """One plain backward per unit: no slower than training without privacy once a unit fills the kernels."""
    units = len(batch[0])
    gradients = [parameter.new_empty(units, *parameter.shape) for parameter in parameters]
    losses = parameters[0].new_empty(units)
    for unit in range(units):
        loss = model(*(part[unit] for part in batch)).mean()
        losses[unit] = loss.detach()
        for stacked, gradient in zip(gradients, torch.autograd.grad(loss, parameters), strict=True):
            stacked[unit] = gradient
    return gradients, losses


def gradients_at_once(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch
) -> tuple[list[Tensor], Tensor]:
    """All units in one vectorised pass: several times faster where a unit is small."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    weights = {names[id(parameter)]: parameter.detach() for parameter in parameters}

    def loss(values: dict[str, Tensor], *unit: Tensor) -> Tensor:
        mean: Tensor = functional_call(model, values, unit).mean()
        return mean

    per_unit = vmap(grad_and_value(loss), in_dims=(None, *[0] * len(batch)), randomness="different")
    gradients, losses = per_unit(weights, *batch)
    return [gradients[names[id(parameter)]] for parameter in parameters], losses.detach()


def _zero_where_not_finite(gradients: Sequence[Tensor], losses: Tensor) -> Tensor:
    """Blank units with any non-finite gradient, in place; their losses come back as nan."""
    finite = torch.stack([gradient.flatten(1).isfinite().all(dim=1) for gradient in gradients]).all(dim=0)
    for gradient in gradients:
        gradient[~finite] = 0
    return losses.where(finite, torch.nan)


def _add_up(optimizer: DPOptimizer, gradients: Sequence[Tensor], *, last: bool = False) -> None:
    """Hand units to Opacus: clipped and summed now; with `last`, noised, divided and stepped as well."""
    for parameter, gradient in zip(optimizer.params, gradients, strict=True):
        parameter.grad_sample = gradient
    optimizer.signal_skip_step(do_skip=not last)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
