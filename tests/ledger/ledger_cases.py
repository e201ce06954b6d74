"""Patients, trainings and real processes for the tests of the ledger."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.dp.accounting import epsilon_rdp
from privsyn.errors import PrivsynError
from privsyn.home import home
from privsyn.ledger.events import LimitGranted

KIND = {"unit": "patient", "neighbouring": "add-or-remove-one"}
DELTA = 1e-5
CHEAP = Mechanism(noise_multiplier=20.0, sample_rate=1.0, steps=4)  # without sampling, quick to compose
NO_BOUND = "trained without differential privacy"

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["privsyn.ledger"])


def patients(first: int, last: int) -> list[str]:
    """HMACs (hex) of patients first ... last - 1."""
    return [hashlib.sha256(f"patient {number}".encode()).hexdigest() for number in range(first, last)]


def reserve(reference: str, people: list[str], *mechanisms: Mechanism, **changed: Any) -> ledger.LedgerRecord:
    """A training per patient, CHEAP unless told otherwise."""
    allowed = {key: changed.pop(key) for key in ("allow_unbounded",) if key in changed}
    return ledger.reserve(reference, people, charge(*mechanisms, **changed), **allowed)


def charge(*mechanisms: Mechanism, **changed: Any) -> ledger.TrainingCharge:
    """Of a training per patient, CHEAP unless told otherwise."""
    asked: dict[str, Any] = {**KIND, "delta": DELTA, "mechanisms": mechanisms or (CHEAP,)}
    return ledger.TrainingCharge(**{**asked, **changed})


def reserve_unbounded(reference: str, people: list[str], **changed: Any) -> ledger.LedgerRecord:
    """A training without differential privacy."""
    unbounded = {"delta": None, "mechanisms": (), "why_unbounded": NO_BOUND}
    return reserve(reference, people, **{**unbounded, **changed})


def least_grant(*mechanisms: Mechanism, delta: float = DELTA) -> float:
    """The smallest grant that these fit; without sampling, the order of the filter is the best one."""
    return math.ceil(epsilon_rdp(mechanisms, delta) * 1e6) / 1e6


def granted(people: list[str], epsilon: float, **changed: Any) -> str:
    """The id of the population of these patients, which now has a grant."""
    entry = ledger.grant(people, **{"unit": "patient", "epsilon": epsilon, "delta": DELTA, **changed})
    assert isinstance(entry.event, LimitGranted)
    return entry.event.population


def the_only() -> ledger.Population:
    """The population, where there is one."""
    (found,) = ledger.populations()
    return found


def rows(database: Any) -> list[tuple[Any, ...]]:
    """Every entry as the database has it."""
    return list(database.execute("SELECT * FROM entry ORDER BY seq"))


def in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a process of its own; a PrivsynError comes back as its text."""
    ours, theirs = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_answer, args=(theirs, str(home()), function, arguments))
    process.start()
    theirs.close()
    answer = ours.recv()
    process.join()
    return answer


def _answer(pipe: Any, folder: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ["PRIVSYN_HOME"] = folder
    try:
        pipe.send(function(*arguments))
    except PrivsynError as error:
        pipe.send(str(error))
