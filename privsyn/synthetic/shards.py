"""Parquet shards of a synthetic set: columns `image{bytes, path}` and `label`, as Hugging Face writes them.

Key-value metadata: `huggingface` types the columns for `datasets`, `privsyn` says what drew the set.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from privsyn.bit_depth import DTYPES, Images
from privsyn.errors import SyntheticError
from privsyn.files import file_digest
from privsyn.synthetic.provenance import Provenance, read_provenance_of

SHARD_IMAGES = 10_000
GROUP_IMAGES = 500  # images encoded or decoded at a time: bounds the memory that encoding takes
MODES = {(1, 8): "L", (3, 8): "RGB", (1, 16): "I;16"}  # of Pillow, by channels and bit depth

_COLUMNS = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "label": pa.int64()}
_DECODERS = ("PNG", "JPEG")


def write_shards(
    folder: Path,
    images: Images,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    provenance: Provenance | None,
) -> dict[str, tuple[str, int]]:
    """Write `data/train-*.parquet` below `folder`, the same bytes for the same input.

    Args:
        images: (N, H, W, C).
        labels: (N,) int64, indices into `classes`.
        provenance: what drew the images; None if that is not known.

    Returns:
        Relative path to (sha256 hex, size in bytes) of each shard.
    """
    schema = _schema(classes, provenance)
    starts = range(0, len(images), SHARD_IMAGES)
    shards = {}
    for number, start in enumerate(starts):
        path = folder / "data" / f"train-{number:05d}-of-{len(starts):05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        # Pixels are compressed already, and statistics of them would repeat whole images in the footer.
        with pq.ParquetWriter(
            path, schema, compression="none", use_dictionary=False, write_statistics=["label"]
        ) as writer:
            for batch in _batches(images, labels, range(start, min(start + SHARD_IMAGES, len(images)))):
                writer.write_batch(batch.cast(schema))
        shards[path.relative_to(folder).as_posix()] = (file_digest(path), path.stat().st_size)
    return shards


def read_shard(
    shard: Path, *, size: int, channels: int, bit_depth: int
) -> tuple[list[Images], list[int | None]]:
    """The images, each (size, size, channels), and the labels of one shard, as they are numbered there.

    Raises:
        SyntheticError: the file is damaged, has other columns, or an image is not what is wanted.
    """
    images: list[Images] = []
    labels: list[int | None] = []
    with _open(shard) as source:
        try:
            for batch in source.iter_batches(batch_size=GROUP_IMAGES):
                for encoded in batch.column("image").flatten()[0].to_pylist():
                    where = f"image {len(images)} in {shard}"
                    images.append(_decode(encoded or b"", where, size, channels, bit_depth))
                labels += batch.column("label").to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise SyntheticError(f"{shard} is damaged ({error})") from None
    return images, labels


def shard_metadata(shard: Path) -> tuple[list[str] | None, Provenance | None]:
    """Class names in the order of the shard's labels, and its provenance; `None` for what it does not say."""
    with _open(shard) as source:
        features, provenance = _document(source, "huggingface"), _document(source, "privsyn")
    try:
        names = [str(name) for name in features["info"]["features"]["label"]["names"]]
    except (KeyError, TypeError):
        names = None
    return names, None if provenance is None else read_provenance_of(provenance, str(shard))


def encode_png(image: Images) -> bytes:
    """One (H, W, C) image as PNG with pixels only: made afresh, it has no metadata to carry along."""
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, format="PNG")
    return buffer.getvalue()


def _schema(classes: Sequence[str], provenance: Provenance | None) -> pa.Schema:
    label = {"_type": "ClassLabel", "names": list(classes)}
    features = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    metadata = {"huggingface": json.dumps(features)}
    if provenance is not None:
        metadata["privsyn"] = json.dumps(provenance.to_dict(), sort_keys=True, allow_nan=False)
    return pa.schema(list(_COLUMNS.items()), metadata=metadata)


def _batches(images: Images, labels: NDArray[np.int64], rows: range) -> Iterator[pa.RecordBatch]:
    for start in range(rows.start, rows.stop, GROUP_IMAGES):
        group = range(start, min(start + GROUP_IMAGES, rows.stop))
        pictures = [{"bytes": encode_png(images[row]), "path": f"{row:08d}.png"} for row in group]
        yield pa.record_batch({"image": pa.array(pictures, _COLUMNS["image"]), "label": labels[group]})


def _open(shard: Path) -> pq.ParquetFile:
    try:
        source = pq.ParquetFile(shard)
    except (pa.ArrowException, OSError) as error:
        raise SyntheticError(f"{shard} is not a Parquet file that can be read ({error})") from None
    found = [(field.name, field.type) for field in source.schema_arrow]
    if found != list(_COLUMNS.items()):
        # A further column would leave with the set although no audit has looked at it.
        columns = ", ".join(f"{name} ({kind})" for name, kind in found) or "none"
        raise SyntheticError(
            f"{shard} has columns {columns}; wanted are exactly image (a struct of bytes and path) "
            "and label (int64)"
        )
    return source


def _decode(encoded: bytes, where: str, size: int, channels: int, bit_depth: int) -> Images:
    wanted = _in_words(size, size, MODES[channels, bit_depth])
    try:
        with Image.open(io.BytesIO(encoded), formats=_DECODERS) as image:
            found = _in_words(image.width, image.height, whole_mode(image))
            if found == wanted:
                return np.array(image, DTYPES[bit_depth]).reshape(size, size, channels)
    except Exception as error:  # decoders raise anything on hostile bytes, and all of it means the same
        raise SyntheticError(
            f"{where} is not an image that can be decoded ({type(error).__name__})"
        ) from None
    # A conversion could hide what another mode holds (alpha, palette), so it is left to whoever made the set.
    raise SyntheticError(f"{where} is {found}, wanted {wanted}: convert it first")


def whole_mode(image: Image.Image) -> str:
    """The mode of an image just opened; with `;16` where Pillow would cut 16 bits to 8 without a word."""
    hidden = any(";16" in str(tile[3]) for tile in getattr(image, "tile", []))
    return f"{image.mode};16" if hidden and ";16" not in image.mode else image.mode


def _in_words(width: int, height: int, mode: str) -> str:
    return f"{width}x{height} {mode}" + (" (16 bits)" if ";16" in mode else "")


def _document(source: pq.ParquetFile, key: str) -> Any:
    try:
        return json.loads((source.schema_arrow.metadata or {})[key.encode()])
    except (KeyError, ValueError, RecursionError):
        return None
