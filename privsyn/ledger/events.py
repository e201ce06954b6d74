"""What an entry of the ledger records, one type per kind of event; written to JSON and read back from it.

The JSON text is part of the hash chain, so the fields of a type must not change once it was released.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar, TypeAlias

from privsyn.claim.document import Mechanism
from privsyn.strict_json import Fields


@dataclass(frozen=True)
class PatientsJoined:
    """Patients were recorded as members of a population, which may merge several.

    Attributes:
        population: its id, the oldest of those that it merges.
        joined: ids of the populations that became part of it.
        patients: how many were new to the ledger.
        members_sha256: digest of their HMACs.
        key_check: tells which key of the patient HMACs was used.
    """

    kind: ClassVar[str] = "cohort"
    population: str
    joined: tuple[str, ...]
    patients: int
    members_sha256: str
    key_check: str


@dataclass(frozen=True)
class LimitGranted:
    """The data steward limited what may be spent on a population."""

    kind: ClassVar[str] = "grant"
    unit: str
    neighbouring: str
    epsilon: float
    delta: float
    note: str
    population: str


@dataclass(frozen=True)
class TrainingReserved:
    """A training was charged to a population, before its first step.

    Attributes:
        patients: how many it can draw from; `patients_sha256` is the digest of their HMACs.
        delta: None if nothing bounds the training.
        mechanisms: as planned; empty if nothing bounds the training.
        unbounded: why nothing bounds it, else "".
    """

    kind: ClassVar[str] = "reserve"
    reference: str
    patients: int
    patients_sha256: str
    unit: str
    neighbouring: str
    delta: float | None
    mechanisms: tuple[Mechanism, ...]
    unbounded: str
    population: str = ""


@dataclass(frozen=True)
class StepsWritten:
    """Steps were taken, and what follows from them is about to be written.

    Attributes:
        taken: steps so far of each mechanism of the reservation.
    """

    kind: ClassVar[str] = "progress"
    reference: str
    taken: tuple[int, ...]


@dataclass(frozen=True)
class StepsRepeated:
    """Steps that were recorded will be taken again, and are charged beside the reservation.

    Attributes:
        mechanisms: those of the reservation, with the steps that will be taken again.
    """

    kind: ClassVar[str] = "repeat"
    reference: str
    mechanisms: tuple[Mechanism, ...]


@dataclass(frozen=True)
class TrainingSettled:
    """A training ended; `mechanisms` are as run, `outcome` names its model."""

    kind: ClassVar[str] = "settle"
    reference: str
    mechanisms: tuple[Mechanism, ...]
    outcome: str


@dataclass(frozen=True)
class TrainingVoided:
    """A reservation was taken back, because no step was taken."""

    kind: ClassVar[str] = "void"
    reference: str


@dataclass(frozen=True)
class ImagesReleased:
    """Images of a training's model left; `statement` is the sha256 of the release's statement."""

    kind: ClassVar[str] = "release"
    reference: str
    statement: str


TrainingEvent: TypeAlias = (
    TrainingReserved | StepsWritten | StepsRepeated | TrainingSettled | TrainingVoided | ImagesReleased
)
Event: TypeAlias = PatientsJoined | LimitGranted | TrainingEvent


def to_text(event: Event) -> str:
    """The one JSON text of an event, which is hashed and stored."""
    return json.dumps(asdict(event), sort_keys=True, separators=(",", ":"), allow_nan=False)


def read_event(kind: str, text: str) -> Event:
    """Parse the JSON text of an event.

    Raises:
        Refused: it is not an event of this kind.
        ValueError: it is not JSON.
    """
    return _READERS[kind](Fields(json.loads(text), f"the {kind}"))


def _patients_joined(fields: Fields) -> PatientsJoined:
    return PatientsJoined(
        population=fields.text("population"),
        joined=fields.texts("joined"),
        patients=fields.integer("patients", least=0),
        members_sha256=fields.text("members_sha256"),
        key_check=fields.text("key_check"),
    )


def _limit_granted(fields: Fields) -> LimitGranted:
    return LimitGranted(
        unit=fields.text("unit"),
        neighbouring=fields.text("neighbouring"),
        epsilon=fields.number("epsilon"),
        delta=fields.number("delta"),
        note=_text(fields, "note"),
        population=fields.text("population"),
    )


def _training_reserved(fields: Fields) -> TrainingReserved:
    return TrainingReserved(
        reference=_text(fields, "reference"),
        patients=fields.integer("patients", least=1),
        patients_sha256=fields.text("patients_sha256"),
        unit=fields.text("unit"),
        neighbouring=fields.text("neighbouring"),
        delta=fields.number_or_none("delta"),
        mechanisms=_mechanisms(fields),
        unbounded=_text(fields, "unbounded"),
        population=fields.text("population"),
    )


def _steps_written(fields: Fields) -> StepsWritten:
    taken = fields.list("taken")
    if not all(type(steps) is int and steps >= 0 for steps in taken):
        fields.refuse("has something else than steps in taken")
    return StepsWritten(_text(fields, "reference"), tuple(taken))


def _steps_repeated(fields: Fields) -> StepsRepeated:
    return StepsRepeated(_text(fields, "reference"), _mechanisms(fields))


def _training_settled(fields: Fields) -> TrainingSettled:
    return TrainingSettled(_text(fields, "reference"), _mechanisms(fields), _text(fields, "outcome"))


def _training_voided(fields: Fields) -> TrainingVoided:
    return TrainingVoided(_text(fields, "reference"))


def _images_released(fields: Fields) -> ImagesReleased:
    return ImagesReleased(_text(fields, "reference"), _text(fields, "statement"))


_READERS: Mapping[str, Callable[[Fields], Event]] = {
    PatientsJoined.kind: _patients_joined,
    LimitGranted.kind: _limit_granted,
    TrainingReserved.kind: _training_reserved,
    StepsWritten.kind: _steps_written,
    StepsRepeated.kind: _steps_repeated,
    TrainingSettled.kind: _training_settled,
    TrainingVoided.kind: _training_voided,
    ImagesReleased.kind: _images_released,
}


def _text(fields: Fields, name: str) -> str:
    """A text of any length: what was recorded must stay readable."""
    return fields.text(name, longest=sys.maxsize)


def _mechanisms(fields: Fields) -> tuple[Mechanism, ...]:
    return tuple(
        Mechanism(each.number("noise_multiplier"), each.number("sample_rate"), each.integer("steps", least=0))
        for each in fields.objects("mechanisms")
    )
