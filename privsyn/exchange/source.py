"""Reads a synthetic set from its folder alone, as a recipient has it: without study and recipe."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from privsyn.errors import SyntheticError
from privsyn.files import file_digest, tree_digest
from privsyn.synthetic.dataset import SyntheticSet, read_synthetic
from privsyn.synthetic.shards import MODES, shard_metadata, whole_mode

CARD = "README.md"
PRIVACY = "\n## Privacy\n"  # the heading in `synthetic.card`; no class name can make a line of its own there


@dataclass(frozen=True)
class Source:
    """A set to be written in another layout.

    Attributes:
        synthetic: its images, labels and classes.
        claim: what its card says of privacy, one line.
        shards: sha256 (hex) that `sha256sum data/*.parquet | sha256sum` prints in its folder.
    """

    synthetic: SyntheticSet
    claim: str
    shards: str


def read_source(folder: Path) -> Source:
    """Read a set in our layout, the `synthetic` folder of a study or a release.

    Raises:
        SyntheticError: something of it is missing, damaged or contradicts the rest.
        PrivsynError: the folder holds links or special files.
    """
    shards = sorted((folder / "data").glob("*.parquet"))
    if not shards:
        raise SyntheticError(
            f"{folder} holds no data/*.parquet: name a release, or a set that `privsyn sample` wrote"
        )
    claim, classes = _claim(folder / CARD), _classes(shards[0])
    size, channels, bit_depth = _kind(shards[0])
    synthetic = read_synthetic(folder, size=size, channels=channels, bit_depth=bit_depth, classes=classes)
    digests = {shard.relative_to(folder).as_posix(): file_digest(shard) for shard in shards}
    return Source(synthetic, claim, tree_digest(digests))


def _claim(card: Path) -> str:
    """The paragraph of the card on privacy: a copy must not lose it."""
    try:
        _, _, rest = card.read_text(encoding="utf-8").partition(PRIVACY)
    except (OSError, UnicodeDecodeError):
        rest = ""
    words = " ".join(rest.strip().partition("\n\n")[0].split())
    if not words:
        raise SyntheticError(
            f"{card} says nothing under `## Privacy`: name a set that `privsyn sample` wrote"
        )
    return words


def _classes(shard: Path) -> Sequence[str]:
    names, _ = shard_metadata(shard)
    if not names:
        raise SyntheticError(f"{shard} does not name its classes: name a set that `privsyn sample` wrote")
    if len(set(names)) != len(names):
        raise SyntheticError(f"{shard} names a class twice")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can spell and UTF-8 cannot
            raise SyntheticError(f"{shard} has a class name that is not valid text: {name!a}") from None
    return names


def _kind(shard: Path) -> tuple[int, int, int]:
    """Width in pixels, channels, bit depth of the first image; `read_synthetic` holds all images to them."""
    try:
        for batch in pq.ParquetFile(shard).iter_batches(batch_size=1, columns=["image"]):
            encoded = batch.column("image").flatten()[0][0].as_py()
            with Image.open(io.BytesIO(encoded or b""), formats=("PNG", "JPEG")) as image:
                width, mode = image.width, whole_mode(image)
            break
        else:
            raise SyntheticError(f"{shard} holds no images")
    except (pa.ArrowException, OSError, Image.DecompressionBombError) as error:
        raise SyntheticError(f"the first image in {shard} cannot be read ({type(error).__name__})") from None
    kinds = {mode: kind for kind, mode in MODES.items()}
    if mode not in kinds:
        raise SyntheticError(f"the first image in {shard} is {mode}, wanted {' or '.join(kinds)}")
    return width, *kinds[mode]
