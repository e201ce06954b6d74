"""From a finished study to the folder that may leave, once people approve it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from privsyn.errors import Refused, StudyError
from privsyn.files import file_digest, relative_files, tree_digest, whole_folder
from privsyn.release.manifest import STATEMENT, STATEMENT_DIGEST, digest_line, state
from privsyn.report.html import PublicView, public_page, public_view
from privsyn.report.material import gather
from privsyn.report.words import claim_in_words
from privsyn.study import Study, as_study

DESCRIPTIONS = ("README.md", "croissant.json")
REPORT = "public-report.html"


def draft(study: Study | Path | str, *, force: bool = False) -> Path:
    """Write `release/` whatever the verdict, which it carries; nobody has approved it yet.

    Args:
        force: replace a release that is there.

    Returns:
        The release folder.

    Raises:
        StudyError: an artefact is missing, or one was made from an earlier state of another.
        Refused: the verdict is partial.
        PrivsynError: the folder exists and `force` is not set.
    """
    study = as_study(study)
    with whole_folder(study.release, replace=force) as partial:
        view = _current_view(study)
        copied = _copy_set(study.synthetic, partial, str(view.inputs["synthetic"]))
        copied[REPORT] = _copy(study.public_report, partial / REPORT)
        digests = {name: digest for name, (digest, _) in copied.items()}
        sizes = {name: size for name, (_, size) in copied.items()}
        statement = state(digests, sizes, _claims(view)).to_bytes()
        (partial / STATEMENT).write_bytes(statement)
        (partial / STATEMENT_DIGEST).write_bytes(digest_line(statement))
    return study.release


def _current_view(study: Study) -> PublicView:
    """What the study can tell the public now, if its public report tells the same."""
    for name in DESCRIPTIONS:
        study.need(study.synthetic / name, "sample")
    study.need(study.verdict_file, "audit")
    study.need(study.public_report, "report")
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
        if _may_leave(name):
            copied[name] = _copy(source / name, target / name)
        digests[name] = copied[name][0] if name in copied else file_digest(source / name)
    if tree_digest(digests) != judged:
        raise StudyError(
            f"{source} is not the set that was audited: run `privsyn audit --force` and `privsyn report`"
        )
    return copied


def _may_leave(name: str) -> bool:
    """Shards and descriptions; everything else in the folder of the set stays."""
    path = PurePosixPath(name)
    return name in DESCRIPTIONS or (path.parent == PurePosixPath("data") and path.suffix == ".parquet")


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy bytes alone, without times and attributes; return their sha256 (hex) and number."""
    target.parent.mkdir(exist_ok=True)
    hasher, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(2**20):
            hasher.update(block)
            size += writer.write(block)
    return hasher.hexdigest(), size


def _claims(view: PublicView) -> dict[str, Any]:
    """The predicate's claims: what the public report shows, and nothing measured on real data."""
    return {
        "release": {
            "name": view.name,
            "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "privsynVersion": view.privsyn_version,
        },
        "set": {"synthetic": True, "images": view.images, "classes": list(view.classes)},
        "generator": {**view.provenance, "recipe_sha256": view.inputs["recipe"]},
        "privacyClaim": {**(view.claim or {"kind": "none"}), "in_words": claim_in_words(view.claim)},
        "policy": {**view.policy, "sha256": view.inputs["policy"]},
        "verdict": _verdict(view),
    }


def _verdict(view: PublicView) -> Mapping[str, Any]:
    return {
        "outcome": view.verdict,
        "partial": view.partial,
        "attempt": view.attempt,
        "rules": list(view.rules),
        "plugins": list(view.plugins),
    }
