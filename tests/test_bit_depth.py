"""Bit depth: what the type of an array says, and the ways between 8 and 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.bit_depth import DTYPES, bit_depth_of, in_8_bits, levels_in_one, to_levels, white


@pytest.mark.parametrize(("bits", "highest", "in_one"), [(8, 255, 1), (16, 65535, 257)])
def test_the_type_says_the_scale(bits: int, highest: int, in_one: int) -> None:
    """White is the highest number of the type; each level of 8 bits is a whole number of them."""
    dtype = DTYPES[bits]
    assert (white(dtype), levels_in_one(dtype)) == (highest, in_one)
    assert bit_depth_of(np.zeros((1, 8, 8, 1), dtype)) == bits


def test_8_bits_of_16_are_the_nearest() -> None:
    """Levels widened from 8 bits come back, those between go to the nearer; 8 bits stay what they are."""
    levels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(in_8_bits(levels), levels)
    wide = levels.astype(np.uint16) * 257
    for away in (-128, 0, 128):
        near = np.clip(wide.astype(int) + away, 0, 65535).astype(np.uint16)
        np.testing.assert_array_equal(in_8_bits(near), levels)


@pytest.mark.parametrize("bits", DTYPES)
def test_numbers_become_levels(bits: int) -> None:
    """Rounded to the nearest, black below and white beyond the scale."""
    highest = white(DTYPES[bits])
    found = to_levels(np.array([-3.0, 0.4, 0.6, highest - 0.4, highest + 9.0]), DTYPES[bits])
    assert found.dtype == DTYPES[bits]
    assert found.tolist() == [0, 0, 1, highest, highest]
