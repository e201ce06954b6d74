"""Images in Parquet files, as Hugging Face and `privsyn sample` write them, a batch of rows at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from privsyn.cohort.entries import SourceEntry, SourceImage
from privsyn.cohort.reading import read_bytes
from privsyn.cohort.sources.folders import SPLIT_FOLDERS, FolderListing, is_folder, listing
from privsyn.cohort.sources.names import as_text, file_stamp, readable, shown
from privsyn.cohort.sources.tables import read_inside
from privsyn.errors import CohortError
from privsyn.recipe import Data

_IMAGES, _LABELS, _PATIENTS = ("image", "bytes", "img"), ("label", "labels", "label_name"), ("patient",)
_BATCH_BYTES, _BATCH_ROWS = 2**23, 1000
_BUFFER = 2**20  # bytes of a column that are read at a time, where row groups are large


def shards_in(children: FolderListing) -> list[Path]:
    """The Parquet files of a data set: in a folder, in its `data`, or in its `train`, `test` ..."""
    found = [child.path for child in children if _is_shard(child)]
    for folder in children:
        if folder.name.lower() in {"data", *SPLIT_FOLDERS} and is_folder(folder):
            found += [child.path for child in listing(folder.path) if _is_shard(child)]
    return [Path(path) for path in found]


def _is_shard(child: os.DirEntry[str]) -> bool:
    return child.name.lower().endswith((".parquet", ".pq")) and os.path.isfile(child.path)


def parquet_entries(
    shards: Sequence[Path], root: Path, columns: Mapping[str, str], data: Data
) -> Iterator[SourceEntry]:
    """The rows of all files, whatever their split.

    Columns are `image` (a struct of `bytes` and `path`, or bytes alone), `label` (a name, a number, or a
    ClassLabel whose names are in the file's metadata) and, if there, `patient`.

    Args:
        columns: other names of them; `file` is that of the images. `subgroup` is read only if named.

    Raises:
        CohortError: a file is not Parquet, or lacks a column.
    """
    inside = os.path.realpath(root)
    for shard in shards:
        where, stamp = shown(os.path.relpath(shard, root)), file_stamp(shard)
        with (
            readable(shard, "a Parquet file that can be read"),
            pq.ParquetFile(shard, pre_buffer=False, buffer_size=_BUFFER) as content,
        ):
            layout = _parquet_columns(shard, content.schema_arrow, columns, data)
            row = 0
            for batch in content.iter_batches(_batch_rows(content), columns=layout.columns):
                for image, label, patient, subgroup in layout.cells(batch):
                    read = partial(read_cell, image, inside, data, patient is not None)
                    yield SourceEntry(f"{where}[{row}]", label, patient, read, f"{stamp} {row}", subgroup)
                    row += 1


def read_cell(cell: Any, root: str, data: Data, named: bool) -> Iterator[SourceImage]:
    """The image in a cell: bytes, or a struct of `bytes` and `path`; a path without bytes names a file.

    Args:
        named: whether another column gives the patient.
    """
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if content:
        yield from read_bytes(content, path or "", data, named)
    elif path:
        yield from read_inside(root, path, data, named)
    else:
        raise CohortError("has no image")


@dataclass(frozen=True)
class _ParquetColumns:
    """The columns of a file by their role, and the `names` that numbers stand for, by column."""

    image: str
    label: str | None
    patient: str | None
    subgroup: str | None
    names: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> list[str]:
        found = (self.image, self.label, self.patient, self.subgroup)
        return [name for name in dict.fromkeys(found) if name is not None]

    def cells(self, batch: pa.RecordBatch) -> Iterator[tuple[Any, str | int | None, str | None, str | None]]:
        images = batch.column(self.image).to_pylist()
        labels = batch.column(self.label).to_pylist() if self.label else None
        patients = batch.column(self.patient).to_pylist() if self.patient else None
        groups = batch.column(self.subgroup).to_pylist() if self.subgroup else None
        for row, image in enumerate(images):
            label = self._named(self.label, labels[row]) if labels is not None else None
            patient = (as_text(patients[row]) or "") if patients is not None else None
            group = str(self._named(self.subgroup, groups[row])) if groups is not None else None
            yield image, label, patient, group

    def _named(self, column: str | None, value: Any) -> str | int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int):
            return as_text(value) or ""
        names = self.names.get(column or "")
        if names is None:
            return int(value)
        return names[value] if 0 <= value < len(names) else f"number {value}"


def _parquet_columns(
    shard: Path, schema: pa.Schema, columns: Mapping[str, str], data: Data
) -> _ParquetColumns:
    features = _features(schema)
    typed = {
        kind: [name for name in features if _type(features, name) == kind] for kind in ("Image", "ClassLabel")
    }
    image = _column(shard, schema, columns.get("file"), (*_IMAGES, *typed["Image"]))
    label = _column(shard, schema, columns.get("label"), (*_LABELS, *typed["ClassLabel"]))
    patient = _column(shard, schema, columns.get("patient"), _PATIENTS)
    subgroup = _column(shard, schema, columns.get("subgroup"), ())
    if image is None or (label is None and len(data.classes) > 1):
        role, lacking = ("file", _IMAGES[0]) if image is None else ("label", _LABELS[0])
        raise CohortError(_lacks(shard, schema, lacking, role))
    kind = schema.field(image).type
    inner = {field.name for field in kind} if pa.types.is_struct(kind) else set()
    if "bytes" not in inner and not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise CohortError(f"{shard}: the column {image!r} is {kind}, not bytes or a struct of bytes and path")
    named = {name: features[name].get("names") for name in typed["ClassLabel"]}
    names = {name: tuple(map(str, some)) for name, some in named.items() if isinstance(some, list)}
    return _ParquetColumns(image, label, patient, subgroup, names)


def _column(shard: Path, schema: pa.Schema, wanted: str | None, usual: Sequence[str]) -> str | None:
    if wanted is None:
        return next((name for name in usual if name in schema.names), None)
    if wanted not in schema.names:
        raise CohortError(_lacks(shard, schema, wanted, "..."))
    return wanted


def _lacks(shard: Path, schema: pa.Schema, name: str, role: str) -> str:
    has = ", ".join(repr(column) for column in schema.names)
    return f"{shard} has no column {name!r} (it has: {has}): name it by --column {role}=..."


def _features(schema: pa.Schema) -> dict[Any, Any]:
    """The types that `datasets` gives the columns, if it has written the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _type(features: Mapping[Any, Any], name: str | None) -> Any:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _batch_rows(content: pq.ParquetFile) -> int:
    """Rows of a batch of bounded size, by the largest row group."""
    metadata = content.metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    largest = max((group.total_byte_size / max(1, group.num_rows) for group in groups), default=1)
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1, largest))))
