"""What a source yields: entries, which are cheap until they are read, and the images of an entry.

Both are named tuples, which are created and sent to other processes several times faster than data classes.
Patient ids, names and paths exist only here, between a source and its cohort; nothing here is written to
disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from privsyn.bit_depth import Images
from privsyn.errors import CohortError

MARK_LENGTH = 64  # characters that are kept of the value of a mark


class NotAnImage(CohortError):
    """The file is not an image: it is listed and passed over, and not refused as a damaged image is."""


class SourceImage(NamedTuple):
    """One image as it is in its source, before it is fitted to the recipe.

    Attributes:
        pixels: (H, W, 1) grey or (H, W, 3) RGB, uint8; or (H, W, 1) grey, uint16, which spans 0 to 65,535.
        label: the class name that the file gives; None if the entry gives it.
        patient: the patient id that the file gives; None if the entry gives it.
        part: which image of a file with several, such as "frame 3".
        study: the id of the examination that the file gives, which counts where no patient is known.
        marks: identifying metadata of the file: name of the attribute, prefixed by its kind ("DICOM
            PatientName", "EXIF GPSInfo", "PNG text Author"), to its value as text. Only on the first image of
            a file.
    """

    pixels: Images
    label: str | None = None
    patient: str | None = None
    part: str = ""
    marks: Mapping[str, str] = {}
    study: str | None = None


class SourceEntry(NamedTuple):
    """One file of a source, or one row of its array or table; can be sent to another process.

    Attributes:
        where: its name on the user's terminal; never written to a file.
        label: a class name (text), an index of `data.classes` (int), or None if the file gives it.
        patient: the id as the source spells it, or None if the file gives it or there is none.
        read: returns its images; raises CohortError with the reason if it cannot.
        stamp: changes when the content changes, as far as is known without reading (path, size, time).
        subgroup: as the source spells it, "" where it is unknown; None without subgroups.
    """

    where: str
    label: str | int | None
    patient: str | None
    read: Callable[[], Iterable[SourceImage]]
    stamp: str = ""
    subgroup: str | None = None
