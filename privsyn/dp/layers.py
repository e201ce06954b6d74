"""Rules for the weight gradient of every unit, from a layer's input and the gradient of its output.

One backward pass through the activations serves all units; what is then left of each layer is one kernel for
the weights of all units together. For convolutions it is a single grouped call (as in Rochette et al. 2019,
https://arxiv.org/abs/1912.06015, but on the weight-gradient kernel itself), never an unfolded input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from privsyn.errors import RecipeError

# (layer, input (units * rows, ...), gradient of the output, units) to gradients (units, *shape) by name.
Rule = Callable[[nn.Module, Tensor, Tensor, int], dict[str, Tensor]]


def check_supported(model: nn.Module) -> None:
    """Refuse layers through which one unit could reach another's gradient, or reach weights without noise.

    Layers of torch must be in `RULES`. A module of one's own may hold bare parameters, and whole-number
    buffers such as the index of a relative position; a buffer of floats may be a running statistic.

    Raises:
        RecipeError: a layer mixes the batch (BatchNorm), keeps statistics of it, or was never checked.
    """
    for name, module in model.named_modules():
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        known, theirs = type(module) in RULES, type(module).__module__.startswith("torch.")
        mixes = isinstance(module, nn.modules.batchnorm._BatchNorm)  # also without weights of its own
        keeps = any(buffer.is_floating_point() for buffer in module.buffers(recurse=False))
        counts = isinstance(module, nn.Embedding) and (
            module.max_norm is not None or module.scale_grad_by_freq or module.sparse
        )
        if mixes or keeps or counts or (own and theirs and not known):
            raise RecipeError(
                f"layer {name!r} ({type(module).__name__}) cannot be trained with differential privacy: "
                f"it may mix units or was never checked; use {', '.join(layer.__name__ for layer in RULES)}"
            )


def conv2d(layer: nn.Module, inputs: Tensor, gradient: Tensor, units: int) -> dict[str, Tensor]:
    """Units become groups: one call of the weight-gradient kernel for all of them."""
    assert isinstance(layer, nn.Conv2d)
    weight = layer.weight.detach().repeat(units, 1, 1, 1)
    _, weights, biases = torch.ops.aten.convolution_backward(
        _units_to_channels(gradient, units),
        _units_to_channels(inputs, units),
        weight,
        [len(weight)],
        layer.stride,
        layer.padding,
        layer.dilation,
        False,  # not transposed
        [0, 0],
        layer.groups * units,
        [False, True, layer.bias is not None],
    )
    found = {"weight": weights.reshape(units, *layer.weight.shape)}
    return found if layer.bias is None else found | {"bias": biases.reshape(units, -1)}


def linear(layer: nn.Module, inputs: Tensor, gradient: Tensor, units: int) -> dict[str, Tensor]:
    """sum of gradient x input over all but the last axis; any rank."""
    assert isinstance(layer, nn.Linear)
    given = inputs.reshape(units, -1, inputs.shape[-1])
    came = gradient.reshape(units, -1, gradient.shape[-1])
    found = {"weight": came.transpose(1, 2) @ given}
    return found if layer.bias is None else found | {"bias": came.sum(dim=1)}


def group_norm(layer: nn.Module, inputs: Tensor, gradient: Tensor, units: int) -> dict[str, Tensor]:
    """gradient x normalised input, summed over rows and pixels of every channel."""
    assert isinstance(layer, nn.GroupNorm)
    normalised = F.group_norm(inputs, layer.num_groups, eps=layer.eps)

    def summed(values: Tensor) -> Tensor:  # (units * rows, channels, ...) to (units, channels)
        return values.flatten(2).sum(dim=2).reshape(units, -1, layer.num_channels).sum(dim=1)

    return {"weight": summed(gradient * normalised), "bias": summed(gradient)} if layer.affine else {}


def layer_norm(layer: nn.Module, inputs: Tensor, gradient: Tensor, units: int) -> dict[str, Tensor]:
    """gradient x normalised input, summed over all axes before those that are normalised."""
    assert isinstance(layer, nn.LayerNorm)
    normalised = F.layer_norm(inputs, layer.normalized_shape, eps=layer.eps)

    def summed(values: Tensor) -> Tensor:
        return values.reshape(units, -1, *layer.normalized_shape).sum(dim=1)

    found = {"weight": summed(gradient * normalised), "bias": summed(gradient)}
    return {name: found[name] for name, _ in layer.named_parameters(recurse=False)}


def embedding(layer: nn.Module, inputs: Tensor, gradient: Tensor, units: int) -> dict[str, Tensor]:
    """Every gradient is added to the row that was looked up."""
    assert isinstance(layer, nn.Embedding)
    came = gradient.reshape(units, -1, gradient.shape[-1])
    rows = inputs.reshape(units, -1, 1).expand_as(came)
    found = came.new_zeros(units, *layer.weight.shape).scatter_add_(1, rows, came)
    if layer.padding_idx is not None:
        found[:, layer.padding_idx] = 0
    return {"weight": found}


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv2d: conv2d,
    nn.Linear: linear,
    nn.GroupNorm: group_norm,
    nn.LayerNorm: layer_norm,
    nn.Embedding: embedding,
}


def _units_to_channels(values: Tensor, units: int) -> Tensor:
    """(units * rows, C, H, W) to (rows, units * C, H, W)."""
    return values.reshape(units, -1, *values.shape[1:]).transpose(0, 1).flatten(1, 2)
