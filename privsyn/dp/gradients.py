"""The gradient of every unit's mean loss, by the faster of two methods that give the same sums.

A unit is a patient: its rows are its images, each with its noise draws, and count as ONE example. Which
method is faster depends on the size of a unit alone (docs/decisions, 0013):

    gradients_in_turn   one plain backward per unit; for units that fill the kernels
    gradients_at_once   one backward for all units, then one weight-gradient kernel per layer; for small ones
"""

from __future__ import annotations

import copy
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from privsyn.dp.layers import RULES
from privsyn.parallel import each

# Arguments of the model, each (units, rows, ...).
Batch = Sequence[Tensor]
UnitGradients = tuple[list[Tensor], Tensor]  # one (units, *shape) per parameter, and the losses (units,)
T = TypeVar("T")
R = TypeVar("R")
GradientMethod = Callable[[nn.Module, Sequence[nn.Parameter], Batch], UnitGradients]

SMALL_UNIT = 4096  # pixels of a unit's rows; below, one unit does not fill the kernels of a CPU
PASS_PIXELS = 2**15  # of one pass that takes units at once, whose activations are all held
PASS_FLOATS = 2**26  # of the gradients of one pass: 256 MiB; with fewer units kernels do not fill
MOST_IN_TURN = 16  # units whose gradients are kept before they are clipped together
TOLERANCE = 1e-3  # relative; between the two methods, in float32
SHAKEN = 0.02  # standard deviation of what is added to the weights to compare the methods
TIMED = 3  # calls of which the median counts


@dataclass(frozen=True)
class Pass:
    """How many units go through the network together, and by which method; it cannot change the result."""

    method: GradientMethod
    units: int


