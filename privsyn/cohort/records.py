"""The rows of a cohort: patient, label and split of each image, and their counts for `cohort.json`."""

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

from privsyn.cohort.document import CohortDocument, DuplicateCounts, SplitCounts
from privsyn.cohort.index import IndexRecords, hexadecimal
from privsyn.cohort.pseudonyms import pseudonym_of
from privsyn.cohort.split import SPLITS, draw, joined_clusters, linked_clusters, split_patients
from privsyn.files import json_text
from privsyn.recipe import Data, Recipe

COLUMNS = ("index", "label", "label_name", "patient", "split", "sha256")
SUBGROUP_COLUMN = "subgroup"  # another column, if subgroups were asked for
CLUSTER_COLUMN = "group"  # another column, if near-duplicates were linked: the cluster
_CHUNK = 16_384  # rows written at a time
_SAME_PIXELS = ("size", "channels", "bit_depth", "classes", "resize", "split")

RowPairs = tuple[NDArray[np.int64], NDArray[np.int64]]
NO_PAIRS: RowPairs = (np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class CohortRows:
    """The images of a cohort; n may be large, so nothing is held twice.

    Attributes:
        records: (n,) of `RECORD_DTYPE`, as they were read.
        part: (n,) index into `SPLITS`.
        clusters: (n,) cluster number.
        order: (n,) rows in the order of the cohort: by split, then by the hash of the pixels.
        named: images that came with a patient id.
        subgroups: their names, by the numbers in `records`; empty without subgroups.
        linked: whether near-duplicates were joined into clusters.
    """

    records: IndexRecords
    part: NDArray[np.int8]
    clusters: NDArray[np.int64]
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
        records: changed in place: every image without a patient becomes a patient of its own, and subgroups
            are numbered by name.
        near: pairs of rows that must stay in one split.
        subgroups: their names, by the numbers in `records`.

    Raises:
        CohortError: there are too few patients to split.
    """
    names = _in_order(records, subgroups)
    named = _give_each_a_patient(records, recipe.seed, key)
    clusters = linked_clusters(records["patient"], records["sha256"])
    clusters = joined_clusters(clusters, *near)
    part = split_patients(
        records["label"],
        records["patient"],
        clusters,
        draws=records["draw"],
        shares=recipe.data.split,
        seed=recipe.seed,
    )
    order = _sorted(records["subgroup"], records["draw"], records["label"], records["sha256"], part)
    return CohortRows(records, part, clusters, order, named, names, linked=len(near[0]) > 0)


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


def _give_each_a_patient(records: IndexRecords, seed: int, key: bytes) -> int:
    """Make each image without a patient a patient of its own; returns how many images had a patient.

    The pseudonym depends on the pixels and not on the label, so that the ledger recognises a relabelled
    cohort. A number tells images with the same pixels apart, whatever the order of the source.
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
    """Write `records.parquet`: one row per image, `COLUMNS` and, if there are any, subgroup and cluster."""
    optional = [(SUBGROUP_COLUMN, bool(rows.subgroups)), (CLUSTER_COLUMN, rows.linked)]
    names = [*COLUMNS, *(name for name, there in optional if there)]
    whole = {"index", "label", CLUSTER_COLUMN}
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in names])
    # numbered in the order of the rows, which hides the order in which they were read
    numbers = pd.factorize(rows.clusters[rows.order])[0] if rows.linked else rows.clusters
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


def describe(rows: CohortRows, recipe: Recipe) -> CohortDocument:
    """What `cohort.json` says about the rows."""
    data = recipe.data
    return CohortDocument(
        size=data.size,
        channels=data.channels,
        bit_depth=data.bit_depth,
        classes=tuple(data.classes),
        seed=recipe.seed,
        data=data.model_dump(mode="json"),
        split=dict(zip(SPLITS, data.split, strict=True)),
        counts={split: _counts(rows, part, data.classes) for part, split in enumerate(SPLITS)},
        patient_ids=_whether_given(rows.named, len(rows.records)),
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


def _whether_given(named: int, total: int) -> str:
    if named == total:
        return "given"
    if not named:
        return "none: every image counts as one patient"
    return f"partly given: each of the {total - named} images without one counts as one patient"


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


def _sorted(*keys: NDArray[Any]) -> NDArray[np.int64]:
    """The order by the last key, then by the one before it: `np.lexsort`, but with one copied key at a
    time."""
    order = np.argsort(keys[0], kind="stable")
    for values in keys[1:]:
        order = order[np.argsort(values[order], kind="stable")]
    return order
