"""The checklist: what evidence answers, who may close a question, and hostile documents."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest

from privsyn.auditing.policy import EVIDENCE, load_policy
from privsyn.errors import Refused
from privsyn.recipe import shipped
from privsyn.release.checklist import evidence_answers, open_items

PREDICATE: dict[str, Any] = {
    "set": {"synthetic": True, "images": 20, "classes": ["a", "b"]},
    "privacyClaim": {"kind": "dp", "unit": "patient", "valid_for_release": True},
    "verdict": {"outcome": "pass", "partial": False, "rules": [{"id": "r", "outcome": "pass"}]},
    "identifierScan": {"outcome": "pass"},
    "scorecard": {"congruence": "as measured"},
    "useTerms": "For research. Not for diagnosis.",
    "validUntil": "2027-11-26T00:00:00Z",
    "ledger": {"population": "p", "entry": 3, "head": "ab" * 32},
    "waivers": [],
}
OFFICER = "privacy-officer"


def item(**changes: Any) -> dict[str, Any]:
    known = {"id": "q", "question": "Is it so?", "role": OFFICER, "evidence": None, "reference": "a norm"}
    return {**known, **changes}


def answer(given: str, comment: str | None = None, role: str = OFFICER) -> dict[str, Any]:
    return {"answer": given, "comment": comment, "role": role}


def why(asked: dict[str, Any], given: Any = None, predicate: dict[str, Any] = PREDICATE) -> str | None:
    """Why one item is open, or `None` if it is closed."""
    found = open_items([asked], predicate, {} if given is None else {"q": given})
    return found[0].why if found else None


def test_a_full_statement_answers_all_evidence_that_a_policy_can_name() -> None:
    """Both modules know the same names, and every answer comes with a reason."""
    answers = evidence_answers(MappingProxyType(PREDICATE))
    assert set(answers) == {*EVIDENCE, "rule:r"}
    assert {each.answer for each in answers.values()} == {"yes"}
    assert all(each.why for each in answers.values())


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("verdict", {"verdict": {"outcome": "fail"}}),
        ("verdict", {"verdict": {"outcome": "inconclusive"}}),
        ("verdict", {"verdict": {"outcome": "pass", "partial": True}}),
        ("dp-claim", {"privacyClaim": {"kind": "none"}}),
        ("dp-claim", {"privacyClaim": {"kind": "dp", "valid_for_release": False}}),
        ("dp-claim", {"privacyClaim": {"kind": "dp"}}),
        ("rule:r", {"verdict": {"rules": [{"id": "r", "outcome": "accepted"}]}}),
        ("rule:r", {"verdict": {"rules": [{"id": "r", "outcome": o} for o in ("pass", "fail", "pass")]}}),
        ("identifier-scan", {"identifierScan": {"outcome": "fail"}}),
        ("synthetic-marking", {"set": {"synthetic": False}}),
    ],
)
def test_what_the_statement_contradicts_is_answered_with_no(name: str, changes: dict[str, Any]) -> None:
    """Only a pass is a pass, in every scope of a rule, and only a claim marked as valid is one."""
    assert evidence_answers({**PREDICATE, **changes})[name].answer == "no"


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("verdict", {"verdict": None}),
        ("verdict", {"verdict": {"outcome": ["pass"]}}),
        ("dp-claim", {"privacyClaim": {"kind": ["dp"]}}),
        ("rule:r", {"verdict": {"outcome": "pass", "rules": "r"}}),
        ("rule:r", {"verdict": {"rules": [None, {"id": ["r"], "outcome": "pass"}]}}),
        ("rule:r", {"verdict": {"rules": [{"id": "r", "outcome": "pass"}, {"id": "r", "outcome": 1}]}}),
        ("identifier-scan", {"identifierScan": "not performed"}),
        ("scorecard", {"scorecard": "not performed"}),
        ("scorecard", {"scorecard": {}}),
        ("use-terms", {"useTerms": None}),
        ("use-terms", {"useTerms": " \n"}),
        ("valid-until", {"validUntil": None}),
        ("ledger-head", {"ledger": None}),
        ("ledger-head", {"ledger": {"head": 1}}),
        ("synthetic-marking", {"set": {"synthetic": "yes"}}),
    ],
)
def test_what_the_statement_does_not_say_answers_nothing(name: str, changes: dict[str, Any]) -> None:
    """What was not done, or is of another kind, leaves the question to people."""
    assert name not in evidence_answers({**PREDICATE, **changes})


def test_a_bare_statement_answers_nothing() -> None:
    """Keys that a statement lacks are no evidence."""
    assert evidence_answers({}) == {}


@pytest.mark.parametrize("until", ["next year", "2027-11-26", 2027, "2027-02-30T00:00:00Z"])
def test_a_date_that_is_none_is_refused(until: Any) -> None:
    """An approval must not end on a date that cannot be compared with today."""
    with pytest.raises(Refused, match="validUntil"):
        evidence_answers({**PREDICATE, "validUntil": until})


def test_evidence_closes_a_question_by_itself() -> None:
    """With the evidence no answer is needed; without it one is."""
    assert why(item(evidence="verdict")) is None
    assert why(item()) == "it waits for the answer of privacy-officer"
    assert why(item(evidence="use-terms"), predicate={}) == "it waits for the answer of privacy-officer"


def test_yes_from_the_role_closes_a_question() -> None:
    """A yes counts only from a person in the role."""
    assert why(item(), answer("yes")) is None
    assert why(item(), answer("yes", role="data-custodian")) == "it waits for the answer of privacy-officer"


@pytest.mark.parametrize(("comment", "closes"), [("seen", True), (None, False), ("", False), (" ", False)])
def test_not_applicable_needs_a_comment(comment: str | None, closes: bool) -> None:
    """Whoever sets a question aside says why."""
    assert (why(item(), answer("not-applicable", comment)) is None) == closes


def test_no_keeps_a_question_open_whatever_else_is_said() -> None:
    """Over evidence, over the yes of another person, and from any role."""
    assert why(item(evidence="verdict"), answer("no")) == "privacy-officer answered no"
    assert why(item(), [answer("yes"), answer("no", role="clinical-lead")]) == "clinical-lead answered no"


def test_yes_against_the_evidence_needs_a_comment() -> None:
    """A person may know better than the statement, and then says what."""
    failed = {"identifierScan": {"outcome": "fail"}}
    asked = item(evidence="identifier-scan")
    assert "the outcome of the scan for identifiers is fail" in str(why(asked, None, failed))
    assert "needs a comment" in str(why(asked, answer("yes"), failed))
    assert why(asked, answer("yes", "the two finds are side markers"), failed) is None


def test_open_items_come_as_they_are_and_in_order() -> None:
    """A reader can show them: every key of an item, and why it is open."""
    items = [item(id="b"), item(id="a", evidence="verdict"), item(id="c")]
    found = open_items(items, PREDICATE, {"elsewhere": answer("yes")})
    assert [each.item.id for each in found] == ["b", "c"]
    assert found[0].item.to_dict() == items[0]


@pytest.mark.parametrize("name", sorted(shipped("policies")))
def test_shipped_checklists_can_be_closed_and_nothing_closes_them_unasked(name: str) -> None:
    """Every role's yes closes a shipped list; evidence alone never does."""
    items = load_policy(shipped("policies")[name]).model_dump(mode="json")["checklist"]
    answers = {each["id"]: answer("yes", "seen", role=each["role"]) for each in items}
    assert open_items(items, {}, answers) == []
    left = open_items(items, PREDICATE, {})
    assert {each.item.role for each in left} == {"data-custodian", OFFICER, "clinical-lead"}


