"""Where real images come from: one small reader per format, each yields entries that read themselves.

An entry is cheap until `read` is called, so a source of any size can be listed, checked and read again
without ever being held in memory. Names and paths live in entries only; nothing here is written to disk.
"""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privsyn.cohort.pixels import SUFFIXES, Pixels, read_image
from privsyn.errors import CohortError
from privsyn.recipe import nearest

COLUMNS = ("file", "label", "patient")
_MEDMNIST = ("train_", "val_", "test_")
_LITTER = frozenset({"thumbs.db", "desktop.ini"})


@dataclass(frozen=True)
class Entry:
    """One image of a source.

    Attributes:
        where: what to call it on the user's terminal; never written to a file.
        label: a class name (text), or an index of `data.classes` (int).
        patient: the id as the source spells it, or None.
        read: gives the pixels, (H, W, 1 or 3) uint8; raises CohortError with the reason if it cannot.
    """

    where: str
    label: str | int
    patient: str | None
    read: Callable[[], Pixels]


def open_source(
    source: Path | str,
    classes: Sequence[str],
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
) -> Iterator[Entry]:
    """The entries of a source: the word `digits`, an `.npz` file, class folders, or a folder with a table.

    Args:
        source: to read a folder that is itself called `digits`, write `./digits`.
        classes: the recipe's `data.classes`.
        table: CSV or Parquet with columns `file` (relative to the folder), `label` and, if known, `patient`.
        columns: other names of those columns, `{"file": "path"}`.

    Raises:
        CohortError: the source as a whole cannot be read; faults of single images come from `Entry.read`.
    """
    path = Path(source)
    if columns and table is None:
        raise CohortError("column names need a table: pass --table FILE")
    if table is not None:
        if not path.is_dir():
            raise CohortError(f"{path} is not a folder: a table's files are looked up in one")
        return _tabled(path, table, dict(columns or {}))
    if str(source) == "digits":
        return _digits()
    if path.is_dir():
        return _class_folders(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        return _npz(path, classes)
    fault = "is not a source that privsyn reads" if path.exists() else "does not exist"
    raise CohortError(f"{path} {fault}: give a folder of images, an .npz file, or the word digits")


def label_index(label: str | int, classes: Sequence[str]) -> int:
    """The index of a label in `classes`: its name first, else its number.

    A text that is a number counts as an index only if no class is itself named like a number; otherwise
    `1` could mean one class and `0`, unlisted, another.

    Raises:
        CohortError: neither fits, with the nearest class name.
    """
    if isinstance(label, int):
        if 0 <= label < len(classes):
            return label
        raise CohortError(f"label {label} is not an index of data.classes, which end at {len(classes) - 1}")
    if label in classes:
        return classes.index(label)
    numbered = any(_is_number(name) for name in classes)
    if _is_number(label) and not numbered and int(label) < len(classes):
        return int(label)
    raise CohortError(f"label {label!r} is not in data.classes{nearest(label, classes)}")


def _digits() -> Iterator[Entry]:
    """The 1,797 handwritten 8x8 digits that scikit-learn embeds; no writer ids."""
    from sklearn.datasets import load_digits  # loads slowly, and only this source needs it

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    for row, target in enumerate(digits.target):
        yield Entry(f"digits[{row}]", str(target), None, partial(images.__getitem__, row))


def _npz(path: Path, classes: Sequence[str]) -> Iterator[Entry]:
    """`images, labels` and, if there, `groups` (the patients), or the pooled parts of a MedMNIST file.

    Integer labels are indices: of `class_names`, if the file lists some of the recipe's, else of
    `data.classes`.
    """
    arrays = _load(path)
    parts = [""] if "images" in arrays else [part for part in _MEDMNIST if f"{part}images" in arrays]
    if not parts:
        raise CohortError(f"{path} has no array 'images' and is not a MedMNIST file")
    names = [str(name) for name in arrays.get("class_names", np.array([])).ravel()]
    for part in parts:
        images, labels, groups = _checked(path, part, arrays)
        named = names if set(names) & set(classes) and labels.dtype.kind != "U" else None
        for row in range(len(images)):
            label = _npz_label(labels[row], named)
            patient = None if groups is None else _text(groups[row].item())
            yield Entry(f"{path.name} {part}images[{row}]", label, patient, partial(images.__getitem__, row))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    wanted = {f"{part}{key}" for part in ("", *_MEDMNIST) for key in ("images", "labels", "groups")}
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name in wanted | {"class_names"}}
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise CohortError(f"{path} is not a readable .npz of plain arrays ({error})") from None


