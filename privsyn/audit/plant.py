"""Leaks to plant: training images disturbed as lightly as a careless generator would.

An audit that plants its own leak shows what it can find; these are the disturbances it states its power for.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from privsyn.features.embed import Images


def jpeg(image: Images, quality: int = 60) -> Images:
    """Compress (H, W, C) as JPEG and read it back."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer), dtype=np.uint8).reshape(image.shape)


def brighten(image: Images, factor: float = 1.1) -> Images:
    """Multiply the values and clip them."""
    return np.clip(np.round(image * factor), 0, 255).astype(np.uint8)


def shift(image: Images, share: float = 1 / 28) -> Images:
    """Move right by `share` of the width (at least one pixel); the edge is repeated."""
    pixels = max(1, round(image.shape[1] * share))
    return np.pad(image, ((0, 0), (pixels, 0), (0, 0)), mode="edge")[:, :-pixels]


def mirror(image: Images) -> Images:
    """Flip left and right."""
    return np.ascontiguousarray(image[:, ::-1])


PERTURBATIONS: dict[str, Callable[[Images], Images]] = {
    "JPEG quality 60": jpeg,
    "brightness +10 %": brighten,
    "shift by 1/28": shift,
    "mirror": mirror,
}


def planted_copies(images: Images) -> Images:
    """Disturb each image (n, H, W, C) in one way, taking the ways in turn."""
    ways = list(PERTURBATIONS.values())
    return np.stack([ways[index % len(ways)](image) for index, image in enumerate(images)])
