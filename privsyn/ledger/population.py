"""Populations of patients, recognised by the HMACs of their patients, and the limits set for them."""

from __future__ import annotations

import math
import re
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass, replace

from privsyn.claim.document import CumulativeCost
from privsyn.errors import PrivsynError
from privsyn.home import home, key_check
from privsyn.ledger.balances import VOIDED, Balances, Charge, Grant, cumulative_cost, fold, spent
from privsyn.ledger.events import LimitGranted, PatientsJoined
from privsyn.ledger.hash_chain import ChainCheck, LedgerRecord, Log, amend, inspect, members_digest, read
from privsyn.ledger.validation import NEIGHBOURINGS, check_delta, check_epsilon, check_kind, people_of
from privsyn.strict_json import JsonObject


@dataclass(frozen=True)
class Allowance:
    """A grant in force and how far it is used.

    Attributes:
        spent: epsilon by RDP, at the order and delta of the grant, of all trainings of its kind that have a
            bound. The first one carries a fixed part for delta, so it costs more than its own claim says.
        left: epsilon of the grant less `spent`, at least 0.
    """

    grant: Grant
    spent: float
    left: float

    def to_dict(self) -> JsonObject:
        return {**asdict(self.grant), "spent": self.spent, "left": self.left}


@dataclass(frozen=True)
class Population:
    """Patients who were in one cohort, and every training on them.

    Attributes:
        id: opaque; the oldest of its ids.
        aliases: ids of populations that turned out to be part of it.
        patients: how many.
        entries: every training, voided ones too.
        seen: what was spent, for each unit and neighbouring relation.
        released: the same for trainings whose images were released; sampling more of them costs nothing.
        grants: those in force; each must be kept to.
    """

    id: str
    aliases: tuple[str, ...]
    patients: int
    entries: tuple[Charge, ...]
    seen: tuple[CumulativeCost, ...]
    released: tuple[CumulativeCost, ...]
    grants: tuple[Allowance, ...]

    def to_dict(self) -> JsonObject:
        return {
            "population": self.id,
            "aliases": list(self.aliases),
            "patients": self.patients,
            "seen": [each.to_dict() for each in self.seen],
            "released": [each.to_dict() for each in self.released],
            "grants": [each.to_dict() for each in self.grants],
            "entries": [each.to_dict() for each in self.entries],
        }


@dataclass(frozen=True)
class Overview:
    """All populations at one moment, and the newest hash then; None if there is no entry."""

    head: str | None
    populations: tuple[Population, ...]


def register(patients: Iterable[str]) -> str:
    """Record these patients as one population, and return its id.

    Raises:
        PrivsynError: they are not HMACs, or the ledger cannot be used.
    """
    people, key = people_of(patients), key_check()
    log = amend(lambda log: enrolled(log, people, key)[0])
    return enrolled(log, people, key)[1]


def grant(
    population: str | Iterable[str],
    *,
    unit: str,
    epsilon: float,
    delta: float,
    neighbouring: str = NEIGHBOURINGS[0],
    note: str = "",
) -> LedgerRecord:
    """Limit what is spent on a population; replaces every grant that it has.

    Args:
        population: its id, or one it once had; or the HMACs of its patients, who are registered with it.
        epsilon: > 0; of all trainings together, past ones included.
        delta: in (0, 1); at which they are judged, whatever delta each of them names.

    Raises:
        PrivsynError: no such population, a number out of range, or the ledger cannot be used.
    """
    check_kind(unit, neighbouring)
    check_epsilon(epsilon)
    check_delta(delta)
    limit = LimitGranted(unit, neighbouring, float(epsilon), float(delta), note, population="")
    people = frozenset() if isinstance(population, str) else people_of(population)
    key = key_check() if people else ""

    def change(log: Log) -> Log:
        known, name = enrolled(log, people, key) if people else (log, _known(log, str(population)))
        return known.extended(replace(limit, population=name))

    return amend(change).entries[-1]


def overview() -> Overview:
    """Everything at one moment; empty if there is no ledger.

    Raises:
        PrivsynError: the ledger cannot be used.
    """
    log = read()
    balances = fold(log.entries)
    ids = dict.fromkeys(balances.canonical.values())
    return Overview(log.head, tuple(_population(log, balances, each) for each in ids))


def populations() -> list[Population]:
    """All populations, oldest first; `overview` has their head too."""
    return list(overview().populations)


