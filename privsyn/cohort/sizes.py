"""What the audits cannot measure on a cohort of this size, known before a model is trained on it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privsyn.cohort.records import CohortRows
from privsyn.cohort.split import SPLITS

FALSE_POSITIVES = 10  # expected at a false positive rate; with fewer, that rate cannot be measured
RATES = {"1 %": 0.01, "0.1 %": 0.001}
FEWEST_WITH_TWO = 20  # patients with two images, in test and in each half of train and holdout
FEWEST_OF_CLASS = 10  # training patients of a class; copies of fewer cannot be shown


@dataclass(frozen=True)
class _PatientCounts:
    patients: int
    with_two_images: int


def too_small(rows: CohortRows, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What no audit can measure with these numbers of patients, and the numbers that would suffice."""
    counted = [_patients(rows, part) for part in range(len(SPLITS))]
    training = [_patients(rows, 0, label).patients for label in range(len(classes))]
    return (
        *_too_few_for_rates(counted[SPLITS.index("holdout")].patients),
        *_too_few_with_two(*(part.with_two_images for part in counted)),
        *(
            f"class {name} has {_people(count)} in train: copies of them cannot be told from chance; "
            f"{FEWEST_OF_CLASS} would do"
            for name, count in zip(classes, training, strict=True)
            if count < FEWEST_OF_CLASS
        ),
    )


def _too_few_for_rates(holdout: int) -> list[str]:
    needed = {name: round(FALSE_POSITIVES / rate) for name, rate in RATES.items()}
    return [
        f"holdout has {_people(holdout)}: TPR at {name} FPR cannot be measured; {enough:,} would do"
        for name, enough in needed.items()
        if holdout < enough
    ]


def _too_few_with_two(train: int, holdout: int, test: int) -> list[str]:
    others = train + holdout
    if not others + test or (others >= 2 * FEWEST_WITH_TWO and test >= FEWEST_WITH_TWO):
        return []
    return [
        f"{_people(others)} of train and holdout and {test:,} of test have two images: "
        f"re-identification cannot be tried; {2 * FEWEST_WITH_TWO} and {FEWEST_WITH_TWO} would do"
    ]


def _people(count: int) -> str:
    return "1 patient" if count == 1 else f"{count:,} patients"


def _patients(rows: CohortRows, part: int, label: int | None = None) -> _PatientCounts:
    chosen = rows.part == part
    if label is not None:
        chosen &= rows.records["label"] == label
    _, images = np.unique(rows.records["patient"][chosen], return_counts=True)
    return _PatientCounts(patients=len(images), with_two_images=int((images > 1).sum()))
