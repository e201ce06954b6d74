"""From a source of real images to the study's cohort.

Every image is read once. Pixels and index gather in a hidden folder of the study, `.preparing`, from which a
run that was killed is resumed; when all is known (split, duplicates, text), the cohort is written in its own
order and takes its place in one step. Memory holds the index, 112 bytes an image, and never the pixels.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from privsyn.bit_depth import DTYPES
from privsyn.cohort.cohort import RECORDS, SCHEMA_VERSION, Cohort, load_cohort
from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.index import RECORD_DTYPE, ImageIndex, IndexRecords
from privsyn.cohort.ingest import EntryReader, Ingested, entry_hash, ingest
from privsyn.cohort.opt_outs import read_opt_outs, remember, remembered
from privsyn.cohort.records import NO_PAIRS, CohortRows, RowPairs, describe, lay_out, write_records
from privsyn.cohort.scan import AUTOMATIC_SCAN, TextScan, identifier_summary, scan_for_text
from privsyn.cohort.sizes import too_small
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError, StudyError
from privsyn.files import file_digest, json_digest, locked, whole_folder, write_json
from privsyn.home import KEY_BYTES, has_patient_key, patient_key
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.study import Study, as_study

WORKING = ".preparing"  # in the study; gone when the cohort is there
_BLOCK_BYTES = 4 << 20

Source = Path | str


@dataclass(frozen=True)
class SourceReport:
    """What a source holds and what became, or would become, of it.

    Attributes:
        document: for `cohort.json`; None if there can be no cohort, and `refusal` says why.
        told: what was refused, passed over or marked; names files, so for the terminal alone.
        text: what was found in the pixels.
        near: (where, where, correlation) of near-duplicates of different patients; for the terminal alone.
    """

    document: Mapping[str, Any] | None
    refusal: str
    told: Ingested
    text: TextScan
    near: Sequence[tuple[str, str, float]] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it, with the names of files: for the terminal."""
        return {
            "cohort": self.document,
            "refusal": self.refusal,
            "files": self.told.files,
            "refused": [{"file": where, "reason": why} for where, why in self.told.refused],
            "passed_over": [{"file": where, "reason": why} for where, why in self.told.passed_over],
            "opted_out": self.told.opted_out,
            "identifiers": dict(sorted(self.told.marks.items())),
            "values": {name: sorted(some) for name, some in sorted(self.told.examples.items())},
            "text": {**self.text.to_dict(), "files": self.text.where},
            "near_duplicates": [
                {"files": [one, other], "correlation": round(near, 4)} for one, other, near in self.near
            ],
        }


def prepare(
    study: Study | Path | str,
    source: Source,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    opt_outs: Path | None = None,
    skip_unusable: bool = False,
    settings: Sequence[str] = (),
    processes: int = 1,
    force: bool = False,
    progress: Progress = SILENT,
    tell: Callable[[SourceReport], None] | None = None,
) -> Cohort:
    """Turn a source of real images into the study's cohort.

    Args:
        source: the word `digits`, an `.npz` or Parquet file, or a folder: class folders, a DICOM tree, a
            folder of Hugging Face `datasets`, or (with `table`) of images.
        table: CSV or Parquet with columns `file`, `label` and, if known, `patient`.
        columns: other names of those columns, `{"file": "path"}`; `{"subgroup": "sex"}` asks for a column
            of subgroups, which no source is read for otherwise.
        opt_outs: text file of the ids of patients to leave out, one a line; remembered on this machine.
        skip_unusable: leave out images that cannot be used; without it, one of them stops everything.
        settings: `section.key=value` changes of the recipe.
        processes: that decode. More than one also survive a decoder that crashes.
        force: replace the cohort that the study has.
        tell: is given the report before anything is written, and of a source that is refused too.

    Raises:
        StudyError: the study has a cohort already.
        CohortError: the source, or any image in it, cannot be used; the message names the first.
    """
    study = as_study(study)
    if study.cohort.exists() and not force:
        raise StudyError(f"{study.cohort} already exists: pass --force to replace it")
    work = _Work.of(study, source, table, columns, opt_outs, settings, processes, progress)
    working = study.root / WORKING
    working.mkdir(mode=0o700, exist_ok=True)
    with locked(working / "index"), work.index(working) as index:
        examined = None
        try:
            examined = work.examine(index, skip_unusable)
            if tell is not None:
                tell(examined.report)
            if examined.rows is None:
                raise CohortError(examined.report.refusal)
            if opt_outs is not None:
                remember(work.reader.opted_out)
            with whole_folder(study.cohort, replace=force) as folder:
                _write(folder, examined, index, progress)
        except CohortError:  # what was read stays for the next run, unless all was, and refused
            if examined is not None or not index.images:
                shutil.rmtree(working)
            raise
    shutil.rmtree(working)
    return load_cohort(study.cohort)