def plan_pass(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    noise: Callable[[int], Batch],
    *,
    measured: bool = False,
) -> Pass:
    """Choose the method for units of one size, without private data.

    On the CPU the shapes decide, so that a recipe takes the same method everywhere. On CUDA a loop over units
    is bound by kernel launches, and a probe of a few passes on noise decides.

    Args:
        noise: makes a batch of so many units of that size, without private data.
        measured: let the probe decide.
    """
    pixels = _pixels(noise(1))
    most = max(1, PASS_FLOATS // sum(parameter.numel() for parameter in parameters))
    in_turn = Pass(gradients_in_turn, min(most, MOST_IN_TURN))
    if not (measured or pixels < SMALL_UNIT) or not methods_agree(model, parameters, noise(2)):
        return in_turn
    if measured:
        return _fastest(model, parameters, noise, in_turn, most)
    return Pass(gradients_at_once, max(1, min(most, PASS_PIXELS // pixels)))


def methods_agree(model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch) -> bool:
    """Whether `gradients_at_once` is correct for this network; if not, `gradients_in_turn` is used.

    It is not where weights are used outside their layer (a bare parameter), or where the first axis of a
    layer's input is not the rows of a unit. Tested on a copy with perturbed weights, because the zeros of a
    fresh network could hide a difference.
    """
    twin, names = copy.deepcopy(model).eval(), {id(given): name for name, given in model.named_parameters()}
    theirs = dict(twin.named_parameters())
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in theirs.values():
            weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=SHAKEN)
    chosen = [theirs[names[id(parameter)]] for parameter in parameters]
    try:
        found, _ = gradients_at_once(twin, chosen, batch, threads=1)  # so that units could meet
    except (_NotTapped, RuntimeError):
        return False
    expected, _ = gradients_in_turn(twin, chosen, batch)
    sizes, gaps = _norms(expected), _norms([a - b for a, b in zip(expected, found, strict=True)])
    return bool((gaps <= TOLERANCE * sizes + TOLERANCE**2 * sizes.max()).all())


def gradients_in_turn(model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch) -> UnitGradients:
    """One plain backward per unit: no slower than training without privacy once a unit fills the kernels.

    On a CPU with several threads each of them takes units of its own, which wastes less than several threads
    within one small kernel, and gives the numbers that one thread gives.

    Args:
        model: its forward maps a unit's rows to one loss per row.
    """
    units = len(batch[0])
    gradients = [parameter.new_empty(units, *parameter.shape) for parameter in parameters]
    losses = parameters[0].new_empty(units)

    def take(unit: int) -> None:
        loss = model(*(part[unit] for part in batch)).mean()
        losses[unit] = loss.detach()
        for stacked, gradient in zip(
            gradients, torch.autograd.grad(loss, parameters, materialize_grads=True), strict=True
        ):
            stacked[unit] = gradient

    _shared(take, range(units), _threads(model, units))
    return gradients, losses


def gradients_at_once(
    model: nn.Module, parameters: Sequence[nn.Parameter], batch: Batch, *, threads: int | None = None
) -> UnitGradients:
    """One backward through the activations, and one weight-gradient kernel per layer for all units.

    The weights require no gradient meanwhile, so autograd computes none; each layer's input is kept, and
    when the gradient of its output comes back, its rule (`privsyn.dp.layers`) makes what the weights need.

    Args:
        threads: that share the units; default as many as help.

    Raises:
        _NotTapped: a parameter lies outside the layers that have a rule.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taps = threading.local()  # units and found of each thread, see `_tapped`

    def take(some: Batch) -> UnitGradients:
        taps.found, taps.units = {}, len(some[0])
        flat = tuple(part.flatten(0, 1) for part in some)
        losses = model(*flat).reshape(some[0].shape[:2]).mean(dim=1)
        if losses.requires_grad:
            losses.sum().backward()
        try:
            return [taps.found[names[id(parameter)]] for parameter in parameters], losses.detach()
        except KeyError as error:
            raise _NotTapped(f"no rule gives the gradient of {error.args[0]}") from None

    threads = threads or _threads(model, len(batch[0]))
    parts = list(zip(*(part.chunk(threads) for part in batch), strict=True))
    with _tapped(model, taps):
        taken = _shared(take, parts, threads)
    gradients = [torch.cat(found) for found in zip(*(found for found, _ in taken), strict=True)]
    return gradients, torch.cat([losses for _, losses in taken])


@contextmanager
def _tapped(model: nn.Module, taps: threading.local) -> Iterator[None]:
    """Within it weights require no gradient, and a backward pass puts the results of their rules into `taps`.

    Args:
        taps: of the thread that passes: `units` in the pass, and `found`, gradients by the parameter's name.
    """

    def tap(name: str, layer: nn.Module, inputs: Tensor, output: Tensor) -> None:
        given, found, units = inputs.detach(), taps.found, taps.units

        def record(gradient: Tensor) -> None:
            exact = gradient.float() if gradient.dtype in (torch.bfloat16, torch.float16) else gradient
            same = given.to(exact.dtype) if given.is_floating_point() else given
            with torch.autocast(gradient.device.type, enabled=False):
                own = RULES[type(layer)](layer, same, exact, units)
            for short, value in own.items():
                whole = f"{name}.{short}" if name else short
                found[whole] = found[whole] + value if whole in found else value

        if not output.requires_grad:
            output.requires_grad_()
        output.register_hook(record)  # type: ignore[no-untyped-call]

    handles = [
        module.register_forward_hook(lambda layer, given, out, name=name: tap(name, layer, given[0], out))
        for name, module in model.named_modules()
        if type(module) in RULES
    ]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


def _shared(take: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """`take` of each item; a single thread keeps all cores, for kernels that use them."""
    return each(take, items, threads) if threads > 1 else [take(item) for item in items]


def _threads(model: nn.Module, units: int) -> int:
    """How many CPU threads can take units of their own (docs/decisions, 0016).

    Not where layers draw random numbers: dropout has one global generator, whose order threads would change.
    """
    layers = (module for module in model.modules() if isinstance(module, nn.modules.dropout._DropoutNd))
    draws = any(layer.p > 0 and layer.training for layer in layers)
    on_cpu = next(model.parameters()).device.type == "cpu"
    return max(1, min(units, torch.get_num_threads())) if on_cpu and not draws else 1


class _NotTapped(Exception):
    """A parameter that `gradients_at_once` cannot see; the other method can."""


def _fastest(
    model: nn.Module,
    parameters: Sequence[nn.Parameter],
    noise: Callable[[int], Batch],
    in_turn: Pass,
    most: int,
) -> Pass:
    """The fastest per unit: in turn, or at once with more and more units while that is faster and fits."""
    best, seconds = in_turn, _seconds_per_unit(model, parameters, in_turn, noise)
    units = 1
    while units <= most:
        candidate = Pass(gradients_at_once, units)
        try:
            took = _seconds_per_unit(model, parameters, candidate, noise)
        except torch.OutOfMemoryError:
            break
        if took < seconds:
            best, seconds = candidate, took
        elif best.method is gradients_at_once:
            break
        units *= 2
    return best


def _seconds_per_unit(
    model: nn.Module, parameters: Sequence[nn.Parameter], planned: Pass, noise: Callable[[int], Batch]
) -> float:
    batch = noise(planned.units)
    took = median_seconds(parameters[0].device, lambda: planned.method(model, parameters, batch))
    return took / planned.units


def median_seconds(device: torch.device, work: Callable[[], object]) -> float:
    """Of a few timed calls, after one in which kernels are chosen."""
    work()
    taken = []
    for _ in range(TIMED):
        began = _now(device)
        work()
        taken.append(_now(device) - began)
    return statistics.median(taken)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _pixels(batch: Batch) -> int:
    """Rows x H x W of one unit."""
    return batch[0].shape[1] * int(batch[0].shape[-2:].numel())


def _norms(gradients: Sequence[Tensor]) -> Tensor:
    """Length of every parameter's gradient over all units."""
    return torch.stack([gradient.norm() for gradient in gradients])
