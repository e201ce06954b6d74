"""The rows of a cohort: whose each image is, which part it is in, and what may be counted about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privsyn.cohort.index import IndexRecords, hexadecimal
from privsyn.cohort.ingest import pseudonym_of
from privsyn.cohort.split import SPLITS, draw, joined_clusters, linked_clusters, split_patients
from privsyn.files import json_text
from privsyn.recipe import Data, Recipe

COLUMNS = ("index", "label", "label_name", "patient", "split", "sha256")
SUBGROUP = "subgroup"  # a column more, if one was asked for
GROUP = "group"  # a column more, if near-duplicates were linked: what the split kept together
_CHUNK = 16_384  # rows that are spelled out at a time
_SAME_PIXELS = ("size", "channels", "bit_depth", "classes", "resize", "split")

RowPairs = tuple[NDArray[np.int64], NDArray[np.int64]]
NO_PAIRS: RowPairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class CohortRows:
    """The images of a cohort; n of them may be many, so nothing here is held twice.

    Attributes:
        records: (n,) of `RECORD_DTYPE`, as they were read.
        part: (n,) of each, index into `SPLITS`.
        groups: (n,) of each, what the split kept together.
        order: (n,) the cohort's order of them: by split, then by the hash of the pixels.
        named: how many came with a patient.
        subgroups: their names in order, by the numbers in `records`; empty if nobody asked for any.
        linked: groups hold more together than patients and identical images do.
    """

    records: IndexRecords
    part: NDArray[np.int8]
    groups: NDArray[np.int64]
    order: NDArray[np.int64]
    named: int
    subgroups: tuple[str, ...] = ()
    linked: bool = False


def lay_out(
    records: IndexRecords,
    recipe: Recipe,
    key: bytes,
    near: RowPairs = NO_PAIRS,
    subgroups: Sequence[str] = (),
) -> CohortRows:
    """Split the images and put them in order.

    Args:
        records: changed: images without a patient become their own, subgroups are numbered in order.
        near: rows of images that must stay together.
        subgroups: their names, by the numbers that they have so far.

    Raises:
        CohortError: too few patients to split.
    """
    names = _in_order(records, subgroups)
    named = _give_each_a_unit(records, recipe.seed, key)
    groups = linked_clusters(records["patient"], records["sha256"])
    groups = joined_clusters(groups, *near)
    part = split_patients(
        records["label"],
        records["patient"],
        groups,
        draws=records["draw"],
        shares=recipe.data.split,
        seed=recipe.seed,
    )
    order = _sorted(records["subgroup"], records["draw"], records["label"], records["sha256"], part)
    return CohortRows(records, part, groups, order, named, names, linked=len(near[0]) > 0)


def _in_order(records: IndexRecords, subgroups: Sequence[str]) -> tuple[str, ...]:
    """Number subgroups anew, so that the order in which they were met does not show; returns their names."""
    if not subgroups:
        return ()
    there = np.unique(records["subgroup"]).tolist()
    there.sort(key=lambda number: subgroups[number])
    rank = np.zeros(len(subgroups), records["subgroup"].dtype)
    rank[there] = np.arange(len(there))
    records["subgroup"] = rank[records["subgroup"]]
    return tuple(subgroups[number] for number in there)


def _give_each_a_unit(records: IndexRecords, seed: int, key: bytes) -> int:
    """Make each image without a patient a patient of its own; returns how many had one.

    It is named by its pixels, not by its label, so that the ledger knows a relabelled cohort, and by a number
    that tells it from others with the same pixels, whatever the order of the source.
    """
    alone = np.flatnonzero(records["patient"] == b"")
    alone = alone[np.lexsort([records[name][alone] for name in ("subgroup", "label", "sha256")])]
    last, number = "", 0
    for start in range(0, len(alone), _CHUNK):
        rows = alone[start : start + _CHUNK]
        labels = records["label"][rows].tolist()
        patients, draws = bytearray(), bytearray()
        for sha256, label in zip(hexadecimal(records["sha256"][rows]), labels, strict=True):
            number = number + 1 if sha256 == last else 0
            patients += pseudonym_of(f"image {sha256} {number}", key)
            draws += draw(seed, f"image {sha256} {label} {number}")
            last = sha256
        records["patient"][rows] = np.frombuffer(patients, "S32")
        records["draw"][rows] = np.frombuffer(draws, "S32")
    return len(records) - len(alone)


def write_records(path: Path, rows: CohortRows, classes: Sequence[str]) -> None:
    """`records.parquet`: one row per image, columns `COLUMNS`, `SUBGROUP` and `GROUP` if there are any."""
    names = [*COLUMNS, *([SUBGROUP] if rows.subgroups else []), *([GROUP] if rows.linked else [])]
    whole = {"index", "label", GROUP}
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in names])
    # numbered as they come: the order in which they were read must not show
    numbers = pd.factorize(rows.groups[rows.order])[0] if rows.linked else rows.groups
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
            ]
            if rows.subgroups:
                columns.append(_spelled(some["subgroup"], rows.subgroups))
            if rows.linked:
                columns.append(numbers[start : start + len(some)])
            writer.write_table(pa.table([pa.array(each) for each in columns], schema=schema))


def _spelled(numbers: NDArray[Any], names: Sequence[str]) -> pa.Array:
    return pa.DictionaryArray.from_arrays(numbers, list(names)).cast(pa.string())


def describe(rows: CohortRows, recipe: Recipe) -> dict[str, Any]:
    """What `cohort.json` says about the rows."""
    data = recipe.data
    document = {
        "size": data.size,
        "channels": data.channels,
        "bit_depth": data.bit_depth,
        "classes": list(data.classes),
        "seed": recipe.seed,
        "data": data.model_dump(mode="json"),
        "split": dict(zip(SPLITS, data.split, strict=True)),
        "counts": {split: _count(rows, part, data.classes) for part, split in enumerate(SPLITS)},
        "patient_ids": _told(rows.named, len(rows.records)),
        "duplicates": _duplicates(rows),
        "fingerprint": _fingerprint(rows.records, data),
    }
    return document | ({"subgroups": _of_subgroups(rows)} if rows.subgroups else {})


def _count(rows: CohortRows, part: int, classes: Sequence[str]) -> dict[str, Any]:
    some = rows.records[rows.part == part]
    labels = np.bincount(some["label"], minlength=len(classes)).tolist()
    return {
        "images": len(some),
        "patients": len(np.unique(some["patient"])),
        "classes": dict(zip(classes, labels, strict=True)),
    }


def _of_subgroups(rows: CohortRows) -> dict[str, dict[str, int]]:
    """How many images of each subgroup there are in each part."""
    most = len(rows.subgroups)
    counts = [
        np.bincount(rows.records["subgroup"][rows.part == part], minlength=most).tolist()
        for part in range(len(SPLITS))
    ]
    return {
        name: dict(zip(SPLITS, each, strict=True))
        for name, *each in zip(rows.subgroups, *counts, strict=True)
    }


def _told(named: int, total: int) -> str:
    if named == total:
        return "given"
    if not named:
        return "none: every image counts as one patient"
    return f"partly given: each of the {total - named} images without one counts as one patient"


def _duplicates(rows: CohortRows) -> dict[str, int]:
    _, copies = np.unique(rows.records["sha256"], return_counts=True)
    _, first = np.unique(rows.records["patient"], return_index=True)
    patients = np.bincount(rows.groups[first])
    return {
        "exact_images": len(rows.records) - len(copies),
        "groups": int((copies > 1).sum()),
        "linked_patients": int(patients[patients > 1].sum()),
    }


def _fingerprint(records: IndexRecords, data: Data) -> str:
    """sha256 (hex) over a sorted line for each image and what was asked of it."""
    rank = np.argsort(np.argsort([f"{label} " for label in range(len(data.classes))]))
    order = _sorted(records["patient"], rank[records["label"]], records["sha256"])
    digest = hashlib.sha256()
    for start in range(0, len(order), _CHUNK):
        some = records[order[start : start + _CHUNK]]
        columns = hexadecimal(some["sha256"]), some["label"].tolist(), hexadecimal(some["patient"])
        lines = (f"{sha256} {label} {patient}\n" for sha256, label, patient in zip(*columns, strict=True))
        digest.update("".join(lines).encode())
    asked = data.model_dump(mode="json", include=set(_SAME_PIXELS))
    digest.update(json_text(asked).encode())
    return digest.hexdigest()


def _sorted(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """The order by the last key, then the one before it: `lexsort` without a copy of all keys at once."""
    order = np.argsort(keys[0], kind="stable")
    for values in keys[1:]:
        order = order[np.argsort(values[order], kind="stable")]
    return order
