"""Privacy spent, kept for every population of patients across all studies of this machine.

What a patient has lost is the sum over all trainings on them, whichever study, file or extract they were in.
So a training is charged to the *population* of its patients before its first step (`reserve`), the charge is
reduced to the steps taken when it ends (`settle`), and removed only if no step was taken (`void`). A killed
run leaves its reservation in place, because its steps may have been seen. Steps are recorded before what
follows from them is `written`; a run that is `resumed` from before the newest of them pays for those that it
takes again. Under a `grant` of the data steward, a training that would exceed it is refused; without one,
everything is recorded, nothing refused.

`events` has what an entry can record, `hash_chain` stores the entries, `balances` adds them up, `validation`
checks what is written; `population` recognises patients and limits what is spent on them, `training` spends.
"""

from privsyn.ledger.balances import Charge, Grant
from privsyn.ledger.hash_chain import ChainCheck, LedgerRecord
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
    trained_on,
)
from privsyn.ledger.training import (
    Outlook,
    account,
    outlook,
    release,
    repeated,
    reserve,
    resumed,
    settle,
    state_of,
    void,
    written,
)
from privsyn.ledger.validation import TrainingCharge

__all__ = [
    "Allowance", "ChainCheck", "Charge", "Grant", "LedgerRecord", "Outlook", "Overview", "Population",
    "TrainingCharge", "account", "check", "grant", "ids_of", "outlook", "overview", "populations",
    "recognised", "register", "release", "repeated", "reserve", "resumed", "settle", "state_of",
    "trained_on", "void", "written",
]  # fmt: skip