def check(head: str | None = None) -> ChainCheck:
    """Whether the ledger is intact and, given an earlier head, still the same ledger.

    Args:
        head: hash of any entry, as kept elsewhere. Without it, entries cut off at the end, or a whole ledger
            that is gone, cannot be missed.

    Raises:
        PrivsynError: `head` is not a hash, or the ledger cannot be opened.
    """
    head = None if head is None else head.strip().lower()
    if head is not None and not re.fullmatch(r"[0-9a-f]{64}", head):
        raise PrivsynError(
            f"{head!r} is not a head, which has 64 hexadecimal digits: `privsyn ledger show` prints it"
        )
    found = inspect(head)
    if found and found.entries:
        try:
            _check_key(read(), key_check() if (home() / "patient.key").exists() else "no key")
        except PrivsynError as fault:
            return replace(found, faults=(str(fault),))
    return found


def enrolled(log: Log, people: frozenset[str], key: str) -> tuple[Log, str]:
    """The log with all these patients in one population, and the id of that population.

    A patient is stored once, with the cohort that first added them; patients who are all in one population
    already add no entry.

    Raises:
        PrivsynError: the log knows its patients under another key.
    """
    _check_key(log, key)
    balances = fold(log.entries)
    known = _met(log, balances, people)
    ids = [each for each in balances.canonical if each in known]  # oldest first
    strangers = people - log.members.keys()
    if len(ids) == 1 and not strangers:
        return log, ids[0]
    population = ids[0] if ids else f"population-{secrets.token_hex(6)}"
    joined = PatientsJoined(population, tuple(ids[1:]), len(strangers), members_digest(strangers), key)
    return log.extended(joined, strangers), population


def _check_key(log: Log, key: str) -> None:
    """With another key every known patient would look new, with nothing spent."""
    if any(isinstance(each.event, PatientsJoined) and each.event.key_check != key for each in log.entries):
        raise PrivsynError(
            f"{home() / 'patient.key'} is not the key of the patients in ledger.sqlite: restore the two "
            "that belong together, or move ledger.sqlite away to begin with nothing spent"
        )


def ids_of(patients: Iterable[str]) -> frozenset[str]:
    """Every id of the populations that these patients belong to; reads only."""
    log = read()
    balances = fold(log.entries)
    known = _met(log, balances, people_of(patients))
    return frozenset(key for key, now in balances.canonical.items() if now in known)


def trained_on(patients: Collection[str]) -> frozenset[str]:
    """Those of these patients (HMACs, hex) whom a training was charged to, or may be; reads only.

    Only patients who are trained on are recorded (`reserve`, `register`), so whoever is in a population with
    a training that was not taken back counts.
    """
    log = read()
    balances = fold(log.entries)
    charged = {
        balances.canonical[each.population] for each in balances.charges.values() if each.state != VOIDED
    }
    return frozenset(
        each
        for each in patients
        if each in log.members and balances.canonical[balances.cohorts[log.members[each]]] in charged
    )


def recognised(patients: Callable[[], Iterable[str]]) -> list[JsonObject]:
    """The populations that some of these patients belong to, and how many of them; reads only.

    Args:
        patients: returns their HMACs; not called while the ledger is empty.
    """
    log = read()
    if not log.members:
        return []
    balances = fold(log.entries)
    people = people_of(patients()) & log.members.keys()
    met = Counter(balances.canonical[balances.cohorts[log.members[each]]] for each in people)
    return [{"population": name, "of_these": count} for name, count in sorted(met.items())]


def _met(log: Log, balances: Balances, people: frozenset[str]) -> set[str]:
    """The populations, by canonical id, that some of these patients are known to belong to."""
    return {balances.canonical[balances.cohorts[log.members[each]]] for each in people & log.members.keys()}


def _known(log: Log, population: str) -> str:
    ids = fold(log.entries).canonical
    if population not in ids:
        raise PrivsynError(f"no population {population!r}: `privsyn ledger show` lists them")
    return ids[population]


def _population(log: Log, balances: Balances, population: str) -> Population:
    charges = tuple(c for c in balances.charges.values() if balances.canonical[c.population] == population)
    kinds = dict.fromkeys(charge.kind for charge in charges if charge.state != VOIDED)
    cohorts = {seq for seq, key in balances.cohorts.items() if balances.canonical[key] == population}
    return Population(
        id=population,
        aliases=tuple(key for key, now in balances.canonical.items() if now == population != key),
        patients=sum(seq in cohorts for seq in log.members.values()),
        entries=charges,
        seen=tuple(cumulative_cost(balances, population, kind) for kind in kinds),
        released=tuple(
            cumulative_cost(balances, population, kind, released=True)
            for kind in dict.fromkeys(charge.kind for charge in charges if charge.released)
        ),
        grants=tuple(_allowance(balances, population, each) for each in balances.grants.get(population, ())),
    )


def _allowance(balances: Balances, population: str, limit: Grant) -> Allowance:
    used = spent(balances, population, limit)
    return Allowance(limit, used, max(0.0, math.floor((limit.epsilon - used) * 1e6) / 1e6))
