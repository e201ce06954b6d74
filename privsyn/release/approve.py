"""Sign a decision about a draft with one's own key, and show where its approvals stand.

Decisions lie in `approvals/` of the study, one file each, or are carried there from the machine where they
were signed. They are shown once every role has decided, so that people decide independently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from securesystemslib.signer import Signer

from privsyn.auditing.policy import load_policy
from privsyn.errors import PrivsynError, Refused, StudyError
from privsyn.files import file_digest, whole_file
from privsyn.release.approvals import (
    CLOCKS_DIFFER,
    Approval,
    Decision,
    GivenAnswer,
    Tally,
    Waiver,
    read_approval,
    tally,
)
from privsyn.release.bundle import Bundle, read_bundle
from privsyn.release.checklist import ChecklistQuestion, open_items
from privsyn.release.envelope import IN_TOTO, Envelope, read_envelope
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.trust import Trust
from privsyn.release.verify import verify
from privsyn.strict_json import now_or, read_file
from privsyn.study import Study, as_study

APPROVAL_DAYS = 180
_DIFFERENCES = ("changed", "missing", "extra", "problem")


@dataclass(frozen=True)
class Standing:
    """Where the approvals of a draft stand.

    Attributes:
        tally: what they amount to.
        decided: role to number of persons who decided, whatever they decided.
        complete: every role has its decisions; until then they are not shown.
    """

    tally: Tally
    decided: Mapping[str, int]
    complete: bool


@dataclass(frozen=True)
class ApprovalRequest:
    """What a person wants to sign about a draft.

    Attributes:
        role: one of the approvers' roles that the person has.
        answers: by the id of the question; for the role's own questions.
        waivers: rules to be passed over; the policy must let the role do so.
        comment: required with any decision but `approve`.
        conflict_of_interest: in the person's words; empty if none.
        valid_days: how long the decision counts.
    """

    role: str
    decision: Decision = "approve"
    answers: Mapping[str, GivenAnswer] = field(default_factory=dict)
    waivers: tuple[Waiver, ...] = ()
    comment: str = ""
    conflict_of_interest: str = ""
    valid_days: int = APPROVAL_DAYS


def approve(
    study: Study | Path | str,
    request: ApprovalRequest,
    *,
    signer: Signer,
    trust: Trust,
    out: Path | None = None,
) -> Path:
    """Sign a decision about the study's draft as it lies there.

    Args:
        signer: the person's own key; who it is follows from the trust file.
        out: where to write it, to be carried to the study; by default, into the study.

    Returns:
        The file.

    Raises:
        Refused: the draft is not whole, or the person may not decide this in this role.
        PrivsynError: a comment or reason is missing, or an answer is to no question of the role.
    """
    study = as_study(study)
    bundle = current_draft(study)
    person = _person(signer, trust)
    now = _after_earlier(study, bundle.statement, person, trust)
    _check_may(person, request.role, trust, bundle)
    _check_request(request, bundle.statement)
    _check_report(study, bundle.statement)
    approval = _approval(request, person, bundle.statement, now)
    envelope = Envelope(approval.to_payload(), IN_TOTO).signed(signer)
    read_approval(envelope)  # what is written can be read
    if out is not None and out.exists():
        raise PrivsynError(f"{out} already exists: choose another place")
    name = f"{approval.statement[:12]}-{person}-{request.role}-{envelope.digest[:8]}.json"
    file = out or study.approvals / name
    with whole_file(file, aside=None if out else study.root) as partial:
        partial.write_bytes(envelope.line)
    return file


def _approval(request: ApprovalRequest, person: str, statement: Statement, now: datetime) -> Approval:
    return Approval(
        statement=statement.digest,
        tree=statement.tree,
        decision=request.decision,
        person=person,
        role=request.role,
        policy=statement.policy,
        report=statement.report,
        answers=request.answers,
        waivers=request.waivers,
        comment=request.comment,
        conflict_of_interest=request.conflict_of_interest,
        decided_at=now,
        valid_from=now,
        valid_until=now + timedelta(days=request.valid_days),
    )


def current_draft(study: Study) -> Bundle:
    """The study's draft, which must be whole and signed by the pipeline.

    Raises:
        StudyError: there is none.
        Refused: its bytes are not those stated, or it is not signed.
    """
    if not (study.release / BUNDLE).is_file():
        raise StudyError(f"{study.root} has no draft of a release: run `privsyn release draft` first")
    raw = (study.release / BUNDLE).read_bytes()
    found = verify(study.release)
    if found.outcome == "fail" or raw != (study.release / BUNDLE).read_bytes():
        wrong = [line for line in found.lines() if "REFUSED" in line or line.split(":")[0] in _DIFFERENCES]
        raise Refused(
            f"{study.release} is not as it was drafted ({wrong[0] if wrong else 'changed'}): draft again"
        )
    bundle = read_bundle(raw)
    if bundle.gate is None or not bundle.envelope.signatures:
        raise Refused(
            f"{study.release} is not signed by the pipeline: run `privsyn release draft --key KEY --force`"
        )
    _check_policy(study, bundle.statement)
    return bundle


def _check_policy(study: Study, statement: Statement) -> None:
    """See that the statement carries the policy that lies there to be read: digest, questions, waivers."""
    policy = load_policy(study.policy_file)
    waivable = {rule.id: frozenset(rule.waivable_by) for rule in policy.rules}
    items = [item.model_dump(mode="json") for item in policy.checklist]
    same = items == statement.predicate.get("checklist")
    if policy.digest != statement.policy or not same or waivable != dict(statement.waivable):
        raise Refused(
            f"{study.policy_file} is not the policy of the draft: audit again with it, and draft again"
        )


def collected(study: Study, statement: Statement, files: Sequence[Path] = ()) -> list[Envelope]:
    """Every decision about this statement, in the study and in files besides, each once.

    Raises:
        Refused: a file holds no decision.
    """
    there = sorted(study.approvals.glob("[!.]*.json")) if study.approvals.is_dir() else []
    found: dict[str, Envelope] = {}
    for file in [*there, *files]:
        envelope = read_envelope(read_file(file), IN_TOTO, str(file))
        if read_approval(envelope, str(file)).statement == statement.digest:
            found[envelope.digest] = envelope
        elif file in files:
            raise Refused(f"{file} is about other contents: after a change everybody must decide again")
    return [found[digest] for digest in sorted(found)]


def standing(study: Study | Path | str, trust: Trust, *, now: datetime | None = None) -> Standing:
    """Where the approvals of the study's draft stand."""
    study = as_study(study)
    bundle = current_draft(study)
    envelopes = collected(study, bundle.statement)
    makers = trust.signers(bundle.envelope, "the statement")
    counted = tally(envelopes, bundle.statement, makers, trust, now_or(now))
    decided: dict[str, set[str]] = {role: set() for role in trust.approver_roles}
    for envelope in envelopes:
        approval = read_approval(envelope)
        if approval.role in trust.approver_roles and approval.person in trust.roles[approval.role].persons:
            decided[approval.role].add(approval.person)
    complete = all(len(decided[name]) >= role.threshold for name, role in trust.approver_roles.items())
    return Standing(counted, {name: len(people) for name, people in decided.items()}, complete)


