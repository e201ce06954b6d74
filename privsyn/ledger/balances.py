"""What the entries of the ledger add up to: populations, charges, grants, figures. Pure functions of a log.

Nothing here is stored. The books are folded anew from the entries at each use, so that they cannot disagree
with them, and folding fewer entries gives the books as they once were.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import reduce
from typing import Any

from privsyn.claim.document import CumulativeCost, Mechanism
from privsyn.dp import accounting
from privsyn.ledger.hash_chain import Entry

RESERVED, SETTLED, VOIDED = "reserved", "settled", "voided"
Kind = tuple[str, str]  # unit and neighbouring relation; figures of two kinds are never added


@dataclass(frozen=True)
class Charge:
    """One training on a population.

    Attributes:
        population: the id it was charged to; `Books.canonical` says which one stands for it now.
        mechanisms: as planned while reserved, as run once settled; empty if nothing bounds the training.
        unbounded: why nothing bounds it, else "".
        state: `reserved`, `settled` or `voided`.
        time: of the reservation.
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
    released: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        return self.unit, self.neighbouring

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Grant:
    """A limit that the data steward set: at most `epsilon` at `delta`, counted per `unit`."""

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
class Books:
    """Where the fold has got to.

    Attributes:
        canonical: every id a population ever had, oldest first, to the one that stands for it.
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


def fold(entries: Iterable[Entry]) -> Books:
    """The books after these entries, which begin with the first."""
    return reduce(_after, entries, Books())


def cumulative_cost(books: Books, population: str, kind: Kind, *, released: bool = False) -> CumulativeCost:
    """The cumulative figure of one kind, at the delta of the grant in force, else at the smallest named.

    A training that nothing bounds leaves no figure of its population finite, whatever its unit.

    Args:
        released: of the trainings alone whose images left; what was merely seen here is left out.
    """
    standing = [charge for charge in books.standing(population) if charge.released or not released]
    mine = [charge for charge in standing if charge.kind == kind and not charge.unbounded]
    unbounded = [charge for charge in standing if charge.unbounded]
    granted = [grant.delta for grant in books.grants.get(population, ()) if grant.kind == kind]
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


def spent(books: Books, population: str, grant: Grant) -> float:
    """epsilon at the grant's delta of all trainings of its kind that have a bound."""
    mine = [c for c in books.standing(population) if c.kind == grant.kind and not c.unbounded]
    return accounting.epsilon(composed(mine), grant.delta)


def composed(charges: Iterable[Charge]) -> tuple[Mechanism, ...]:
    """All mechanisms in one order, equal ones as one with the steps of all: the same bound, sooner."""
    steps: Counter[tuple[float, float]] = Counter()
    for charge in charges:
        for part in charge.mechanisms:
            steps[part.noise_multiplier, part.sample_rate] += part.steps
    return tuple(Mechanism(*key, count) for key, count in sorted(steps.items()) if count)


def refusal(before: Books, after: Books, reference: str, *, allow: bool) -> str:
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


def mechanisms_of(parts: Sequence[Mapping[str, Any]]) -> tuple[Mechanism, ...]:
    """The mechanisms in an entry's body."""
    return tuple(Mechanism(**part) for part in parts)


def _unbounded(population: str, charge: Charge, grant: Grant) -> str:
    return (
        f"nothing bounds this training ({charge.unbounded}), and {population} has a grant of epsilon "
        f"{grant.epsilon}: train with --dp, or pass --allow-unbounded, which leaves what was spent on "
        "these patients without a finite bound for good"
    )


def _mismatch(population: str, charge: Charge, grant: Grant) -> str:
    return (
        f"this training would be charged per {charge.unit} ({charge.neighbouring}), and the grant of "
        f"{population} is per {grant.unit} ({grant.neighbouring}), which do not add up: set privacy.unit to "
        f"{grant.unit!r}, or ask the data steward for another grant (`privsyn ledger grant`)"
    )


def _excess(before: Books, after: Books, population: str, grant: Grant) -> str:
    total = spent(after, population, grant)
    if total <= grant.epsilon:
        return ""
    return (
        f"{population} has spent epsilon {spent(before, population, grant):.6f} per {grant.unit}, this "
        f"training would make it {total:.6f}, and {grant.epsilon} is granted (delta {grant.delta}): lower "
        "--epsilon, or ask the data steward for another grant (`privsyn ledger grant`)"
    )


def _note(unbounded: Sequence[Charge], others: int, kind: Kind) -> str:
    notes = []
    if unbounded:
        reasons = ", ".join(sorted({charge.unbounded for charge in unbounded}))
        notes.append(f"no finite bound: {len(unbounded)} of the trainings have none ({reasons})")
    if others:
        notes.append(f"{others} of another unit or relation than {kind[0]}, {kind[1]} are not in it")
    return "; ".join(notes)


def _after(books: Books, entry: Entry) -> Books:
    match entry.kind:
        case "cohort":
            return _joined(books, entry)
        case "grant":
            population = books.canonical[entry.body["population"]]
            facts = {key: value for key, value in entry.body.items() if key != "population"}
            grant = Grant(**facts, time=entry.time, entry=entry.seq)
            return replace(books, grants={**books.grants, population: (grant,)})
        case "reserve":
            return _with(books, _reservation(entry))
        case "settle":
            run = mechanisms_of(entry.body["mechanisms"])
            return _with(books, replace(_charge(books, entry), state=SETTLED, mechanisms=run))
        case "release":
            charge = _charge(books, entry)
            return _with(books, replace(charge, released=(*charge.released, entry.body["statement"])))
        case _:
            return _with(books, replace(_charge(books, entry), state=VOIDED))


def _joined(books: Books, entry: Entry) -> Books:
    """A cohort founds the population, adds patients to it, or makes several one; all grants stay in force."""
    population = str(entry.body["population"])
    ids = {population, *entry.body["joined"]}
    canonical = {key: population if now in ids else now for key, now in books.canonical.items()}
    grants = [grant for key in ids for grant in books.grants.get(key, ())]
    return replace(
        books,
        canonical={**canonical, population: population},
        cohorts={**books.cohorts, entry.seq: population},
        grants={
            **{key: value for key, value in books.grants.items() if key not in ids},
            **({population: tuple(sorted(grants, key=lambda grant: grant.entry))} if grants else {}),
        },
    )


def _reservation(entry: Entry) -> Charge:
    body = entry.body
    return Charge(
        reference=body["reference"],
        population=body["population"],
        unit=body["unit"],
        neighbouring=body["neighbouring"],
        delta=body["delta"],
        mechanisms=mechanisms_of(body["mechanisms"]),
        unbounded=body["unbounded"],
        state=RESERVED,
        time=entry.time,
    )


def _charge(books: Books, entry: Entry) -> Charge:
    return books.charges[entry.body["reference"]]


def _with(books: Books, charge: Charge) -> Books:
    return replace(books, charges={**books.charges, charge.reference: charge})
