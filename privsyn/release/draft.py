"""From a finished study to the folder that may leave, once people approve it."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import Signer

from privsyn.auditing.policy import Policy, load_policy
from privsyn.claim.words import in_full
from privsyn.errors import Refused, StudyError
from privsyn.files import file_digest, read_json, relative_files, tree_digest, whole_folder
from privsyn.release.bundle import Bundle, gate_payload
from privsyn.release.contents import LARGEST
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE, is_release_file, state
from privsyn.report.html import PublicView, public_page, public_view
from privsyn.report.material import gather
from privsyn.strict_json import JsonObject, now_or, spelled
from privsyn.study import Study, as_study

DESCRIPTIONS = ("README.md", "croissant.json")
REPORT = "public-report.html"
VALID_DAYS = 365


def draft(
    study: Study | Path | str,
    *,
    signer: Signer | None = None,
    authors: Sequence[str] = (),
    terms: str | None = None,
    valid_days: int = VALID_DAYS,
    supersedes: str | None = None,
    force: bool = False,
) -> Path:
    """Write `release/` whatever the verdict, which it carries; nobody has approved it yet.

    Args:
        signer: the pipeline's key, which signs the statement and the gate's result; without it the draft can
            be looked at and not be approved.
        authors: persons of the trust file who made the release and so cannot approve it.
        terms: of use, in words.
        valid_days: for so long the release is to be relied on.
        supersedes: sha256 of the statement of the release that this one takes the place of.
        force: replace a release that is there.

    Returns:
        The release folder.

    Raises:
        StudyError: an artefact is missing, or one was made from an earlier state of another.
        Refused: the verdict is partial, or the release is larger than any should be.
        PrivsynError: the folder exists and `force` is not set.
    """
    study, now = as_study(study), now_or(None)
    with whole_folder(study.release, replace=force) as partial:
        view = _current_view(study)
        copied = _copy_set(study.synthetic, partial, view.inputs.synthetic)
        copied[REPORT] = _copy(study.public_report, partial / REPORT)
        digests = {name: digest for name, (digest, _) in copied.items()}
        sizes = {name: size for name, (_, size) in copied.items()}
        if sum(sizes.values()) > LARGEST:
            raise Refused(
                f"the release would have {sum(sizes.values())} bytes, more than {LARGEST}: split it"
            )
        claims = {
            **_claims(study, view, now),
            "authors": sorted(set(authors)),
            "useTerms": terms,
            "validUntil": spelled(now + timedelta(days=valid_days)),
            "supersedes": supersedes,
        }
        (partial / BUNDLE).write_bytes(_signed(claims, digests, sizes, signer, now).to_bytes())
    return study.release


def _signed(
    claims: Mapping[str, Any],
    digests: Mapping[str, str],
    sizes: Mapping[str, int],
    signer: Signer | None,
    now: datetime,
) -> Bundle:
    statement = state(digests, sizes, claims)
    envelope = Envelope(statement.to_bytes(), IN_TOTO)
    if signer is None:
        return Bundle(envelope, statement)
    version = str(claims["release"]["privsynVersion"])
    gate = Envelope(gate_payload(statement, version=version, at=now), IN_TOTO)
    return Bundle(envelope.signed(signer), statement, gate.signed(signer))


def _current_view(study: Study) -> PublicView:
    """What the study can tell the public now, if its public report tells the same."""
    for name in DESCRIPTIONS:
        study.need(study.synthetic / name, "sample")
    study.need(study.verdict_file, "audit")
    for page in (study.public_report, study.internal_report):
        study.need(page, "report")
    view = public_view(gather(study))
    if view.partial:
        raise Refused(
            f"{study.verdict_file} judges only some audits, and no release accepts that: audit without --only"
        )
    if public_page(view).encode() != study.public_report.read_bytes():
        raise StudyError(
            f"{study.public_report} is older than what it reports on: run `privsyn report` again"
        )
    return view


def _copy_set(source: Path, target: Path, judged: str) -> dict[str, tuple[str, int]]:
    """Copy what may leave, and check on the copied bytes that they are those which the audit judged."""
    digests: dict[str, str] = {}
    copied: dict[str, tuple[str, int]] = {}
    for name in relative_files(source):
        if is_release_file(name) and name != REPORT:
            copied[name] = _copy(source / name, target / name)
        digests[name] = copied[name][0] if name in copied else file_digest(source / name)
    if tree_digest(digests) != judged:
        raise StudyError(
            f"{source} is not the set that was audited: run `privsyn audit --force` and `privsyn report`"
        )
    return copied


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy bytes alone, without times and attributes; return their sha256 (hex) and number."""
    target.parent.mkdir(exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(2**20):
            hasher.update(block)
            size += writer.write(block)
    return hasher.hexdigest(), size


def _claims(study: Study, view: PublicView, now: datetime) -> dict[str, Any]:
    """The predicate's claims: what the public report shows, and nothing measured on real data."""
    policy, account = load_policy(study.policy_file), _account(study)
    if policy.digest != view.inputs.policy:
        raise StudyError(
            f"{study.policy_file} is not the policy that the audit judged by: run `privsyn audit --force`"
        )
    return {
        "release": {
            "id": secrets.token_hex(16),
            "name": view.name,
            "created": spelled(now),
            "privsynVersion": view.privsyn_version,
        },
        "set": {"synthetic": True, "images": view.images, "classes": list(view.classes)},
        "generator": {**view.provenance, "recipe_sha256": view.inputs.recipe},
        "privacyClaim": {**_claim(view), "in_words": in_full(view.claim)},
        "source": {"population": account and account["population"]},  # opaque: whose images they were stays
        "ledger": account,
        "policy": {**asdict(view.policy), "sha256": view.inputs.policy},
        "checklist": [item.model_dump(mode="json") for item in policy.checklist],
        "verdict": _verdict(view, policy),
        "evidence": {"internalReport": file_digest(study.internal_report)},
        "identifierScan": _identifier_scan(study),
        "scorecard": "not performed",
    }


def _claim(view: PublicView) -> JsonObject:
    return {"kind": "none"} if view.claim is None else view.claim.public_document()


def _identifier_scan(study: Study) -> dict[str, Any] | str:
    """How `prepare` looked for identifiers, without what it found, in the cohort that was judged.

    Headers, names and tables are never kept; text in the pixels is only as far gone as it was looked for.
    """
    text = read_json(study.cohort / "cohort.json").get("identifiers", {}).get("text", {})
    if not text.get("looked_at"):
        return "not performed"
    whole = text["looked_at"] == text["of"]
    return {
        "outcome": "pass",
        "headers": "nothing of a source but its pixels is kept",
        "pixels": {
            "method": "OCR",
            "images": "all" if whole else f"{text['looked_at']} at random",  # as the recipe declares
            "withText": {"refuse": "none found", "drop": "left out", "mask": "masked"}[text["policy"]],
        },
    }


def _account(study: Study) -> dict[str, Any] | None:
    """Where the ledger stood after the training, and what it cost with all before; None without a model."""
    claim = read_json(study.privacy_file) if study.privacy_file.exists() else {}
    ledger = claim.get("ledger")
    return {**ledger, "cumulative": claim.get("cumulative")} if ledger else None


def _verdict(view: PublicView, policy: Policy) -> Mapping[str, Any]:
    waivable = {rule.id: list(rule.waivable_by) for rule in policy.rules}
    return {
        "outcome": view.outcome,
        "partial": view.partial,
        "attempt": view.attempt,
        "rules": [{**asdict(rule), "waivable_by": waivable.get(rule.id, [])} for rule in view.rules],
        "plugins": [asdict(plugin) for plugin in view.plugins],
    }
