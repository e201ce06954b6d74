"""Prepare the study's cohort from a source of real images.

Every image is read once. Pixels and index gather in a hidden folder of the study, `.preparing`, from which an
interrupted run is resumed. When split, duplicates and text are known, the cohort is written in its own order
and takes its place in one step. Memory holds the index, 81 bytes an image, and never all pixels.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from privsyn.bit_depth import DTYPES
from privsyn.cohort.cohort import DOCUMENT, RECORDS, Cohort, load_cohort
from privsyn.cohort.document import (
    CohortDocument,
    IdentifierCounts,
    LeftOutCounts,
    NearDuplicateCounts,
    write_document,
)
from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.index import RECORD_DTYPE, ImageIndex, IndexRecords
from privsyn.cohort.ingest import EntryReader, Ingested, SourceReading, ingest
from privsyn.cohort.opt_outs import read_opt_outs, remember, remembered
from privsyn.cohort.pseudonyms import entry_hash
from privsyn.cohort.records import NO_PAIRS, CohortRows, RowPairs, describe, lay_out, write_records
from privsyn.cohort.scan import AUTOMATIC_SCAN, TextScan, scan_for_text
from privsyn.cohort.sizes import too_small
from privsyn.cohort.source_report import NearPair, SourceReport, why_text_is_refused, why_unusable
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError, StudyError
from privsyn.files import file_digest, json_digest, locked, whole_folder
from privsyn.home import KEY_BYTES, has_patient_key, key_check, patient_key
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.study import Study, as_study

WORKING = ".preparing"  # in the study; removed when the cohort is complete
_BLOCK_BYTES = 4 << 20


@dataclass(frozen=True)
class SourceSpec:
    """A source of real images and how to read it.

    Attributes:
        source: the word `digits`, an `.npz` or Parquet file, or a folder: class folders, a DICOM tree, a
            folder of Hugging Face `datasets`, or (with `table`) a folder of images.
        table: CSV, JSON lines or Parquet with columns `file`, `label` and, if known, `patient`.
        columns: other names of those columns, such as `{"file": "path"}`. A column of subgroups is read only
            if it is named here, as in `{"subgroup": "sex"}`.
        opt_outs: text file with the ids of patients to leave out, one per line; `prepare` remembers them on
            this machine.
        skip_unusable: leave out images that cannot be used; otherwise one of them stops everything.
        processes: number of processes that decode; more than one also survive a decoder that crashes.
    """

    source: Path | str
    table: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    opt_outs: Path | None = None
    skip_unusable: bool = False
    processes: int = 1


AnySource = SourceSpec | Path | str


def prepare(
    study: Study | Path | str,
    source: AnySource,
    *,
    settings: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
    on_report: Callable[[SourceReport], None] | None = None,
) -> Cohort:
    """Turn a source of real images into the study's cohort.

    Args:
        source: a path or the word `digits`, or a `SourceSpec` that says how to read it.
        settings: `section.key=value` changes of the recipe, written into the study's `recipe.toml` when the
            cohort is complete.
        force: replace the study's cohort.
        on_report: called with the report before anything is written, also if the source is refused.

    Raises:
        StudyError: the study has a cohort already, or another command works on it.
        CohortError: the source, or an image in it, cannot be used; the message names the first.
    """
    study = as_study(study)
    with study.exclusively("prepare"):
        if study.cohort.exists() and not force:
            raise StudyError(f"{study.cohort} already exists: pass --force to replace it")
        _prepare(study, _Work.of(study, source, settings, progress), force, on_report)
        study.keep(settings)
        return load_cohort(study.cohort)


def _prepare(
    study: Study, work: _Work, force: bool, on_report: Callable[[SourceReport], None] | None
) -> None:
    working = study.root / WORKING
    working.mkdir(mode=0o700, exist_ok=True)
    with locked(working / "index"), work.index(working) as index:
        examined = None
        try:
            examined = work.examine(index)
            if on_report is not None:
                on_report(examined.report)
            work.write(study.cohort, examined, index, replace=force)
        except CohortError:  # keep what was read for the next run, unless all was read and refused
            if examined is not None or not index.images:
                shutil.rmtree(working)
            raise
    shutil.rmtree(working)


def check(
    study: Study | Path | str,
    source: AnySource,
    *,
    settings: Sequence[str] = (),
    values: bool = False,
    progress: Progress = SILENT,
) -> SourceReport:
    """Report what `prepare` would make of a source, and write nothing.

    Args:
        source, settings: as for `prepare`.
        values: keep some values of identifiers, for the user's terminal.

    Raises:
        CohortError: the source as a whole cannot be read.
    """
    work = _Work.of(as_study(study), source, settings, progress, writes=False, keep_values=values)
    with work.index(None) as index:
        report = work.examine(index).report
    if report.document is None:
        return report
    # Fingerprint and key check depend on this machine's key, which a check does not create.
    return replace(report, document=replace(report.document, fingerprint="", key_check=""))


@dataclass(frozen=True)
class _Examined:
    report: SourceReport
    rows: CohortRows | None


@dataclass(frozen=True)
class _Work:
    spec: SourceSpec
    recipe: Recipe
    reading: SourceReading

    @classmethod
    def of(
        cls,
        study: Study,
        source: AnySource,
        settings: Sequence[str],
        progress: Progress,
        *,
        writes: bool = True,
        keep_values: bool = False,
    ) -> _Work:
        spec = source if isinstance(source, SourceSpec) else SourceSpec(source)
        recipe = study.recipe(settings)
        if len(recipe.data.classes) > (most := np.iinfo(RECORD_DTYPE["label"]).max + 1):
            raise CohortError(f"data.classes names {len(recipe.data.classes):,} classes: at most {most:,}")
        key = patient_key() if writes or has_patient_key() else secrets.token_bytes(KEY_BYTES)
        opted_out = remembered()
        if spec.opt_outs is not None:
            opted_out |= read_opt_outs(spec.opt_outs, key)
        reader = EntryReader(recipe.data, key, opted_out, keep_values)

        def entries() -> Iterable[SourceEntry]:
            return open_source(spec.source, recipe.data, table=spec.table, columns=spec.columns)

        is_array = str(spec.source) == "digits" or Path(spec.source).suffix.lower() == ".npz"
        processes = 1 if is_array else spec.processes  # arrays need no decoding
        return cls(spec, recipe, SourceReading(entries, reader, processes, progress))

    def index(self, folder: Path | None) -> ImageIndex:
        """The index in a folder, with all that an interrupted run for the same purpose has read."""
        data = self.recipe.data
        opted_out = sorted(each.hex() for each in self.reading.reader.opted_out)
        return ImageIndex(
            folder,
            (data.size, data.size, data.channels),
            DTYPES[data.bit_depth],
            about=json_digest([data.model_dump(mode="json"), opted_out]),
            pixels=data.near_duplicates != "off",
        )

    def examine(self, index: ImageIndex) -> _Examined:
        """Read, search for text and near-duplicates, and split, or find out why the source is refused."""
        ingested = ingest(self.reading, index)
        records, text = index.records(), TextScan(self.recipe.data.text, index.images)
        refusal = why_unusable(ingested, len(records), self.spec.source)
        if refusal and not (self.spec.skip_unusable and len(records)):
            return _Examined(SourceReport(None, refusal, ingested, text), None)
        to_scan = self._images_to_scan(ingested, records)
        text, records = scan_for_text(self.reading, records, index, to_scan, self.recipe.seed)
        if text.flagged and text.policy == "refuse":
            return _Examined(SourceReport(None, why_text_is_refused(text), ingested, text), None)
        pairs, near = self._near_duplicates(records, index)
        linked = pairs if self.recipe.data.near_duplicates == "link" else NO_PAIRS
        try:
            rows = lay_out(
                records, self.recipe, self.reading.reader.key, linked, ingested.subgroups, _trained_on
            )
        except CohortError as fault:
            return _Examined(SourceReport(None, str(fault), ingested, text, near), None)
        document = self._describe(rows, ingested, text, pairs)
        return _Examined(SourceReport(document, "", ingested, text, near), rows)

    def _images_to_scan(self, ingested: Ingested, records: IndexRecords) -> int:
        wanted = self.recipe.data.text_scan
        if wanted == "auto":
            return AUTOMATIC_SCAN if any(name.startswith("DICOM ") for name in ingested.marks) else 0
        return len(records) if wanted == "all" else int(wanted)

    def _near_duplicates(
        self, records: IndexRecords, index: ImageIndex
    ) -> tuple[RowPairs, Sequence[NearPair]]:
        if self.recipe.data.near_duplicates == "off":
            return NO_PAIRS, ()
        from privsyn.cohort.near_duplicates import near_duplicates  # imports torch

        found = near_duplicates(index, records, seed=self.recipe.seed, progress=self.reading.progress)
        both = records["source"][np.stack([found.some, found.others], axis=1)]
        names = self._names_of(frozenset(both.ravel().tolist()))
        near = [
            NearPair(names.get(one, "?"), names.get(other, "?"), correlation)
            for (one, other), correlation in zip(both.tolist(), found.correlation.tolist(), strict=True)
        ]
        return (found.some, found.others), near

    def _names_of(self, sources: frozenset[int]) -> dict[int, str]:
        """The names of some entries by their hashes; only for the terminal."""
        if not sources:
            return {}
        key = self.reading.reader.key
        hashed = ((entry_hash(entry, key), entry.where) for entry in self.reading.entries())
        return {source: where for source, where in hashed if source in sources}

    def _describe(
        self, rows: CohortRows, ingested: Ingested, text: TextScan, pairs: RowPairs
    ) -> CohortDocument:
        data = self.recipe.data
        marks = dict(sorted(ingested.marks.items()))
        return replace(
            describe(rows, self.recipe),
            key_check=key_check(self.reading.reader.key),
            identifiers=IdentifierCounts(ingested.files, marks, text.counts),
            left_out=LeftOutCounts(
                unusable=len(ingested.refused),
                no_image=len(ingested.passed_over),
                opted_out=ingested.opted_out,
            ),
            too_small=too_small(rows, data.classes),
            near_duplicates=NearDuplicateCounts(data.near_duplicates, len(pairs[0])),
        )

    def write(self, cohort: Path, examined: _Examined, index: ImageIndex, *, replace: bool) -> None:
        """Write the cohort, and remember who opted out.

        Raises:
            CohortError: the source is refused.
        """
        document, rows = examined.report.document, examined.rows
        if document is None or rows is None:
            raise CohortError(examined.report.refusal)
        if self.spec.opt_outs is not None:
            remember(self.reading.reader.opted_out)
        with whole_folder(cohort, replace=replace) as folder:
            _write_images(folder / "images.npy", rows, index, self.reading.progress)
            write_records(folder / RECORDS, rows, document.classes)
            _write_document(folder, document)


def _trained_on(patients: Collection[str]) -> frozenset[str]:
    """Of these patients those in the ledger; reading it imports the accountant, so only when it is needed."""
    from privsyn.ledger import trained_on

    return trained_on(patients)


def _write_images(path: Path, rows: CohortRows, index: ImageIndex, progress: Progress) -> None:
    """Write the images in the order of the cohort, a block at a time."""
    shape, dtype = (len(rows.order), *index.shape), index.dtype
    size = max(1, _BLOCK_BYTES // index.bytes_per_image)
    with path.open("wb") as handle, progress.stage("write images", len(rows.order)) as advance:
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, head)
        for start in range(0, len(rows.order), size):
            place = rows.order[start : start + size]
            handle.write(index.read(rows.records["row"][place]).data)
            advance(len(place))


def _write_document(folder: Path, document: CohortDocument) -> None:
    records_sha256 = file_digest(folder / RECORDS)
    write_document(folder / DOCUMENT, replace(document, records_sha256=records_sha256))
