"""Check the privacy claim of a statement: what it says in words, and whether its epsilon can be right.

Standard library only. The document may be hostile; where dp-accounting is installed, epsilon is exact.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

from privsyn.claim.document import WHAT
from privsyn.claim.recompute import EpsilonFunction, Recomputed, recompute
from privsyn.claim.words import (
    IMPORTED,
    NOT_PRIVATE,
    UNKNOWN_GENERATOR,
    figures,
    nothing_promised,
    number,
    plural,
    rounded_up,
)
from privsyn.strict_json import Fields, refuse


@dataclass(frozen=True)
class ClaimAnswer:
    """What is found about a claim that is not wrong.

    Attributes:
        state: `open`: whether it holds cannot be shown here; `note`: there is no bound to check.
    """

    state: Literal["ok", "open", "note"]
    words: str


def check_claim(document: object) -> ClaimAnswer:
    """Check the `privacyClaim` of a statement.

    Raises:
        Refused: it is malformed, not valid for a release, or better than its own parameters.
    """
    fields = Fields(document, WHAT)
    kind = fields.document.get("kind")
    if kind not in ("dp", "none"):
        refuse("the statement", "has no privacy claim, nor does it say that there is none")
    if kind == "none":
        return ClaimAnswer(
            "note", f"none. {_why_none(fields)}, so nothing bounds what these images can reveal"
        )
    if fields.document.get("valid_for_release") is not True:
        reason = fields.text("reason") if "reason" in fields.document else ""
        refuse(WHAT, f"is not valid for a release: {reason or 'it gives no reason'}")
    return _answer(recompute(document, installed_accountant()))


def installed_accountant() -> EpsilonFunction | None:
    """dp-accounting's, or None: a recipient may have neither it nor the training side of privsyn."""
    try:
        accountant: EpsilonFunction = importlib.import_module("privsyn.dp.accounting").epsilon
    except ImportError:
        return None
    return accountant


def _why_none(fields: Fields) -> str:
    if fields.document.get("imported") is True:
        return IMPORTED
    return NOT_PRIVATE if "unit" in fields.document else UNKNOWN_GENERATOR


def _answer(found: Recomputed) -> ClaimAnswer:
    stated = found.stated
    claim = f"differential privacy for the {stated.unit}, {figures(stated)}"
    if stated.delta * stated.units >= 1:
        refuse(
            WHAT,
            f"({claim}) promises nothing: its delta allows publishing one of about {number(stated.units)} "
            f"{plural(stated.unit)} in the clear",
        )
    promise = nothing_promised(stated.unit, stated.delta, stated.units)
    if found.outcome == "contradicted":
        refuse(
            WHAT,
            f"({claim}) does not hold: it states epsilon {stated.epsilon:.9g}, and its parameters give "
            f"{found.epsilon:.9g}",
        )
    if found.method == "exact":
        return ClaimAnswer("ok", f"{claim}: recomputed by dp-accounting. {promise}")
    bound = f"its parameters give at most {rounded_up(found.epsilon)} (Renyi DP, without dp-accounting)"
    if found.outcome == "unlikely":
        return ClaimAnswer("open", f"{claim}, is far below what can be shown here: {bound}. {promise}")
    return ClaimAnswer("ok", f"{claim}: {bound}. {promise}")
