"""Tables that list files: the user's own, and the `metadata` files of Hugging Face's ImageFolder."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq

from privsyn.cohort.entries import SourceEntry, SourceImage
from privsyn.cohort.reading import read_any, read_file
from privsyn.cohort.sources.folders import SPLIT_FOLDERS, FolderListing
from privsyn.cohort.sources.names import as_text, file_stamp, readable, shown
from privsyn.errors import CohortError
from privsyn.recipe import Data, nearest

ROLES = ("file", "label", "patient", "subgroup")
_USUAL = {role: role for role in ROLES if role != "subgroup"}  # a subgroup is read only if named
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"  # a column that every metadata file has
_LABELS = ("label_name", "label", "labels")  # a name first: the numbers may be those of other classes
_LINE = 2**20  # characters of the longest line of JSON

TableRow = Mapping[str, str | None]


def check_roles(columns: Mapping[str, str]) -> dict[str, str]:
    """The user's names of columns, `{"file": "path"}`.

    Raises:
        CohortError: a role is unknown.
    """
    for role in columns:
        if role not in ROLES:
            raise CohortError(f"--column has no role {role!r}{nearest(role, ROLES)}")
    return dict(columns)


def with_table(folder: Path, table: Path, columns: Mapping[str, str], data: Data) -> Iterator[SourceEntry]:
    """The rows of a table: `file` (relative to the folder), `label`, and `patient` if there is one."""
    rows = _rows(table)
    there = next(rows)
    wanted = _USUAL | dict(columns)
    for role, name in wanted.items():
        if name not in there and (role != "patient" or role in columns):
            raise CohortError(f"{table} {_lacks(name, there)}: name it by --column {role}=...")
    yield from _listed(folder, rows, wanted, "patient" if wanted["patient"] in there else "", data)


def metadata_in(root: Path, children: FolderListing) -> list[Path]:
    """The metadata files of an ImageFolder: in it, or in each of its splits."""
    folders = [root]
    if not any((root / name).is_file() for name in _METADATA):
        folders = [root / child.name for child in children if child.name.lower() in SPLIT_FOLDERS]
    found = [folder / name for folder in folders for name in _METADATA if (folder / name).is_file()]
    return [path for path in found if _FILE_NAME in next(_rows(path), {})]


def with_metadata(
    metadata: list[Path], root: Path, columns: Mapping[str, str], data: Data
) -> Iterator[SourceEntry]:
    """The files that metadata files list, relative to themselves; without labels, by class folder."""
    for path in metadata:
        rows = _rows(path)
        there = next(rows)
        label = next((name for name in _LABELS if name in there), "")
        wanted = {"file": _FILE_NAME, "label": label, "patient": "patient"} | dict(columns)
        for role in columns:
            if wanted[role] not in there:
                raise CohortError(f"{path} {_lacks(wanted[role], there)}: name it by --column {role}=...")
        patient = "patient" if wanted["patient"] in there else ""
        below = path.parent.relative_to(root).as_posix()
        yield from _listed(path.parent, rows, wanted, patient, data, "" if below == "." else f"{below}/")


def read_inside(root: str, file: str, data: Data, named: bool) -> Iterable[SourceImage]:
    """The images in a file that a table lists.

    Args:
        root: the folder that the file must be in, with links resolved.
        named: whether the table gives the patient.

    Raises:
        CohortError: the path leads out of the folder, or the file cannot be read.
    """
    return (read_any if named else read_file)(_path_inside(root, file), data)


def _listed(
    folder: Path,
    rows: Iterator[TableRow],
    wanted: Mapping[str, str],
    patient: str,
    data: Data,
    shown_in: str = "",
) -> Iterator[SourceEntry]:
    root, group = os.path.realpath(folder), wanted.get("subgroup")
    for row in rows:
        file = row.get(wanted["file"]) or ""
        who = (row.get(wanted["patient"]) or "") if patient else None
        label = (row.get(wanted["label"]) or "") if wanted["label"] else _folder_class(file, data)
        read = partial(read_inside, root, file, data, bool(patient))
        subgroup = (row.get(group) or "") if group else None
        yield SourceEntry(
            shown(shown_in + file), label, who, read, file_stamp(os.path.join(root, file)), subgroup
        )


def _folder_class(file: str, data: Data) -> str | None:
    """The first folder in the path of a file that is named like a class."""
    return next((part for part in file.split("/")[:-1] if part in data.classes), None)


def _path_inside(root: str, file: str) -> str:
    folder, name = os.path.split(file)
    try:
        path = os.path.join(_real_folder(root, folder), name)
        if name in {"", ".", ".."} or os.path.islink(path):
            path = os.path.realpath(path)
    except (OSError, ValueError):
        raise CohortError("is not a usable file name") from None
    if not path.startswith(os.path.join(root, "")) and path != root:
        raise CohortError("leads out of the source folder: move the file into it")
    return path


@lru_cache(maxsize=1024)
def _real_folder(root: str, folder: str) -> str:
    return os.path.realpath(os.path.join(root, folder))


def _lacks(name: str, there: TableRow) -> str:
    return f"has no column {name!r} (it has: {', '.join(repr(column) for column in there)})"


def _rows(table: Path) -> Iterator[TableRow]:
    """First the columns (as keys), then every row as text; a gap is None, or empty in CSV."""
    kind = table.suffix.lower()
    if kind in {".parquet", ".pq"}:
        return _parquet_rows(table)
    return _json_rows(table) if kind in {".jsonl", ".ndjson"} else _csv_rows(table)


def _csv_rows(table: Path) -> Iterator[TableRow]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            yield dict.fromkeys(reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    raise CohortError(
                        f"{table} line {reader.line_num}: has more or fewer fields than the header"
                    )
                yield row
    except OSError as error:
        raise CohortError(f"cannot read the table {table} ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise CohortError(f"{table} is not a CSV in UTF-8 ({error})") from None


def _json_rows(table: Path) -> Iterator[TableRow]:
    with readable(table, "a table of one JSON object a line"), table.open(encoding="utf-8-sig") as handle:
        lines = _objects(table, iter(partial(handle.readline, _LINE), ""))
        first = next(lines, {})
        yield dict.fromkeys(first)
        yield from chain([first] if first else [], lines)


def _objects(table: Path, lines: Iterator[str]) -> Iterator[TableRow]:
    for number, line in enumerate(lines, 1):
        if line.isspace():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise CohortError(f"{table} line {number}: is not a JSON object")
        yield {name: as_text(value) for name, value in row.items()}


def _parquet_rows(table: Path) -> Iterator[TableRow]:
    with readable(table, "a table that can be read"), pq.ParquetFile(table, pre_buffer=False) as content:
        yield dict.fromkeys(content.schema_arrow.names)
        for batch in content.iter_batches(batch_size=4096):
            for row in batch.to_pylist():
                yield {name: as_text(value) for name, value in row.items()}
