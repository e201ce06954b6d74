"""What a source yields: entries, which are cheap until read, and the pictures that an entry holds.

Both are named tuples, which are made and sent to other processes several times as fast as data classes.
Ids, names and paths live here only, between a source and its cohort; nothing here is written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from privsyn.bit_depth import Images
from privsyn.errors import CohortError

MARK_LENGTH = 64  # characters that are kept of the value of a mark


class NotAnImage(CohortError):
    """The file is something else: listed and passed over, where other files are refused."""


class SourceImage(NamedTuple):
    """One image as its source has it, before it is made what the recipe declares.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8; or (H, W, 1) grey, uint16, which spans 0 to 65,535.
        label: what the file itself says, a class name; None leaves it to the entry.
        patient: what the file itself says; None leaves it to the entry.
        part: which image of a file that holds several, such as "frame 3".
        marks: what in the file may identify somebody: name of the attribute, prefixed by its kind ("DICOM
            PatientName", "EXIF GPSInfo", "PNG text Author"), to its value as text. Once a file, with its
            first picture.
    """

    pixels: Images
    label: str | None = None
    patient: str | None = None
    part: str = ""
    marks: Mapping[str, str] = {}


class SourceEntry(NamedTuple):
    """One file, or one row of an array or table, of a source; can be sent to another process.

    Attributes:
        where: what to call it on the user's terminal; never written to a file.
        label: a class name (text), an index of `data.classes` (int), or None if the file is to say it.
        patient: the id as the source spells it, or None if the file is to say it, or nobody does.
        read: gives the pictures in it; raises CohortError with the reason if it cannot.
        stamp: changes when what is read changes, as far as can be told without reading (path, size, time).
        subgroup: as the source spells it, "" where it says none; None if nobody asked for it.
    """

    where: str
    label: str | int | None
    patient: str | None
    read: Callable[[], Iterable[SourceImage]]
    stamp: str = ""
    subgroup: str | None = None
