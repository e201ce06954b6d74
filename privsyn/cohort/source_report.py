"""The report of `prepare` on a source: what it holds, what is refused, and the cohort that results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privsyn.cohort.document import CohortDocument
from privsyn.cohort.ingest import Ingested
from privsyn.cohort.scan import TextScan
from privsyn.strict_json import JsonObject, JsonValue


@dataclass(frozen=True)
class NearPair:
    """Two nearly identical images of different patients, by the names of their entries; for the terminal."""

    one: str
    other: str
    correlation: float


@dataclass(frozen=True)
class SourceReport:
    """What a source holds, and what became or would become of it.

    Attributes:
        document: for `cohort.json`; None if there can be no cohort.
        refusal: why there can be no cohort; "" if there can.
        ingested: what was refused, passed over or marked; names files, so it is only for the terminal.
        text: what was found in the pixels.
        near: near-duplicates of different patients.
    """

    document: CohortDocument | None
    refusal: str
    ingested: Ingested
    text: TextScan
    near: Sequence[NearPair] = ()

    def to_dict(self) -> JsonObject:
        """All of it, with the names of files: for the terminal."""
        found = self.ingested
        return {
            "cohort": None if self.document is None else self.document.to_json(),
            "refusal": self.refusal,
            "files": found.files,
            "refused": _with_reasons(found.refused),
            "passed_over": _with_reasons(found.passed_over),
            "opted_out": found.opted_out,
            "identifiers": dict(sorted(found.marks.items())),
            "values": {name: sorted(some) for name, some in sorted(found.examples.items())},
            "text": {**self.text.counts.to_json(), "files": self.text.where},
            "near_duplicates": [
                {"files": [pair.one, pair.other], "correlation": round(pair.correlation, 4)}
                for pair in self.near
            ],
        }


def _with_reasons(entries: Iterable[tuple[str, str]]) -> list[JsonValue]:
    return [{"file": where, "reason": why} for where, why in entries]


def why_unusable(ingested: Ingested, images: int, source: object) -> str:
    """Why there can be no cohort of what was read; "" if there can."""
    if ingested.refused:
        where, why = ingested.refused[0]
        total = images + len(ingested.refused)
        return f"{len(ingested.refused)} of {total} images cannot be used; first: {where}: {why}"
    if images:
        return ""
    first = "; first: {}: {}".format(*ingested.passed_over[0]) if ingested.passed_over else ""
    return f"{source} holds no images{first}"


def why_text_is_refused(text: TextScan) -> str:
    """How many images have text in their pixels, and what to do."""
    return (
        f"text in the pixels of {text.flagged} of {text.looked} images that were looked at; first: "
        f'{text.where[0]} (clean them, or set data.text to drop or mask with data.text_scan = "all")'
    )