def check(
    study: Study | Path | str,
    source: Source,
    *,
    table: Path | None = None,
    columns: Mapping[str, str] | None = None,
    opt_outs: Path | None = None,
    skip_unusable: bool = False,
    settings: Sequence[str] = (),
    processes: int = 1,
    values: bool = False,
    progress: Progress = SILENT,
) -> SourceReport:
    """What `prepare` would make of a source, without writing anything anywhere; arguments as there.

    Args:
        values: keep some values of identifiers, for the eyes of the user.

    Raises:
        CohortError: the source as a whole cannot be read.
    """
    study = as_study(study)
    work = _Work.of(study, source, table, columns, opt_outs, settings, processes, progress, writes=False)
    work = replace(work, reader=replace(work.reader, keep_values=values))
    with work.index(None) as index:
        report = work.examine(index, skip_unusable).report
    if report.document is None:
        return report
    # The fingerprint is under this machine's key, which a mere look does not make.
    return replace(report, document={k: v for k, v in report.document.items() if k != "fingerprint"})


@dataclass(frozen=True)
class _Examined:
    report: SourceReport
    rows: CohortRows | None


@dataclass(frozen=True)
class _Work:
    source: Source
    recipe: Recipe
    entries: Callable[[], Iterable[SourceEntry]]
    reader: EntryReader
    processes: int
    progress: Progress

    @classmethod
    def of(
        cls,
        study: Study,
        source: Source,
        table: Path | None,
        columns: Mapping[str, str] | None,
        opt_outs: Path | None,
        settings: Sequence[str],
        processes: int,
        progress: Progress,
        *,
        writes: bool = True,
    ) -> _Work:
        recipe = study.recipe(settings)
        if len(recipe.data.classes) > (most := np.iinfo(RECORD_DTYPE["label"]).max + 1):
            raise CohortError(f"data.classes names {len(recipe.data.classes):,} classes: at most {most:,}")
        key = patient_key() if writes or has_patient_key() else secrets.token_bytes(KEY_BYTES)
        gone = remembered() | (read_opt_outs(opt_outs, key) if opt_outs is not None else frozenset())
        reader = EntryReader(recipe.data, recipe.seed, key, gone)

        def entries() -> Iterable[SourceEntry]:
            return open_source(source, recipe.data, table=table, columns=columns)

        read = str(source) != "digits" and Path(source).suffix.lower() != ".npz"  # arrays need no decoding
        return cls(source, recipe, entries, reader, processes if read else 1, progress)

    def index(self, folder: Path | None) -> ImageIndex:
        """Where images gather; what an interrupted run read for the same purpose is there already."""
        data, gone = self.recipe.data, sorted(each.hex() for each in self.reader.opted_out)
        return ImageIndex(
            folder,
            (data.size, data.size, data.channels),
            DTYPES[data.bit_depth],
            about=json_digest([data.model_dump(mode="json"), self.recipe.seed, gone]),
            key=self.reader.key,
            pixels=data.near_duplicates != "off",
        )

    def examine(self, index: ImageIndex, skip_unusable: bool) -> _Examined:
        """Read, look for text and near-duplicates, split; a source that must be refused ends earlier."""
        told = ingest(self.entries, self.reader, index, processes=self.processes, progress=self.progress)
        records, text = index.records(), TextScan(self.recipe.data.text, index.images)
        refusal = _unusable(told, len(records), self.source) if not skip_unusable or not len(records) else ""
        if refusal:
            return _Examined(SourceReport(None, refusal, told, text), None)
        text, records = self._look_for_text(told, records, index)
        if text.flagged and text.policy == "refuse":
            return _Examined(SourceReport(None, _has_text(text), told, text), None)
        pairs, near = self._near_duplicates(records, index)
        linked = pairs if self.recipe.data.near_duplicates == "link" else NO_PAIRS
        try:
            rows = lay_out(records, self.recipe, self.reader.key, linked, told.subgroups)
        except CohortError as fault:
            return _Examined(SourceReport(None, str(fault), told, text, near), None)
        found = {
            "identifiers": identifier_summary(told.marks, told.files, text),
            "left_out": {
                "unusable": len(told.refused),
                "no_image": len(told.passed_over),
                "opted_out": told.opted_out,
            },
            "too_small": too_small(rows, self.recipe.data.classes),
            "near_duplicates": {"looked_for": self.recipe.data.near_duplicates, "pairs": len(pairs[0])},
        }
        document = describe(rows, self.recipe) | found
        return _Examined(SourceReport(document, "", told, text, near), rows)

    def _look_for_text(
        self, told: Ingested, records: IndexRecords, index: ImageIndex
    ) -> tuple[TextScan, IndexRecords]:
        asked = self.recipe.data.text_scan
        count = len(records) if asked == "all" else asked
        if count == "auto":
            count = AUTOMATIC_SCAN if any(name.startswith("DICOM ") for name in told.marks) else 0
        return scan_for_text(
            self.entries,
            records,
            index,
            self.recipe.data,
            int(count),
            seed=self.recipe.seed,
            key=self.reader.key,
            processes=self.processes,
            progress=self.progress,
        )

    def _near_duplicates(
        self, records: IndexRecords, index: ImageIndex
    ) -> tuple[RowPairs, Sequence[tuple[str, str, float]]]:
        if self.recipe.data.near_duplicates == "off":
            return NO_PAIRS, ()
        from privsyn.cohort.near_duplicates import near_duplicates  # torch, for those who ask for it

        found = near_duplicates(index, records, seed=self.recipe.seed, progress=self.progress)
        both = records["source"][np.stack([found.some, found.others], axis=1)]
        names = names_of(self.entries(), frozenset(both.ravel().tolist()), self.reader.key)
        near = zip(both.tolist(), found.correlation.tolist(), strict=True)
        told = [(names.get(one, "?"), names.get(other, "?"), value) for (one, other), value in near]
        return (found.some, found.others), told


