"""`cohort.json` as a typed value: sizes, classes, counts of each split, and how the cohort was made.

It holds counts and digests, never an id, a name or a pixel. This module imports neither NumPy nor pandas, so
that `privsyn status` and the reports can read the document of a cohort quickly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from privsyn.claim.document import UNITS, Unit
from privsyn.errors import CohortError
from privsyn.files import read_json, write_json
from privsyn.strict_json import Fields, JsonObject, JsonValue

SCHEMA_VERSION = 2

Counts = TypeVar("Counts", "DuplicateCounts", "LeftOutCounts")


@dataclass(frozen=True)
class SplitCounts:
    """Images and patients of one split, and the images of each class in it."""

    images: int
    patients: int
    classes: Mapping[str, int]


@dataclass(frozen=True)
class DuplicateCounts:
    """Identical images.

    Attributes:
        exact_images: images that are equal to an earlier one.
        groups: sets of identical images.
        linked_patients: patients who share a cluster with another patient.
    """

    exact_images: int = 0
    groups: int = 0
    linked_patients: int = 0


@dataclass(frozen=True)
class NearDuplicateCounts:
    """Nearly identical images of different patients; `looked_for` is `data.near_duplicates` of the recipe."""

    looked_for: str = "off"
    pairs: int = 0


@dataclass(frozen=True)
class LeftOutCounts:
    """What a source held and the cohort does not: `unusable` and `no_image` are files, `opted_out` images."""

    unusable: int = 0
    no_image: int = 0
    opted_out: int = 0


@dataclass(frozen=True)
class TextCounts:
    """How many images were searched for text in their pixels, and how many have some.

    Attributes:
        policy: `data.text` of the recipe: "refuse", "drop" or "mask".
        looked_at: images searched.
        of: images of the source.
        flagged: searched images with text.
        share_at_most: upper bound on the share of all images with text; None if none was searched.
        confidence: of that bound.
    """

    policy: str = "refuse"
    looked_at: int = 0
    of: int = 0
    flagged: int = 0
    share_at_most: float | None = None
    confidence: float | None = None

    def to_json(self) -> JsonObject:
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class IdentifierCounts:
    """Identifying metadata in the source: `marks` counts the files that have each kind, of `files` in all."""

    files: int = 0
    marks: Mapping[str, int] = field(default_factory=dict)
    text: TextCounts = TextCounts()


@dataclass(frozen=True)
class CohortDocument:
    """What `cohort.json` says.

    Attributes:
        size: pixels of a side.
        counts: of each split, by its name.
        fingerprint: sha256 (hex) of images, labels, patients and `[data]`; "" in the document of `check`.
        records_sha256: of `records.parquet`; "" until that is written.
        unit: the finest unit that is certain for every image; a privacy claim can protect no coarser one.
        key_check: identifies the key of the patient HMACs; "" in the document of `check`, and where another
            program wrote the cohort.
        patient_ids: whether the source gave patient ids, as a sentence.
        pinned: clusters that are in train because somebody in them was trained on before.
        split: share of the clusters in each split, in expectation.
        data: `[data]` of the recipe.
        too_small: what no audit can measure on so few patients, as sentences.
        subgroups: images of each subgroup in each split, by the subgroup's name; None without subgroups.
    """

    size: int
    channels: int
    bit_depth: int
    classes: tuple[str, ...]
    unit: Unit
    counts: Mapping[str, SplitCounts]
    fingerprint: str
    records_sha256: str = ""
    key_check: str = ""
    patient_ids: str = ""
    pinned: int = 0
    split: Mapping[str, float] = field(default_factory=dict)
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    duplicates: DuplicateCounts = DuplicateCounts()
    near_duplicates: NearDuplicateCounts = NearDuplicateCounts()
    left_out: LeftOutCounts = LeftOutCounts()
    identifiers: IdentifierCounts = IdentifierCounts()
    too_small: tuple[str, ...] = ()
    subgroups: Mapping[str, Mapping[str, int]] | None = None

    def outdated_by(self, data: Mapping[str, JsonValue]) -> list[str]:
        """Settings of a recipe's `[data]` that differ from those of the cohort; if any, it is stale.

        What another program left out of `data` counts as equal, but not the shape and the classes.
        """
        shape = {"size": self.size, "channels": self.channels, "bit_depth": self.bit_depth}
        made: JsonObject = {**self.data, **shape, "classes": list(self.classes)}
        return [key for key, value in data.items() if made.get(key, value) != value]

    def to_json(self) -> JsonObject:
        """All that is known, without the schema version: `check` prints it, `write_document` writes it."""
        document: JsonObject = asdict(self)
        document["identifiers"] = {**asdict(self.identifiers), "text": self.identifiers.text.to_json()}
        absent = [key for key in ("fingerprint", "records_sha256", "key_check") if not document[key]]
        absent += ["subgroups"] if self.subgroups is None else []
        return {key: value for key, value in document.items() if key not in absent}


def content_of(document: CohortDocument) -> JsonObject:
    """The content of `cohort.json`."""
    return {"schema_version": SCHEMA_VERSION, **document.to_json()}


def write_document(path: Path, document: CohortDocument) -> None:
    """Write `cohort.json`."""
    write_json(path, content_of(document))


def read_document(path: Path) -> CohortDocument:
    """Read and check `cohort.json`; what other programs may leave out has its default.

    Raises:
        PrivsynError: the file is missing, is not valid JSON, is of another version, or a field is missing or
            malformed.
    """
    fields = Fields(read_json(path), path.name)
    if fields.document.get("schema_version") != SCHEMA_VERSION:
        raise CohortError(f"{path.name} is not of version {SCHEMA_VERSION}")
    return CohortDocument(
        size=fields.integer("size", least=1),
        channels=fields.integer("channels", least=1),
        bit_depth=fields.integer("bit_depth", least=1),
        classes=fields.texts("classes"),
        unit=fields.choice("unit", UNITS),
        counts={split: _split_counts(each) for split, each in _parts_of(fields, "counts")},
        fingerprint=fields.text("fingerprint"),
        records_sha256=fields.text_or_none("records_sha256") or "",
        key_check=fields.text_or_none("key_check") or "",
        patient_ids=fields.text_or_none("patient_ids") or "",
        pinned=fields.integer("pinned", least=0) if "pinned" in fields.document else 0,
        split=fields.mapping("split") if "split" in fields.document else {},
        data=fields.mapping("data") if "data" in fields.document else {},
        duplicates=_whole_numbers(fields, "duplicates", DuplicateCounts),
        near_duplicates=_near_duplicates(fields),
        left_out=_whole_numbers(fields, "left_out", LeftOutCounts),
        identifiers=_identifiers(fields),
        too_small=fields.texts("too_small") if "too_small" in fields.document else (),
        subgroups=_subgroups(fields),
    )


def _split_counts(fields: Fields) -> SplitCounts:
    return SplitCounts(
        fields.integer("images", least=0),
        fields.integer("patients", least=0),
        _numbers_of(fields.fields("classes")),
    )


def _near_duplicates(fields: Fields) -> NearDuplicateCounts:
    if "near_duplicates" not in fields.document:
        return NearDuplicateCounts()
    found = fields.fields("near_duplicates")
    return NearDuplicateCounts(found.text("looked_for"), found.integer("pairs", least=0))


def _identifiers(fields: Fields) -> IdentifierCounts:
    if "identifiers" not in fields.document:
        return IdentifierCounts()
    found = fields.fields("identifiers")
    text = found.fields("text")
    searched = TextCounts(
        text.text("policy"),
        looked_at=text.integer("looked_at", least=0),
        of=text.integer("of", least=0),
        flagged=text.integer("flagged", least=0),
        share_at_most=text.number_or_none("share_at_most", most=1.0),
        confidence=text.number_or_none("confidence", most=1.0),
    )
    return IdentifierCounts(found.integer("files", least=0), _numbers_of(found.fields("marks")), searched)


def _subgroups(fields: Fields) -> Mapping[str, Mapping[str, int]] | None:
    if "subgroups" not in fields.document:
        return None
    return {name: _numbers_of(each) for name, each in _parts_of(fields, "subgroups")}


def _whole_numbers(fields: Fields, name: str, kind: type[Counts]) -> Counts:
    """The object `name` as a value of `kind`, whose attributes are whole numbers."""
    if name not in fields.document:
        return kind()
    found = fields.fields(name)
    return kind(**{each: found.integer(each, least=0) for each in kind.__dataclass_fields__})


def _parts_of(fields: Fields, name: str) -> list[tuple[str, Fields]]:
    """The objects within the object `name`, by name."""
    found = fields.fields(name)
    return [(each, found.fields(each)) for each in found.document]


def _numbers_of(fields: Fields) -> dict[str, int]:
    """An object of whole numbers."""
    return {name: fields.integer(name, least=0) for name in fields.document}
