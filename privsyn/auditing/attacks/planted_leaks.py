"""Leaks to plant into a synthetic set: training images, lightly or strongly perturbed.

An audit plants them as a positive control, and states its power for them.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privsyn.bit_depth import Images, in_8_bits, levels_in_one, to_levels, white

_BILINEAR = Image.Resampling.BILINEAR


def jpeg(image: Images, quality: int = 60) -> Images:
    """Compress (H, W, C) as JPEG, which has 8 bits, and read it back."""
    buffer = io.BytesIO()
    _picture(in_8_bits(image)).save(buffer, "JPEG", quality=quality)
    levels = np.asarray(Image.open(buffer), image.dtype).reshape(image.shape)
    return levels * image.dtype.type(levels_in_one(image.dtype))


def brighten(image: Images, factor: float = 1.1) -> Images:
    """Multiply the values and clip them."""
    return to_levels(image * factor, image.dtype)


def shift(image: Images, share: float = 1 / 28) -> Images:
    """Move right by `share` of the width (at least one pixel); the edge is repeated."""
    pixels = max(1, round(image.shape[1] * share))
    return np.pad(image, ((0, 0), (pixels, 0), (0, 0)), mode="edge")[:, :-pixels]


def mirror(image: Images) -> Images:
    """Flip left and right."""
    return np.ascontiguousarray(image[:, ::-1])


def crop(image: Images, share: float = 0.85) -> Images:
    """Cut out the lower right corner, `share` of the width and height, and enlarge it to the old size."""
    height, width = image.shape[:2]
    box = (round(width * (1 - share)), round(height * (1 - share)), width, height)
    return _through_pillow(image, lambda picture: picture.resize((width, height), _BILINEAR, box=box))


def turn(image: Images, degrees: float = 10) -> Images:
    """Turn about the centre; what comes in at the corners is the mirrored edge."""
    border = max(image.shape[:2]) // 2
    wide = np.pad(image, ((border, border), (border, border), (0, 0)), mode="symmetric")
    turned = _through_pillow(wide, lambda picture: picture.rotate(degrees, _BILINEAR))
    return np.ascontiguousarray(turned[border:-border, border:-border])


def flatten(image: Images, factor: float = 0.75, brightness: float = 15) -> Images:
    """Lower the contrast to `factor` about mid-grey and add some brightness, in levels of 8 bits."""
    middle = white(image.dtype) / 2
    brighter = middle + brightness * levels_in_one(image.dtype)
    return to_levels((image - middle) * factor + brighter, image.dtype)


def noised(image: Images, deviation: float = 8) -> Images:
    """Add Gaussian noise, always the same to the same image; its deviation is in levels of 8 bits."""
    generator = np.random.default_rng(zlib.crc32(image.tobytes()))
    noise = generator.normal(0, deviation * levels_in_one(image.dtype), image.shape)
    return to_levels(image + noise, image.dtype)


PERTURBATIONS: dict[str, Callable[[Images], Images]] = {
    "JPEG quality 60": jpeg,
    "brightness +10 %": brighten,
    "shift by 1/28": shift,
    "mirror": mirror,
}


@dataclass(frozen=True)
class Leak:
    """What an audit plants: training images, each disturbed in one of several ways.

    Attributes:
        name: of the planted images, in the plural.
        ways: in words, and as functions of one image (H, W, C).
    """

    name: str
    ways: Mapping[str, Callable[[Images], Images]]

    def plant(self, images: Images) -> Images:
        """Disturb each image (n, H, W, C) in one way, taking the ways in turn."""
        ways = list(self.ways.values())
        return np.stack([ways[index % len(ways)](image) for index, image in enumerate(images)])


LIGHT = Leak("lightly disturbed copies of training images", PERTURBATIONS)
STRONG = Leak(
    "strongly changed training images",
    {
        "crop to 85 % at contrast -25 %": lambda image: flatten(crop(image)),
        "turn by 10 degrees with noise": lambda image: noised(turn(image)),
        "crop to 85 % with noise": lambda image: noised(crop(image)),
        "turn by 10 degrees at contrast -25 %": lambda image: flatten(turn(image)),
    },
)


def _through_pillow(image: Images, change: Callable[[Image.Image], Image.Image]) -> Images:
    if image.dtype == np.uint8:
        return np.asarray(change(_picture(image)), np.uint8).reshape(image.shape)
    changed = change(_picture(image.astype(np.float32)))  # of 16 bits Pillow resizes and turns floats alone
    return to_levels(np.asarray(changed), image.dtype).reshape(image.shape)


def _picture(image: NDArray[Any]) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
