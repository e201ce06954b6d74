"""Approvals of a release: signed decisions, and whether they are enough.

An approval is one person's signed decision, in one role, about the exact bytes of a statement, with the
digests of the policy and of the internal report that the person saw. Persons are counted, not keys, and each
person once. Authors of the release and the pipeline cannot approve it. The latest decision of a person in a
role counts.

Standard library and securesystemslib.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Literal, get_args

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.checklist import ANSWERS, Answer, open_items
from privsyn.release.envelope import Envelope, read_about, statement_about
from privsyn.release.manifest import Statement
from privsyn.release.trust import PIPELINE, Trust
from privsyn.strict_json import Fields, JsonObject, check_slug, refuse, spelled

APPROVAL_TYPE = "https://privsyn.org/approval/v1"
Decision = Literal["approve", "reject", "changes"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)
CLOCKS_DIFFER = timedelta(minutes=5)  # between the machines of approver and verifier


@dataclass(frozen=True)
class GivenAnswer:
    """One person's answer to one question of the checklist."""

    answer: Answer
    comment: str = ""

    def to_dict(self) -> dict[str, str]:
        return {"answer": self.answer, "comment": self.comment}


@dataclass(frozen=True)
class Waiver:
    """A request to waive a rule of the policy that did not pass, and why."""

    rule: str
    reason: str


@dataclass(frozen=True)
class Approval:
    """One well-formed decision; `tally` says whether it counts.

    Attributes:
        statement: sha256 of the statement that was decided on.
        tree: digest of the files' tree, as the statement has it.
        policy, report: sha256 of the policy and of the internal report that the person saw.
        answers: by the id of the question.
        conflict_of_interest: in the person's words; empty if none.
    """

    statement: str
    tree: str
    decision: Decision
    person: str
    role: str
    policy: str
    report: str
    answers: Mapping[str, GivenAnswer]
    waivers: tuple[Waiver, ...]
    comment: str
    conflict_of_interest: str
    decided_at: datetime
    valid_from: datetime
    valid_until: datetime

    def to_payload(self) -> bytes:
        """The bytes to sign."""
        predicate: JsonObject = {
            "decision": self.decision,
            "approver": {"id": self.person},
            "role": self.role,
            "policyDigest": self.policy,
            "reportDigest": self.report,
            "answers": {item: answer.to_dict() for item, answer in self.answers.items()},
            "waivers": [{"rule": waiver.rule, "reason": waiver.reason} for waiver in self.waivers],
            "comment": self.comment,
            "conflictOfInterest": self.conflict_of_interest,
            "decidedAt": spelled(self.decided_at),
            "validFrom": spelled(self.valid_from),
            "validUntil": spelled(self.valid_until),
        }
        subjects = {"statement": self.statement, "tree": self.tree}
        return json_text(statement_about(subjects, APPROVAL_TYPE, predicate)).encode()


@dataclass(frozen=True)
class Tally:
    """What a set of decisions amounts to.

    Attributes:
        counted: person to role, of the approvals that fill the places.
        missing: role to number of approvals that it still needs.
        not_counted: decisions that do not count, and why, in words.
        objections: decisions that block, in words.
        open_questions: items of the checklist that are not answered, in words.
        waivers: rule to (person, reason), of those that the policy allows.
        conflicts: of interest, as those who approved declared them.
        failing: blocking rules that did not pass and were not waived.
    """

    counted: Mapping[str, str]
    missing: Mapping[str, int]
    not_counted: tuple[str, ...]
    objections: tuple[str, ...]
    open_questions: tuple[str, ...]
    waivers: Mapping[str, tuple[str, str]]
    conflicts: tuple[str, ...]
    failing: tuple[str, ...]

    @property
    def reasons(self) -> list[str]:
        """Why the release is not approved; empty if it is."""
        lacking = [f"{count} approval(s) missing in the role {role}" for role, count in self.missing.items()]
        rules = [f"the rule {rule} did not pass, and has no valid waiver" for rule in self.failing]
        questions = [f"open question: {item}" for item in self.open_questions]
        because = list(self.not_counted) if lacking or rules or questions else []
        return [*self.objections, *lacking, *rules, *questions, *because]


def parse_answer(item: str, text: str) -> GivenAnswer:
    """An answer as people write it: `yes`, or with a comment as in `not-applicable: no text`.

    Raises:
        PrivsynError: it is neither yes, no nor not-applicable.
    """
    word, _, comment = text.partition(":")
    for answer in ANSWERS:
        if answer == word.strip():
            return GivenAnswer(answer, comment.strip())
    raise PrivsynError(f"the answer to {item} is not one of {', '.join(ANSWERS)}")


