"""What the audits will be able to say about a cohort of this size, said before anybody trains on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from privsyn.cohort.records import CohortRows
from privsyn.cohort.split import SPLITS

FALSE_POSITIVES = 10  # that a false positive rate must stand for, so that it can be measured at all
RATES = {"1 %": 0.01, "0.1 %": 0.001}
FEWEST_WITH_TWO = 20  # patients with two images, in test and in each half of the others
FEWEST_OF_CLASS = 10  # training patients of a class; fewer can never be shown to be copied


def too_small(rows: CohortRows, classes: tuple[str, ...]) -> list[str]:
    """What no audit can tell with these numbers of patients, and the numbers that would do."""
    counted = [_patients(rows, part) for part in range(len(SPLITS))]
    holdout = counted[SPLITS.index("holdout")]
    notes = []
    for name, rate in RATES.items():
        enough = round(FALSE_POSITIVES / rate)
        if holdout["patients"] < enough:
            notes.append(
                f"holdout has {_people(holdout['patients'])}: TPR at {name} FPR cannot be measured; "
                f"{enough:,} would do"
            )
    of_two = [part["with two images"] for part in counted]
    others, test = of_two[0] + of_two[1], of_two[2]
    if sum(of_two) and (others < 2 * FEWEST_WITH_TWO or test < FEWEST_WITH_TWO):
        notes.append(
            f"{_people(others)} of train and holdout and {test:,} of test have two images: "
            f"re-identification cannot be tried; {2 * FEWEST_WITH_TWO} and {FEWEST_WITH_TWO} would do"
        )
    for label, name in enumerate(classes):
        there = _patients(rows, 0, label)["patients"]
        if there < FEWEST_OF_CLASS:
            notes.append(
                f"class {name} has {_people(there)} in train: copies of them cannot be told from chance; "
                f"{FEWEST_OF_CLASS} would do"
            )
    return notes


def _people(count: int) -> str:
    return "1 patient" if count == 1 else f"{count:,} patients"


def _patients(rows: CohortRows, part: int, label: int | None = None) -> Mapping[str, Any]:
    chosen = rows.part == part
    if label is not None:
        chosen &= rows.records["label"] == label
    _, images = np.unique(rows.records["patient"][chosen], return_counts=True)
    return {"patients": len(images), "with two images": int((images > 1).sum())}
