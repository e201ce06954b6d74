"""The label of an image as an index of the classes that the recipe declares."""

from __future__ import annotations

import re
from collections.abc import Sequence

from privsyn.errors import CohortError
from privsyn.recipe import nearest


def label_index(label: str | int | None, classes: Sequence[str]) -> int:
    """The index of a label in `classes`: its name first, else its number.

    A text that is a number counts as an index only if no class is itself named like a number; otherwise
    `1` could be a name and `0` an index. An image without a label belongs to the only class.

    Raises:
        CohortError: neither fits, or there are several classes and no label.
    """
    if label is None:
        if len(classes) == 1:
            return 0
        raise CohortError("has no label: use a class folder, --table FILE or data.label_tag")
    if isinstance(label, int):
        if 0 <= label < len(classes):
            return label
        raise CohortError(f"label {label} is not an index of data.classes, which end at {len(classes) - 1}")
    if label in classes:
        return classes.index(label)
    if _is_number(label) and int(label) < len(classes) and not any(_is_number(name) for name in classes):
        return int(label)
    raise CohortError(f"label {label!r} is not in data.classes{nearest(label, classes)}")


def _is_number(text: str) -> bool:
    return re.fullmatch(r"0|[1-9][0-9]{0,8}", text) is not None
