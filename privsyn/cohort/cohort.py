"""The cohort on disk: `images.npy`, `records.parquet`, `cohort.json`; made by `prepare`, read by everybody.

It never leaves the study, and still it names nobody: no file names, no paths, patients only as HMACs under
this machine's key. Its rows are ordered by the hash of their pixels, so that their order says nothing either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
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
from privsyn.cohort.records import COLUMNS, GROUP, SUBGROUP
from privsyn.cohort.split import SPLITS, linked_clusters
from privsyn.errors import CohortError, PrivsynError, StudyError
from privsyn.files import file_digest, read_json

SCHEMA_VERSION = 1
RECORDS = "records.parquet"
_KEYS = ("size", "channels", "bit_depth", "classes", "counts", "fingerprint")


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a cohort.

    Attributes:
        images: (n, H, W, C) uint8 or uint16, read-only, mapped from disk where the rows are contiguous.
        labels: (n,) index of the class.
        patients: (n,) HMAC of the patient, hex.
        rows: (n,) rows of the cohort.
        subgroups: (n,) such as a sex or an age band, "" where it is unknown; None if the cohort has none. For
            audits of quality: training has no use for them.
        groups: (n,) what the split kept together beyond patients and identical images, so that audits move it
            together as well; None if near-duplicates were not linked.
    """

    images: Images
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    rows: NDArray[np.int64]
    subgroups: NDArray[np.str_] | None = None
    groups: NDArray[np.int64] | None = None

    @cached_property
    def digests(self) -> list[str]:
        """(n,) sha256 of the pixels of each image, hex."""
        return [hashlib.sha256(image.tobytes()).hexdigest() for image in self.images]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prepared real images; internal.

    Attributes:
        folder: where it lies.
        document: `cohort.json`.
        images: (N, H, W, C) uint8, or uint16 if the bit depth is 16; memory-mapped, read-only.
    """

    folder: Path
    document: Mapping[str, Any]
    images: Images

    @cached_property
    def records(self) -> pd.DataFrame:
        """One row per image in that order: `COLUMNS`, and `subgroup` and `group` if the cohort has any."""
        records: pd.DataFrame = pq.read_table(self.folder / RECORDS).to_pandas()
        return records

    @property
    def size(self) -> int:
        return int(self.document["size"])

    @property
    def channels(self) -> int:
        return int(self.document["channels"])

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.document["classes"])

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of images, labels, patients and `[data]`; the seed of the split does not change it."""
        return str(self.document["fingerprint"])

    @property
    def digest(self) -> str:
        """sha256 (hex) of the records, splits included; `fingerprint` stays when only the split changes."""
        return str(self.document.get("records_sha256", self.fingerprint))

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
        subgroups = _texts(chosen[SUBGROUP]) if SUBGROUP in chosen else None
        groups = chosen[GROUP].to_numpy(dtype=np.int64) if GROUP in chosen else None
        return Part(images, labels, _texts(chosen["patient"]), rows, subgroups, groups)


def clusters_of_parts(*parts: Part) -> NDArray[np.int64]:
    """(n,) unit of each image of some parts in turn: what the split moved together, numbered as it comes.

    A patient, or several who share an identical image, or near-duplicates if those were linked.
    """
    patients = np.concatenate([part.patients for part in parts])
    digests = np.array([digest for part in parts for digest in part.digests])
    units = linked_clusters(patients, digests)
    groups = [part.groups for part in parts if part.groups is not None]
    return linked_clusters(units, np.concatenate(groups)) if groups else units


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
        document = read_json(folder / "cohort.json")
        _check_document(document)
        images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
        _check_match(document, images, folder / RECORDS)
        if document.get("records_sha256") not in {None, file_digest(folder / RECORDS)}:
            raise CohortError(f"{RECORDS} is not the one that cohort.json was written with")
    except (PrivsynError, OSError, TypeError, ValueError, pa.ArrowException) as error:
        raise CohortError(f"{folder} cannot be used ({error}): prepare it again with --force") from None
    return Cohort(folder, document, images)


def _check_document(document: Any) -> None:
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise CohortError(f"cohort.json is not of version {SCHEMA_VERSION}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise CohortError(f"cohort.json lacks {', '.join(missing)}")


def _check_match(document: Mapping[str, Any], images: Any, records: Path) -> None:
    with pq.ParquetFile(records) as source:
        if not set(COLUMNS) <= set(source.schema_arrow.names):
            raise CohortError(f"{RECORDS} needs the columns {', '.join(COLUMNS)}")
        size, dtype = document["size"], np.dtype(f"uint{document['bit_depth']}")
        shape = (source.metadata.num_rows, size, size, document["channels"])
        if images.dtype != dtype or images.shape != shape:
            raise CohortError(
                f"images.npy is {images.dtype} {images.shape}, "
                f"its records and cohort.json say {dtype} {shape}"
            )
        splits, last = set(), len(document["classes"]) - 1
        for batch in source.iter_batches(columns=["label", "split"]):
            splits |= set(pc.unique(batch["split"]).to_pylist())
            ends = pc.min_max(batch["label"]).as_py()
            if batch.num_rows and not 0 <= ends["min"] <= ends["max"] <= last:
                raise CohortError(f"{RECORDS} has labels beyond the classes of cohort.json")
    if splits != set(SPLITS):
        raise CohortError(f"{RECORDS} needs images in train, holdout and test, and in no other split")
