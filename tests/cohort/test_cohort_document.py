"""`cohort.json` as a typed value: what is written is read, and what is malformed is named."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from privsyn.cohort.document import (
    CohortDocument,
    DuplicateCounts,
    IdentifierCounts,
    LeftOutCounts,
    NearDuplicateCounts,
    SplitCounts,
    TextCounts,
    read_document,
    write_document,
)
from privsyn.errors import PrivsynError

DOCUMENT = CohortDocument(
    size=8,
    channels=1,
    bit_depth=16,
    classes=("a", "b"),
    counts={"train": SplitCounts(images=6, patients=5, classes={"a": 2, "b": 4})},
    fingerprint="f" * 64,
    records_sha256="0" * 64,
    patient_ids="given",
    unit="study",
    pinned=3,
    split={"train": 0.6},
    data={"size": 8, "resize": None, "split": [0.6, 0.2, 0.2]},
    duplicates=DuplicateCounts(exact_images=1, groups=1, linked_patients=2),
    near_duplicates=NearDuplicateCounts("link", 3),
    left_out=LeftOutCounts(unusable=1, no_image=2, opted_out=3),
    identifiers=IdentifierCounts(9, {"EXIF Artist": 4}, TextCounts("mask", 5, 9, 1, 0.25, 0.95)),
    too_small=("holdout has 1 patient",),
    subgroups={"": {"train": 1}, "women": {"train": 5}},
)


@pytest.mark.parametrize(
    "document",
    [
        DOCUMENT,
        replace(DOCUMENT, subgroups=None, records_sha256="", identifiers=IdentifierCounts()),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, document: CohortDocument) -> None:
    """Every field comes back, and writing again gives the same bytes."""
    write_document(tmp_path / "cohort.json", document)
    assert read_document(tmp_path / "cohort.json") == document
    written = (tmp_path / "cohort.json").read_bytes()
    write_document(tmp_path / "cohort.json", read_document(tmp_path / "cohort.json"))
    assert (tmp_path / "cohort.json").read_bytes() == written


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    """No key for subgroups that were not asked for, or for a bound where nothing was searched."""
    write_document(
        tmp_path / "cohort.json", replace(DOCUMENT, subgroups=None, identifiers=IdentifierCounts())
    )
    document = json.loads((tmp_path / "cohort.json").read_text())
    assert "subgroups" not in document
    assert set(document["identifiers"]["text"]) == {"policy", "looked_at", "of", "flagged"}


def test_what_others_leave_out_has_defaults(tmp_path: Path) -> None:
    """Eight fields are enough."""
    document = json.loads(json.dumps({"schema_version": 2, **DOCUMENT.to_json()}))
    needed = ("schema_version", "size", "channels", "bit_depth", "classes", "unit", "counts", "fingerprint")
    (tmp_path / "cohort.json").write_text(json.dumps({key: document[key] for key in needed}))
    found = read_document(tmp_path / "cohort.json")
    assert found.counts == DOCUMENT.counts
    assert (found.patient_ids, found.duplicates, found.subgroups) == ("", DuplicateCounts(), None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "8"}, "cohort.json has no size"),
        ({"fingerprint": None}, "cohort.json has no fingerprint"),
        ({"schema_version": 1}, "cohort.json is not of version 2"),
        ({"unit": "hospital"}, "cohort.json"),
        ({"counts": {"train": {"images": -1}}}, "cohort.json: counts: train has no images"),
        ({"left_out": {"unusable": True}}, "cohort.json: left_out has no unusable"),
    ],
)
def test_a_malformed_field_is_named(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    """With the document and the place in it."""
    document = {"schema_version": 2, **DOCUMENT.to_json(), **changes}
    (tmp_path / "cohort.json").write_text(json.dumps(document))
    with pytest.raises(PrivsynError, match=message):
        read_document(tmp_path / "cohort.json")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("privsyn.cohort.document", ("numpy", "pandas", "pyarrow", "torch")),
        ("privsyn.cohort.cohort", ("torch", "sklearn", "scipy", "faiss", "pydicom")),
        ("privsyn.cohort.prepare", ("torch", "sklearn", "scipy", "faiss", "pydicom")),
    ],
)
def test_reading_a_cohort_does_not_import_heavy_packages(module: str, heavy: tuple[str, ...]) -> None:
    """Status and reports start quickly."""
    program = f"import sys, {module}; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
