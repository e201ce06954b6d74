"""What is done to the patients: trainings that are reserved, settled or voided, and what they add up to."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from privsyn.claim.document import CumulativeCost, Mechanism
from privsyn.errors import PrivsynError, Refused
from privsyn.ledger.balances import (
    RESERVED,
    SETTLED,
    VOIDED,
    Books,
    Charge,
    Grant,
    cumulative_cost,
    fold,
    mechanisms_of,
    refusal,
)
from privsyn.ledger.hash_chain import Entry, Log, amend, read
from privsyn.ledger.population import enrolled, key_check
from privsyn.ledger.validation import exact, people_of, training_body


@dataclass(frozen=True)
class Outlook:
    """What a training would do to the population of its patients.

    Attributes:
        population: its id; None if none of these patients is known.
        before: what was spent on it.
        after: what would be.
        grants: those in force.
        allowed: whether `reserve` would say yes, as things are now.
        reason: why not, else "".
    """

    population: str | None
    before: CumulativeCost
    after: CumulativeCost
    grants: tuple[Grant, ...]
    allowed: bool
    reason: str


def reserve(
    reference: str,
    patients: Iterable[str],
    *,
    unit: str,
    neighbouring: str,
    delta: float | None,
    mechanisms: Sequence[Mechanism],
    allow_unbounded: bool = False,
    why_unbounded: str = "",
) -> Entry:
    """Charge a training to the population of its patients, before its first step.

    Doing it again with the same reference and content changes nothing, so a resumed run may.

    Args:
        reference: names the training, once and for all.
        patients: keyed HMACs (hex) of ALL patients that the training can draw from.
        delta: that the training names; None where nothing bounds it.
        mechanisms: all that will touch the patients, with the steps as planned; none if nothing bounds it.
        allow_unbounded: take a training without a bound although there is a grant.
        why_unbounded: why there are no mechanisms.

    Returns:
        The entry of the reservation.

    Raises:
        Refused: a grant in force does not allow it; nothing was recorded.
        PrivsynError: the reference stands for another training or is void, or the ledger cannot be used.
    """
    people = people_of(patients)
    body = training_body(reference, people, unit, neighbouring, delta, mechanisms, why_unbounded)
    key = key_check()

    def change(log: Log) -> Log:
        books = fold(log.entries)
        if reference in books.charges:
            _check_same(log, books.charges[reference], body)
            return log
        before, after = _proposed(log, people, body, key)
        reason = refusal(fold(before.entries), fold(after.entries), reference, allow=allow_unbounded)
        if reason:
            raise Refused(reason)
        return after

    return _newest(amend(change), reference, "reserve")


def settle(reference: str, mechanisms: Sequence[Mechanism], *, outcome: str = "") -> Entry:
    """Correct a reservation to the steps that were taken, which may be fewer and never more.

    Args:
        mechanisms: those reserved, in that order; none for a training that nothing bounds.
        outcome: names what came out, such as the sha256 of weights: one charge pays for one model.

    Raises:
        PrivsynError: other mechanisms or more steps than reserved, no open reservation of this reference, or
            another outcome than it was settled with.
    """
    run = tuple(exact(part) for part in mechanisms)

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        if charge.state == SETTLED and charge.mechanisms == run:
            if _newest(log, reference, "settle").body["outcome"] == outcome:
                return log
            raise PrivsynError(
                f"training {reference!r} was settled with another model, perhaps in a copy of this study: "
                "two models cost twice, so train anew with --force"
            )
        _check_open(charge)
        if not _within(run, charge.mechanisms):
            raise PrivsynError(
                f"training {reference!r} did not run as it was reserved, and stays charged as it was: only "
                "steps that were not taken can be given back"
            )
        parts = [part.to_dict() for part in run]
        body = {"reference": reference, "mechanisms": parts, "outcome": outcome}
        return log.extended("settle", body)

    return _newest(amend(change), reference, "settle")


def void(reference: str) -> Entry:
    """Take back a reservation of which NOT ONE step was taken.

    Raises:
        PrivsynError: there is no open reservation of this reference.
    """

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        if charge.state == VOIDED:
            return log
        _check_open(charge)
        return log.extended("void", {"reference": reference})

    return _newest(amend(change), reference, "void")


def release(head: str, statement: str) -> Entry | None:
    """Record that images of a training's model leave; it costs nothing more and is never taken back.

    Args:
        head: hash of the training's entry, as its claim names it.
        statement: sha256 of the release's statement; recorded once, however often it is asked.

    Returns:
        The entry, or None if this ledger is not the one that the claim speaks of.
    """

    def reference_of(log: Log) -> str | None:
        return next((e.body.get("reference") for e in log.entries if e.hash == head), None)

    def change(log: Log) -> Log:
        reference = reference_of(log)
        if reference is None or statement in fold(log.entries).charges[reference].released:
            return log
        return log.extended("release", {"reference": reference, "statement": statement})

    if reference_of(read()) is None:
        return None
    log = amend(change)
    return _newest(log, str(reference_of(log)), "release")


def state_of(reference: str) -> str | None:
    """`reserved`, `settled` or `voided`; None if the ledger does not know the training."""
    charge = fold(read().entries).charges.get(reference)
    return None if charge is None else charge.state


def account(reference: str) -> dict[str, Any]:
    """`ledger` and `cumulative` for `model/privacy.json`.

    They are the books as they stood after the newest entry of this training, so that what others record later
    does not change them.

    Raises:
        PrivsynError: no such reference, or the ledger cannot be used.
    """
    log = read()
    _charge(fold(log.entries), reference)
    newest = _newest(log, reference)
    books = fold(log.entries[: newest.seq])
    charge = books.charges[reference]
    population = books.canonical[charge.population]
    return {
        "ledger": {"population": population, "entry": newest.seq, "head": newest.hash},
        "cumulative": cumulative_cost(books, population, charge.kind).to_dict(),
    }


def outlook(
    patients: Iterable[str],
    *,
    unit: str,
    neighbouring: str,
    delta: float | None,
    mechanisms: Sequence[Mechanism],
    allow_unbounded: bool = False,
    why_unbounded: str = "",
) -> Outlook:
    """What `reserve` would say now; writes nothing, not even an empty ledger.

    Args and errors: those of `reserve`.
    """
    log, people, reference = read(), people_of(patients), f"outlook {secrets.token_hex(8)}"
    body = training_body(reference, people, unit, neighbouring, delta, mechanisms, why_unbounded)
    key = key_check() if log.entries else ""
    before, after = (fold(each.entries) for each in _proposed(log, people, body, key))
    charge = after.charges[reference]
    population = after.canonical[charge.population]
    reason = refusal(before, after, reference, allow=allow_unbounded)
    return Outlook(
        population=population if population in fold(log.entries).canonical else None,
        before=cumulative_cost(before, population, charge.kind),
        after=cumulative_cost(after, population, charge.kind),
        grants=after.grants.get(population, ()),
        allowed=not reason,
        reason=reason,
    )


def _within(run: Sequence[Mechanism], planned: Sequence[Mechanism]) -> bool:
    """Whether these are the same mechanisms with no step more than planned."""
    return len(run) == len(planned) and all(
        replace(took, steps=plan.steps) == plan and took.steps <= plan.steps
        for took, plan in zip(run, planned, strict=True)
    )


def _proposed(log: Log, people: frozenset[str], body: Mapping[str, Any], key: str) -> tuple[Log, Log]:
    """The log with these patients known, and that with the training reserved too."""
    before, population = enrolled(log, people, key)
    return before, before.extended("reserve", {**body, "population": population})


def _check_same(log: Log, charge: Charge, body: Mapping[str, Any]) -> None:
    """A reference stands for one training for good."""
    there = _newest(log, charge.reference, "reserve").body
    if {**body, "population": there["population"]} != there:
        changed = [name for name, value in body.items() if there[name] != value]
        raise PrivsynError(
            f"training {charge.reference!r} was reserved with another {', '.join(changed)}: train anew with "
            "--force, which reserves anew"
        )
    if charge.state == VOIDED or charge.mechanisms != mechanisms_of(body["mechanisms"]):
        raise PrivsynError(
            f"training {charge.reference!r} was {charge.state} and cannot go on: train anew with --force, "
            "which reserves anew"
        )


def _check_open(charge: Charge) -> None:
    if charge.state != RESERVED:
        raise PrivsynError(f"training {charge.reference!r} was {charge.state} before: that stands")


def _charge(books: Books, reference: str) -> Charge:
    if reference not in books.charges:
        raise PrivsynError(f"no training {reference!r} in the ledger: is PRIVSYN_HOME the one it ran with?")
    return books.charges[reference]


def _newest(log: Log, reference: str, kind: str | None = None) -> Entry:
    """The newest entry of one kind, or else of the training itself, whatever was released since."""
    mine = (entry for entry in reversed(log.entries) if entry.body.get("reference") == reference)
    return next(e for e in mine if e.kind == kind or (kind is None and e.kind != "release"))
