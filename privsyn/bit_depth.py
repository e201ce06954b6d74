"""The bit depth of pixels: 8, or 16 for grey; it follows from the type of an array, as does its white level.

All code that computes with pixels gets their scale from here, so that 16 bits need no special case elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8 | np.uint16]
DType = np.dtype[Any]
DTYPES: dict[int, DType] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16)}  # by bit depth


def bit_depth_of(images: Images) -> int:
    """8 or 16."""
    return 8 * images.dtype.itemsize


def white(dtype: DType) -> int:
    """The highest level: 255 or 65535."""
    return int(np.iinfo(dtype).max)


def levels_in_one(dtype: DType) -> int:
    """How many levels one level of 8 bits stands for: 1 or 257, as 65535 = 255 * 257."""
    return white(dtype) // 255


def to_levels(values: NDArray[Any], dtype: DType) -> Images:
    """Numbers on the scale of `dtype` to its nearest levels."""
    levels: Images = np.clip(np.round(values), 0, white(dtype)).astype(dtype)
    return levels


def in_8_bits(images: Images) -> NDArray[np.uint8]:
    """Rounded to 8 bits, for display and for programs that accept only those; images of 8 bits unchanged."""
    if images.dtype == np.uint8:
        return images.view(np.uint8)
    return np.round(images / levels_in_one(images.dtype)).astype(np.uint8)
