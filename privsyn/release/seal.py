"""Seal a release: close its bundle with a certificate, once it is approved.

The bundle is written whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn import ledger
from privsyn.errors import Refused
from privsyn.files import whole_file
from privsyn.release.approvals import Tally, tally
from privsyn.release.approve import collected, current_draft
from privsyn.release.bundle import Bundle, Certificate, certificate_payload, check_gate, read_bundle
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.status_list import read_status
from privsyn.release.trust import PIPELINE, SEALER, Trust
from privsyn.strict_json import now_or, read_file
from privsyn.study import Study, as_study

REASONS_SHOWN = 3  # reasons in one message


def seal(
    study: Study | Path | str,
    *,
    signers: Sequence[Signer],
    trust: Trust,
    approvals: Sequence[Path] = (),
    status: Path | None = None,
) -> Path:
    """Close the bundle of the study's draft with a certificate, if the trust file's approvers agreed.

    Args:
        signers: keys of as many sealers as their role needs.
        approvals: files of decisions that are not in the study.
        status: the status list, on which approvals may have been withdrawn.

    Returns:
        The release folder, which may leave.

    Raises:
        Refused: the release is not approved, or who seals may not.
    """
    study, now = as_study(study), now_or(None)
    draft = current_draft(study)
    makers = trust.need(PIPELINE, draft.envelope, "the statement", now)
    _check_gate(draft, trust, now)
    if draft.statement.valid_until < now:
        raise Refused("not sealed: the draft has expired; draft again with --force")
    decisions = collected(study, draft.statement, approvals)
    withdrawn = read_status(read_file(status), trust).revoked if status else {}
    counted = _approved(tally(decisions, draft.statement, makers, trust, now, withdrawn))
    bundle = replace(draft, approvals=tuple(decisions), certificate=None)
    payload = certificate_payload(bundle, Certificate(trust.id, trust.version, counted.waivers, now))
    certificate = Envelope(payload, IN_TOTO).signed(*signers)
    trust.need(SEALER, certificate, "the certificate", now)
    sealed = replace(bundle, certificate=certificate)
    read_bundle(sealed.to_bytes())  # what is written can be read
    _record(draft.statement)
    with whole_file(study.release / BUNDLE, aside=study.root) as partial:
        partial.write_bytes(sealed.to_bytes())
    return study.release


def _check_gate(draft: Bundle, trust: Trust, now: datetime) -> None:
    assert draft.gate is not None  # else it is no draft that can be approved
    check_gate(draft.gate, draft.statement)
    trust.need(PIPELINE, draft.gate, "the gate's result", now)


def _approved(counted: Tally) -> Tally:
    if counted.reasons:
        more = len(counted.reasons) - REASONS_SHOWN
        rest = f"; and {more} more (privsyn release status)" if more > 0 else ""
        raise Refused(f"not sealed: {'; '.join(counted.reasons[:REASONS_SHOWN])}{rest}")
    return counted


def _record(statement: Statement) -> None:
    """Record in the ledger what leaves, before it can leave.

    A release sealed on another machine than it was trained on finds no such entry there.
    """
    if statement.ledger_head is not None:
        ledger.release(statement.ledger_head, statement.digest)
