"""The synthetic set on disk: what recipients load, and what audits read.

    folder/README.md, croissant.json, data/train-00000-of-0000N.parquet

`write_synthetic` writes this layout, the same bytes for the same input. `read_synthetic` also reads what
other generators write: a folder of images per class, or one `.npz`.
"""

from __future__ import annotations

import difflib
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import DTYPES, Images
from privsyn.claim.document import Claim
from privsyn.claim.words import paragraph
from privsyn.cohort.pixels import fit_pixels, read_image
from privsyn.errors import CohortError, SyntheticError
from privsyn.files import file_digest, tree_digest, tree_digests, whole_folder, write_json, write_text
from privsyn.recipe import Data
from privsyn.synthetic.card import card
from privsyn.synthetic.croissant import croissant
from privsyn.synthetic.provenance import Provenance
from privsyn.synthetic.shards import MODES, read_shard, shard_metadata, write_shards


@dataclass(frozen=True)
class SyntheticSet:
    """Images that no camera took.

    Attributes:
        images: (N, H, W, C) uint8 or uint16, read-only.
        labels: (N,) int64, read-only indices into `classes`.
        classes: names in the order that was asked for.
        provenance: what drew the set; None where it does not say.
        digest: sha256 (hex) of the folder's names and bytes, or of the `.npz` file.
    """

    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    provenance: Provenance | None
    digest: str


def write_synthetic(
    folder: Path,
    images: Images,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    name: str,
    claim: Claim | None,
    provenance: Provenance | None,
    force: bool = False,
) -> None:
    """Write a set, whole or not at all.

    Args:
        images: (N, H, W, C), square: uint8 with C 1 or 3, or uint16 with C 1.
        labels: (N,) indices into `classes`.
        name: shown to recipients, so it must tell nothing private.
        claim: of the model that drew the set, for the card; None if there is none.
        provenance: what drew the set; shipped in every shard. None if it is not known.
        force: replace a set that is there.

    Raises:
        SyntheticError: images and labels do not make a set.
        PrivsynError: the folder exists and `force` is not set.
    """
    _check_images(images, images.shape[1] if images.ndim == 4 else 0, MODES, "the set to write")
    _check_labels(labels, len(images), classes, "the set to write")
    words = paragraph(claim)
    with whole_folder(folder, replace=force) as partial:
        shards = write_shards(partial, images, labels.astype(np.int64), classes, provenance)
        text = card(name=name, classes=classes, images=images, shards=shards, claim=words)
        write_text(partial / "README.md", text)
        document = croissant(name=name, classes=classes, shards=shards, claim=words)
        write_json(partial / "croissant.json", document)


def read_synthetic(
    path: Path, *, size: int, channels: int, bit_depth: int = 8, classes: Sequence[str]
) -> SyntheticSet:
    """Read a set and check it against what is wanted; its classes are matched to `classes` by name.

    Args:
        path: a folder in our layout, a folder with one folder of images per class, or an `.npz` with
            `images` (N, H, W[, C]) uint8 or uint16 and `labels` (N,), indices into `classes` or names.
        size: height and width in pixels.
        channels: 1 grey, 3 RGB.
        bit_depth: 8, or 16 for grey.
        classes: names in the wanted order.

    Raises:
        SyntheticError: nothing is there, or something in it is not what is wanted.
    """
    path = Path(path)
    provenance = None
    if path.is_file() and path.suffix == ".npz":
        images, labels = _read_npz(path, channels, classes)
    elif not path.is_dir():
        raise SyntheticError(f"{path} is neither a folder nor an .npz file: name the synthetic set to read")
    elif shards := sorted((path / "data").glob("*.parquet")):
        images, labels = _read_shards(shards, size, channels, bit_depth, classes)
        provenance = shard_metadata(shards[0])[1]
    else:
        data = {"size": size, "channels": channels, "bit_depth": bit_depth, "classes": tuple(classes)}
        images, labels = _read_tree(path, Data.model_validate(data))
    _check_images(images, size, [(channels, bit_depth)], str(path))
    _check_labels(labels, len(images), classes, str(path))
    labels = labels.astype(np.int64)
    images.flags.writeable = labels.flags.writeable = False
    digest = file_digest(path) if path.is_file() else tree_digest(tree_digests(path))
    return SyntheticSet(images, labels, tuple(classes), provenance, digest)


