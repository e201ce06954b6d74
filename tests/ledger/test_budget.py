"""Reserving, settling and voiding: what a grant lets through, and what it does not."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from ledger_cases import (
    CHEAP,
    DELTA,
    KIND,
    NO_BOUND,
    PROCESSES,
    charge,
    granted,
    least_grant,
    patients,
    reserve,
    reserve_unbounded,
    the_only,
)

from privsyn import ledger
from privsyn.claim.document import LedgerEntry, Mechanism
from privsyn.dp.accounting import epsilon, epsilon_of_filter, epsilon_rdp
from privsyn.errors import PrivsynError, Refused
from privsyn.home import home

PEOPLE = patients(0, 5)
TWICE = least_grant(Mechanism(20.0, 1.0, 8))  # what two CHEAP trainings need


def test_eight_processes_asking_for_the_last_slot_get_one_yes() -> None:
    """Looking at what is spent and charging are one: of eight that each see room for one, one gets it."""
    granted(PEOPLE, TWICE)
    reserve("earlier", PEOPLE)
    assert _ask_at_once(8) == ["Refused"] * 7 + ["yes"]
    assert len(the_only().entries) == 2
    assert ledger.check()


def test_eight_processes_that_are_the_first_make_one_ledger() -> None:
    """Nobody's first entry is lost to another's new file, and all know the patients by one key."""
    assert _ask_at_once(8) == ["yes"] * 8
    assert len(the_only().entries) == 8
    assert ledger.check()


def _ask_at_once(count: int) -> list[str]:
    answers, go = PROCESSES.Queue(), PROCESSES.Barrier(count)
    asked = [(str(home()), number, go, answers) for number in range(count)]
    askers = [PROCESSES.Process(target=_ask, args=each) for each in asked]
    for asker in askers:
        asker.start()
    told = [answers.get(timeout=120) for _ in askers]
    for asker in askers:
        asker.join()
    return sorted(told)


def _ask(folder: str, number: int, go: Any, answers: Any) -> None:
    os.environ["PRIVSYN_HOME"] = folder
    go.wait(60)
    try:
        reserve(f"training {number}", PEOPLE)
    except PrivsynError as error:
        answers.put(type(error).__name__)
    else:
        answers.put("yes")


def test_the_sum_is_what_the_library_says_on_its_own() -> None:
    """Three trainings of two recipes: PLD and RDP of plain dp-accounting calls, one event after the other."""
    trainings = [Mechanism(1.1, 0.05, 100), Mechanism(2.4, 0.25, 50), Mechanism(1.1, 0.05, 60)]
    pld = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    rdp = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for number, each in enumerate(trainings):
        reserve(f"training {number}", PEOPLE, each)
        event = PoissonSampledDpEvent(each.sample_rate, GaussianDpEvent(each.noise_multiplier))
        for accountant in (pld, rdp):
            accountant.compose(event, each.steps)
    (seen,) = the_only().seen
    assert seen.charges == 3
    assert seen.epsilon == pytest.approx(pld.get_epsilon(DELTA), rel=1e-3)
    assert seen.epsilon_rdp == pytest.approx(rdp.get_epsilon(DELTA), rel=0.02)  # fewer orders than theirs
    assert seen.epsilon is not None
    assert seen.epsilon <= seen.epsilon_rdp


def test_the_grant_may_be_spent_to_the_last_bit() -> None:
    """Spent exactly equal to granted is allowed, a millionth less is not."""
    granted(PEOPLE, TWICE)
    reserve("first", PEOPLE)
    reserve("second", PEOPLE)
    (limit,) = the_only().grants
    assert (limit.spent, limit.left) == (TWICE, 0)
    granted(patients(10, 15), TWICE - 1e-6)
    reserve("other first", patients(10, 15))
    with pytest.raises(Refused):
        reserve("other second", patients(10, 15))


def test_a_refusal_says_all_there_is_to_know_and_records_nothing() -> None:
    """What is spent, what it would become, what is granted, what to do; exit code 1."""
    population = granted(PEOPLE, 0.5)
    reserve("first", PEOPLE)
    before = ledger.overview()
    with pytest.raises(Refused) as caught:
        reserve("second", patients(4, 9), CHEAP, Mechanism(20.0, 1.0, 8))
    assert caught.value.exit_code == 1
    told = str(caught.value)
    figures = [float(number) for number in re.findall(r"\d+\.\d+", told)]
    asked = [[CHEAP], [Mechanism(20.0, 1.0, 16)]]
    assert figures == [*(epsilon_of_filter(each, 0.5, DELTA) for each in asked), 0.5]
    for word in (population, "per patient by RDP", "delta 1e-05", "--epsilon", "privsyn ledger grant"):
        assert word in told
    assert ledger.overview() == before


def test_what_fits_by_pld_alone_is_refused() -> None:
    """PLD is no filter for trainings that are chosen by looking at earlier ones: RDP judges."""
    by_pld = epsilon([Mechanism(20.0, 1.0, 8)], DELTA)
    granted(PEOPLE, (by_pld + TWICE) / 2)
    reserve("first", PEOPLE)
    with pytest.raises(Refused, match="by RDP"):
        reserve("second", PEOPLE)
    assert by_pld < the_only().grants[0].grant.epsilon


def test_the_order_of_the_filter_is_the_grants_and_not_the_best_in_hindsight() -> None:
    """One order judges whatever comes: costs add up, and no later training changes what earlier ones cost."""
    mixed = [Mechanism(1.1, 0.05, 100), CHEAP]
    figure = {n: epsilon_of_filter(mixed[:n], 8.0, DELTA) for n in (1, 2)}
    alone, both = epsilon_of_filter([CHEAP], 8.0, DELTA), figure[2]
    nothing = figure[1] + alone - both  # the part for delta, which every figure has once
    assert epsilon_of_filter([CHEAP] * 3, 8.0, DELTA) == pytest.approx(
        nothing + 3 * (alone - nothing), abs=1e-5
    )
    assert both >= epsilon_rdp(mixed, DELTA)
    assert epsilon_of_filter([], 8.0, DELTA) == 0


def test_without_a_grant_nothing_is_refused() -> None:
    """All of it is recorded: any cost, any unit, no bound at all."""
    reserve("dear", PEOPLE, Mechanism(0.5, 1.0, 4))
    reserve("image", PEOPLE, unit="image")
    reserve_unbounded("open", PEOPLE)
    assert [charge.reference for charge in the_only().entries] == ["dear", "image", "open"]


def test_a_grant_is_judged_at_its_own_delta() -> None:
    """Naming a larger delta in the recipe does not make a training cheaper."""
    granted(PEOPLE, least_grant(CHEAP, delta=1e-3), delta=DELTA)
    with pytest.raises(Refused):
        reserve("first", PEOPLE, delta=1e-3)
    assert least_grant(CHEAP, delta=1e-3) < least_grant(CHEAP)


def test_a_grant_counts_what_was_spent_before_it() -> None:
    """And a new one takes the place of the old, whichever is larger."""
    reserve("first", PEOPLE)
    granted(PEOPLE, least_grant(CHEAP))
    with pytest.raises(Refused):
        reserve("second", PEOPLE)
    granted(PEOPLE, TWICE)
    reserve("second", PEOPLE)
    granted(PEOPLE, 0.1)
    (limit,) = the_only().grants
    assert (limit.grant.epsilon, limit.left) == (0.1, 0)
    with pytest.raises(Refused):
        reserve("third", PEOPLE)


def test_settling_gives_back_the_steps_not_taken() -> None:
    """A training that stopped early makes room; settled again the same way, nothing changes."""
    granted(PEOPLE, TWICE)
    reserve("first", PEOPLE, Mechanism(20.0, 1.0, 8))
    with pytest.raises(Refused):
        reserve("second", PEOPLE)
    settled = ledger.settle("first", [CHEAP])
    assert ledger.settle("first", [CHEAP]) == settled
    reserve("second", PEOPLE)
    assert [charge.state for charge in the_only().entries] == ["settled", "reserved"]


@pytest.mark.parametrize(
    "run",
    [
        [Mechanism(20.0, 1.0, 5)],
        [Mechanism(21.0, 1.0, 4)],
        [Mechanism(20.0, 0.9, 4)],
        [CHEAP, CHEAP],
        [],
    ],
    ids=["more steps", "other noise", "other rate", "one more", "none"],
)
def test_a_charge_is_only_ever_corrected_downward_in_steps(run: list[Mechanism]) -> None:
    """Anything else than what was reserved leaves the reservation as it was."""
    reserve("first", PEOPLE)
    before = ledger.overview()
    with pytest.raises(PrivsynError, match="so its charge is unchanged"):
        ledger.settle("first", run)
    assert ledger.overview() == before


def test_a_settled_training_is_settled() -> None:
    """It can neither be settled otherwise, nor voided, nor go on for the steps it gave back."""
    reserve("first", PEOPLE)
    fewer = [Mechanism(20.0, 1.0, 3)]
    ledger.settle("first", fewer)
    for again in (
        lambda: ledger.settle("first", [CHEAP]),
        lambda: ledger.void("first"),
        lambda: reserve("first", PEOPLE),
    ):
        with pytest.raises(PrivsynError, match="was settled"):
            again()


def test_a_void_training_cost_nothing_and_is_over() -> None:
    """Its reference stays on record; voided twice it is voided once; it cannot be taken up again."""
    granted(PEOPLE, TWICE)
    reserve("first", PEOPLE)
    reserve("second", PEOPLE)
    assert ledger.void("first") == ledger.void("first")
    reserve("third", PEOPLE)
    for again in (lambda: reserve("first", PEOPLE), lambda: ledger.settle("first", [CHEAP])):
        with pytest.raises(PrivsynError, match="was voided"):
            again()
    assert [charge.state for charge in the_only().entries] == ["voided", "reserved", "reserved"]


def test_a_resumed_training_is_charged_once() -> None:
    """Same reference, same content: the entry that is there, even if a grant came since, or it is settled."""
    first = reserve("first", PEOPLE)
    granted(PEOPLE, 0.1)
    assert reserve("first", reversed_twice(PEOPLE)) == first
    ledger.settle("first", [CHEAP])
    assert reserve("first", PEOPLE) == first
    assert len(the_only().entries) == 1


def reversed_twice(people: list[str]) -> list[str]:
    """The same patients in another order, each twice, as images of a cohort have them."""
    return [*reversed(people), *people]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"mechanisms": [Mechanism(20.0, 1.0, 3)]}, "mechanisms"),
        ({"unit": "image"}, "unit"),
        ({"delta": 1e-6}, "delta"),
        ({"patients": patients(0, 4)}, "patients"),
    ],
)
def test_a_reference_stands_for_one_training(changed: dict[str, Any], told: str) -> None:
    """Other content under the same reference is refused, and what differs is named."""
    reserve("first", PEOPLE)
    people = changed.pop("patients", PEOPLE)
    with pytest.raises(PrivsynError, match=f"another .*{told}"):
        reserve("first", people, **changed)


def test_units_are_never_mixed() -> None:
    """A figure per unit, which says what is not in it; under a grant another unit is refused."""
    reserve("by image", PEOPLE, unit="image")
    reserve("by patient", PEOPLE)
    image, patient = the_only().seen
    assert (image.unit, patient.unit) == ("image", "patient")
    assert image.epsilon == patient.epsilon == epsilon([CHEAP], DELTA)
    assert "1 of another unit" in image.note
    assert "1 of another unit" in patient.note
    granted(PEOPLE, 100.0)
    with pytest.raises(Refused, match=r"per image .* per patient .*privacy\.unit to 'patient'"):
        reserve("by image again", PEOPLE, unit="image")
    reserve("by patient again", PEOPLE)
    (limit,) = the_only().grants
    assert limit.spent == epsilon_of_filter([Mechanism(20.0, 1.0, 8)], 100.0, DELTA)


def test_a_training_without_a_bound_leaves_none() -> None:
    """No figure of the population is finite then, of whatever unit; only its own epsilon stays known."""
    reserve("first", PEOPLE)
    reserve("by image", PEOPLE, unit="image")
    reserve_unbounded("open", PEOPLE)
    for seen in the_only().seen:
        assert (seen.epsilon, seen.epsilon_rdp, seen.finite) == (None, None, False)
        assert NO_BOUND in seen.note
    ledger.settle("open", ())
    assert not any(seen.finite for seen in the_only().seen)


def test_a_void_training_without_a_bound_took_nothing() -> None:
    """Not one step was taken, so the figure is finite again."""
    reserve("first", PEOPLE)
    reserve_unbounded("open", PEOPLE)
    ledger.void("open")
    assert the_only().seen[0].epsilon == epsilon([CHEAP], DELTA)


def test_under_a_grant_a_training_without_a_bound_needs_to_be_allowed() -> None:
    """Once it was, later trainings are judged by what is bounded, and what is seen stays unbounded."""
    granted(PEOPLE, TWICE)
    with pytest.raises(Refused, match=f"{NO_BOUND}.*--allow-unbounded"):
        reserve_unbounded("open", PEOPLE)
    reserve_unbounded("open", PEOPLE, allow_unbounded=True)
    reserve_unbounded("open", PEOPLE)
    reserve("first", PEOPLE)
    reserve("second", PEOPLE)
    with pytest.raises(Refused):
        reserve("third", PEOPLE)
    assert not the_only().seen[0].finite
    assert the_only().grants[0].spent == TWICE


def test_an_account_does_not_change_when_others_write() -> None:
    """It names the newest entry of the training, and its figure is that of the balances at that entry."""
    reserve("first", PEOPLE)
    settled = ledger.settle("first", [CHEAP])
    account = ledger.account("first")
    entry, cumulative = account
    assert entry == LedgerEntry(the_only().id, settled.seq, settled.hash)
    assert cumulative.to_dict() == {
        **KIND,
        "epsilon": epsilon([CHEAP], DELTA),
        "epsilon_rdp": pytest.approx(epsilon([CHEAP], DELTA), rel=0.2),
        "delta": DELTA,
        "charges": 1,
        "finite": True,
        "note": "",
    }
    reserve("second", PEOPLE, delta=1e-6)
    reserve_unbounded("open", patients(3, 9))
    granted(PEOPLE, 9.0, delta=1e-7)
    assert ledger.account("first") == account
    assert ledger.account("second")[1].epsilon == epsilon([Mechanism(20.0, 1.0, 8)], 1e-6)
    assert ledger.account("open")[1].finite is False
    assert ledger.check(entry.head)


def test_an_account_is_at_the_delta_of_the_grant() -> None:
    """Where there is one; else at the smallest that a training named."""
    reserve("first", PEOPLE, delta=1e-6)
    assert ledger.account("first")[1].delta == 1e-6
    granted(PEOPLE, 9.0, delta=1e-4)
    reserve("second", PEOPLE)
    assert ledger.account("second")[1].delta == 1e-4


def test_an_outlook_is_the_answer_without_the_charge() -> None:
    """Before, after, and whether; nothing is written, not even an empty ledger."""
    asked = charge()
    fresh = ledger.outlook(PEOPLE, asked)
    assert (fresh.population, fresh.before.epsilon, fresh.allowed) == (None, 0, True)
    assert fresh.after.epsilon == epsilon([CHEAP], DELTA)
    assert [path.name for path in home().iterdir()] == ["patient.key"]
    population = granted(PEOPLE, TWICE)
    reserve("first", PEOPLE)
    before = ledger.overview()
    seen = ledger.outlook(patients(4, 6), asked)
    assert (seen.population, seen.allowed, seen.reason) == (population, True, "")
    assert seen.before.epsilon == epsilon([CHEAP], DELTA)
    assert seen.after.epsilon == epsilon([Mechanism(20.0, 1.0, 8)], DELTA)
    assert [limit.epsilon for limit in seen.grants] == [TWICE]
    refused = ledger.outlook(PEOPLE, charge(Mechanism(20.0, 1.0, 5)))
    assert not refused.allowed
    assert "is granted" in refused.reason
    unbounded = charge(mechanisms=(), why_unbounded=NO_BOUND)
    assert not ledger.outlook(PEOPLE, unbounded).allowed
    assert ledger.outlook(PEOPLE, unbounded, allow_unbounded=True).after.finite is False
    assert ledger.overview() == before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"unit": "hospital"}, "choose from image, file, study, patient"),
        ({"neighbouring": "replace-one"}, "choose from add-or-remove-one"),
        ({"delta": None}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"mechanisms": [Mechanism(0.0, 1.0, 4)]}, "noise above 0"),
        ({"mechanisms": [Mechanism(float("inf"), 1.0, 4)]}, "noise above 0"),
        ({"mechanisms": [Mechanism(1.0, 1.5, 4)]}, "rate"),
        ({"mechanisms": [Mechanism(1.0, 1.0, -4)]}, "steps"),
        ({"mechanisms": [Mechanism(1.0, 1.0, 0)]}, "no step"),
        ({"mechanisms": [], "why_unbounded": ""}, "reason why nothing does"),
        ({"why_unbounded": NO_BOUND}, "mechanisms that bound it, or"),
        ({"patients": []}, "at least one patient"),
        ({"patients": ["Anna Muster, 1950-01-01"]}, "not ids"),
        ({"reference": ""}, "reference"),
    ],
)
def test_what_makes_no_sense_never_reaches_the_ledger(changed: dict[str, Any], told: str) -> None:
    """Numbers out of range, unknown words, ids in the clear; no file is made."""
    reference, people = changed.pop("reference", "first"), changed.pop("patients", PEOPLE)
    with pytest.raises(PrivsynError, match=told) as caught:
        reserve(reference, people, **{"mechanisms": [CHEAP], **changed})
    assert not isinstance(caught.value, Refused)
    assert not (home() / "ledger.sqlite").exists()


def test_numbers_of_numpy_are_recorded_as_what_they_are() -> None:
    """A recipe computed with numpy is the same training."""
    first = reserve("first", PEOPLE)
    same = Mechanism(np.float64(20), np.float64(1), np.int64(4))  # type: ignore[arg-type]
    assert reserve("first", PEOPLE, same) == first


def test_an_unknown_reference_is_told() -> None:
    """Most likely another PRIVSYN_HOME."""
    for use in (lambda: ledger.settle("x", []), lambda: ledger.void("x"), lambda: ledger.account("x")):
        with pytest.raises(PrivsynError, match="PRIVSYN_HOME"):
            use()
