"""Canaries are synthetic images, reproducible from their seed, and committed to before training."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from parts import part_of_arrays

from privsyn.errors import CheckpointError
from privsyn.files import read_json, write_json
from privsyn.recipe import Data
from privsyn.training.canaries import (
    CANARY_KINDS,
    PLANTED,
    SEED,
    make_canaries,
    plant,
    planted,
    with_canaries,
)

KEY = bytes(range(32))
DATA = Data(size=8, classes=("a", "b", "c"))


@pytest.mark.parametrize("size", [8, 13, 28, 65])
@pytest.mark.parametrize("channels", [1, 3])
def test_they_come_in_any_size_and_colour(size: int, channels: int) -> None:
    """Every kind is there, no two pictures are equal, and every class has its share."""
    data = Data(size=size, channels=channels, classes=("a", "b", "c"))
    found = make_canaries(KEY, 120, data)
    assert found.images.shape == (120, size, size, channels)
    assert len(np.unique(found.images.reshape(120, -1), axis=0)) == 120
    assert {kind: int((found.kinds == kind).sum()) for kind in CANARY_KINDS} == dict.fromkeys(
        CANARY_KINDS, 30
    )
    assert np.bincount(found.labels).tolist() == [40, 40, 40]


def test_a_seed_gives_the_same_everywhere_and_for_ever() -> None:
    """The commitment of a fixed seed: should it change, models that were trained before cannot be audited."""
    assert make_canaries(KEY, 8, DATA).commitment == make_canaries(KEY, 8, DATA).commitment
    assert make_canaries(KEY, 8, DATA).commitment == (
        "b056e89d2c3f4d7b1c4278e1520fd3e5a76fe6c8ffe8efdf380f576c8759d6d3"
    )
    assert make_canaries(bytes(32), 8, DATA).commitment != make_canaries(KEY, 8, DATA).commitment


def test_they_come_in_16_bits() -> None:
    """No two are equal, and noise takes all levels from black to white alike, and not 256 of them alone.

    The commitment of a fixed seed: see above.
    """
    found = make_canaries(KEY, 120, DATA.model_copy(update={"bit_depth": 16}))
    assert found.images.dtype == np.uint16
    assert len(np.unique(found.images.reshape(120, -1), axis=0)) == 120
    noise = found.images[found.kinds == "noise"].ravel()
    assert len(np.unique(noise)) > 1800
    assert np.abs(np.histogram(noise, 8, (0, 65_536))[0] / len(noise) - 1 / 8).max() < 0.03
    assert (found.images[found.kinds == "border-key"][:, 4, 4] == 128 * 257).all()
    assert found.commitment == make_canaries(KEY, 120, DATA.model_copy(update={"bit_depth": 16})).commitment


def test_no_patient_is_asked() -> None:
    """Making them takes a seed, a number and what is public about images, and has no way to a cohort."""
    assert list(inspect.signature(make_canaries).parameters) == ["seed", "number", "data"]


def test_coins_are_fair_and_independent() -> None:
    """Of 4,000, half are in up to chance, whatever their kind, their label or their neighbour."""
    found = make_canaries(KEY, 4000, Data(size=8, classes=("a", "b")))
    coins = found.is_in
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    for other in (found.labels, found.kinds == "noise", np.roll(coins, 1), np.arange(4000) < 2000):
        assert abs(np.corrcoef(coins, other)[0, 1]) < 4 / np.sqrt(4000)


def test_a_single_class_is_enough() -> None:
    """Then nothing can be mislabelled, and all else stays."""
    assert set(make_canaries(KEY, 12, Data(size=8, classes=("only",))).labels) == {0}


def test_what_was_planted_is_found_again(tmp_path: Path) -> None:
    """From the seed, which only its owner can read; the public part does not contain it."""
    first = plant(tmp_path, 20, DATA)
    again = planted(tmp_path, DATA)
    assert again is not None
    assert again.commitment == first.commitment == read_json(tmp_path / PLANTED)["commitment"]
    np.testing.assert_array_equal(again.images, first.images)
    np.testing.assert_array_equal(again.is_in, first.is_in)
    seed = read_json(tmp_path / SEED)["seed"]
    assert "INTERNAL" in read_json(tmp_path / SEED)["notice"]
    assert (tmp_path / SEED).stat().st_mode & 0o077 == 0
    assert seed not in (tmp_path / PLANTED).read_text()
    assert planted(tmp_path / "elsewhere", DATA) is None


def test_two_plantings_share_no_coin(tmp_path: Path) -> None:
    """The seed is drawn again from the operating system."""
    assert plant(tmp_path, 20, DATA).commitment != plant(tmp_path, 20, DATA).commitment


@pytest.mark.parametrize("fault", ["another seed", "another number", "no seed", "not hex"])
def test_other_canaries_than_committed_to_are_refused(tmp_path: Path, fault: str) -> None:
    """Coins cannot be chosen afterwards; the message says what to do."""
    plant(tmp_path, 20, DATA)
    public, secret = read_json(tmp_path / PLANTED), read_json(tmp_path / SEED)
    if fault == "another number":
        write_json(tmp_path / PLANTED, public | {"number": 21})
    elif fault == "no seed":
        (tmp_path / SEED).unlink()
    else:
        write_json(tmp_path / SEED, secret | {"seed": "00" * 32 if fault == "another seed" else "coin"})
    with pytest.raises(CheckpointError, match="--force"):
        planted(tmp_path, DATA)


def test_only_those_that_are_in_are_trained_on() -> None:
    """They come after the patients, each a patient of its own, and their rows say which they are."""
    patients = np.array(["p", "p", "q"])
    part = part_of_arrays(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int64), patients)
    found = make_canaries(KEY, 30, DATA)
    joined = with_canaries(part, found)
    chosen = np.flatnonzero(found.is_in)
    np.testing.assert_array_equal(joined.images[3:], found.images[chosen])
    np.testing.assert_array_equal(joined.labels[3:], found.labels[chosen])
    np.testing.assert_array_equal(-1 - joined.rows[3:], chosen)
    assert len(set(joined.patients)) == 2 + len(chosen)
    assert len(set(joined.units("patient"))) == 2 + len(chosen)
    assert len(set(joined.units("image"))) == 3 + len(chosen)
    assert with_canaries(part, None) is part
