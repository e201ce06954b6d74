"""Parts of a cohort for tests: made of arrays, or cut out of another."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from privsyn.bit_depth import Images
from privsyn.cohort.cohort import Part
from privsyn.cohort.split import numbered


def part_of_arrays(images: Images, labels: np.ndarray, patients: np.ndarray) -> Part:
    """Images without links between patients: every patient is a cluster, every image a picture."""
    rows = np.arange(len(images))
    return Part(images, labels, patients, rows, numbered(patients), rows, np.zeros(len(rows), np.bool_))


def selected(part: Part, rows: np.ndarray) -> Part:
    """These rows of a part, in this order."""
    columns = {each.name: getattr(part, each.name) for each in fields(part)}
    return Part(**{name: None if column is None else column[rows] for name, column in columns.items()})
