"""Sources of real images: one small reader per layout, which yields entries.

An entry is cheap until its `read` is called, and no source is listed as a whole: memory holds the listing of
one folder or a batch of rows. Names and paths exist in entries only, never on disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.sources.arrays import digits_entries, npz_entries
from privsyn.cohort.sources.folders import class_folders, has_classes, listing, splits_in, whole_tree
from privsyn.cohort.sources.parquet import parquet_entries, shards_in
from privsyn.cohort.sources.tables import check_roles, metadata_in, with_metadata, with_table
from privsyn.cohort.sources.tars import tar_entries, tars_in
from privsyn.errors import CohortError
from privsyn.recipe import Data

__all__ = ["Entry", "open_source"]


def open_source(
    source: Path | str,
    data: Data,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[SourceEntry]:
    """The entries of a source, in an order that depends on names alone.

    A source is the word `digits`, an `.npz` or `.parquet` file, or a folder: with a table; of DICOM files
    whose tag `data.label_tag` is the label; with a `metadata.csv`, `.jsonl` or `.parquet` that lists its
    files; with Parquet files as Hugging Face writes them; with WebDataset tars; of class folders, also below
    `train`, `test` ...; or, in a recipe of one class, of any images.

    Args:
        source: to read a folder named `digits`, write `./digits`.
        table: CSV, JSON lines or Parquet with columns `file` (relative to the folder), `label` and, if known,
            `patient`.
        columns: other names of those columns or of the source's own, `{"file": "path"}`. A subgroup is read
            only from a column that is named here, `{"subgroup": "sex"}`.

    Raises:
        CohortError: the source as a whole cannot be read; `SourceEntry.read` raises for single images.
    """
    path, columns = Path(source), check_roles(columns or {})
    if table is not None:
        if not path.is_dir():
            raise CohortError(f"{path} is not a folder: a table's files are looked up in one")
        return with_table(path, Path(table), columns, data)
    if str(source) != "digits" and path.is_dir():
        return _folder(path, columns, data)
    if path.suffix.lower() in {".parquet", ".pq"} and path.is_file():
        return parquet_entries([path], path.parent, columns, data)
    _need_no_columns(columns)
    if str(source) == "digits":
        return digits_entries(data)
    if path.suffix.lower() == ".npz" and path.is_file():
        return npz_entries(path, data)
    raise _unknown_source(path)


def _need_no_columns(columns: Mapping[str, str]) -> None:
    if columns:
        raise CohortError("column names need a table: pass --table FILE")


def _unknown_source(path: Path) -> CohortError:
    fault = "is not a source that privsyn reads" if path.exists() else "does not exist"
    return CohortError(
        f"{path} {fault}: give a folder of images, an .npz or .parquet file, or the word digits"
    )


def _folder(path: Path, columns: Mapping[str, str], data: Data) -> Iterator[SourceEntry]:
    root = Path(os.path.abspath(path))  # stamps must not depend on the working directory
    children = listing(root)
    classes_there = has_classes(children, data.classes)
    if data.label_tag is None:
        if metadata := metadata_in(root, children):
            return with_metadata(metadata, root, columns, data)
        if not classes_there and (shards := shards_in(children)):
            return parquet_entries(shards, root, columns, data)
        if not columns and not classes_there and (tars := tars_in(children)):
            return tar_entries(tars, data)
    _need_no_columns(columns)
    if data.label_tag is not None:
        return whole_tree(root, None, data)
    if splits := splits_in(children, data.classes):
        return (entry for split in splits for entry in class_folders(root, split, data))
    if len(data.classes) == 1 and not classes_there:
        return whole_tree(root, data.classes[0], data)
    return class_folders(root, "", data)
