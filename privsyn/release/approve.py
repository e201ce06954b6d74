"""One person's decision about a draft, signed with that person's own key.

Decisions lie in `approvals/` of the study, one file each, or are carried there from the machine where they
were signed. What others decided is shown only once every role has its decisions, so that nobody follows
another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType

from securesystemslib.signer import Signer

from privsyn.auditing.policy import load_policy
from privsyn.errors import PrivsynError, Refused, StudyError
from privsyn.files import file_digest, whole_file
from privsyn.release.approvals import (
    ANSWERS,
    CLOCKS_DIFFER,
    Approval,
    Decision,
    Tally,
    Waiver,
    read_approval,
    tally,
)
from privsyn.release.bundle import Bundle, read_bundle
from privsyn.release.checklist import open_items
from privsyn.release.envelope import IN_TOTO, Envelope, read_envelope
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.trust import Trust
from privsyn.release.verify import verify
from privsyn.strict_json import now_or, read_file
from privsyn.study import Study, as_study

VALID_DAYS = 180
_DIFFERENCES = ("changed", "missing", "extra", "problem")


@dataclass(frozen=True)
class Standing:
    """Where the approvals of a draft stand.

    Attributes:
        tally: what they amount to.
        decided: role to number of persons who decided, whatever they decided.
        complete: every place has a decision; until then nobody is shown what others decided.
    """

    tally: Tally
    decided: Mapping[str, int]
    complete: bool


def approve(
    study: Study | Path | str,
    *,
    signer: Signer,
    trust: Trust,
    role: str,
    decision: Decision = "approve",
    answers: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    waivers: Sequence[Waiver] = (),
    comment: str = "",
    conflict_of_interest: str = "",
    valid_days: int = VALID_DAYS,
    out: Path | None = None,
) -> Path:
    """Decide about the study's draft as it lies there.

    Args:
        signer: the person's own key; who it is follows from the trust file.
        role: one of the approvers' roles that the person has.
        answers: checklist item to `{"answer", "comment"}`; for the role's own questions.
        waivers: rules to be passed over; the policy must let the role do so.
        comment: wanted with any decision but `approve`.
        valid_days: for so long the decision is to count.
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
    statement = bundle.statement
    now = _after_earlier(study, statement, person, trust)
    _check_may(person, role, trust, statement, bundle)
    if decision != "approve" and not comment.strip():
        raise PrivsynError(f"--decision {decision} needs a --comment that says why")
    _check_answers(statement, role, answers)
    _check_waivers(statement, role, waivers)
    approval = Approval(
        statement=statement.digest,
        tree=statement.tree,
        decision=decision,
        person=person,
        role=role,
        policy=statement.policy,
        report=_report_seen(study, statement),
        answers=MappingProxyType(dict(answers)),
        waivers=tuple(waivers),
        comment=comment,
        conflict_of_interest=conflict_of_interest,
        decided_at=now,
        valid_from=now,
        valid_until=now + timedelta(days=valid_days),
    )
    envelope = Envelope(approval.to_payload(), IN_TOTO).signed(signer)
    read_approval(envelope)  # what is written can be read
    if out is not None and out.exists():
        raise PrivsynError(f"{out} already exists: choose another place")
    file = out or study.approvals / f"{statement.digest[:12]}-{person}-{role}-{envelope.digest[:8]}.json"
    with whole_file(file, aside=None if out else study.root) as partial:
        partial.write_bytes(envelope.line)
    return file


def current_draft(study: Study) -> Bundle:
    """The study's draft, which must be whole and signed by the pipeline.

    Raises:
        StudyError: there is none.
        Refused: its bytes are not those stated, or nobody signed it.
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
    same = [item.model_dump(mode="json") for item in policy.checklist] == statement.checklist
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
            raise Refused(f"{file} is about other contents: whatever changed, everybody decides anew")
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


def questions(study: Study | Path | str) -> list[tuple[dict[str, str], str]]:
    """Each item of the checklist with why it waits for a person; "" if evidence closes it.

    What others answered is left out, so that nobody follows another.
    """
    statement = current_draft(as_study(study)).statement
    left = {item["id"]: str(item["why"]) for item in open_items(statement.checklist, statement.predicate, {})}
    return [(item, left.get(item["id"], "")) for item in statement.checklist]


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
    raise Refused(f"the trust file of {trust.id} knows nobody with this key ({signer.public_key.keyid[:12]})")


def _check_may(person: str, role: str, trust: Trust, statement: Statement, bundle: Bundle) -> None:
    if role not in trust.approver_roles or person not in trust.roles[role].persons:
        mine = [name for name, each in trust.approver_roles.items() if person in each.persons]
        raise Refused(f"{person} is not in the role {role}; may approve as: {', '.join(mine) or 'nothing'}")
    if person in statement.authors | trust.signers(bundle.envelope, "the statement"):
        raise Refused(f"{person} made the release, and whoever made it does not approve it")


def _check_answers(statement: Statement, role: str, answers: Mapping[str, Mapping[str, str]]) -> None:
    mine = {item["id"] for item in statement.checklist if item["role"] == role}
    for item, given in answers.items():
        if given.get("answer") not in ANSWERS:
            raise PrivsynError(f"the answer to {item} is not one of {', '.join(ANSWERS)}")
    foreign = sorted(set(answers) - mine)
    if foreign:
        raise PrivsynError(
            f"{foreign[0]!r} is no question for the role {role}; these are: {', '.join(sorted(mine))}"
        )


def _check_waivers(statement: Statement, role: str, waivers: Sequence[Waiver]) -> None:
    for waiver in waivers:
        if waiver.rule not in statement.failing_rules:
            raise PrivsynError(f"the rule {waiver.rule!r} needs no waiver: it does not stand in the way")
        if role not in statement.waivable.get(waiver.rule, ()):
            who = ", ".join(sorted(statement.waivable.get(waiver.rule, ()))) or "nobody"
            raise Refused(f"the policy lets {who} waive {waiver.rule}, not the role {role}")
        if not waiver.reason.strip():
            raise PrivsynError(f"a waiver of {waiver.rule} needs a reason: --waive {waiver.rule}=WHY")


def _report_seen(study: Study, statement: Statement) -> str:
    page = study.need(study.internal_report, "report")
    if file_digest(page) != statement.report:
        raise Refused(
            f"{page} is not the report that the draft was made with: run `privsyn release draft --force`"
        )
    return statement.report
