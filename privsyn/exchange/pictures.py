"""Writes a synthetic set as PNG files: an ImageFolder or WebDataset tar shards, reproducible to the byte."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path

from privsyn.synthetic.dataset import SyntheticSet
from privsyn.synthetic.shards import SHARD_IMAGES, encode_png

SHARD_BYTES = 256 * 2**20  # of pixels before compression
METADATA_FILE = "metadata.jsonl"  # the name by which `datasets` finds labels beside images


def write_imagefolder(folder: Path, synthetic: SyntheticSet) -> None:
    """Write `images/000000.png` ... and `metadata.jsonl`."""
    names = file_names(len(synthetic.images), "png")
    (folder / "images").mkdir()
    for name, image in zip(names, synthetic.images, strict=True):
        (folder / name).write_bytes(encode_png(image))
    write_labels(folder, names, synthetic)


def write_webdataset(folder: Path, synthetic: SyntheticSet) -> None:
    """Write `train-00000-of-0000N.tar`, in each `000000.png` and `000000.json` of its images."""
    stems = _stems(len(synthetic.images))
    shards = shard_rows(len(synthetic.images), synthetic.images[0].nbytes)
    for number, rows in enumerate(shards):
        path = folder / f"train-{number:05d}-of-{len(shards):05d}.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                label = _label(synthetic, row)
                _add(tar, f"{stems[row]}.json", json.dumps(label).encode("ascii"))
                _add(tar, f"{stems[row]}.png", encode_png(synthetic.images[row]))


def shard_rows(count: int, image_bytes: int) -> list[range]:
    """The images of each tar shard: at most 10,000, of at most 256 MiB of pixels, and never none.

    Args:
        count: images of the set.
        image_bytes: of one image's pixels.
    """
    most = min(SHARD_IMAGES, max(1, SHARD_BYTES // image_bytes))
    return [range(start, min(start + most, count)) for start in range(0, count, most)]


def file_names(count: int, suffix: str) -> list[str]:
    """`images/000000.SUFFIX` ...: numbers alone, so that no class name becomes a file name."""
    return [f"images/{stem}.{suffix}" for stem in _stems(count)]


def write_labels(folder: Path, names: Sequence[str], synthetic: SyntheticSet) -> None:
    """Write `metadata.jsonl`: `file_name`, `label` and `label_name` of each image, in ASCII."""
    with (folder / METADATA_FILE).open("w", encoding="ascii", newline="\n") as file:
        for row, name in enumerate(names):
            file.write(json.dumps({"file_name": name, **_label(synthetic, row)}) + "\n")


def _label(synthetic: SyntheticSet, row: int) -> dict[str, int | str]:
    label = int(synthetic.labels[row])
    return {"label": label, "label_name": synthetic.classes[label]}


def _stems(count: int) -> list[str]:
    digits = max(6, len(str(count - 1)))
    return [f"{row:0{digits}d}" for row in range(count)]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without time, owner or anything else of this machine: the defaults of `TarInfo`."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o644
    tar.addfile(member, io.BytesIO(data))
