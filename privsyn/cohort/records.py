"""The rows of a cohort: every image checked, every patient an HMAC, and what may be counted about them.

Ids in the clear exist here only between reading a source and hashing them.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from privsyn.cohort.pixels import Pixels, fit_pixels
from privsyn.cohort.sources import Entry, label_index
from privsyn.cohort.split import SPLITS, linked_groups, split_patients
from privsyn.errors import CohortError
from privsyn.files import json_text
from privsyn.home import patient_key
from privsyn.progress import Progress
from privsyn.recipe import Data, Recipe

COLUMNS = ("index", "label", "label_name", "patient", "split", "sha256")


@dataclass(frozen=True)
class Examined:
    """An image that has passed.

    Attributes:
        position: of its entry in the source.
        sha256: of the pixels as the recipe wants them, hex.
        label: index of the class.
        patient: in the clear, "" if the source gave none; in memory only.
        number: tells it from others with the same pixels; of use where there is no patient.
    """

    position: int
    sha256: str
    label: int
    patient: str
    number: int = 0

    @property
    def unit(self) -> str:
        """The patient, or the pixels in place of one: not the label, so that the ledger knows a relabelled
        cohort."""
        return f"patient {self.patient}" if self.patient else f"image {self.sha256} {self.number}"

    @property
    def name_in_split(self) -> str:
        """What the split's seed is mixed with; the label too, so that earlier cohorts split as they did."""
        return self.unit if self.patient else f"image {self.sha256} {self.label} {self.number}"


def examine(entries: Sequence[Entry], data: Data, progress: Progress) -> list[Examined]:
    """Read every image once.

    Raises:
        CohortError: any of them cannot be used; names the first and counts all.
    """
    passed: list[Examined] = []
    faults: list[str] = []
    with progress.stage("check images", len(entries)) as advance:
        for position, entry in enumerate(entries):
            try:
                label = label_index(entry.label, data.classes)
                sha256 = pixel_digest(fit_pixels(entry.read(), data))
            except CohortError as fault:
                faults.append(f"{entry.where}: {fault}")
            else:
                patient = unicodedata.normalize("NFC", entry.patient or "").strip()
                passed.append(Examined(position, sha256, label, patient))
            advance()
    if faults:
        raise CohortError(f"{len(faults)} of {len(entries)} images cannot be used; first: {faults[0]}")
    return _numbered(passed)


def _numbered(images: Sequence[Examined]) -> list[Examined]:
    """Number the images without a patient that have the same pixels, whatever the order of the source."""
    seen: Counter[str] = Counter()
    result = list(images)
    for i in sorted(range(len(images)), key=lambda i: (images[i].sha256, images[i].label)):
        if not images[i].patient:
            result[i] = replace(images[i], number=seen[images[i].sha256])
            seen[images[i].sha256] += 1
    return result


def lay_out(images: Sequence[Examined], recipe: Recipe) -> tuple[pd.DataFrame, list[int]]:
    """Split the images and put them in the order of the cohort: by split, then by the hash of their pixels.

    Returns:
        the records, with columns `COLUMNS`, and the position in the source of every row.

    Raises:
        CohortError: too few patients to split.
    """
    parts = split_patients(
        np.array([image.label for image in images], dtype=np.int64),
        np.array([image.name_in_split for image in images]),
        np.array([image.sha256 for image in images]),
        shares=recipe.data.split,
        seed=recipe.seed,
    ).tolist()
    pairs = list(zip(parts, images, strict=True))
    pairs.sort(key=lambda pair: (SPLITS.index(pair[0]), pair[1].sha256, pair[1].label, pair[1].unit))
    key = patient_key()
    rows = [
        (row, image.label, recipe.data.classes[image.label], _pseudonym(key, image.unit), part, image.sha256)
        for row, (part, image) in enumerate(pairs)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)), [image.position for _, image in pairs]


def describe(records: pd.DataFrame, recipe: Recipe, named: int) -> dict[str, Any]:
    """What `cohort.json` says about the records; `named` of them came with a patient id."""
    data, sha256 = recipe.data, records["sha256"]
    group = linked_groups(np.array(records["patient"].tolist()), np.array(sha256.tolist()))
    people = pd.DataFrame({"patient": records["patient"], "group": group}).drop_duplicates()
    return {
        "size": data.size,
        "channels": data.channels,
        "bit_depth": data.bit_depth,
        "classes": list(data.classes),
        "seed": recipe.seed,
        "split": dict(zip(SPLITS, data.split, strict=True)),
        "counts": {split: _count(records[records["split"] == split], data.classes) for split in SPLITS},
        "patient_ids": _told(named, len(records)),
        "duplicates": {
            "exact_images": int(sha256.duplicated().sum()),
            "groups": int((sha256.value_counts() > 1).sum()),
            "linked_patients": int(people["group"].duplicated(keep=False).sum()),
        },
        "fingerprint": _fingerprint(records, data),
    }


def pixel_digest(pixels: Pixels) -> str:
    """sha256 (hex) of the bytes of an image, rows first, channels last."""
    return hashlib.sha256(pixels.tobytes()).hexdigest()


def _pseudonym(key: bytes, unit: str) -> str:
    return hmac.new(key, unit.encode(), hashlib.sha256).hexdigest()


def _count(records: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    labels = Counter(records["label"].tolist())
    return {
        "images": len(records),
        "patients": int(records["patient"].nunique()),
        "classes": {name: labels[index] for index, name in enumerate(classes)},
    }


def _told(named: int, total: int) -> str:
    if named == total:
        return "given"
    if not named:
        return "none: every image counts as one patient"
    return f"partly given: each of the {total - named} images without one counts as one patient"


def _fingerprint(records: pd.DataFrame, data: Data) -> str:
    columns = (records["sha256"], records["label"], records["patient"])
    lines = sorted(f"{sha256} {label} {patient}\n" for sha256, label, patient in zip(*columns, strict=True))
    return hashlib.sha256(("".join(lines) + json_text(data.model_dump(mode="json"))).encode()).hexdigest()
