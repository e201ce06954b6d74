"""Assemble the release of a finished study for approval: what may leave, and a statement about it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn.auditing.policy import ChecklistItem, load_policy
from privsyn.auditing.verdict import Verdict
from privsyn.claim.document import Claim
from privsyn.cohort.document import TextCounts
from privsyn.errors import Refused, StudyError
from privsyn.files import file_digest, relative_files, tree_digest, whole_folder
from privsyn.release import artefacts
from privsyn.release.bundle import Bundle, gate_payload
from privsyn.release.contents import LARGEST
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE, Statement, make_statement
from privsyn.release.predicate import (
    LedgerAccount,
    PublicTextScan,
    ReleaseInfo,
    ReleasePredicate,
    ReleaseTerms,
    SetInfo,
)
from privsyn.report.documents import load_claim
from privsyn.report.html import public_page, public_view
from privsyn.report.material import gather
from privsyn.strict_json import now_or
from privsyn.study import Study, as_study


@dataclass(frozen=True)
class CopiedFile:
    """A file of the study that was copied into its release.

    Attributes:
        source: where it lay.
        digest: sha256 (hex) of the bytes that were copied.
        size: their number.
    """

    source: Path
    digest: str
    size: int


@dataclass(frozen=True)
class JudgedSet:
    """A study's synthetic set with its verdict and claim.

    Attributes:
        claim: for the set; None if no model of the study drew it.
        account: of the study's model.
    """

    name: str
    set: SetInfo
    verdict: Verdict
    claim: Claim | None
    account: LedgerAccount | None
    text_scan: PublicTextScan | None


def draft(
    study: Study | Path | str,
    terms: ReleaseTerms | None = None,
    *,
    signer: Signer | None = None,
    force: bool = False,
) -> Path:
    """Write `release/` for approval, whatever the verdict, which it carries.

    Args:
        signer: the pipeline's key, which signs the statement and the gate's result; without it the draft can
            be looked at and not be approved.
        force: replace a release that is there.

    Returns:
        The release folder.

    Raises:
        StudyError: an artefact is missing, or one was made from an earlier state of another.
        Refused: the verdict is partial, or the release is larger than any should be.
        PrivsynError: the folder exists and `force` is not set.
    """
    study, now = as_study(study), now_or(None)
    with study.exclusively("release draft"):
        with whole_folder(study.release, replace=force) as partial:
            judged = _judged_set(study)
            copied = _copy_artefacts(study, partial)
            _check_judged(study, copied.values(), judged.verdict.inputs.synthetic)
            statement = make_statement(
                {name: file.digest for name, file in copied.items()},
                {name: file.size for name, file in copied.items()},
                _predicate(study, judged, terms or ReleaseTerms(), now).to_document(),
            )
            bundle = _signed(statement, judged.verdict.privsyn_version, signer, now)
            (partial / BUNDLE).write_bytes(bundle.to_bytes())
        return study.release


def _signed(statement: Statement, version: str, signer: Signer | None, now: datetime) -> Bundle:
    envelope = Envelope(statement.to_bytes(), IN_TOTO)
    if signer is None:
        return Bundle(envelope, statement)
    gate = Envelope(gate_payload(statement, version=version, at=now), IN_TOTO)
    return Bundle(envelope.signed(signer), statement, gate.signed(signer))


def _judged_set(study: Study) -> JudgedSet:
    """What the study says about its set now, if its public report says the same."""
    _check_made(study)
    material = gather(study)
    view = public_view(material)
    if view.partial:
        raise Refused(
            f"{study.verdict_file} judges only some audits, and no release accepts that: audit without --only"
        )
    if public_page(view).encode() != study.public_report.read_bytes():
        raise StudyError(
            f"{study.public_report} is older than what it reports on: run `privsyn report` again"
        )
    return JudgedSet(
        name=view.name,
        set=SetInfo(view.images, tuple(view.classes), view.provenance),
        verdict=material.verdict,
        claim=material.claim,
        account=_account(study),
        text_scan=_text_scan(material.cohort.document.identifiers.text),
    )


def _account(study: Study) -> LedgerAccount | None:
    """What the ledger says about the study's model, whether or not that drew the set."""
    claim = load_claim(study.privacy_file) if study.privacy_file.exists() else None
    return LedgerAccount(claim.ledger, claim.cumulative) if claim and claim.ledger else None


def _text_scan(text: TextCounts) -> PublicTextScan | None:
    if not text.looked_at:
        return None
    return PublicTextScan(None if text.looked_at == text.of else text.looked_at, text.policy)


def _check_made(study: Study) -> None:
    """See that all is there; what is missing is named with the first command to run."""
    needed = {study.verdict_file: "audit", study.internal_report: "report"}
    for artefact in artefacts.ARTEFACTS:
        files = artefact.files(study.root).values() or [study.root / artefact.source / artefact.pattern]
        needed |= dict.fromkeys(files, artefact.made_by)
    for path, command in sorted(needed.items(), key=lambda each: artefacts.STATIONS.index(each[1])):
        study.need(path, command)


def _copy_artefacts(study: Study, target: Path) -> dict[str, CopiedFile]:
    """Copy what may leave, by its name in the release."""
    sources: dict[str, Path] = {}
    for artefact in artefacts.ARTEFACTS:
        sources |= artefact.files(study.root)
    copied = {name: _copy(source, target / name) for name, source in sources.items()}
    size = sum(file.size for file in copied.values())
    if size > LARGEST:
        raise Refused(f"the release would have {size} bytes, more than {LARGEST}: split it")
    return copied


def _copy(source: Path, target: Path) -> CopiedFile:
    """Copy bytes alone, without times and attributes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(2**20):
            hasher.update(block)
            size += writer.write(block)
    return CopiedFile(source, hasher.hexdigest(), size)


def _check_judged(study: Study, copied: Iterable[CopiedFile], judged: str) -> None:
    """See that the bytes that were copied are those which the audit judged (digest of the set)."""
    digests = {file.source: file.digest for file in copied}
    paths = {name: study.synthetic / name for name in relative_files(study.synthetic)}
    found = {name: digests.get(path) or file_digest(path) for name, path in paths.items()}
    if tree_digest(found) != judged:
        raise StudyError(
            f"{study.synthetic} is not the set that was audited: run `privsyn audit --force` and "
            "`privsyn report`"
        )


def _predicate(study: Study, judged: JudgedSet, terms: ReleaseTerms, now: datetime) -> ReleasePredicate:
    return ReleasePredicate(
        release=ReleaseInfo(secrets.token_hex(16), judged.name, now),
        set=judged.set,
        claim=judged.claim,
        account=judged.account,
        checklist=_checklist(study, judged.verdict.inputs.policy),
        verdict=judged.verdict,
        internal_report=file_digest(study.internal_report),
        text_scan=judged.text_scan,
        terms=terms,
        valid_until=now + timedelta(days=terms.valid_days),
    )


def _checklist(study: Study, digest: str) -> tuple[ChecklistItem, ...]:
    """The questions of the policy that judged the set."""
    policy = load_policy(study.policy_file)
    if policy.digest != digest:
        raise StudyError(
            f"{study.policy_file} is not the policy that the audit judged by: run `privsyn audit --force`"
        )
    return policy.checklist
