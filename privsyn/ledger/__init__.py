"""Privacy spent, kept for every population of patients across all studies of this machine.

What a patient has lost is the sum over all trainings on them, whichever study, file or extract they were in.
So a training is charged to the *population* of its patients before its first step (`reserve`), the charge is
corrected downward when it ends (`settle`), and taken back only if no step was taken (`void`). A killed run
leaves its reservation standing, for its steps may have been seen. Under a `grant` of the data steward, a
training that would exceed it is refused; without one, all is recorded and nothing refused.

`chain` keeps the entries and `books` adds them up; `terms` says what may be asked; `population` recognises
patients and limits what is spent on them, `training` spends it.
"""

from privsyn.ledger.balances import Charge, Grant
from privsyn.ledger.hash_chain import Checked, Entry
from privsyn.ledger.population import (
    Allowance,
    Overview,
    Population,
    check,
    grant,
    ids_of,
    overview,
    populations,
    recognised,
    register,
)
from privsyn.ledger.training import Outlook, account, outlook, release, reserve, settle, state_of, void

__all__ = [
    "Allowance", "Charge", "Checked", "Entry", "Grant", "Outlook", "Overview", "Population",
    "account", "check", "grant", "ids_of", "outlook", "overview", "populations", "recognised", "register",
    "release", "reserve", "settle", "state_of", "void",
]  # fmt: skip
