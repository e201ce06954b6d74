"""What a denoising network is, and what its module declares about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor, nn

from privsyn.recipe import Model


class DenoisingNetwork(nn.Module, ABC):
    """A network that predicts the target of a process from noisy images, times and labels.

    Attributes:
        label: the class embedding; its last row stands for "class not given".
    """

    label: nn.Embedding

    @abstractmethod
    def forward(self, x: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
        """Noisy images (B, C, H, W) of any size, times (B,), labels (B,) to (B, outputs, H, W)."""


class Frame(TypedDict):
    """What every network is given, whatever its blocks.

    Attributes:
        image_channels: 1 or 3.
        outputs: channels of the prediction; twice `image_channels` if it also predicts a variance.
        labels: rows of the class embedding, the null label included.
        channels: width of the first level; with `multipliers`, of every level.
        blocks: residual blocks of each level on the way down; one more on the way up.
        groups: of each GroupNorm.
    """

    image_channels: int
    outputs: int
    labels: int
    channels: int
    multipliers: Sequence[int]
    blocks: Sequence[int]
    groups: int


@dataclass(frozen=True)
class NetworkDeclaration:
    """A network that recipes can name.

    Attributes:
        name: `model.network` of a recipe.
        build: makes the network, with fresh weights from torch's global generator.
        check: raises RecipeError where settings of `[model]` do not fit this network.
        settings: keys of `[model]` that this network takes and not every network does.
        attention: types of the blocks that learn with `train.tune = "attention"`.
    """

    name: str
    build: Callable[[Model, Frame], DenoisingNetwork]
    check: Callable[[Model], None]
    settings: tuple[str, ...] = ()
    attention: tuple[type[nn.Module], ...] = ()
