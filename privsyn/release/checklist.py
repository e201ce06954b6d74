"""Which questions of a policy's checklist are still open, given a statement and people's answers.

Evidence in the statement can close a question. It cannot keep a person from closing it, who then says why in
a comment. A person's no always keeps a question open. Standard library only, because a recipient repeats the
check on documents that anybody may have written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from privsyn.errors import Refused
from privsyn.strict_json import Fields, JsonValue, refuse

Answer = Literal["yes", "no", "not-applicable"]
ANSWERS: tuple[Answer, ...] = get_args(Answer)

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


def evidence_answers(predicate: Mapping[str, JsonValue]) -> dict[str, EvidenceAnswer]:
    """Name of each evidence that a statement holds, and what it answers; what is not there answers nothing.

    The names are those of `privsyn.auditing.policy.EVIDENCE`, and `rule:<id>` for every rule of the verdict.

    Args:
        predicate: of a release statement, as JSON; fields of another kind count as absent.

    Raises:
        Refused: it is not an object, or its `validUntil` is not a time.
    """
    if not isinstance(predicate, Mapping):
        refuse("the predicate of a statement", "is not a JSON object")
    found = {name: read(predicate) for name, read in _READERS.items()}
    found |= dict(_rules(_mapping(predicate, "verdict").get("rules")))
    return {name: evidence for name, evidence in found.items() if evidence is not None}


@dataclass(frozen=True)
class ChecklistQuestion:
    """One item of a policy's checklist.

    Attributes:
        role: who answers, as in the trust file.
        evidence: what of the statement answers it by itself, if anything does.
        reference: the norm that asks for it.
    """

    id: str
    question: str
    role: str
    evidence: str | None
    reference: str | None

    def to_dict(self) -> dict[str, str | None]:
        return asdict(self)


@dataclass(frozen=True)
class OpenItem:
    """A question that is not answered, and why not, in one sentence."""

    item: ChecklistQuestion
    why: str


def open_items(items: object, predicate: Mapping[str, JsonValue], answers: object) -> list[OpenItem]:
    """The items that are still open, in their order.

    An item is closed by its evidence, or by somebody in its role who answers `yes` or `not-applicable`.
    A comment must go with `not-applicable`, and with a `yes` where the evidence says no. Whoever answers
    `no`, in whatever role, keeps it open.

    Args:
        items: as for `read_questions`.
        predicate: of the release statement.
        answers: id of an item to `{"answer", "comment", "role"}`, or to a list of these if several people
            answered; that they hold the role must have been checked. Other ids are ignored.

    Raises:
        Refused: items, predicate or answers have another shape; the message is one line.
    """
    evidence = evidence_answers(predicate)
    questions = read_questions(items)
    if not isinstance(answers, Mapping):
        raise Refused("the answers to a checklist are not an object by the ids of its items")
    reasons = [
        _why_open(item, evidence.get(item.evidence or ""), _given(item, answers)) for item in questions
    ]
    return [OpenItem(item, why) for item, why in zip(questions, reasons, strict=True) if why is not None]


def read_questions(items: object) -> tuple[ChecklistQuestion, ...]:
    """Read a checklist that may be hostile.

    Args:
        items: list of objects with `id`, `question`, `role` and, or null, `evidence` and `reference`.

    Raises:
        Refused: it has another shape, or an id twice.
    """
    if not isinstance(items, list | tuple):
        raise Refused("a checklist is not a list of items")
    found = tuple(_question(Fields(item, "a checklist item")) for item in items)
    if len({item.id for item in found}) != len(found):
        raise Refused("a checklist has two items of the same id")
    return found


def _question(fields: Fields) -> ChecklistQuestion:
    return ChecklistQuestion(
        id=fields.slug("id"),
        question=fields.text("question"),
        role=fields.slug("role"),
        evidence=fields.text_or_none("evidence"),
        reference=fields.text_or_none("reference"),
    )


@dataclass(frozen=True)
class _RoleAnswer:
    answer: str
    role: str
    explained: bool


def _given(item: ChecklistQuestion, answers: Mapping[str, object]) -> list[_RoleAnswer]:
    raw = answers.get(item.id, [])
    return [
        _role_answer(Fields(each, f"the answer to {item.id}"))
        for each in (raw if isinstance(raw, list | tuple) else [raw])
    ]


def _role_answer(fields: Fields) -> _RoleAnswer:
    comment = fields.text_or_none("comment") or ""
    return _RoleAnswer(fields.one_of("answer", ANSWERS), fields.slug("role"), bool(comment.strip()))


def _why_open(
    item: ChecklistQuestion, evidence: EvidenceAnswer | None, given: list[_RoleAnswer]
) -> str | None:
    refusing = [each.role for each in given if each.answer == "no"]
    if refusing:
        return f"{refusing[0]} answered no"
    if evidence is not None and evidence.answer == "yes":
        return None
    shown = "" if evidence is None else f" ({evidence.why})"
    rightful = [each for each in given if each.role == item.role]
    if not rightful:
        return f"it waits for the answer of {item.role}{shown}"
    if any(each.explained or (each.answer == "yes" and evidence is None) for each in rightful):
        return None
    return f"the answer of {item.role} needs a comment that says why{shown}"


def _mapping(document: Mapping[str, JsonValue], name: str) -> Mapping[str, JsonValue]:
    found = document.get(name)
    return found if isinstance(found, Mapping) else {}


def _judged(what: str, outcome: JsonValue) -> EvidenceAnswer | None:
    if outcome not in _OUTCOMES:
        return None
    return EvidenceAnswer("yes" if outcome == "pass" else "no", f"the outcome of {what} is {outcome}")


def _rules(rows: JsonValue) -> Iterator[tuple[str, EvidenceAnswer | None]]:
    """A rule has a row for each scope, and all of them count."""
    outcomes: dict[str, list[JsonValue]] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, Mapping) and isinstance(row.get("id"), str):
            outcomes.setdefault(row["id"], []).append(row.get("outcome"))
    for rule, found in outcomes.items():
        missed = [outcome for outcome in found if outcome != "pass"]
        yield f"rule:{rule}", _judged("its rule", missed[0] if missed else "pass")


def _verdict(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    verdict = _mapping(predicate, "verdict")
    if verdict.get("partial") is True:
        return EvidenceAnswer("no", "the verdict is on some of the policy's audits only")
    return _judged("the verdict", verdict.get("outcome"))


def _dp_claim(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    claim = _mapping(predicate, "privacyClaim")
    if claim.get("kind") == "none":
        return EvidenceAnswer("no", "the claim promises no bound")
    if claim.get("kind") != "dp":
        return None
    if claim.get("valid_for_release") is not True:
        return EvidenceAnswer("no", "the claim is not valid for a release")
    if claim.get("unit") != "patient":
        return EvidenceAnswer("no", "differential privacy is claimed for less than a patient")
    return EvidenceAnswer("yes", "differential privacy is claimed for one patient, validly for a release")


def _identifier_scan(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    return _judged("the scan for identifiers", _mapping(predicate, "identifierScan").get("outcome"))


def _scorecard(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    filled = _mapping(predicate, "scorecard")
    return EvidenceAnswer("yes", "a scorecard is in the statement") if filled else None


def _use_terms(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    terms = predicate.get("useTerms")
    written = isinstance(terms, str) and terms.strip()
    return EvidenceAnswer("yes", "terms of use are in the statement") if written else None


def _valid_until(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    until = predicate.get("validUntil")
    if until is None:
        return None
    Fields({"validUntil": until}, "the statement").time("validUntil")
    return EvidenceAnswer("yes", f"the statement is valid until {until}")


def _ledger_head(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    head = _mapping(predicate, "ledger").get("head")
    recorded = isinstance(head, str) and head
    return EvidenceAnswer("yes", "the head of the ledger is in the statement") if recorded else None


def _synthetic_marking(predicate: Mapping[str, JsonValue]) -> EvidenceAnswer | None:
    marked = _mapping(predicate, "set").get("synthetic")
    if not isinstance(marked, bool):
        return None
    if marked:
        return EvidenceAnswer("yes", "the statement marks the set as synthetic")
    return EvidenceAnswer("no", "the statement says that the set is not synthetic")


_READERS: Mapping[str, Callable[[Mapping[str, JsonValue]], EvidenceAnswer | None]] = {
    "verdict": _verdict,
    "dp-claim": _dp_claim,
    "identifier-scan": _identifier_scan,
    "scorecard": _scorecard,
    "use-terms": _use_terms,
    "valid-until": _valid_until,
    "ledger-head": _ledger_head,
    "synthetic-marking": _synthetic_marking,
}
