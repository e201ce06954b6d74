"""Random numbers from a cipher: ChaCha20 (RFC 8439) under 256 bits of key.

For what protects patients: noise, and the coins of Poisson samples. Who sees some of a Mersenne Twister's
numbers can compute the others; who sees some of a cipher's cannot, without its key.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

KEY_BYTES = 32
_NONCE = bytes(16)  # block counter and nonce: a key is used for one stream only


class CipherStream:
    """Independent draws from the key stream of ChaCha20; a key gives the same stream each time."""

    def __init__(self, key: bytes) -> None:
        self._cipher = Cipher(ChaCha20(key, _NONCE), mode=None).encryptor()

    def octets(self, number: int) -> bytes:
        """The next `number` bytes of the key stream."""
        return self._cipher.update(bytes(number))

    def uniform(self, number: int) -> NDArray[np.float64]:
        """Multiples of 2^-53 in [0, 1), each equally likely."""
        words = np.frombuffer(self.octets(8 * number), dtype="<u8")
        return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, *shape: int) -> NDArray[np.float64]:
        """Standard normals by Box and Muller; none is beyond 8.6, where the normal has 1e-17 of its mass."""
        number = int(np.prod(shape))
        pairs = (number + 1) // 2
        radius = np.sqrt(-2 * np.log(1 - self.uniform(pairs)))  # of (0, 1]: finite
        angle = 2 * np.pi * self.uniform(pairs)
        drawn = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return drawn[:number].reshape(shape)

    def permutation(self, number: int) -> NDArray[np.int64]:
        """The numbers below `number` in random order."""
        return self.uniform(number).argsort(kind="stable")


def secret_stream() -> CipherStream:
    """A stream that cannot be repeated: its key comes from the operating system and is never written."""
    return CipherStream(secrets.token_bytes(KEY_BYTES))


def keyed_stream(*key: int | str) -> CipherStream:
    """The same stream for the same key, independent ones for different keys: `(seed, step, "noise")`."""
    return CipherStream(hashlib.sha256(repr(key).encode()).digest())
