"""Balances of the ledger: populations, charges, grants and cumulative costs, as pure functions of a log.

Nothing here is stored. The balances are computed from the entries at each use, so they cannot disagree with
them, and fewer entries give the balances at an earlier time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce

from privsyn.claim.document import CumulativeCost, Mechanism
from privsyn.dp import accounting
from privsyn.ledger.events import (
    ImagesReleased,
    LimitGranted,
    PatientsJoined,
    StepsRepeated,
    StepsWritten,
    TrainingReserved,
    TrainingSettled,
    TrainingVoided,
)
from privsyn.ledger.hash_chain import LedgerRecord
from privsyn.strict_json import JsonObject

RESERVED, SETTLED, VOIDED = "reserved", "settled", "voided"
Kind = tuple[str, str]  # unit and neighbouring relation; costs of two kinds are never added


@dataclass(frozen=True)
class Charge:
    """One training on a population.

    Attributes:
        population: the id it was charged to; `Balances.canonical` gives the one that replaced it.
        mechanisms: as planned while reserved, as run once settled; empty if nothing bounds the training.
        unbounded: why nothing bounds it, else "".
        state: `reserved`, `settled` or `voided`.
        time: of the reservation.
        taken: the steps of each mechanism that the run has written; always 0 in ledgers before version 3.
        repeated: the mechanisms with the steps that were taken again, charged as well; empty if none were.
        released: sha256 of the statement of every release that was drawn from its model.
    """

    reference: str
    population: str
    unit: str
    neighbouring: str
    delta: float | None
    mechanisms: tuple[Mechanism, ...]
    unbounded: str
    state: str
    time: str
    taken: tuple[int, ...] = ()
    repeated: tuple[Mechanism, ...] = ()
    released: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.unit, self.neighbouring

    def to_dict(self) -> JsonObject:
        return asdict(self)


@dataclass(frozen=True)
class Grant:
    """A limit that the data steward set: at most `epsilon` at `delta`, counted per `unit`.

    Trainings are judged against it by RDP at one order that the grant fixes (`accounting.epsilon_of_filter`).
    So a grant that is set before the first training and never changed is a guarantee for trainings that are
    chosen by looking at earlier ones. A grant that is raised, or set by looking at results, is not.
    """

    unit: str
    neighbouring: str
    epsilon: float
    delta: float
    note: str
    time: str
    entry: int

    @property
    def kind(self) -> Kind:
        return self.unit, self.neighbouring


@dataclass(frozen=True)
class Balances:
    """The balances after some entries.

    Attributes:
        canonical: every id a population ever had, oldest first, to its current id.
        cohorts: `cohort` entry to the id it was written for.
        charges: by reference, in the order of reservation.
        grants: those in force, by canonical id.
    """

    canonical: Mapping[str, str] = field(default_factory=dict)
    cohorts: Mapping[int, str] = field(default_factory=dict)
    charges: Mapping[str, Charge] = field(default_factory=dict)
    grants: Mapping[str, tuple[Grant, ...]] = field(default_factory=dict)

    def standing(self, population: str) -> list[Charge]:
        """The charges of a population that count: all but those voided."""
        mine = (c for c in self.charges.values() if self.canonical[c.population] == population)
        return [charge for charge in mine if charge.state != VOIDED]


def fold(entries: Iterable[LedgerRecord]) -> Balances:
    """The balances after these entries, which start at the first of the ledger."""
    return reduce(_after, entries, Balances())


def cumulative_cost(
    balances: Balances, population: str, kind: Kind, *, released: bool = False
) -> CumulativeCost:
    """The cumulative cost of one kind, at the delta of the grant in force, else at the smallest named.

    It is an odometer: the figures hold for a sequence of trainings that was fixed beforehand.

    A training without a bound makes every cumulative cost of its population infinite, whatever its unit.

    Args:
        released: count only trainings whose images were released.
    """
    standing = [charge for charge in balances.standing(population) if charge.released or not released]
    mine = [charge for charge in standing if charge.kind == kind and not charge.unbounded]
    unbounded = [charge for charge in standing if charge.unbounded]
    granted = [grant.delta for grant in balances.grants.get(population, ()) if grant.kind == kind]
    named = [charge.delta for charge in standing if charge.kind == kind and charge.delta is not None]
    at = min(granted or named, default=None)
    history = composed(mine)
    return CumulativeCost(
        *kind,
        epsilon=None if unbounded else accounting.epsilon(history, at) if at else 0.0,
        epsilon_rdp=None if unbounded else accounting.epsilon_rdp(history, at) if at else 0.0,
        delta=at,
        charges=len(mine) + len(unbounded),
        finite=not unbounded,
        note=_note(unbounded, len(standing) - len(mine) - len(unbounded), kind),
    )


def spent(balances: Balances, population: str, grant: Grant) -> float:
    """epsilon by RDP, as a filter of the grant, of all trainings of its kind that have a bound."""
    mine = [c for c in balances.standing(population) if c.kind == grant.kind and not c.unbounded]
    return accounting.epsilon_of_filter(composed(mine), grant.epsilon, grant.delta)


def composed(charges: Iterable[Charge]) -> tuple[Mechanism, ...]:
    """All mechanisms, sorted, with the steps of equal ones added up: the same bound, faster to compute."""
    steps: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        for part in (*charge.mechanisms, *charge.repeated):
            steps[part.noise_multiplier, part.sample_rate] += part.steps
    return tuple(Mechanism(*key, count) for key, count in sorted(steps.items()) if count)


def refusal(before: Balances, after: Balances, reference: str, *, allow: bool) -> str:
    """Why the grants in force do not allow a training that `after` has and `before` has not; "" if they do.

    Both have the same populations and grants.

    Args:
        allow: a training without a bound.
    """
    charge = after.charges[reference]
    population = after.canonical[charge.population]
    for grant in after.grants.get(population, ()):
        if charge.unbounded:
            reason = "" if allow else _unbounded(population, charge, grant)
        elif charge.kind != grant.kind:
            reason = _mismatch(population, charge, grant)
        else:
            reason = _excess(before, after, population, grant)
        if reason:
            return reason
    return ""


def _unbounded(population: str, charge: Charge, grant: Grant) -> str:
    return (
        f"nothing bounds this training ({charge.unbounded}), and {population} has a grant of epsilon "
        f"{grant.epsilon}: train with --dp, or pass --allow-unbounded, after which no finite bound "
        "holds for what was spent on these patients, for good"
    )


def _mismatch(population: str, charge: Charge, grant: Grant) -> str:
    return (
        f"this training would be charged per {charge.unit} ({charge.neighbouring}), and the grant of "
        f"{population} is per {grant.unit} ({grant.neighbouring}), which do not add up: set privacy.unit to "
        f"{grant.unit!r}, or ask the data steward for another grant (`privsyn ledger grant`)"
    )


def _excess(before: Balances, after: Balances, population: str, grant: Grant) -> str:
    total = spent(after, population, grant)
    if total <= grant.epsilon:
        return ""
    return (
        f"{population} has spent epsilon {spent(before, population, grant):.6f} per {grant.unit} by RDP, "
        f"this training would make it {total:.6f}, and {grant.epsilon} is granted (delta {grant.delta}): "
        "lower --epsilon, or ask the data steward for another grant (`privsyn ledger grant`)"
    )


def _note(unbounded: Sequence[Charge], others: int, kind: Kind) -> str:
    notes = []
    if unbounded:
        reasons = ", ".join(sorted({charge.unbounded for charge in unbounded}))
        notes.append(f"no finite bound: {len(unbounded)} of the trainings have none ({reasons})")
    if others:
        notes.append(f"{others} of another unit or relation than {kind[0]}, {kind[1]} are not in it")
    return "; ".join(notes)


def _after(balances: Balances, entry: LedgerRecord) -> Balances:
    event = entry.event
    match event:
        case PatientsJoined():
            return _joined(balances, event, entry.seq)
        case LimitGranted():
            population = balances.canonical[event.population]
            grant = Grant(
                event.unit, event.neighbouring, event.epsilon, event.delta, event.note, entry.time, entry.seq
            )
            return replace(balances, grants={**balances.grants, population: (grant,)})
        case TrainingReserved():
            return _with(balances, _reservation(event, entry.time))
        case StepsWritten():
            return _with(balances, replace(balances.charges[event.reference], taken=event.taken))
        case StepsRepeated():
            return _with(balances, _repeated(balances.charges[event.reference], event.mechanisms))
        case TrainingSettled():
            charge = balances.charges[event.reference]
            return _with(balances, replace(charge, state=SETTLED, mechanisms=event.mechanisms))
        case ImagesReleased():
            charge = balances.charges[event.reference]
            return _with(balances, replace(charge, released=(*charge.released, event.statement)))
        case TrainingVoided():
            return _with(balances, replace(balances.charges[event.reference], state=VOIDED))


def _joined(balances: Balances, event: PatientsJoined, seq: int) -> Balances:
    """Patients found a population, join one, or merge several; all grants stay in force."""
    population = event.population
    ids = {population, *event.joined}
    canonical = {key: population if now in ids else now for key, now in balances.canonical.items()}
    grants = [grant for key in ids for grant in balances.grants.get(key, ())]
    return replace(
        balances,
        canonical={**canonical, population: population},
        cohorts={**balances.cohorts, seq: population},
        grants={
            **{key: value for key, value in balances.grants.items() if key not in ids},
            **({population: tuple(sorted(grants, key=lambda grant: grant.entry))} if grants else {}),
        },
    )


def _reservation(event: TrainingReserved, time: str) -> Charge:
    return Charge(
        reference=event.reference,
        population=event.population,
        unit=event.unit,
        neighbouring=event.neighbouring,
        delta=event.delta,
        mechanisms=event.mechanisms,
        unbounded=event.unbounded,
        state=RESERVED,
        time=time,
        taken=(0,) * len(event.mechanisms),
    )


def _repeated(charge: Charge, again: Sequence[Mechanism]) -> Charge:
    """The charge with these steps added, and no longer among those taken, for they will be taken anew."""
    before = charge.repeated or [replace(part, steps=0) for part in again]
    return replace(
        charge,
        taken=tuple(was - part.steps for was, part in zip(charge.taken, again, strict=True)),
        repeated=tuple(
            replace(part, steps=part.steps + was.steps) for part, was in zip(again, before, strict=True)
        ),
    )


def _with(balances: Balances, charge: Charge) -> Balances:
    return replace(balances, charges={**balances.charges, charge.reference: charge})
