"""The entries of a source and the images in them, for tests."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.entries import SourceEntry, SourceImage
from privsyn.cohort.sources import open_source
from privsyn.recipe import Data

Noise = Callable[..., NDArray[np.uint8]]
AB = ("a", "b")


def data_for(classes: tuple[str, ...] = AB, **keys: object) -> Data:
    return Data.model_validate({"size": 8, "classes": classes, **keys})


def listed(
    source: Path | str, classes: tuple[str, ...] = AB, data: Data | None = None, **options: object
) -> list[SourceEntry]:
    return list(open_source(source, data or data_for(classes), **options))  # type: ignore[arg-type]


def picture_of(entry: SourceEntry) -> SourceImage:
    """The one picture of an entry that was sent to another process."""
    (picture,) = pickle.loads(pickle.dumps(entry)).read()
    return picture  # type: ignore[no-any-return]


def pixels_of(entry: SourceEntry) -> Images:
    return picture_of(entry).pixels
