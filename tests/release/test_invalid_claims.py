"""A claim on which nothing may be released: statement and recipient's check say why, and only that."""

from __future__ import annotations

from typing import Any

import pytest
from drafted import CLAIM, write_audit, write_set

from privsyn.claim.document import CLASS_COUNTS, FILTERED
from privsyn.claim.words import EXACT_COUNTS
from privsyn.files import write_json
from privsyn.release.bundle import read_bundle
from privsyn.release.draft import draft
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify
from privsyn.report.html import report
from privsyn.study import Study

INSECURE = "privacy.insecure_seed is set, so the noise can be repeated"
REPEATABLE: dict[str, Any] = {**CLAIM, "valid_for_release": False, "reason": INSECURE}


def drafted(study: Study, claim: dict[str, Any], *, near_copies_rejected: bool) -> tuple[str, str]:
    """The text of the statement, and what `privsyn verify` prints."""
    write_json(study.privacy_file, claim)
    write_set(study, force=True, near_copies_rejected=near_copies_rejected)
    write_audit(study)
    report(study)
    draft(study)
    statement = read_bundle((study.release / BUNDLE).read_bytes()).statement
    return statement.to_bytes().decode(), "\n".join(verify(study.release).lines())


@pytest.mark.parametrize(
    ("claim", "near_copies_rejected", "reasons"),
    [
        (CLAIM, True, {FILTERED}),
        (REPEATABLE, False, {INSECURE}),
        (REPEATABLE, True, {INSECURE, FILTERED}),
    ],
)
def test_the_reason_of_an_invalid_claim_is_carried(
    study: Study, claim: dict[str, Any], near_copies_rejected: bool, reasons: set[str]
) -> None:
    """Statement and `privsyn verify` name each reason that applies, and no other."""
    for text in drafted(study, claim, near_copies_rejected=near_copies_rejected):
        assert {reason for reason in (INSECURE, FILTERED) if reason in text} == reasons
        assert ("insecure_seed" in text) == (INSECURE in reasons)
    assert verify(study.release).exit_code == 1


def test_the_statement_says_that_class_counts_were_declared_public(study: Study) -> None:
    """In words and among the public quantities; the claim stays valid."""
    write_json(study.privacy_file, CLAIM)
    write_set(study, force=True, class_counts="exact, declared public")
    write_audit(study)
    report(study)
    draft(study)
    statement = read_bundle((study.release / BUNDLE).read_bytes()).statement.to_bytes().decode()
    assert EXACT_COUNTS in statement
    assert CLASS_COUNTS in statement
    assert CLASS_COUNTS in (study.release / "public-report.html").read_text(encoding="utf-8")
    assert verify(study.release).exit_code == 3


def test_a_valid_claim_has_no_reason(study: Study) -> None:
    """Neither reason is named where both are absent, and the check does not fail."""
    statement, checked = drafted(study, CLAIM, near_copies_rejected=False)
    assert '"reason": ""' in statement
    assert [word for word in ("NOT VALID", "not valid") if word in statement + checked] == []
    assert verify(study.release).exit_code == 3
