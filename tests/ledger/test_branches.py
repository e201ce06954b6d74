"""Steps that are taken again: charged beside the reservation, refused beyond a grant, never twice at once."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace

import pytest
from ledger_cases import (
    CHEAP,
    DELTA,
    granted,
    least_grant,
    patients,
    reserve,
    reserve_unbounded,
    the_only,
)

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.dp.accounting import epsilon
from privsyn.errors import PrivsynError, Refused

PEOPLE = patients(0, 5)
WARM = Mechanism(10.0, 1.0, 2)


def test_going_back_charges_what_is_taken_again() -> None:
    """Written up to step 3, resumed from 1: two steps more, in the training, the total and the grant."""
    granted(PEOPLE, 10.0)
    reserve("first", PEOPLE)
    ledger.written("first", [0], [1])
    ledger.written("first", [1], [3])
    assert the_only().entries[0].repeated == ()
    ledger.resumed("first", [1])
    (found,) = the_only().entries
    assert (found.taken, found.repeated) == ((1,), (Mechanism(20.0, 1.0, 2),))
    assert ledger.repeated("first") == found.repeated
    ledger.written("first", [1], [4])
    ledger.settle("first", [CHEAP])
    (seen,) = the_only().seen
    assert seen.epsilon == epsilon([Mechanism(20.0, 1.0, 6)], DELTA)
    assert the_only().grants[0].spent > least_grant(CHEAP)
    assert ledger.check()


def test_resuming_from_the_newest_adds_nothing() -> None:
    """However often: no entry, no charge. What is settled stays as it is."""
    reserve("first", PEOPLE)
    ledger.written("first", [0], [4])
    before = ledger.overview()
    for _ in range(3):
        ledger.resumed("first", [4])
        ledger.written("first", [4], [4])
    assert ledger.overview() == before
    ledger.settle("first", [CHEAP])
    settled = ledger.overview()
    ledger.resumed("first", [4])
    ledger.resumed("first", [2])
    assert ledger.overview() == settled


def test_each_mechanism_goes_back_by_itself_and_every_time() -> None:
    """The queries of a warm-up count like steps; a second return is added to the first."""
    reserve("first", PEOPLE, WARM, CHEAP)
    ledger.written("first", [0, 0], [2, 0])
    ledger.resumed("first", [0, 0])
    ledger.written("first", [0, 0], [2, 0])
    ledger.written("first", [2, 0], [2, 3])
    ledger.resumed("first", [2, 1])
    ledger.resumed("first", [2, 1])
    assert ledger.repeated("first") == (WARM, Mechanism(20.0, 1.0, 2))


def test_a_grant_refuses_steps_that_it_has_no_room_for() -> None:
    """Room for what was reserved and no more: nothing is recorded, and the newest still goes on."""
    granted(PEOPLE, least_grant(CHEAP))
    reserve("first", PEOPLE)
    ledger.written("first", [0], [2])
    before = ledger.overview()
    with pytest.raises(Refused, match=r"2 steps would be taken and charged again.*from a backup.*granted"):
        ledger.resumed("first", [0])
    assert ledger.overview() == before
    ledger.resumed("first", [2])
    ledger.written("first", [2], [4])


def test_two_runs_of_one_training_do_not_both_write() -> None:
    """Both go on from step 1; the first to write is charged, the other is told and writes nothing.

    It may then be resumed, which charges what it takes again, and the first in its turn stops.
    """
    reserve("first", PEOPLE)
    ledger.written("first", [0], [1])
    ledger.written("first", [1], [3])
    with pytest.raises(PrivsynError, match=r"gone on elsewhere.*--resume"):
        ledger.written("first", [1], [3])
    ledger.resumed("first", [1])
    with pytest.raises(PrivsynError, match="gone on elsewhere"):
        ledger.written("first", [3], [4])
    assert ledger.repeated("first") == (Mechanism(20.0, 1.0, 2),)


@pytest.mark.parametrize("taken", [[5], [0]], ids=["more than reserved", "fewer than before"])
def test_steps_are_those_reserved_and_never_fewer(taken: list[int]) -> None:
    """Nothing else is recorded as written."""
    reserve("first", PEOPLE)
    ledger.written("first", [0], [2])
    with pytest.raises(PrivsynError, match="other steps"):
        ledger.written("first", [2], taken)


def test_steps_that_were_written_are_not_given_back() -> None:
    """Neither by settling with fewer, nor by voiding, also after going back to the start."""
    reserve("first", PEOPLE)
    ledger.written("first", [0], [2])
    with pytest.raises(PrivsynError, match="its charge is unchanged"):
        ledger.settle("first", [Mechanism(20.0, 1.0, 1)])
    for _ in range(2):
        with pytest.raises(PrivsynError, match="its charge stays"):
            ledger.void("first")
        ledger.resumed("first", [0])


def test_nothing_is_written_of_what_is_over_or_has_no_bound() -> None:
    """A training that ended takes no more steps; one without a bound has none that could be counted."""
    reserve("first", PEOPLE)
    ledger.settle("first", [CHEAP])
    with pytest.raises(PrivsynError, match="was settled"):
        ledger.written("first", [0], [1])
    reserve_unbounded("open", PEOPLE)
    before = ledger.overview()
    ledger.written("open", [], [])
    ledger.resumed("open", [])
    assert ledger.overview() == before


@pytest.mark.parametrize("seed", range(5))
def test_whatever_copies_do_no_step_is_free(seed: int) -> None:
    """Three copies are copied, killed, resumed and run in any order: every step that was written is counted.

    A kill may come between the record and the checkpoint, so a little more than that may be counted.
    """
    chance, length, took = random.Random(seed), 40, 0
    reserve("first", PEOPLE, replace(CHEAP, steps=length))
    on_disk, in_memory = [0, 0, 0], [-1, -1, -1]  # the newest checkpoint; where a run is, -1 if none runs
    for _ in range(60):
        who, what = chance.randrange(3), chance.choice(["resume", "copy", "back", "kill", *["write"] * 6])
        if what == "resume" or in_memory[who] < 0:
            ledger.resumed("first", [on_disk[who]])
            in_memory[who] = on_disk[who]
        elif what == "copy":
            on_disk[who], in_memory[who] = on_disk[chance.randrange(3)], -1
        elif what == "back":
            on_disk[who], in_memory[who] = chance.randint(0, on_disk[who]), -1
        elif in_memory[who] < length:
            before, done = in_memory[who], min(length, in_memory[who] + chance.randint(1, 5))
            with suppress(PrivsynError):
                in_memory[who] = -1
                ledger.written("first", [before], [done])
                if what == "write":
                    on_disk[who] = in_memory[who] = done
                    took += done - before
        (found,) = the_only().entries
        assert took <= found.taken[0] + sum(part.steps for part in found.repeated)
    assert took > 0
    assert found.repeated
