"""WebDataset tars, in which the files of an image follow each other, with one name and several endings."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.pixels import HELD, IMAGE_SUFFIXES
from privsyn.cohort.reading import read_bytes
from privsyn.cohort.sources.folders import FolderListing
from privsyn.cohort.sources.names import as_text, file_stamp, readable, shown
from privsyn.errors import CohortError
from privsyn.recipe import Data

_SIDECAR = 2**20  # bytes of the largest file that is not the image


def tars_in(children: FolderListing) -> list[Path]:
    """The tars in a folder."""
    return [
        Path(child.path)
        for child in children
        if child.name.lower().endswith(".tar") and os.path.isfile(child.path)
    ]


def tar_entries(tars: Sequence[Path], data: Data) -> Iterator[SourceEntry]:
    """An entry for each image: its label is `label_name` or `label` in its `.json`, or its `.cls`; its
    patient is `patient` in its `.json`.

    Raises:
        CohortError: a tar cannot be read, or an image in it is larger than 64 MiB.
    """
    for path in tars:
        where, stamp = shown(path.name), file_stamp(path)
        with readable(path, "a tar that can be read"), tarfile.open(path, "r|") as tar:
            for name, files in _samples(path, tar):
                image = next((ending for ending in files if f".{ending}" in IMAGE_SUFFIXES), None)
                if image is None:
                    continue
                label, patient = _label_and_patient(files)
                read = partial(read_bytes, files[image], name, data, patient is not None)
                yield SourceEntry(f"{where} {shown(name)}", label, patient, read, f"{stamp} {name}")


def _samples(path: Path, tar: tarfile.TarFile) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Name, and content by ending, of consecutive files with the same name."""
    current, files = "", dict[str, bytes]()
    for member in tar:
        tar.members = []  # type: ignore[attr-defined]  # otherwise it keeps every member
        folder, base = os.path.split(member.name)
        name, _, ending = base.lower().partition(".")
        if not member.isfile() or not name:
            continue
        name = os.path.join(folder, base[: len(name)])
        if name != current and files:
            yield current, files
            files = {}
        current = name
        limit = HELD if f".{ending}" in IMAGE_SUFFIXES else _SIDECAR
        if member.size > limit:
            raise CohortError(f"{path}: {shown(member.name)} is larger than {limit >> 20} MiB: take it out")
        content = tar.extractfile(member)
        files[ending] = b"" if content is None else content.read()
    if files:
        yield current, files


def _label_and_patient(files: dict[str, bytes]) -> tuple[str | None, str | None]:
    sidecar = json.loads(files.get("json", b"{}"))
    if not isinstance(sidecar, dict):
        sidecar = {}
    label = as_text(sidecar.get("label_name", sidecar.get("label")))
    if label is None and "cls" in files:
        label = files["cls"].decode("utf-8").strip()
    return label, as_text(sidecar.get("patient"))
