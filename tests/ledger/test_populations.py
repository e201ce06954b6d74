"""Who is recognised: patients seen again, cohorts that overlap, populations that turn out to be one."""

from __future__ import annotations

import pytest
from ledger_cases import CHEAP, DELTA, granted, least_grant, patients, reserve, the_only

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.dp.accounting import epsilon, epsilon_of_filter
from privsyn.errors import PrivsynError, Refused

TWO = [Mechanism(20.0, 1.0, 8)]  # two CHEAP trainings together
ONCE, TWICE = epsilon([CHEAP], DELTA), epsilon(TWO, DELTA)  # what they cost
FOR_ONE, FOR_TWO = least_grant(CHEAP), least_grant(*TWO)


def test_a_new_extract_of_the_same_patients_is_the_same_population() -> None:
    """Some more, some fewer: one patient in common is enough, and what was spent is spent on all."""
    reserve("first", patients(0, 5))
    reserve("some more", patients(4, 9))
    reserve("some fewer", patients(7, 9))
    population = the_only()
    assert population.patients == 9
    assert population.seen[0].charges == 3
    assert population.aliases == ()


def test_disjoint_cohorts_are_apart() -> None:
    """Each has its own figure and its own grant."""
    first, second = granted(patients(0, 5), FOR_ONE), granted(patients(5, 9), FOR_TWO)
    assert first != second
    reserve("first", patients(0, 5))
    reserve("second", patients(5, 9))
    with pytest.raises(Refused):
        reserve("third", patients(0, 5))
    reserve("third", patients(5, 9))
    assert [each.seen[0].epsilon for each in ledger.populations()] == [ONCE, TWICE]


def test_a_cohort_that_overlaps_two_populations_makes_them_one() -> None:
    """All charges count from then on, both grants must be kept to, and both ids still lead there."""
    older, younger = granted(patients(0, 5), 9.0), granted(patients(10, 15), FOR_TWO, delta=1e-6)
    reserve("first", patients(0, 5))
    reserve("second", patients(10, 15))
    assert ledger.register(patients(4, 11)) == older
    population = the_only()
    assert (population.id, population.aliases, population.patients) == (older, (younger,), 15)
    assert [limit.grant.epsilon for limit in population.grants] == [9.0, FOR_TWO]
    assert population.seen[0].charges == 2
    assert population.seen[0].delta == 1e-6
    with pytest.raises(Refused, match=f"{FOR_TWO} is granted"):
        reserve("third", patients(0, 5))
    ledger.grant(younger, unit="patient", epsilon=9.0, delta=DELTA)
    (limit,) = the_only().grants
    assert (limit.grant.epsilon, limit.spent) == (9.0, epsilon_of_filter(TWO, 9.0, DELTA))
    reserve("third", patients(0, 5))


def test_a_training_may_be_what_joins_them() -> None:
    """It is judged by the charges and grants of all that it touches, and refused it joins nothing."""
    granted(patients(0, 5), FOR_TWO)
    reserve("first", patients(0, 5))
    reserve("second", patients(10, 15))
    with pytest.raises(Refused):
        reserve("both", patients(4, 11))
    assert len(ledger.populations()) == 2
    ledger.void("second")
    reserve("both", patients(4, 11))
    assert the_only().seen[0].epsilon == TWICE


def test_a_training_goes_on_when_its_population_was_joined() -> None:
    """A reservation under an id that is an alias by now is settled and resumed like any other."""
    reserve("first", patients(0, 5))
    second = reserve("second", patients(10, 15))
    ledger.register(patients(4, 11))
    assert reserve("second", patients(10, 15)) == second
    ledger.settle("second", [CHEAP])
    assert ledger.account("second")[0].population == the_only().id
    assert the_only().seen[0].epsilon == TWICE


def test_grants_of_two_units_let_nothing_through() -> None:
    """After a join no training can keep to both; a new grant settles it."""
    granted(patients(0, 5), 9.0)
    granted(patients(10, 15), 9.0, unit="image")
    joined = ledger.register(patients(4, 11))
    for unit in ("patient", "image"):
        with pytest.raises(Refused, match="do not add up"):
            reserve("first", patients(0, 5), unit=unit)
    ledger.grant(joined, unit="image", epsilon=9.0, delta=DELTA)
    reserve("first", patients(0, 5), unit="image")


def test_registering_is_idempotent() -> None:
    """The same patients again add no entry, whatever their order."""
    first = ledger.register(patients(0, 5))
    head = ledger.overview().head
    assert ledger.register(reversed(patients(0, 5))) == first
    assert ledger.overview().head == head


def test_no_patient_is_told() -> None:
    """What the ledger shows has counts and ids of its own; not even an HMAC."""
    people = patients(0, 5)
    reserve("first", people)
    granted(people, 9.0)
    shown = repr(ledger.overview()) + repr(the_only().to_dict()) + repr(ledger.account("first"))
    assert not [each for each in people if each in shown]


@pytest.mark.parametrize(
    ("population", "limit", "told"),
    [
        ("population-0", {}, "privsyn ledger show"),
        (patients(0, 5), {"epsilon": 0.0}, "above 0"),
        (patients(0, 5), {"epsilon": float("inf")}, "finite"),
        (patients(0, 5), {"epsilon": float("nan")}, "finite"),
        (patients(0, 5), {"delta": 0.0}, "below 1"),
        (patients(0, 5), {"delta": 1.0}, "below 1"),
        (patients(0, 5), {"unit": "scan"}, "image, file, study, patient"),
        (patients(0, 5), {"neighbouring": "replace-one"}, "add-or-remove-one"),
        ([], {}, "at least one"),
    ],
)
def test_a_grant_that_makes_no_sense_is_refused(population: str, limit: dict[str, float], told: str) -> None:
    """Exit code 2, and nothing is recorded: neither the grant nor the patients."""
    asked = {"unit": "patient", "epsilon": 9.0, "delta": DELTA, **limit}
    with pytest.raises(PrivsynError, match=told) as caught:
        ledger.grant(population, **asked)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    assert ledger.populations() == []
