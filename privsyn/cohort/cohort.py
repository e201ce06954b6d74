"""The cohort on disk: `images.npy`, `records.parquet`, `cohort.json`; made once, read by everybody.

It never leaves the study, and still it names nobody: no file names, no paths, patients only as HMACs under
this machine's key. Its rows are ordered by the hash of their pixels, so that their order says nothing either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from privsyn.cohort.pixels import Pixels, fit_pixels
from privsyn.cohort.records import COLUMNS, describe, examine, lay_out, pixel_digest
from privsyn.cohort.sources import Entry, open_source
from privsyn.cohort.split import SPLITS
from privsyn.errors import CohortError, PrivsynError, StudyError
from privsyn.files import file_digest, read_json, whole_folder, write_json
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Data
from privsyn.study import Study, as_study

SCHEMA_VERSION = 1
_KEYS = ("size", "channels", "classes", "counts", "fingerprint")


@dataclass(frozen=True, eq=False)
class Part:
    """One split of a cohort.

    Attributes:
        images: (n, H, W, C) uint8, read-only, mapped from disk where the rows are contiguous.
        labels: (n,) index of the class.
        patients: (n,) HMAC of the patient, hex.
        rows: (n,) rows of the cohort.
    """

    images: Pixels
    labels: NDArray[np.int64]
    patients: NDArray[np.str_]
    rows: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cohort:
    """Prepared real images; internal.

    Attributes:
        folder: where it lies.
        document: `cohort.json`.
        images: (N, H, W, C) uint8, memory-mapped, read-only.
        records: one row per image in that order: index, label, label_name, patient, split, sha256.
    """

    folder: Path
    document: Mapping[str, Any]
    images: Pixels
    records: pd.DataFrame

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
        return Part(images, labels, np.array(chosen["patient"].tolist(), dtype=np.str_), rows)


def prepare(
    study: Study | Path | str,
    source: Path | str,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
) -> Cohort:
    """Turn a source of real images into the study's cohort; nothing is written unless every image is usable.

    Every image is read twice, first to check it and then to write it, so that a folder of any size needs
    the memory of one image.

    Args:
        source: the word `digits`, an `.npz` file, class folders, or (with `table`) a folder of images.
        table: CSV or Parquet with columns `file`, `label` and, if known, `patient`.
        columns: other names of those columns, `{"file": "path"}`.
        settings: `section.key=value` changes of the recipe.
        force: replace the cohort that the study has.

    Raises:
        StudyError: the study has a cohort already.
        CohortError: the source, or any image in it, cannot be used; the message names the first.
    """
    study = as_study(study)
    recipe = study.recipe(settings)
    if study.cohort.exists() and not force:
        raise StudyError(f"{study.cohort} already exists: pass --force to replace it")
    entries = list(open_source(source, recipe.data.classes, table=table, columns=columns))
    if not entries:
        raise CohortError(f"{source} holds no images")
    images = examine(entries, recipe.data, progress)
    records, positions = lay_out(images, recipe)
    document = describe(records, recipe, sum(bool(image.patient) for image in images))
    with whole_folder(study.cohort, replace=force) as folder:
        chosen = (entries[position] for position in positions)
        _write_images(folder / "images.npy", chosen, records["sha256"].tolist(), recipe.data, progress)
        _write_records(folder / "records.parquet", records)
        own = {"schema_version": SCHEMA_VERSION, "records_sha256": file_digest(folder / "records.parquet")}
        write_json(folder / "cohort.json", document | own)
    return load_cohort(study.cohort)


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
        records = pq.read_table(folder / "records.parquet").to_pandas()
        _check_match(document, images, records)
        if document.get("records_sha256") not in {None, file_digest(folder / "records.parquet")}:
            raise CohortError("records.parquet is not the one that cohort.json was written with")
    except (PrivsynError, OSError, TypeError, ValueError, pa.ArrowException) as error:
        raise CohortError(f"{folder} cannot be used ({error}): prepare it again with --force") from None
    return Cohort(folder, document, images, records)


def _write_images(
    path: Path, entries: Iterable[Entry], digests: Sequence[str], data: Data, progress: Progress
) -> None:
    """Stream the images to an .npy file; plain writes, for a full disk kills who writes to a mapping."""
    shape = (len(digests), data.size, data.size, data.channels)
    with path.open("wb") as handle, progress.stage("write images", len(digests)) as advance:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for entry, sha256 in zip(entries, digests, strict=True):
            handle.write(_read_again(entry, sha256, data).tobytes())
            advance()


def _read_again(entry: Entry, sha256: str, data: Data) -> Pixels:
    with suppress(CohortError):
        pixels = fit_pixels(entry.read(), data)
        if pixel_digest(pixels) == sha256:
            return pixels
    raise CohortError(f"{entry.where}: changed while it was read, prepare again")


def _write_records(path: Path, records: pd.DataFrame) -> None:
    whole = {"index", "label"}
    schema = pa.schema([(name, pa.int64() if name in whole else pa.string()) for name in COLUMNS])
    pq.write_table(
        pa.Table.from_pandas(records, schema, preserve_index=False).replace_schema_metadata(), path
    )


def _check_document(document: Any) -> None:
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise CohortError(f"cohort.json is not of version {SCHEMA_VERSION}")
    missing = [key for key in _KEYS if key not in document]
    if missing:
        raise CohortError(f"cohort.json lacks {', '.join(missing)}")


def _check_match(document: Mapping[str, Any], images: Any, records: pd.DataFrame) -> None:
    if not set(COLUMNS) <= set(records.columns):
        raise CohortError(f"records.parquet needs the columns {', '.join(COLUMNS)}")
    size = document["size"]
    shape = (len(records), size, size, document["channels"])
    if images.dtype != np.uint8 or images.shape != shape:
        raise CohortError(
            f"images.npy is {images.dtype} {images.shape}, its records and cohort.json say uint8 {shape}"
        )
    if not records["label"].isin(range(len(document["classes"]))).all():
        raise CohortError("records.parquet has labels beyond the classes of cohort.json")
    if set(records["split"]) != set(SPLITS):
        raise CohortError("records.parquet needs images in train, holdout and test, and in no other split")