def read_provenance(folder: Path) -> Provenance | None:
    """What drew a set in our layout, from its first shard; `None` if that does not say."""
    shards = sorted((folder / "data").glob("*.parquet"))
    if not shards:
        raise SyntheticError(f"{folder} holds no data/*.parquet: draw a set with `privsyn sample`")
    return shard_metadata(shards[0])[1]


_Arrays = tuple[NDArray[Any], NDArray[Any]]


def _read_shards(
    shards: Sequence[Path], size: int, channels: int, bit_depth: int, classes: Sequence[str]
) -> _Arrays:
    images: list[Images] = []
    labels: list[int] = []
    for shard in shards:
        names = shard_metadata(shard)[0]
        order = range(len(classes)) if names is None else _order(names, classes, shard)
        shard_images, shard_labels = read_shard(shard, size=size, channels=channels, bit_depth=bit_depth)
        for row, label in enumerate(shard_labels):
            if label is None or not 0 <= label < len(order):
                raise SyntheticError(
                    f"label {label} of image {row} in {shard} is not one of {len(order)} classes"
                )
            labels.append(order[label])
        images += shard_images
    return _stack(images, shards[0].parent), np.array(labels, np.int64)


def _read_tree(folder: Path, wanted: Data) -> _Arrays:
    images: list[Images] = []
    labels: list[int] = []
    for class_folder in sorted(path for path in folder.iterdir() if path.is_dir()):
        label = _order([class_folder.name], wanted.classes, folder)[0]
        for file in sorted(class_folder.iterdir()):
            images.append(_read_image(file, wanted))
            labels.append(label)
    return _stack(images, folder), np.array(labels, np.int64)


def _read_image(file: Path, wanted: Data) -> Images:
    try:
        pixels = read_image(file)
        if pixels.shape[:2] == (wanted.size, wanted.size):
            return fit_pixels(pixels, wanted)
    except CohortError as error:
        raise SyntheticError(f"{file} {error}") from None
    height, width, _ = pixels.shape
    raise SyntheticError(
        f"{file} is {width}x{height} px, wanted {wanted.size}x{wanted.size}: resize it first"
    )


def _read_npz(file: Path, channels: int, classes: Sequence[str]) -> _Arrays:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"].reshape(-1)
    except KeyError:
        raise SyntheticError(f"{file} lacks one of the arrays `images` and `labels`") from None
    except (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise SyntheticError(f"{file} cannot be read ({error})") from None
    if images.ndim == 3 and channels == 1:
        images = images[..., np.newaxis]
    if labels.dtype.kind == "U":
        names, inverse = np.unique(labels, return_inverse=True)
        labels = np.array(_order(names.tolist(), classes, file), np.int64)[inverse]
    return images, labels


def _stack(images: Sequence[Images], folder: Path) -> Images:
    if not images:
        raise SyntheticError(
            f"{folder} holds no images: neither data/*.parquet with rows nor a folder per class"
        )
    return np.stack(images)


def _order(names: Sequence[str], classes: Sequence[str], where: Path) -> list[int]:
    """Index in `classes` of each name, so that a set in another class order means the same."""
    for name in names:
        if name not in classes:
            close = difflib.get_close_matches(name, classes, n=1, cutoff=0.5)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"the classes are {', '.join(map(repr, classes))}"
            )
            raise SyntheticError(f"{where} has a class {name!r} that the cohort does not have: {hint}")
    return [list(classes).index(name) for name in names]


def _check_images(images: NDArray[Any], size: int, kinds: Iterable[tuple[int, int]], where: str) -> None:
    """See that the images are square and of one of the `kinds`, pairs of channels and bit depth."""
    wanted = [((size, size, channels), DTYPES[bit_depth]) for channels, bit_depth in kinds]
    if images.ndim != 4 or (images.shape[1:], images.dtype) not in wanted:
        words = " or ".join(f"(N, {size}, {size}, {shape[2]}) {dtype}" for shape, dtype in wanted)
        raise SyntheticError(f"{where}: images are {images.shape} {images.dtype}, wanted {words}")


def _check_labels(labels: NDArray[Any], count: int, classes: Sequence[str], where: str) -> None:
    if not count or labels.shape != (count,):
        raise SyntheticError(f"{where}: {count} images and {labels.size} labels do not make a set")
    if labels.dtype.kind not in "iu":
        raise SyntheticError(f"{where}: labels must be integers or class names, not {labels.dtype}")
    wrong = labels[(labels < 0) | (labels >= len(classes))]
    if wrong.size:
        raise SyntheticError(f"{where}: label {wrong[0]} is not one of the {len(classes)} classes")
