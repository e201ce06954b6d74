"""The checklist of a policy, held against a statement and people's answers: which questions are still open.

Evidence in the statement can close a question, never forbid that a person closes it: what the numbers do not
show, somebody may know, and then says in a comment. A person's no always keeps a question open. Standard
library only, because a recipient asks the same questions again of documents that anybody may have written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from privsyn.errors import Refused
from privsyn.strict_json import Fields, refuse

Answer = Literal["yes", "no", "not-applicable"]

_OUTCOMES = ("pass", "fail", "inconclusive", "accepted")


@dataclass(frozen=True)
class EvidenceAnswer:
    """What a statement itself says to a question.

    Attributes:
        answer: `no` does not settle the question: a person who knows better says yes, and why.
        why: one sentence.
    """

    answer: Literal["yes", "no"]
    why: str


def evidence_answers(predicate: Mapping[str, Any]) -> dict[str, EvidenceAnswer]:
    """Name of each evidence that a statement holds, and what it answers; what is not there answers nothing.

    The names are those of `privsyn.auditing.policy.EVIDENCE`, and `rule:<id>` for every rule of the verdict.

    Args:
        predicate: of a release statement, as JSON; fields of another kind count as absent.

    Raises:
        Refused: it is no object, or its `validUntil` is no time.
    """
    if not isinstance(predicate, Mapping):
        refuse("the predicate of a statement", "is not a JSON object")
    found = {name: read(predicate) for name, read in _READERS.items()}
    found |= dict(_rules(_mapping(predicate, "verdict").get("rules")))
    return {name: evidence for name, evidence in found.items() if evidence is not None}


def open_items(items: Any, predicate: Mapping[str, Any], answers: Any) -> list[dict[str, Any]]:
    """The items that are still open, in their order, each with a further key `why` (one sentence).

    An item is closed by its evidence, or by somebody in its role who answers `yes` or `not-applicable`.
    A comment must go with `not-applicable`, and with a `yes` where the evidence says no. Whoever answers
    `no`, in whatever role, keeps it open.

    Args:
        items: list of objects with `id`, `question`, `role` and, or null, `evidence`, as a policy has them.
        predicate: of the release statement.
        answers: id of an item to `{"answer", "comment", "role"}`, or to a list of these if several people
            answered; that they hold the role must have been checked. Other ids are ignored.

    Raises:
        Refused: items, predicate or answers have another shape; the message is one line.
    """
    evidence = evidence_answers(predicate)
    if not isinstance(items, list | tuple) or not isinstance(answers, Mapping):
        raise Refused("a checklist is a list of items, and its answers are an object by their ids")
    checked = [_item(item) for item in items]
    if len({item["id"] for item in checked}) != len(checked):
        raise Refused("a checklist has two items of the same id")
    reasons = [_why_open(item, evidence.get(item["evidence"]), _given(item, answers)) for item in checked]
    return [{**item, "why": why} for item, why in zip(checked, reasons, strict=True) if why is not None]


def _item(item: Any) -> dict[str, Any]:
    fields = Fields(item, "a checklist item")
    named = fields.text("evidence") if item.get("evidence") is not None else None
    return {
        **item,
        "id": fields.slug("id"),
        "question": fields.text("question"),
        "role": fields.slug("role"),
        "evidence": named,
    }


@dataclass(frozen=True)
class _RoleAnswer:
    answer: str
    role: str
    explained: bool


def _given(item: Mapping[str, Any], answers: Mapping[str, Any]) -> list[_RoleAnswer]:
    raw = answers.get(item["id"], [])
    return [_one_given(each, item["id"]) for each in (raw if isinstance(raw, list | tuple) else [raw])]


def _one_given(raw: Any, item: str) -> _RoleAnswer:
    fields = Fields(raw, f"the answer to {item}")
    comment = fields.text("comment") if raw.get("comment") is not None else ""
    return _RoleAnswer(fields.one_of("answer", get_args(Answer)), fields.slug("role"), bool(comment.strip()))


def _why_open(
    item: Mapping[str, Any], evidence: EvidenceAnswer | None, given: list[_RoleAnswer]
) -> str | None:
    refusing = [each.role for each in given if each.answer == "no"]
    if refusing:
        return f"{refusing[0]} answered no"
    if evidence is not None and evidence.answer == "yes":
        return None
    shown = "" if evidence is None else f" ({evidence.why})"
    rightful = [each for each in given if each.role == item["role"]]
    if not rightful:
        return f"it waits for the answer of {item['role']}{shown}"
    if any(each.explained or (each.answer == "yes" and evidence is None) for each in rightful):
        return None
    return f"the answer of {item['role']} needs a comment that says why{shown}"


def _mapping(document: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _judged(what: str, outcome: Any) -> EvidenceAnswer | None:
    if outcome not in _OUTCOMES:
        return None
    return EvidenceAnswer("yes" if outcome == "pass" else "no", f"the outcome of {what} is {outcome}")


def _rules(rows: Any) -> Iterator[tuple[str, EvidenceAnswer | None]]:
    """A rule has a row for each scope, and all of them count."""
    outcomes: dict[str, list[Any]] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and isinstance(row.get("id"), str):
            outcomes.setdefault(row["id"], []).append(row.get("outcome"))
    for rule, found in outcomes.items():
        missed = [outcome for outcome in found if outcome != "pass"]
        yield f"rule:{rule}", _judged("its rule", missed[0] if missed else "pass")


def _verdict(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    verdict = _mapping(predicate, "verdict")
    if verdict.get("partial") is True:
        return EvidenceAnswer("no", "the verdict is on some of the policy's audits only")
    return _judged("the verdict", verdict.get("outcome"))


def _dp_claim(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    claim = _mapping(predicate, "privacyClaim")
    if claim.get("kind") == "none":
        return EvidenceAnswer("no", "the claim promises no bound")
    if claim.get("kind") != "dp":
        return None
    if claim.get("valid_for_release") is not True:
        return EvidenceAnswer("no", "the claim is not valid for a release")
    unit = "patient" if claim.get("unit") == "patient" else "image"
    return EvidenceAnswer("yes", f"differential privacy is claimed for one {unit}, validly for a release")


def _identifier_scan(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    return _judged("the scan for identifiers", _mapping(predicate, "identifierScan").get("outcome"))


def _scorecard(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    filled = _mapping(predicate, "scorecard")
    return EvidenceAnswer("yes", "a scorecard is in the statement") if filled else None


def _use_terms(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    terms = predicate.get("useTerms")
    written = isinstance(terms, str) and terms.strip()
    return EvidenceAnswer("yes", "terms of use are in the statement") if written else None


def _valid_until(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    until = predicate.get("validUntil")
    if until is None:
        return None
    Fields({"validUntil": until}, "the statement").time("validUntil")
    return EvidenceAnswer("yes", f"the statement is valid until {until}")


def _ledger_head(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    head = _mapping(predicate, "ledger").get("head")
    recorded = isinstance(head, str) and head
    return EvidenceAnswer("yes", "the head of the ledger is in the statement") if recorded else None


def _synthetic_marking(predicate: Mapping[str, Any]) -> EvidenceAnswer | None:
    marked = _mapping(predicate, "set").get("synthetic")
    if not isinstance(marked, bool):
        return None
    if marked:
        return EvidenceAnswer("yes", "the statement marks the set as synthetic")
    return EvidenceAnswer("no", "the statement says that the set is not synthetic")


_READERS: Mapping[str, Callable[[Mapping[str, Any]], EvidenceAnswer | None]] = {
    "verdict": _verdict,
    "dp-claim": _dp_claim,
    "identifier-scan": _identifier_scan,
    "scorecard": _scorecard,
    "use-terms": _use_terms,
    "valid-until": _valid_until,
    "ledger-head": _ledger_head,
    "synthetic-marking": _synthetic_marking,
}