def read_approval(envelope: Envelope, what: str = "an approval") -> Approval:
    """Read a decision that may be hostile.

    Raises:
        Refused: it is none.
    """
    subjects, predicate = read_about(envelope.payload, APPROVAL_TYPE, what)
    known = (
        "decision", "approver", "role", "policyDigest", "reportDigest", "answers", "waivers", "comment",
        "conflictOfInterest", "decidedAt", "validFrom", "validUntil",
    )  # fmt: skip
    fields = Fields(predicate, what, known)
    about = Fields(subjects, f"the subjects of {what}", ("statement", "tree"))
    return Approval(
        statement=about.digest("statement"),
        tree=about.digest("tree"),
        decision=fields.choice("decision", DECISIONS),
        person=Fields(fields.mapping("approver"), what, ("id",)).slug("id"),
        role=fields.slug("role"),
        policy=fields.digest("policyDigest"),
        report=fields.digest("reportDigest"),
        answers=MappingProxyType(
            {
                check_slug(item, what): _given_answer(answer, what)
                for item, answer in fields.mapping("answers").items()
            }
        ),
        waivers=tuple(_waiver(each, what) for each in fields.list("waivers")),
        comment=fields.text("comment"),
        conflict_of_interest=fields.text("conflictOfInterest"),
        decided_at=fields.time("decidedAt"),
        valid_from=fields.time("validFrom"),
        valid_until=fields.time("validUntil"),
    )


def tally(
    envelopes: Sequence[Envelope],
    statement: Statement,
    authors: Iterable[str],
    trust: Trust,
    now: datetime,
    revoked: Mapping[str, str] = MappingProxyType({}),
) -> Tally:
    """Count decisions about a statement.

    Args:
        authors: persons who made the release, beside those that the statement names.
        revoked: digest to status, of approvals that were withdrawn.

    Raises:
        Refused: a decision is not by the person it names, or not about this statement and what belongs to it.
    """
    unknown = sorted(statement.authors - set(trust.persons))
    if unknown:
        refuse("the statement", f"names the author {unknown[0]}, who is not in the trust file")
    makers = {*authors, *statement.authors}
    decisions = [_bound(envelope, statement, trust) for envelope in envelopes]
    not_counted, standing = [], []
    for envelope, approval in zip(envelopes, decisions, strict=True):
        state = revoked.get(envelope.digest)
        why = f"it was {state}" if state else _why_not(approval, makers, statement, trust, now)
        if why:
            not_counted.append(f"the decision of {approval.person} as {approval.role} does not count: {why}")
        else:
            standing.append(approval)
    return _count(decisions, standing, sorted(not_counted), statement, trust)


def _count(
    decisions: Sequence[Approval],
    standing: Sequence[Approval],
    not_counted: Sequence[str],
    statement: Statement,
    trust: Trust,
) -> Tally:
    """Fill the places of the roles with the latest decisions of people, as far as these stand."""
    last, last_standing = _latest(decisions), _latest(standing)
    for_it = [
        each for key, each in last.items() if each.decision == "approve" and last_standing.get(key) is each
    ]
    against = [each for each in last_standing.values() if each.decision != "approve"]
    counted = _filled(for_it, trust)
    in_their_role = [each for each in for_it if counted.get(each.person, each.role) == each.role]
    in_another = [each for each in for_it if each not in in_their_role]
    waivers = _granted(in_their_role, statement)
    filled = Counter(counted.values())
    return Tally(
        counted=counted,
        missing={
            name: role.threshold - filled[name]
            for name, role in trust.approver_roles.items()
            if filled[name] < role.threshold
        },
        not_counted=tuple(not_counted),
        objections=tuple(f"{each.person} as {each.role} decided: {each.decision}" for each in against),
        open_questions=_unanswered(statement, in_their_role, in_another),
        waivers=waivers,
        conflicts=tuple(
            f"{each.person} declared: {each.conflict_of_interest}"
            for each in for_it
            if each.conflict_of_interest.strip()
        ),
        failing=tuple(rule for rule in statement.failing_rules if rule not in waivers),
    )


