"""Class folders, whose names are the labels, and folder trees whose files give their own labels."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from privsyn.cohort.entries import SourceEntry
from privsyn.cohort.reading import read_file, seems_a_picture
from privsyn.cohort.sources.names import shown
from privsyn.errors import CohortError
from privsyn.recipe import Data

SPLIT_FOLDERS = frozenset(
    ["train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout"]
)
FolderListing = list[os.DirEntry[str]]
_LITTER = frozenset({"thumbs.db", "desktop.ini", "__macosx"})


def class_folders(root: Path, below: str, data: Data) -> Iterator[SourceEntry]:
    """`ROOT/BELOW/CLASS/.../image.png`; the first folder names the class.

    Raises:
        CohortError: an image is outside the class folders, or a folder cannot be read or is a link.
    """
    folder = root / below
    for child in listing(folder):
        where = f"{below}/{child.name}" if below else child.name
        if is_folder(child):
            yield from _files(child.path, where, child.name, data)
        elif seems_a_picture(child.path):  # a README or a table beside the class folders is fine
            raise CohortError(
                f"{child.name!r} is in no class folder of {folder}: move it, pass --table FILE, or set "
                "data.label_tag if DICOM files say their class"
            )


def whole_tree(root: Path, label: str | None, data: Data) -> Iterator[SourceEntry]:
    """Every file in a folder and below it, all with one label; with None the files give their labels."""
    return _files(str(root), "", label, data)


def has_classes(children: FolderListing, classes: Sequence[str]) -> bool:
    """Whether one of these children of a folder is a folder named like a class."""
    return any(child.name in classes and is_folder(child) for child in children)


def splits_in(children: FolderListing, classes: Sequence[str]) -> list[str]:
    """The folders `train`, `test` ... of a source without other folders; none if one may be a class."""
    folders = [child for child in children if is_folder(child)]
    if not folders or any(
        child.name.lower() not in SPLIT_FOLDERS or child.name in classes for child in folders
    ):
        return []
    if len(classes) == 1 and not any(has_classes(listing(child.path), classes) for child in folders):
        return []
    return [child.name for child in folders]


def listing(folder: str | Path) -> FolderListing:
    """The children of a folder by name, without hidden files and files of the operating system.

    Raises:
        CohortError: it cannot be read.
    """
    try:
        with os.scandir(folder) as children:
            return sorted(
                (child for child in children if child.name[0] != "." and child.name.lower() not in _LITTER),
                key=_name,
            )
    except OSError as error:
        raise CohortError(f"cannot read the folder {shown(str(folder))} ({error.strerror})") from None


def _files(folder: str, where: str, label: str | None, data: Data) -> Iterator[SourceEntry]:
    """Every file in a folder and below it; memory holds one listing per level."""
    levels = [(iter(listing(folder)), where)]
    while levels:
        children, where = levels[-1]
        for child in children:
            name = f"{where}/{child.name}" if where else child.name
            if is_folder(child):
                if child.is_symlink():
                    raise CohortError(
                        f"{child.path!r} links to a folder, which is not followed: put the folder there"
                    )
                levels.append((iter(listing(child.path)), name))
                break
            yield _entry(child, name, label, data)
        else:
            levels.pop()


def is_folder(child: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one."""
    try:
        return child.is_dir()
    except OSError:  # a link to itself
        return False


def _entry(child: os.DirEntry[str], where: str, label: str | None, data: Data) -> SourceEntry:
    path = child.path
    try:
        status = child.stat()
    except OSError:  # a broken link; reading it gives the error
        return SourceEntry(shown(where), label, None, partial(read_file, path, data), path)
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    stamp = f"{path} {status.st_size} {status.st_mtime_ns}"
    return SourceEntry(shown(where), label, None, partial(read_file, path, data, size), stamp)


def _name(child: os.DirEntry[str]) -> str:
    return child.name
