"""Trainings in the ledger: reserve, settle or void one, and look up what it costs in total."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

from privsyn.claim.document import CumulativeCost, LedgerEntry, Mechanism
from privsyn.errors import PrivsynError, Refused
from privsyn.home import key_check
from privsyn.ledger.balances import (
    RESERVED,
    SETTLED,
    VOIDED,
    Balances,
    Charge,
    Grant,
    cumulative_cost,
    fold,
    refusal,
)
from privsyn.ledger.events import (
    ImagesReleased,
    StepsRepeated,
    StepsWritten,
    TrainingReserved,
    TrainingSettled,
    TrainingVoided,
)
from privsyn.ledger.hash_chain import LedgerRecord, Log, amend, read
from privsyn.ledger.population import enrolled
from privsyn.ledger.validation import TrainingCharge, exact, people_of, reservation


@dataclass(frozen=True)
class Outlook:
    """The effect that a training would have on the balance of its population.

    Attributes:
        population: its id; None if the ledger knows none of these patients.
        before: the cost so far.
        after: the cost with this training.
        grants: those in force.
        allowed: whether `reserve` would accept it now.
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
    charge: TrainingCharge,
    *,
    allow_unbounded: bool = False,
) -> LedgerRecord:
    """Charge a training to the population of its patients, before its first step.

    Repeating it with the same reference and content changes nothing, so a resumed run can call it again.

    Args:
        reference: names the training, for good.
        patients: keyed HMACs (hex) of ALL patients that the training can draw from.
        allow_unbounded: accept a training without a bound although there is a grant.

    Returns:
        The entry of the reservation.

    Raises:
        Refused: a grant in force does not allow it; nothing was recorded.
        PrivsynError: the reference names another training or is void, or the ledger cannot be used.
    """
    people = people_of(patients)
    asked, key = reservation(reference, people, charge), key_check()

    def change(log: Log) -> Log:
        balances = fold(log.entries)
        if reference in balances.charges:
            _check_same(log, balances.charges[reference], asked)
            return log
        before, after = _proposed(log, people, asked, key)
        reason = refusal(fold(before.entries), fold(after.entries), reference, allow=allow_unbounded)
        if reason:
            raise Refused(reason)
        return after

    return _newest(amend(change), reference, "reserve")


def written(reference: str, before: Sequence[int], taken: Sequence[int]) -> None:
    """Record steps BEFORE anything that follows from them is written, for it may be seen from then on.

    Args:
        before: steps of each mechanism at the last call of this or of `resumed`; whoever finds others there
            is a second run of the same training, whose steps nobody has paid for.
        taken: the steps so far; none for a training that nothing bounds.

    Raises:
        PrivsynError: another run has gone on with this training, it has ended, or steps are not as reserved.
    """

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        _check_open(charge)
        if charge.taken != tuple(before):
            raise PrivsynError(
                f"training {reference!r} has gone on elsewhere, perhaps in a copy of this study, so this run "
                "writes nothing: continue one of them with `privsyn train --resume`"
            )
        run = _with_steps(charge, taken)
        if not (_within(run, charge.mechanisms) and _reaches(run, charge)):
            raise PrivsynError(f"training {reference!r} took other steps than were reserved")
        return log if charge.taken == tuple(taken) else log.extended(StepsWritten(reference, tuple(taken)))

    if taken:
        amend(change)


def resumed(reference: str, taken: Sequence[int]) -> None:
    """Charge the steps that a run will take again, because it goes on from before the newest that it wrote.

    Repeating it changes nothing.

    Args:
        taken: steps of each mechanism that it goes on from; none for a training that nothing bounds.

    Raises:
        Refused: a grant in force does not allow them; nothing was recorded.
        PrivsynError: no such reference, or the training is void.
    """

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        if charge.state == SETTLED:  # only its claim may be missing: `written` refuses all steps from now on
            return log
        _check_open(charge)
        again = [max(0, was - now) for was, now in zip(charge.taken, taken, strict=True)]
        after = log
        if any(again):
            after = log.extended(StepsRepeated(reference, _with_steps(charge, again)))
            _check_affordable(log, after, reference, sum(again))
        if fold(after.entries).charges[reference].taken != tuple(taken):
            after = after.extended(StepsWritten(reference, tuple(taken)))
        return after

    if taken:
        amend(change)


def settle(reference: str, mechanisms: Sequence[Mechanism], *, outcome: str = "") -> LedgerRecord:
    """Reduce a reservation to the steps that were taken, which may be fewer and never more.

    Args:
        mechanisms: those reserved, in that order; none for a training that nothing bounds.
        outcome: names the model, such as the sha256 of its weights: one charge pays for one model.

    Raises:
        PrivsynError: other mechanisms or more steps than reserved, no open reservation of this reference, or
            another outcome than it was settled with.
    """
    run = tuple(exact(part) for part in mechanisms)
    settled = TrainingSettled(reference, run, outcome)

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        if charge.state == SETTLED and charge.mechanisms == run:
            if any(entry.event == settled for entry in log.entries):
                return log
            raise PrivsynError(
                f"training {reference!r} was settled with another model, perhaps in a copy of this study: "
                "two models cost twice, so train again with --force"
            )
        _check_open(charge)
        if not (_within(run, charge.mechanisms) and _reaches(run, charge)):
            raise PrivsynError(
                f"training {reference!r} did not run as it was reserved, so its charge is unchanged: only "
                "steps that were not taken can be given back"
            )
        return log.extended(settled)

    return _newest(amend(change), reference, "settle")


