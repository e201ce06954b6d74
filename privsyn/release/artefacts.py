"""The files that a release holds beside its signatures: which, where they come from, and who makes them.

This list is the only place to add one: `draft` copies by it, and a recipient's check refuses what is not in
it. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal, get_args

Station = Literal["sample", "audit", "report"]
STATIONS: tuple[Station, ...] = get_args(Station)  # commands in the order in which they are run


@dataclass(frozen=True)
class Artefact:
    """One file of a release, or all files of one kind.

    Attributes:
        name: relative POSIX path in the release; `*` in its last part stands for any text without `/`.
        made_by: the command that makes it.
        source: the folder in the study that holds files of this name.
    """

    name: str
    made_by: Station
    source: str

    @property
    def folder(self) -> str:
        """Where it lies in the release; "" for the release itself."""
        return self.name.rpartition("/")[0]

    @property
    def pattern(self) -> str:
        """The last part of its name."""
        return self.name.rpartition("/")[2]

    def covers(self, name: str) -> bool:
        """Whether a file of this name in a release is this artefact."""
        folder, _, file = name.rpartition("/")
        return folder == self.folder and fnmatchcase(file, self.pattern)

    def files(self, study: Path) -> dict[str, Path]:
        """Name in the release to file in the study, of all that are there."""
        found = sorted((study / self.source).glob(self.pattern))
        return {f"{self.folder}/{file.name}".lstrip("/"): file for file in found}


ARTEFACTS = (
    Artefact("README.md", made_by="sample", source="synthetic"),
    Artefact("croissant.json", made_by="sample", source="synthetic"),
    Artefact("data/*.parquet", made_by="sample", source="synthetic/data"),
    Artefact("public-report.html", made_by="report", source="audit"),
)


def is_release_file(name: str) -> bool:
    """Whether a release may hold a file of this name."""
    return source_of(name) is not None


def source_of(name: str) -> str | None:
    """The file in the study from which a file of a release is copied, as a path relative to the study."""
    for artefact in ARTEFACTS:
        if artefact.covers(name):
            return f"{artefact.source}/{name.rpartition('/')[2]}"
    return None
