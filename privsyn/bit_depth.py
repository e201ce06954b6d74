"""How many bits a pixel has: 8, or 16 for grey; the type of an array alone says which, and what its white is.

Whoever computes with pixels asks here for their scale, so that 16 bits are no special case anywhere else.
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
    """How many levels lie in one of 8 bits: 1 or 257, for 65535 = 255 * 257."""
    return white(dtype) // 255


def to_levels(values: NDArray[Any], dtype: DType) -> Images:
    """Numbers on the scale of `dtype` to its nearest levels."""
    levels: Images = np.clip(np.round(values), 0, white(dtype)).astype(dtype)
    return levels


def in_8_bits(images: Images) -> NDArray[np.uint8]:
    """The nearest of 8 bits, for eyes and for programs that know no others; images of 8 bits as they are."""
    if images.dtype == np.uint8:
        return images.view(np.uint8)
    return np.round(images / levels_in_one(images.dtype)).astype(np.uint8)