def _checked(
    path: Path, part: str, arrays: Mapping[str, NDArray[Any]]
) -> tuple[Pixels, NDArray[Any], NDArray[Any] | None]:
    images, labels = arrays[f"{part}images"], arrays.get(f"{part}labels")
    where = f"{path}: {part}images"
    if images.dtype != np.uint8:
        raise CohortError(f"{where} is {images.dtype}, not uint8: convert it to 8 bits first")
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise CohortError(f"{where} has shape {images.shape}, not (N, H, W) or (N, H, W, 1 or 3)")
    if labels is None:
        raise CohortError(f"{path} has no array '{part}labels'")
    labels = _one_each(path, f"{part}labels", labels, len(images))
    if labels.dtype.kind not in "iubU":
        raise CohortError(f"{path}: {part}labels is {labels.dtype}, not integers or names")
    groups = arrays.get(f"{part}groups")
    return images, labels, None if groups is None else _one_each(path, f"{part}groups", groups, len(images))


def _one_each(path: Path, name: str, values: NDArray[Any], count: int) -> NDArray[Any]:
    if values.shape not in {(count,), (count, 1)}:
        raise CohortError(
            f"{path}: {name} has shape {values.shape}, not one value for each of {count} images"
        )
    return values.reshape(count)


def _npz_label(label: Any, names: Sequence[str] | None) -> str | int:
    if isinstance(label, str):
        return str(label)
    index = int(label)
    return names[index] if names is not None and 0 <= index < len(names) else index


def _class_folders(folder: Path) -> Iterator[Entry]:
    """`FOLDER/CLASS/.../image.png`; the first folder names the class."""
    for child in sorted(folder.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            yield from _class_folder(folder, child)
        elif child.suffix.lower() in SUFFIXES:  # a README or a table beside the class folders is no image
            raise CohortError(
                f"{child.name!r} is in no class folder of {folder}: move it, or pass --table FILE"
            )


def _class_folder(folder: Path, child: Path) -> Iterator[Entry]:
    for path in sorted(child.rglob("*")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or path.name.lower() in _LITTER:
            continue
        if not path.is_dir():
            yield Entry(_shown("/".join(parts)), child.name, None, partial(read_image, path))
        elif path.is_symlink():
            raise CohortError(
                f"{str(path)!r} links to a folder, which is not followed: put the folder itself there"
            )


def _tabled(folder: Path, table: Path, columns: Mapping[str, str]) -> Iterator[Entry]:
    """A row per image: `file` relative to the folder, `label`, and `patient` if there."""
    unknown = next((role for role in columns if role not in COLUMNS), None)
    if unknown is not None:
        raise CohortError(f"a table has no use for a column {unknown!r}{nearest(unknown, COLUMNS)}")
    wanted = {role: columns.get(role, role) for role in COLUMNS}
    rows = _parquet_rows(table) if table.suffix.lower() in {".parquet", ".pq"} else _csv_rows(table)
    there = next(rows)
    for role, name in wanted.items():
        if name not in there and (role != "patient" or role in columns):
            has = ", ".join(repr(column) for column in there)
            raise CohortError(
                f"{table} has no column {name!r} (it has: {has}): name it by --column {role}=..."
            )
    root = folder.resolve()
    for row in rows:
        file = row[wanted["file"]] or ""
        label = row[wanted["label"]] or ""
        yield Entry(_shown(file), label, row.get(wanted["patient"]), partial(_read_inside, root, file))


def _csv_rows(table: Path) -> Iterator[dict[str, str | None]]:
    """First the columns (as keys), then every row as text; an empty patient stays an empty text."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, strict=True)
            yield dict.fromkeys(reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    raise CohortError(
                        f"{table} line {reader.line_num}: has more or fewer fields than the header"
                    )
                yield dict(row)
    except OSError as error:
        raise CohortError(f"cannot read the table {table} ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise CohortError(f"{table} is not a CSV in UTF-8 ({error})") from None


def _parquet_rows(table: Path) -> Iterator[dict[str, str | None]]:
    """First the columns (as keys), then every row as text."""
    try:
        content = pq.read_table(table)
    except (OSError, pa.ArrowException) as error:
        raise CohortError(f"cannot read the table {table} ({error})") from None
    yield dict.fromkeys(content.column_names)
    for batch in content.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            yield {name: _text(value) for name, value in row.items()}


def _read_inside(root: Path, file: str) -> Pixels:
    try:
        path = (root / file).resolve()
    except (OSError, ValueError, RuntimeError):
        raise CohortError("is not a usable file name") from None
    if not path.is_relative_to(root):
        raise CohortError("leads out of the source folder: move the file into it")
    return read_image(path)


def _text(value: object) -> str | None:
    """A cell as text; 17.0, which is what tables with gaps make of 17, reads as 17."""
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", text) is not None


def _shown(name: str) -> str:
    """A file name that cannot disturb the terminal."""
    return name if name.isprintable() else repr(name)
