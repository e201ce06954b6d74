"""The cohort on disk: `images.npy`, `records.parquet` and `cohort.json`, written by `prepare`.

It never leaves the study, and it identifies nobody: it holds no file names and no paths, and patients only as
HMACs under this machine's key. Rows are ordered by the hash of their pixels, which hides the source's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.document import CohortDocument, read_document
from privsyn.cohort.records import CLUSTER_COLUMN, COLUMNS, SUBGROUP_COLUMN
from privsyn.cohort.split import SPLITS, linked_clusters
from privsyn.errors import CohortError, PrivsynError, StudyError
from privsyn.files import file_digest

DOCUMENT = "cohort.json"
RECORDS = "records.parquet"


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a cohort.

    Attributes:
        images: (n, H, W, C) uint8 or uint16, read-only, mapped from disk where the rows are contiguous.
        labels: (n,) index of the class.
        patients: (n,) HMAC of the patient, hex.
        rows: (n,) rows of the cohort.
        subgroups: (n,) such as a sex or an age band, "" where it is unknown; None if the cohort has none.
            Only audits of quality use them, training does not.
        groups: (n,) cluster number of each image, the column `group`; None if near-duplicates were not
            linked, because then patients and digests decide the clusters.
        digests: (n,) sha256 (hex) of the pixels of each image, as the records have it; None for images that
            are not those of a cohort's split, such as those that training puts together.
    """

    images: Images
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    rows: NDArray[np.int64]
    subgroups: NDArray[np.str_] | None = None
    groups: NDArray[np.int64] | None = None
    digests: NDArray[np.str_] | None = None


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prepared real images; internal.

    Attributes:
        folder: of the three files.
        document: the content of `cohort.json`.
        images: (N, H, W, C) uint8, or uint16 if the bit depth is 16; memory-mapped, read-only.
    """

    folder: Path
    document: CohortDocument
    images: Images

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per image, in the order of `images`: `COLUMNS`, and `subgroup` and `group` if there are
        any."""
        records: pd.DataFrame = pq.read_table(self.folder / RECORDS).to_pandas()
        return records

    @property
    def size(self) -> int:
        return self.document.size

    @property
    def channels(self) -> int:
        return self.document.channels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.document.classes

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of images, labels, patients and `[data]`; the seed of the split does not change it."""
        return self.document.fingerprint

    @property
    def digest(self) -> str:
        """sha256 (hex) of the records, splits included; `fingerprint` stays when only the split changes."""
        return self.document.records_sha256 or self.fingerprint

    def part(self, split: str) -> Part:
        """The images of `train`, `holdout` or `test`."""
        if split not in SPLITS:
            raise CohortError(f"no split {split!r}: choose from {', '.join(SPLITS)}")
        rows = np.flatnonzero(self.records["split"].to_numpy() == split).astype(np.int64)
        chosen = self.records.iloc[rows]
        images = self.images[rows[0] : rows[-1] + 1]
        if len(images) != len(rows):  # a cohort that another program laid out
            images = self.images[rows]
            images.flags.writeable = False
        labels = chosen["label"].to_numpy(dtype=np.int64)
        subgroups = _texts(chosen[SUBGROUP_COLUMN]) if SUBGROUP_COLUMN in chosen else None
        groups = chosen[CLUSTER_COLUMN].to_numpy(dtype=np.int64) if CLUSTER_COLUMN in chosen else None
        return Part(
            images, labels, _texts(chosen["patient"]), rows, subgroups, groups, _texts(chosen["sha256"])
        )


def clusters_of_parts(*parts: Part) -> NDArray[np.int64]:
    """(n,) cluster of each image of these parts of a cohort, one part after the other.

    A cluster is what the split moves together: a patient, or several who share an identical image, or
    near-duplicates if those were linked. Clusters are numbered in the order of first appearance.
    """
    patients = np.concatenate([part.patients for part in parts])
    digests = np.concatenate([part.digests for part in parts if part.digests is not None])
    clusters = linked_clusters(patients, digests)
    groups = [part.groups for part in parts if part.groups is not None]
    return linked_clusters(clusters, np.concatenate(groups)) if groups else clusters


def _texts(column: pd.Series) -> NDArray[np.str_]:
    return np.array(column.tolist(), dtype=np.str_)


def load_cohort(folder: Path | str) -> Cohort:
    """Open a cohort and check that its three files belong together.

    Raises:
        StudyError: there is no cohort.
        CohortError: a file is missing, of another version, cut short, or does not match the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise StudyError(f"{folder} is not a cohort folder: make one with `privsyn prepare SOURCE`")
    try:
        document = read_document(folder / DOCUMENT)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        _check_match(document, images, folder / RECORDS)
        if document.records_sha256 not in {"", file_digest(folder / RECORDS)}:
            raise CohortError(f"{RECORDS} is not the one that {DOCUMENT} was written with")
    except (PrivsynError, OSError, TypeError, ValueError, pa.ArrowException) as error:
        raise CohortError(f"{folder} cannot be used ({error}): prepare it again with --force") from None
    return Cohort(folder, document, images)


def _check_match(document: CohortDocument, images: NDArray[Any], records: Path) -> None:
    with pq.ParquetFile(records) as source:
        if not set(COLUMNS) <= set(source.schema_arrow.names):
            raise CohortError(f"{RECORDS} needs the columns {', '.join(COLUMNS)}")
        size, dtype = document.size, np.dtype(f"uint{document.bit_depth}")
        shape = (source.metadata.num_rows, size, size, document.channels)
        if images.dtype != dtype or images.shape != shape:
            raise CohortError(
                f"images.npy is {images.dtype} {images.shape}, its records and {DOCUMENT} say {dtype} {shape}"
            )
        splits, last = set(), len(document.classes) - 1
        for batch in source.iter_batches(columns=["label", "split"]):
            splits |= set(pc.unique(batch["split"]).to_pylist())
            ends = pc.min_max(batch["label"]).as_py()
            if batch.num_rows and not 0 <= ends["min"] <= ends["max"] <= last:
                raise CohortError(f"{RECORDS} has labels beyond the classes of {DOCUMENT}")
    if splits != set(SPLITS):
        raise CohortError(f"{RECORDS} needs images in train, holdout and test, and in no other split")
