"""The rows of a cohort: patient, label and split of each image, and their counts for `cohort.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privsyn.claim.document import UNITS, Unit
from privsyn.cohort.document import CohortDocument, DuplicateCounts, SplitCounts
from privsyn.cohort.index import IndexRecords, hexadecimal
from privsyn.cohort.pseudonyms import pseudonym_of
from privsyn.cohort.split import (
    SPLITS,
    Split,
    joined_clusters,
    linked_clusters,
    numbered,
    split_clusters,
)
from privsyn.files import json_text
from privsyn.home import split_key
from privsyn.recipe import Data, Recipe

COLUMNS = (
    "index", "label", "label_name", "patient", "split", "sha256", "cluster", "picture", "pinned",
)  # fmt: skip
SUBGROUP_COLUMN = "subgroup"  # another column, if subgroups were asked for
_CHUNK = 16_384  # rows written at a time
_SAME_PIXELS = ("size", "channels", "bit_depth", "classes", "resize", "split")

TrainedOn = Callable[[Collection[str]], frozenset[str]]  # of some pseudonyms (hex), those trained on before
RowPairs = tuple[NDArray[np.int64], NDArray[np.int64]]
NO_PAIRS: RowPairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class CohortRows:
    """The images of a cohort; n may be large, so nothing is held twice.

    Attributes:
        records: (n,) of `RECORD_DTYPE`, as they were read.
        split: the part of each.
        clusters: (n,) what is one unit for privacy and for the split: a patient, or several who share an
            image.
        pictures: (n,) the same picture, exactly or nearly, has one number.
        order: (n,) rows in the order of the cohort: by split, then by the hash of the pixels.
        unit: the finest unit that is certain for every image.
        subgroups: their names, by the numbers in `records`; empty without subgroups.
    """

    records: IndexRecords
    split: Split
    clusters: NDArray[np.int64]
    pictures: NDArray[np.int64]
    order: NDArray[np.int64]
    unit: Unit
    subgroups: tuple[str, ...] = ()

    @property
    def part(self) -> NDArray[np.int8]:
        """(n,) index into `SPLITS`."""
        return self.split.part


def nobody(_: Collection[str]) -> frozenset[str]:
    """Where no earlier training is known."""
    return frozenset()


def lay_out(
    records: IndexRecords,
    recipe: Recipe,
    key: bytes,
    near: RowPairs = NO_PAIRS,
    subgroups: Sequence[str] = (),
    trained_on: TrainedOn = nobody,
) -> CohortRows:
    """Split the images and put them in order.

    Args:
        records: changed in place: images without a patient get pseudonyms, and subgroups are numbered by
            name.
        key: of the patient HMACs.
        near: pairs of rows that must stay in one split.
        subgroups: their names, by the numbers in `records`.
        trained_on: tells who was trained on before, and so can be in train alone.

    Raises:
        CohortError: there are too few patients to split.
    """
    names = _in_order(records, subgroups)
    _name_the_unnamed(records, key)
    pictures = joined_clusters(numbered(records["sha256"]), *near)
    clusters = linked_clusters(records["patient"], pictures)
    known = trained_on(frozenset(hexadecimal(np.unique(records["patient"]))))
    split = split_clusters(
        records["patient"],
        clusters,
        key=split_key(key),
        shares=recipe.data.split,
        trained_on=[bytes.fromhex(each) for each in known],
    )
    keys = (records[name] for name in ("subgroup", "patient", "label", "sha256"))
    return CohortRows(
        records, split, clusters, pictures, _sorted(*keys, split.part), _certain_unit(records), names
    )


def _in_order(records: IndexRecords, subgroups: Sequence[str]) -> tuple[str, ...]:
    """Number subgroups by name, which hides the order in which they were read; returns the names."""
    if not subgroups:
        return ()
    there = np.unique(records["subgroup"]).tolist()
    there.sort(key=lambda number: subgroups[number])
    rank = np.zeros(len(subgroups), records["subgroup"].dtype)
    rank[there] = np.arange(len(there))
    records["subgroup"] = rank[records["subgroup"]]
    return tuple(subgroups[number] for number in there)


def _name_the_unnamed(records: IndexRecords, key: bytes) -> None:
    """Give images without a patient or study a pseudonym: one a file where files hold several, else one each.

    It depends on the pixels and not on the label, so that the ledger recognises a relabelled cohort. A number
    tells files with the same pixels apart, whatever the order of the source.
    """
    alone = np.flatnonzero(records["patient"] == b"")
    if not len(alone):
        return
    alone = _sorted(*(records[name][alone] for name in ("subgroup", "label", "sha256", "source")), of=alone)
    new_file = np.diff(records["source"][alone], prepend=~records["source"][alone[0]]) != 0
    first, file = np.flatnonzero(new_file), np.cumsum(new_file) - 1
    unit: Unit = "image" if len(first) == len(alone) else "file"
    content = records["sha256"][alone[first]]
    for several in np.flatnonzero(np.bincount(file) > 1):
        content[several] = hashlib.sha256(records["sha256"][alone[file == several]].tobytes()).digest()
    order = _sorted(records["subgroup"][alone[first]], records["label"][alone[first]], content)
    pseudonyms = np.empty(len(first), "S32")
    for start, names in _numbered_names(unit, content[order]):
        found = b"".join(pseudonym_of(name, key) for name in names)
        pseudonyms[order[start : start + len(names)]] = np.frombuffer(found, "S32")
    records["patient"][alone] = pseudonyms[file]
    records["unit"][alone] = UNITS.index(unit)


def _numbered_names(unit: Unit, contents: NDArray[np.bytes_]) -> Iterator[tuple[int, list[str]]]:
    """Names of sorted digests (k,), equal ones with a number each; some at a time, and where they begin."""
    last, number = "", 0
    for start in range(0, len(contents), _CHUNK):
        names = []
        for content in hexadecimal(contents[start : start + _CHUNK]):
            number = number + 1 if content == last else 0
            names.append(f"{unit} {content} {number}")
            last = content
        yield start, names


def _certain_unit(records: IndexRecords) -> Unit:
    """What every pseudonym stands for, if it is the same for all; otherwise only images are certain."""
    units = np.unique(records["unit"])
    return UNITS[units[0]] if len(units) == 1 else "image"


def write_records(path: Path, rows: CohortRows, classes: Sequence[str]) -> None:
    """Write `records.parquet`: one row per image, `COLUMNS` and, if there are any, the subgroup."""
    names = [*COLUMNS, *([SUBGROUP_COLUMN] if rows.subgroups else [])]
    kinds = dict.fromkeys(("index", "label", "cluster", "picture"), pa.int64()) | {"pinned": pa.bool_()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in names])
    # numbered in the order of the rows, which hides the order in which they were read
    clusters, pictures = (pd.factorize(each[rows.order])[0] for each in (rows.clusters, rows.pictures))
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, len(rows.records), _CHUNK):
            place = rows.order[start : start + _CHUNK]
            some = rows.records[place]
            columns = [
                np.arange(start, start + len(some)),
                some["label"],
                _spelled(some["label"], classes),
                hexadecimal(some["patient"]),
                _spelled(rows.part[place], SPLITS),
                hexadecimal(some["sha256"]),
                clusters[start : start + len(some)],
                pictures[start : start + len(some)],
                rows.split.pinned[place],
            ]
            if rows.subgroups:
                columns.append(_spelled(some["subgroup"], rows.subgroups))
            writer.write_table(pa.table([pa.array(each) for each in columns], schema=schema))


def _spelled(numbers: NDArray[Any], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(numbers, list(names)).cast(pa.string())


def describe(rows: CohortRows, recipe: Recipe) -> CohortDocument:
    """What `cohort.json` says about the rows."""
    data = recipe.data
    return CohortDocument(
        size=data.size,
        channels=data.channels,
        bit_depth=data.bit_depth,
        classes=tuple(data.classes),
        unit=rows.unit,
        data=data.model_dump(mode="json"),
        split=dict(zip(SPLITS, data.split, strict=True)),
        counts={split: _counts(rows, part, data.classes) for part, split in enumerate(SPLITS)},
        patient_ids=_whether_given(rows),
        pinned=len(np.unique(rows.clusters[rows.split.pinned])),
        duplicates=_duplicates(rows),
        fingerprint=_fingerprint(rows.records, data),
        subgroups=_of_subgroups(rows) if rows.subgroups else None,
    )


def _counts(rows: CohortRows, part: int, classes: Sequence[str]) -> SplitCounts:
    some = rows.records[rows.part == part]
    labels = np.bincount(some["label"], minlength=len(classes)).tolist()
    return SplitCounts(
        images=len(some),
        patients=len(np.unique(some["patient"])),
        classes=dict(zip(classes, labels, strict=True)),
    )


def _of_subgroups(rows: CohortRows) -> dict[str, dict[str, int]]:
    """Images of each subgroup in each split."""
    most = len(rows.subgroups)
    counts = [
        np.bincount(rows.records["subgroup"][rows.part == part], minlength=most).tolist()
        for part in range(len(SPLITS))
    ]
    return {
        name: dict(zip(SPLITS, each, strict=True))
        for name, *each in zip(rows.subgroups, *counts, strict=True)
    }


def _whether_given(rows: CohortRows) -> str:
    named, total = int((rows.records["unit"] == UNITS.index("patient")).sum()), len(rows.records)
    if named == total:
        return "given"
    if not named:
        return f"none: every {rows.unit} counts by itself, and nothing says which belong to one patient"
    return f"partly given: {total - named} images have none, so only single images are certain"


def _duplicates(rows: CohortRows) -> DuplicateCounts:
    _, copies = np.unique(rows.records["sha256"], return_counts=True)
    _, first = np.unique(rows.records["patient"], return_index=True)
    patients = np.bincount(rows.clusters[first])
    return DuplicateCounts(
        exact_images=len(rows.records) - len(copies),
        groups=int((copies > 1).sum()),
        linked_patients=int(patients[patients > 1].sum()),
    )


def _fingerprint(records: IndexRecords, data: Data) -> str:
    """sha256 (hex) of a line for each image, sorted, and of the settings that decide the pixels."""
    rank = np.argsort(np.argsort([f"{label} " for label in range(len(data.classes))]))
    order = _sorted(records["patient"], rank[records["label"]], records["sha256"])
    digest = hashlib.sha256()
    for start in range(0, len(order), _CHUNK):
        some = records[order[start : start + _CHUNK]]
        columns = hexadecimal(some["sha256"]), some["label"].tolist(), hexadecimal(some["patient"])
        lines = (f"{sha256} {label} {patient}\n" for sha256, label, patient in zip(*columns, strict=True))
        digest.update("".join(lines).encode())
    settings = data.model_dump(mode="json", include=set(_SAME_PIXELS))
    digest.update(json_text(settings).encode())
    return digest.hexdigest()


def _sorted(*keys: NDArray[Any], of: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """The order by the last key, then by the one before it: `np.lexsort`, but with one copied key at a time.

    Args:
        of: returned in that order; default 0, 1, 2 ...
    """
    order = np.argsort(keys[0], kind="stable")
    for values in keys[1:]:
        order = order[np.argsort(values[order], kind="stable")]
    return order if of is None else of[order]
