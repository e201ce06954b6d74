"""Streams of a cipher: known answers, the distributions drawn from them, and that secrets do not repeat."""

from __future__ import annotations

import numpy as np
from scipy import stats

from privsyn.dp.cipher_stream import CipherStream, keyed_stream, secret_stream


def test_the_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: key, counter and nonce are zero."""
    expected = "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    assert CipherStream(bytes(32)).octets(32).hex() == expected


def test_uniforms_are_uniform_multiples_of_two_to_the_minus_53() -> None:
    """Below one, on the grid, and uniform by a Kolmogorov-Smirnov test."""
    drawn = keyed_stream(0, "uniform").uniform(10**6)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert (drawn * 2.0**53 % 1 == 0).all()
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_normals_are_normal_in_their_middle_and_tails() -> None:
    """Kolmogorov-Smirnov, and the number beyond three and four sigma, within five of its own deviations."""
    drawn = keyed_stream(0, "normal").normal(1000, 1001)
    assert drawn.shape == (1000, 1001)
    assert stats.kstest(drawn.ravel(), "norm").pvalue > 1e-3
    for sigma in (3, 4):
        expected = drawn.size * 2 * stats.norm.sf(sigma)
        assert abs((np.abs(drawn) > sigma).sum() - expected) < 5 * np.sqrt(expected)


def test_an_odd_number_of_normals_and_none_at_all() -> None:
    """Pairs are cut to the number asked for."""
    assert keyed_stream(0).normal(3).shape == (3,)
    assert keyed_stream(0).normal(0, 4).shape == (0, 4)


def test_a_permutation_has_each_number_once_and_every_order_as_often() -> None:
    """Chi-squared over the six orders of three."""
    stream = keyed_stream(0, "order")
    assert sorted(stream.permutation(100)) == list(range(100))
    orders = [tuple(stream.permutation(3)) for _ in range(6000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_keys_repeat_and_secrets_do_not() -> None:
    """One key is one stream; another key, or another secret stream, is another."""
    assert keyed_stream(1, 2, "noise").octets(32) == keyed_stream(1, 2, "noise").octets(32)
    assert keyed_stream(1, 2, "noise").octets(32) != keyed_stream(1, 3, "noise").octets(32)
    assert secret_stream().octets(32) != secret_stream().octets(32)


def test_two_streams_are_uncorrelated() -> None:
    """Streams of neighbouring steps have no linear relation."""
    first, second = (keyed_stream(0, step, "noise").normal(10**6) for step in (1, 2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 5e-3