def _bound(envelope: Envelope, statement: Statement, trust: Trust) -> Approval:
    """The decision, if the person that it names signed it alone and it is about this statement."""
    approval = read_approval(envelope)
    what = f"the approval of {approval.person}"
    signers = trust.signers(envelope, what)
    if signers != {approval.person}:
        refuse(what, f"is signed by {', '.join(sorted(signers)) or 'nobody'}")
    if approval.statement != statement.digest or approval.tree != statement.tree:
        refuse(what, "is about other contents: after a change everybody must decide again")
    if approval.policy != statement.policy or approval.report != statement.report:
        refuse(what, "is about another policy or another internal report than those of the statement")
    return approval


def _why_not(approval: Approval, makers: set[str], statement: Statement, trust: Trust, now: datetime) -> str:
    person, role = trust.persons[approval.person], trust.roles.get(approval.role)
    if approval.person in trust.roles[PIPELINE].persons:
        return "the pipeline approves nothing"
    if role is None or role.id not in trust.approver_roles or approval.person not in role.persons:
        return f"{approval.person} is not in that role"
    if approval.person in makers:
        return "an author of the release cannot approve it"
    if statement.created and approval.decided_at + CLOCKS_DIFFER < statement.created:
        return "it is dated before there was anything to decide on"
    if approval.decided_at > now + CLOCKS_DIFFER or approval.valid_from > now + CLOCKS_DIFFER:
        return "it is dated in the future"
    if approval.valid_until < now:
        return f"it expired on {spelled(approval.valid_until)}"
    if not person.may_sign_at(approval.decided_at):
        return "the key was not valid then"
    return ""


def _latest(approvals: Iterable[Approval]) -> dict[tuple[str, str], Approval]:
    """The last decision of each person in each role."""
    latest: dict[tuple[str, str], Approval] = {}
    for approval in approvals:
        key = (approval.person, approval.role)
        if key not in latest or _rank(latest[key]) <= _rank(approval):
            latest[key] = approval
    return latest


def _rank(approval: Approval) -> tuple[datetime, bool]:
    """The later decision counts; of two in one second, the one that objects."""
    return approval.decided_at, approval.decision != "approve"


def _filled(approvals: Sequence[Approval], trust: Trust) -> dict[str, str]:
    """Person to role, as many places filled as possible: augmenting paths in a bipartite graph."""
    wanted: dict[str, list[str]] = {}
    for approval in sorted(approvals, key=lambda each: (each.person, each.role)):
        wanted.setdefault(approval.person, []).append(approval.role)
    places = [(name, n) for name, role in sorted(trust.approver_roles.items()) for n in range(role.threshold)]
    taken: dict[tuple[str, int], str] = {}

    def place(person: str, tried: set[tuple[str, int]]) -> bool:
        for spot in places:
            if spot[0] in wanted[person] and spot not in tried:
                tried.add(spot)
                if spot not in taken or place(taken[spot], tried):
                    taken[spot] = person
                    return True
        return False

    for person in wanted:
        place(person, set())
    return {person: role for (role, _), person in sorted(taken.items())}


def _granted(approvals: Sequence[Approval], statement: Statement) -> dict[str, tuple[str, str]]:
    granted = {}
    for approval in approvals:
        for waiver in approval.waivers:
            if approval.role in statement.waivable.get(waiver.rule, ()) and waiver.reason.strip():
                granted[waiver.rule] = (approval.person, waiver.reason)
    return granted


def _unanswered(
    statement: Statement, in_their_role: Sequence[Approval], in_another: Sequence[Approval]
) -> tuple[str, ...]:
    """A no counts in whatever role; a yes in the role in which the person is counted."""
    answers: dict[str, list[dict[str, str]]] = {}
    for approval in (*in_their_role, *in_another):
        for item, answer in approval.answers.items():
            if approval in in_their_role or answer.answer == "no":
                answers.setdefault(item, []).append({**answer.to_dict(), "role": approval.role})
    left = open_items(statement.predicate.get("checklist"), statement.predicate, answers)
    return tuple(f"{each.item.id}: {each.why}" for each in left)


def _given_answer(document: object, what: str) -> GivenAnswer:
    fields = Fields(document, f"an answer of {what}", ("answer", "comment"))
    return GivenAnswer(fields.choice("answer", ANSWERS), fields.text("comment"))


def _waiver(document: object, what: str) -> Waiver:
    fields = Fields(document, f"a waiver of {what}", ("rule", "reason"))
    return Waiver(fields.text("rule", longest=200), fields.text("reason"))
