"""Random generators with full-entropy state: from the operating system where randomness must be secret, from
a key where it must be repeatable.

`torch.Generator.manual_seed` keeps only 32 bits of its seed on the CPU, few enough to try them all, so it
must not seed the noise that protects patients.
"""

from __future__ import annotations

import hashlib
import secrets

import numpy as np
import torch
from numpy.typing import NDArray

CPU = torch.device("cpu")
_WORDS = 624  # of the Mersenne Twister
_FIRST_WORD = 3  # where they begin in torch's state, in units of 8 bytes; a test holds it against numpy's


def secret_generator(device: torch.device) -> torch.Generator:
    """A generator that cannot be repeated: its state comes from the operating system and is never written."""
    return _filled(np.frombuffer(secrets.token_bytes(4 * _WORDS), dtype=np.uint32), device)


def keyed_generator(device: torch.device, *key: int | str) -> torch.Generator:
    """The same generator for the same key, independent ones for different keys: `(seed, step, "noise")`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    entropy = np.random.SeedSequence(int.from_bytes(digest, "big"))
    return _filled(entropy.generate_state(_WORDS).astype(np.uint32), device)


def _filled(words: NDArray[np.uint32], device: torch.device) -> torch.Generator:
    generator = torch.Generator(device)
    if device.type != "cpu":  # counter-based generators, keyed with all 64 bits
        return generator.manual_seed(int(words[:2].view(np.uint64)[0]))
    state = generator.manual_seed(0).get_state()
    state.numpy().view(np.uint64)[_FIRST_WORD : _FIRST_WORD + _WORDS] = words
    generator.set_state(state)
    return generator