def void(reference: str) -> LedgerRecord:
    """Take back a reservation, provided that NOT ONE step was taken.

    Raises:
        PrivsynError: there is no open reservation of this reference.
    """

    def change(log: Log) -> Log:
        charge = _charge(fold(log.entries), reference)
        if charge.state == VOIDED:
            return log
        _check_open(charge)
        if any(charge.taken) or charge.repeated:
            raise PrivsynError(f"training {reference!r} has taken steps, so its charge stays")
        return log.extended(TrainingVoided(reference))

    return _newest(amend(change), reference, "void")


def release(head: str, statement: str) -> LedgerRecord | None:
    """Record that images of a training's model are released; it costs nothing more and is never reverted.

    Args:
        head: hash of the training's entry, as its claim names it.
        statement: sha256 of the release's statement; recorded once, however often this is called.

    Returns:
        The entry, or None if the claim refers to another ledger.
    """

    def reference_of(log: Log) -> str | None:
        return next((entry.reference for entry in log.entries if entry.hash == head), None)

    def change(log: Log) -> Log:
        reference = reference_of(log)
        if reference is None or statement in fold(log.entries).charges[reference].released:
            return log
        return log.extended(ImagesReleased(reference, statement))

    if reference_of(read()) is None:
        return None
    log = amend(change)
    return _newest(log, str(reference_of(log)), "release")


def state_of(reference: str) -> str | None:
    """`reserved`, `settled` or `voided`; None if the ledger does not know the training."""
    charge = fold(read().entries).charges.get(reference)
    return None if charge is None else charge.state


def repeated(reference: str) -> tuple[Mechanism, ...]:
    """The mechanisms of a training with the steps that were taken again; empty if none were."""
    charge = fold(read().entries).charges.get(reference)
    return () if charge is None else charge.repeated


def account(reference: str) -> tuple[LedgerEntry, CumulativeCost]:
    """Where a training is recorded, and what all trainings on its population cost together.

    They are as of the newest entry of this training, so later entries of others do not change them.

    Raises:
        PrivsynError: no such reference, or the ledger cannot be used.
    """
    log = read()
    _charge(fold(log.entries), reference)
    newest = _newest(log, reference)
    balances = fold(log.entries[: newest.seq])
    charge = balances.charges[reference]
    population = balances.canonical[charge.population]
    return (
        LedgerEntry(population, newest.seq, newest.hash),
        cumulative_cost(balances, population, charge.kind),
    )


def outlook(
    patients: Iterable[str],
    charge: TrainingCharge,
    *,
    allow_unbounded: bool = False,
) -> Outlook:
    """The result that `reserve` would have now; writes nothing, not even an empty ledger.

    Args and errors: those of `reserve`.
    """
    log, people, reference = read(), people_of(patients), f"outlook {secrets.token_hex(8)}"
    asked, key = reservation(reference, people, charge), key_check() if log.entries else ""
    before, after = (fold(each.entries) for each in _proposed(log, people, asked, key))
    made = after.charges[reference]
    population = after.canonical[made.population]
    reason = refusal(before, after, reference, allow=allow_unbounded)
    return Outlook(
        population=population if population in fold(log.entries).canonical else None,
        before=cumulative_cost(before, population, made.kind),
        after=cumulative_cost(after, population, made.kind),
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


def _reaches(run: Sequence[Mechanism], charge: Charge) -> bool:
    """Whether no mechanism has fewer steps than were written."""
    return all(part.steps >= steps for part, steps in zip(run, charge.taken, strict=True))


def _with_steps(charge: Charge, steps: Sequence[int]) -> tuple[Mechanism, ...]:
    return tuple(replace(part, steps=count) for part, count in zip(charge.mechanisms, steps, strict=True))


def _check_affordable(before: Log, after: Log, reference: str, steps: int) -> None:
    """Refuse steps that are taken again if a grant in force has no room for them."""
    reason = refusal(fold(before.entries), fold(after.entries), reference, allow=True)
    if reason:
        raise Refused(
            f"the newest files of this training are gone or incomplete, so {steps:,} steps would be taken "
            f"and charged again: put the files back from a backup; as it is, {reason}"
        )


def _proposed(log: Log, people: frozenset[str], asked: TrainingReserved, key: str) -> tuple[Log, Log]:
    """The log with these patients added, and the log with the training reserved as well."""
    before, population = enrolled(log, people, key)
    return before, before.extended(replace(asked, population=population))


def _check_same(log: Log, charge: Charge, asked: TrainingReserved) -> None:
    """Refuse another training under a reference that is in use."""
    there = _newest(log, charge.reference, "reserve").event
    assert isinstance(there, TrainingReserved)
    asked = replace(asked, population=there.population)
    changed = [each.name for each in fields(asked) if getattr(there, each.name) != getattr(asked, each.name)]
    if changed:
        raise PrivsynError(
            f"training {charge.reference!r} was reserved with another {', '.join(changed)}: train again with "
            "--force, which makes a new reservation"
        )
    if charge.state == VOIDED or charge.mechanisms != asked.mechanisms:
        raise PrivsynError(
            f"training {charge.reference!r} was {charge.state} and cannot go on: train again with --force, "
            "which makes a new reservation"
        )


def _check_open(charge: Charge) -> None:
    if charge.state != RESERVED:
        raise PrivsynError(f"training {charge.reference!r} was {charge.state}, which is final")


def _charge(balances: Balances, reference: str) -> Charge:
    if reference not in balances.charges:
        raise PrivsynError(f"no training {reference!r} in the ledger: is PRIVSYN_HOME the one it ran with?")
    return balances.charges[reference]


def _newest(log: Log, reference: str, kind: str | None = None) -> LedgerRecord:
    """The newest entry of one kind, or else of the training itself, whatever was released since."""
    mine = (entry for entry in reversed(log.entries) if entry.reference == reference)
    return next(e for e in mine if e.kind == kind or (kind is None and e.kind != "release"))
