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
from privsyn.claim.document import Unit
from privsyn.cohort.document import CohortDocument, read_document
from privsyn.cohort.records import COLUMNS, SUBGROUP_COLUMN
from privsyn.cohort.split import SPLITS, numbered
from privsyn.errors import CohortError, PrivsynError, StudyError
from privsyn.files import file_digest
from privsyn.home import has_patient_key, home, key_check

DOCUMENT = "cohort.json"
RECORDS = "records.parquet"


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a cohort: one split, or those that a training is on.

    Attributes:
        images: (n, H, W, C) uint8 or uint16, read-only, mapped from disk where the rows are contiguous.
        labels: (n,) index of the class.
        patients: (n,) HMAC of the patient, hex.
        rows: (n,) rows of the cohort.
        clusters: (n,) what the split moved together: a patient, or several who share an image, exactly or (if
            the recipe links those) nearly.
        pictures: (n,) the same picture, exactly or nearly, has one number.
        pinned: (n,) True for who is in train because of an earlier training, and not by chance.
        subgroups: (n,) such as a sex or an age band, "" where it is unknown; None if the cohort has none.
            Only audits of quality use them, training does not.
    """

    images: Images
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    rows: NDArray[np.int64]
    clusters: NDArray[np.int64]
    pictures: NDArray[np.int64]
    pinned: NDArray[np.bool_]
    subgroups: NDArray[np.str_] | None = None

    def units(self, unit: Unit) -> NDArray[np.int64]:
        """(n,) the number of the privacy unit that each image belongs to.

        A unit is never finer than what is the same person or the same picture for certain: linked patients
        are one unit, and so are equal pictures where the unit is the image.
        """
        return self.pictures if unit == "image" else self.clusters


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
        """One row per image, in the order of `images`: `COLUMNS`, and `subgroup` if there are any."""
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
        """sha256 (hex) of images, labels, patients and `[data]`; the split does not change it."""
        return self.document.fingerprint

    @property
    def digest(self) -> str:
        """sha256 (hex) of the records, splits included; `fingerprint` stays when only the split changes."""
        return self.document.records_sha256 or self.fingerprint

    @property
    def training_patients(self) -> list[str]:
        """HMACs (hex) of the patients in train, one per image: whom a training is charged to."""
        records = self.records
        return list(records["patient"][records["split"] == "train"])

    def part(self, split: str) -> Part:
        """The images of `train`, `holdout` or `test`."""
        if split not in SPLITS:
            raise CohortError(f"no split {split!r}: choose from {', '.join(SPLITS)}")
        rows = np.flatnonzero(self.records["split"].to_numpy() == split).astype(np.int64)
        images = self.images[rows[0] : rows[-1] + 1]
        # otherwise another program laid the cohort out
        return self._chosen(rows, images if len(images) == len(rows) else self.images[rows])

    def of_rows(self, rows: NDArray[np.int64]) -> Part:
        """Some rows of the cohort, of any split."""
        return self._chosen(rows, self.images[rows])

    def _chosen(self, rows: NDArray[np.int64], images: Images) -> Part:
        chosen = self.records.iloc[rows]
        images.flags.writeable = False
        return Part(
            images=images,
            labels=chosen["label"].to_numpy(dtype=np.int64),
            patients=_texts(chosen["patient"]),
            rows=rows,
            clusters=chosen["cluster"].to_numpy(dtype=np.int64),
            pictures=chosen["picture"].to_numpy(dtype=np.int64),
            pinned=chosen["pinned"].to_numpy(dtype=np.bool_),
            subgroups=_texts(chosen[SUBGROUP_COLUMN]) if SUBGROUP_COLUMN in chosen else None,
        )


def clusters_of_parts(*parts: Part) -> NDArray[np.int64]:
    """(n,) cluster of each image, one part after the other, numbered in the order of first appearance."""
    return numbered(np.concatenate([part.clusters for part in parts]))


def _texts(column: pd.Series) -> NDArray[np.str_]:
    return np.array(column.tolist(), dtype=np.str_)


def load_cohort(folder: Path | str) -> Cohort:
    """Open a cohort and check that its three files belong together.

    Raises:
        StudyError: there is no cohort.
        CohortError: a file is missing, of another version, cut short, or does not match the others; or the
            patients are hashed with another key than this home's.
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
    _check_key(folder, document)
    return Cohort(folder, document, images)


def _check_key(folder: Path, document: CohortDocument) -> None:
    """Under another key its patients would look new: other parts of the split, and nothing spent."""
    ours = key_check() if has_patient_key() else ""
    if document.key_check not in {"", ours}:
        raise CohortError(
            f"{folder} was prepared with another patient key than {home()} has: set PRIVSYN_HOME to the home "
            "it was prepared with"
        )


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