def questions(study: Study | Path | str) -> list[tuple[ChecklistQuestion, str]]:
    """Each question of the checklist with why it waits for a person; "" if evidence answers it.

    What others answered is left out, so that people answer independently.
    """
    statement = current_draft(as_study(study)).statement
    left = open_items(statement.predicate.get("checklist"), statement.predicate, {})
    why = {each.item.id: each.why for each in left}
    return [(question, why.get(question.id, "")) for question in statement.checklist]


def _after_earlier(study: Study, statement: Statement, person: str, trust: Trust) -> datetime:
    """Now, or a second after the person's latest decision: a later one takes the place of an earlier."""
    now = now_or(None)
    mine = [
        read_approval(envelope).decided_at + timedelta(seconds=1)
        for envelope in collected(study, statement)
        if envelope.signatures and trust.signers(envelope, "an approval") == {person}
    ]
    return max([now, *(moment for moment in mine if moment <= now + CLOCKS_DIFFER)])


def _person(signer: Signer, trust: Trust) -> str:
    for person in trust.persons.values():
        if person.key.keyid == signer.public_key.keyid:
            return person.id
    raise Refused(
        f"the trust file of {trust.id} has no person with this key ({signer.public_key.keyid[:12]})"
    )


def _check_may(person: str, role: str, trust: Trust, bundle: Bundle) -> None:
    if role not in trust.approver_roles or person not in trust.roles[role].persons:
        mine = [name for name, each in trust.approver_roles.items() if person in each.persons]
        raise Refused(f"{person} is not in the role {role}; may approve as: {', '.join(mine) or 'nothing'}")
    if person in bundle.statement.authors | trust.signers(bundle.envelope, "the statement"):
        raise Refused(f"{person} made the release, and an author cannot approve it")


def _check_request(request: ApprovalRequest, statement: Statement) -> None:
    if request.decision != "approve" and not request.comment.strip():
        raise PrivsynError(f"--decision {request.decision} needs a --comment that says why")
    mine = {question.id for question in statement.checklist if question.role == request.role}
    foreign = sorted(set(request.answers) - mine)
    if foreign:
        listed = ", ".join(sorted(mine))
        raise PrivsynError(
            f"{foreign[0]!r} is not a question for the role {request.role}; these are: {listed}"
        )
    for waiver in request.waivers:
        _check_waiver(waiver, request.role, statement)


def _check_waiver(waiver: Waiver, role: str, statement: Statement) -> None:
    if waiver.rule not in statement.failing_rules:
        raise PrivsynError(f"the rule {waiver.rule!r} needs no waiver: it does not stand in the way")
    allowed = statement.waivable.get(waiver.rule, frozenset())
    if role not in allowed:
        who = ", ".join(sorted(allowed)) or "nobody"
        raise Refused(f"the policy lets {who} waive {waiver.rule}, not the role {role}")
    if not waiver.reason.strip():
        raise PrivsynError(f"a waiver of {waiver.rule} needs a reason: --waive {waiver.rule}=WHY")


def _check_report(study: Study, statement: Statement) -> None:
    """See that the internal report that lies there to be read is that of the statement."""
    page = study.need(study.internal_report, "report")
    if file_digest(page) != statement.report:
        raise Refused(
            f"{page} is not the report that the draft was made with: run `privsyn release draft --force`"
        )
