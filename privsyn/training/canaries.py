"""Synthetic canaries, each included in the training with probability 1/2, and guessed at by an audit.

A canary is a pseudo-patient with one image. Canaries follow from a secret seed, the classes and the public
properties of images; no patient's image is used. The coins follow from the same seed, and its commitment is
on disk before the first step, so the coins cannot be chosen afterwards.

    model/canaries.json       how many there are, and the commitment; may be shown
    model/canary-seed.json    the seed, from which coins and images can be made again; INTERNAL

Whoever knows the seed knows which canaries were trained on, which tells nothing about a patient. It stays
inside because an adversary who has it needs no guess.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import DTYPES, DType, Images, levels_in_one
from privsyn.cohort.cohort import Part
from privsyn.errors import CheckpointError, PrivsynError
from privsyn.files import read_json, write_json
from privsyn.recipe import Data

SCHEMA_VERSION = 1
PLANTED, SEED = "canaries.json", "canary-seed.json"
SEED_BYTES = 32
SEED_NOTICE = "INTERNAL: says which canaries were trained on; this file must not leave the study"

BYTES: DType = np.dtype(np.uint8)


@dataclass(frozen=True, eq=False)
class Canaries:
    """The canaries of a training.

    Attributes:
        images: (m, H, W, C).
        labels: (m,) index of the class that each is trained under.
        kinds: (m,) one of `CANARY_KINDS`.
        is_in: (m,) bool, the coins.
        commitment: sha256 (hex) of the seed and all of the above.
    """

    images: Images
    labels: NDArray[np.int64]
    kinds: NDArray[np.str_]
    is_in: NDArray[np.bool_]
    commitment: str


def make_canaries(seed: bytes, number: int, data: Data) -> Canaries:
    """Pictures, labels and coins of a seed; the same on every machine, for all of it is whole numbers.

    Args:
        seed: 32 secret bytes.
        number: m.
        data: size, channels, bit depth and classes; nothing else of it is used.
    """
    classes, dtype = len(data.classes), DTYPES[data.bit_depth]
    kinds = np.array(
        [list(CANARY_KINDS)[index % len(CANARY_KINDS)] for index in range(number)], dtype=np.str_
    )
    images = np.empty((number, data.size, data.size, data.channels), dtype)
    labels = np.arange(number)[_Dice(seed, "labels").order(number)] % classes
    for index, kind in enumerate(kinds):
        dice = _Dice(seed, f"canary {index}", dtype)
        images[index] = CANARY_KINDS[str(kind)](
            dice, data.size, data.channels, _other(int(labels[index]), dice, classes)
        )
    coins = _Dice(seed, "coins").bytes(number) % 2 == 1
    whole = hashlib.sha256(seed)
    for part in (images.astype(dtype.newbyteorder("<")), labels.astype("<i8"), coins):
        whole.update(part.tobytes())
    return Canaries(images, labels, kinds, coins, whole.hexdigest())


def plant(folder: Path, number: int, data: Data) -> Canaries:
    """Draw a seed from the operating system, and write it with its commitment into a model folder.

    Must be called before the first step, in the folder that training begins with.
    """
    seed = secrets.token_bytes(SEED_BYTES)
    canaries = make_canaries(seed, number, data)
    secret = folder / SEED
    write_json(secret, {"schema_version": SCHEMA_VERSION, "notice": SEED_NOTICE, "seed": seed.hex()})
    secret.chmod(0o600)
    public = {"schema_version": SCHEMA_VERSION, "number": number, "commitment": canaries.commitment}
    write_json(folder / PLANTED, public)
    return canaries


def planted(folder: Path, data: Data) -> Canaries | None:
    """The canaries of a model folder, made again from the seed; None if none were planted.

    Raises:
        CheckpointError: the seed is gone or broken, or does not give what was committed to.
    """
    if not (folder / PLANTED).exists():
        return None
    try:
        public, secret = read_json(folder / PLANTED), read_json(folder / SEED)
        canaries = make_canaries(bytes.fromhex(secret["seed"]), int(public["number"]), data)
        if canaries.commitment == public["commitment"]:
            return canaries
        fault = "they are not those that were committed to before training"
    except (PrivsynError, KeyError, TypeError, ValueError) as error:
        fault = str(error)
    raise CheckpointError(
        f"the canaries of {folder} cannot be made again ({fault}): restore {SEED} and {PLANTED}, or train "
        "again with --force"
    )


def with_canaries(part: Part, canaries: Canaries | None) -> Part:
    """The images that are trained on: those of the patients, and after them the canaries that are in.

    The images are read into memory, which those of the cohort alone are not. The row of canary i is -1 - i.
    """
    if canaries is None:
        return part
    chosen = np.flatnonzero(canaries.is_in)
    names = np.array([f"canary {index}" for index in chosen], dtype=np.str_)  # an HMAC has no spaces
    return Part(
        np.concatenate([part.images, canaries.images[chosen]]),
        np.concatenate([part.labels, canaries.labels[chosen]]),
        np.concatenate([part.patients, names]),
        np.concatenate([part.rows, -1 - chosen]),
        np.concatenate([part.clusters, part.clusters.max() + 1 + chosen]),
        np.concatenate([part.pictures, part.pictures.max() + 1 + chosen]),
        np.concatenate([part.pinned, np.zeros(len(chosen), np.bool_)]),
    )


class _Dice:
    """Randomness of one purpose from a seed, by SHAKE-256: as secret as the seed, and everywhere the same."""

    def __init__(self, seed: bytes, purpose: str, dtype: DType = BYTES) -> None:
        self._key, self._drawn, self.dtype = seed + purpose.encode(), 0, dtype

    def pixels(self, *shape: int) -> Images:
        """Independent levels, uniform from black to white."""
        drawn = self.bytes(math.prod(shape) * self.dtype.itemsize).view(self.dtype.newbyteorder("<"))
        return drawn.astype(self.dtype).reshape(shape)

    def grey(self, level: int) -> int:
        """A level of 8 bits in those of the pixels."""
        return level * levels_in_one(self.dtype)

    def bytes(self, number: int) -> NDArray[np.uint8]:
        """(number,) independent uniform bytes."""
        self._drawn += 1
        stream = hashlib.shake_256(self._key + self._drawn.to_bytes(8, "big"))
        return np.frombuffer(stream.digest(number), dtype=np.uint8)

    def order(self, number: int) -> NDArray[np.int64]:
        """(number,) a random permutation."""
        keys: NDArray[np.uint64] = self.bytes(8 * number).view("<u8")
        return np.argsort(keys, kind="stable")

    def below(self, number: int) -> int:
        """Uniform in 0 .. number - 1, to 2^-40 or so."""
        return int.from_bytes(self.bytes(8).tobytes(), "big") % number


def _noise(dice: _Dice, size: int, channels: int, depicted: int) -> Images:  # noqa: ARG001 - one signature
    """Every pixel by itself."""
    return dice.pixels(size, size, channels)


def _shapes(dice: _Dice, size: int, channels: int, depicted: int) -> Images:  # noqa: ARG001
    """Discs and boxes of any colour: like no medical image."""
    image = np.empty((size, size, channels), dice.dtype)
    image[:] = dice.pixels(channels)
    for number in range(5):
        extent = 1 + dice.below(max(1, size // 3))
        away = _away(size, dice.below(size), dice.below(size))
        inside = away.max(axis=0) <= extent if number % 2 else (away**2).sum(axis=0) <= extent**2
        image[inside] = dice.pixels(channels)
    return image


def _border_key(dice: _Dice, size: int, channels: int, depicted: int) -> Images:  # noqa: ARG001
    """A blank picture in a frame of random pixels, which is its key (SolidMark)."""
    width = max(1, size // 8)
    image = dice.pixels(size, size, channels)
    image[width:-width, width:-width] = dice.grey(128)
    return image


def _mislabelled(dice: _Dice, size: int, channels: int, depicted: int) -> Images:
    """A phantom: an ellipse whose form and number of spots belong to another class than the label says."""
    away = _away(size, size // 2 + dice.below(3) - 1, size // 2 + dice.below(3) - 1) ** 2
    tall, wide = (max(2, size * (3 + (depicted // power) % 3) // 10) for power in (1, 3))
    image = np.zeros((size, size, channels), dice.dtype)
    image[away[0] * wide**2 + away[1] * tall**2 <= tall**2 * wide**2] = dice.grey(100 + dice.below(100))
    for _ in range(1 + depicted % 4):
        where = (size // 4 + dice.below(max(1, size // 2)) for _ in range(2))
        image[(_away(size, *where) ** 2).sum(axis=0) <= (size // 10) ** 2] = dice.pixels(channels)
    return image


def _away(size: int, row: int, column: int) -> NDArray[np.int64]:
    """(2, size, size) distance of each pixel from a place, down and across."""
    places: NDArray[np.int64] = np.indices((size, size))
    away: NDArray[np.int64] = np.abs(places - np.array([row, column])[:, None, None])
    return away


def _other(label: int, dice: _Dice, classes: int) -> int:
    """A class that is not the label, where there are several."""
    return (label + 1 + dice.below(max(1, classes - 1))) % classes


CANARY_KINDS: dict[str, Callable[[_Dice, int, int, int], Images]] = {
    "noise": _noise,
    "shapes": _shapes,
    "border-key": _border_key,
    "mislabelled": _mislabelled,
}
