from __future__ import annotations

import numpy as np
import torch

from privsyn.dp.generators import keyed_generator, secret_generator

CPU = torch.device("cpu")


def test_a_plain_torch_seed_is_cut_to_32_bits() -> None:
    """Why this module exists: seeds that differ above bit 32 give the same numbers."""
    seeds = (1, 1 + 2**32)
    first, second = (torch.randn(4, generator=torch.Generator().manual_seed(seed)) for seed in seeds)
    assert torch.equal(first, second)


def test_the_whole_state_is_filled() -> None:
    """The numbers are those of numpy's Mersenne Twister with the same 624 words, so all of them count."""
    generator = keyed_generator(CPU, "any")
    words = generator.get_state().numpy().view(np.uint64)[3:627]
    theirs = np.random.MT19937()
    theirs.state = {"bit_generator": "MT19937", "state": {"key": words.astype(np.uint32), "pos": 624}}
    ours = torch.empty(2000, dtype=torch.int32).random_(generator=generator)  # the low 31 bits of each
    np.testing.assert_array_equal(ours.numpy(), theirs.random_raw(2000) & 0x7FFFFFFF)


def test_secret_generators_never_repeat() -> None:
    """Two of them share no numbers, and torch's own seed does not reach them."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(torch.randn(1000, generator=secret_generator(CPU)))
    assert len(torch.cat(drawn).unique()) > 1990


def test_keys_decide_and_do_not_collide() -> None:
    """The same key gives the same numbers; no part of it can be mistaken for another."""

    def drawn(*key: int | str) -> float:
        return torch.rand((), generator=keyed_generator(CPU, *key), dtype=torch.float64).item()

    assert drawn(3, 7, "noise") == drawn(3, 7, "noise")
    keys = [(3, 7, "noise"), (37, "noise"), (3, 7, "draws"), (3, 8, "noise"), ("3", 7, "noise"), (2**70,)]
    assert len({drawn(*key) for key in keys}) == len(keys)