@pytest.mark.parametrize(
    ("items", "answers"),
    [
        (None, {}),
        ("q", {}),
        ({"id": "q"}, {}),
        ([None], {}),
        ([[]], {}),
        ([{}], {}),
        ([item(id=3)], {}),
        ([item(id="q\x1b[2J")], {}),
        ([item(id=["q"])], {}),
        ([item(question=None)], {}),
        ([item(role={})], {}),
        ([item(evidence=["verdict"])], {}),
        ([item(), item()], {}),
        ([item()], None),
        ([item()], [answer("yes")]),
        ([item()], {"q": "yes"}),
        ([item()], {"q": None}),
        ([item()], {"q": [None]}),
        ([item()], {"q": {}}),
        ([item()], {"q": answer("maybe")}),
        ([item()], {"q": answer(["yes"])}),  # type: ignore[arg-type]
        ([item()], {"q": answer("yes", comment=1)}),  # type: ignore[arg-type]
        ([item()], {"q": answer("yes", role="\n")}),
    ],
)
def test_hostile_documents_are_refused_in_one_line(items: Any, answers: Any) -> None:
    """Whatever their shape, nothing crashes and nothing unprintable is repeated."""
    with pytest.raises(Refused) as refusal:
        open_items(items, PREDICATE, answers)
    assert str(refusal.value).isprintable()


def test_a_predicate_that_is_no_object_is_refused() -> None:
    """As anything else that is not a statement."""
    with pytest.raises(Refused, match="not a JSON object"):
        open_items([item()], [], {})  # type: ignore[arg-type]
