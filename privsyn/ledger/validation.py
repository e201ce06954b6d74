"""Checks of what is written to the ledger: numbers in range, patients as HMACs, a bound or a reason for none.

All of it is checked before the ledger is opened, because an entry is never removed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from privsyn.claim.document import UNITS, Mechanism
from privsyn.errors import PrivsynError
from privsyn.ledger.events import TrainingReserved
from privsyn.ledger.hash_chain import members_digest

NEIGHBOURINGS = ("add-or-remove-one",)  # those that `accounting` composes
_HMAC = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True)
class TrainingCharge:
    """What a training asks the ledger to charge.

    Attributes:
        unit: `patient` or `image`.
        delta: that the training names; None where nothing bounds it.
        mechanisms: all that will touch the patients, with the steps as planned; none if nothing bounds it.
        why_unbounded: why there are no mechanisms, else "".
    """

    unit: str
    neighbouring: str
    delta: float | None
    mechanisms: tuple[Mechanism, ...] = ()
    why_unbounded: str = ""


def people_of(patients: Iterable[str]) -> frozenset[str]:
    """The patients, each once.

    Raises:
        PrivsynError: there are none, or they are not HMACs: an id in the clear must not reach the disk.
    """
    people = frozenset(patients)
    if not people:
        raise PrivsynError("a population needs at least one patient")
    if not all(isinstance(each, str) and _HMAC.fullmatch(each) for each in people):
        raise PrivsynError("patients are recorded by keyed HMACs (32 hexadecimal digits or more), not ids")
    return people


def reservation(reference: str, people: frozenset[str], charge: TrainingCharge) -> TrainingReserved:
    """The event of a reservation, without the population.

    Raises:
        PrivsynError: something is missing, contradictory or out of range.
    """
    if not reference:
        raise PrivsynError("a training needs a reference")
    if bool(charge.mechanisms) == bool(charge.why_unbounded):
        raise PrivsynError("a training has mechanisms that bound it, or a reason why nothing does")
    check_kind(charge.unit, charge.neighbouring)
    if charge.delta is not None or charge.mechanisms:
        check_delta(charge.delta)
    mechanisms = tuple(exact(each) for each in charge.mechanisms)
    if not all(each.steps for each in mechanisms):
        raise PrivsynError(f"training {reference!r} plans no step: there is nothing to reserve")
    return TrainingReserved(
        reference=reference,
        patients=len(people),
        patients_sha256=members_digest(people),
        unit=charge.unit,
        neighbouring=charge.neighbouring,
        delta=None if charge.delta is None else float(charge.delta),
        mechanisms=mechanisms,
        unbounded=charge.why_unbounded,
    )


def exact(part: Mechanism) -> Mechanism:
    """The mechanism in plain numbers.

    Raises:
        PrivsynError: a number is out of range.
    """
    plain = Mechanism(float(part.noise_multiplier), float(part.sample_rate), int(part.steps))
    noisy = math.isfinite(plain.noise_multiplier) and plain.noise_multiplier > 0
    if not (noisy and 0 < plain.sample_rate <= 1 and 0 <= plain.steps == part.steps):
        raise PrivsynError(f"{part} is out of range: noise above 0, rate in (0, 1], a whole number of steps")
    return plain


def check_kind(unit: str, neighbouring: str) -> None:
    """Refuse a unit or a neighbouring relation that the accountant does not support."""
    for name, value, choices in (("unit", unit, UNITS), ("neighbouring", neighbouring, NEIGHBOURINGS)):
        if value not in choices:
            raise PrivsynError(f"{name} {value!r} is unknown: choose from {', '.join(choices)}")


def check_epsilon(epsilon: float) -> None:
    """Refuse a limit that is not finite, or not above 0."""
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PrivsynError(f"epsilon {epsilon} is out of range: it must be finite and above 0")


def check_delta(delta: float | None) -> None:
    """Refuse a delta outside (0, 1)."""
    if delta is None or not 0 < delta < 1:
        raise PrivsynError(f"delta {delta} is out of range: it must be above 0 and below 1")