def names_of(entries: Iterable[SourceEntry], sources: frozenset[int], key: bytes) -> dict[int, str]:
    """What some entries are called, by their hashes; for the terminal alone."""
    if not sources:
        return {}
    hashed = ((entry_hash(entry, key), entry.where) for entry in entries)
    return {found: where for found, where in hashed if found in sources}


def _unusable(told: Ingested, images: int, source: Source) -> str:
    """Why there can be no cohort of what was read, or ""."""
    if told.refused:
        where, why = told.refused[0]
        total = images + len(told.refused)
        return f"{len(told.refused)} of {total} images cannot be used; first: {where}: {why}"
    if images:
        return ""
    first = "; first: {}: {}".format(*told.passed_over[0]) if told.passed_over else ""
    return f"{source} holds no images{first}"


def _has_text(text: TextScan) -> str:
    return (
        f"text in the pixels of {text.flagged} of {text.looked} images that were looked at; first: "
        f'{text.where[0]} (clean them, or set data.text to drop or mask with data.text_scan = "all")'
    )


def _write(folder: Path, examined: _Examined, index: ImageIndex, progress: Progress) -> None:
    rows = examined.rows
    document = examined.report.document
    assert rows is not None
    assert document is not None
    shape, dtype = (len(rows.order), *index.shape), index.dtype
    size = max(1, _BLOCK_BYTES // index.bytes_per_image)
    with (
        (folder / "images.npy").open("wb") as handle,
        progress.stage("write images", len(rows.order)) as advance,
    ):
        head = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, head)
        for start in range(0, len(rows.order), size):
            place = rows.order[start : start + size]
            handle.write(index.read(rows.records["row"][place]).data)
            advance(len(place))
    write_records(folder / RECORDS, rows, document["classes"])
    own = {"schema_version": SCHEMA_VERSION, "records_sha256": file_digest(folder / RECORDS)}
    write_json(folder / "cohort.json", {**document, **own})
