"""The policy, the data steward's file: which findings block a release, and the checklist that people answer.

It is not part of the recipe. How the checklist is answered is in `privsyn.release.checklist`.

Order of outcomes: fail over inconclusive over pass. A leak that was found fails even if a control of the
audit failed; an audit that could not have detected a leak never passes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from privsyn.auditing.findings import MARGIN, Finding
from privsyn.auditing.verdict import RuleOutcome, RuleResult, Severity, Side, VerdictOutcome
from privsyn.features.networks import Network
from privsyn.files import json_digest
from privsyn.recipe import Section, Slug, nearest, parse, read_toml

# Evidence that answers a checklist item without a person, besides `rule:<id>`; see privsyn.release.checklist.
EVIDENCE = (
    "verdict", "dp-claim", "identifier-scan", "scorecard", "use-terms", "valid-until", "ledger-head",
    "synthetic-marking",
)  # fmt: skip

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
}


class Rule(Section):
    """A requirement on one statistic; every scope of the statistic must meet it."""

    id: str = Field(min_length=1)
    severity: Severity = "block"
    audit: str = Field(description="name of the audit, as its entry point is called")
    statistic: str
    side: Side = Field("value", description="what is judged: the point estimate, or a bound of its interval")
    op: Literal["<=", "<", ">=", ">"]
    threshold: float
    rationale: str = Field(min_length=1, description="where the threshold comes from")
    not_applicable: Literal["fail", "accept"] = Field(
        "fail", description="outcome when the evidence cannot exist, such as a set without a model"
    )
    waivable_by: tuple[Slug, ...] = Field(
        (), description="roles that may waive this rule with a reason; none when absent"
    )


class ChecklistItem(Section):
    """A question that must be answered before a release, by evidence or by a person in a role."""

    id: Slug
    question: str = Field(min_length=1, description="to be answered with yes, no or not applicable")
    role: Slug = Field(description="who answers, as in the trust file")
    evidence: str | None = Field(
        None, description="the part of the release statement that answers it without a person"
    )
    reference: str = Field(min_length=1, description="the norm that asks for it")


class Policy(Section):
    """Requirements on a synthetic set for a given use."""

    title: str = Field(min_length=1)
    purpose: str
    error_rate: float = Field(
        0.05, gt=0, le=0.2, description="chance that an honest set fails any blocking rule, at most"
    )
    rules: tuple[Rule, ...] = Field(min_length=1)
    checklist: tuple[ChecklistItem, ...] = Field(
        (), description="questions that people must answer, since no audit can"
    )
    margin: float = Field(
        MARGIN, gt=0, description="equivalence of image biomarkers: a shift that counts for none, in SDs"
    )
    networks: tuple[Network, ...] = Field((), description="embeddings of your own, for audits that want one")

    @field_validator("rules", "checklist")
    @classmethod
    def _distinct(cls, entries: tuple[Rule | ChecklistItem, ...]) -> tuple[Rule | ChecklistItem, ...]:
        if len({entry.id for entry in entries}) != len(entries):
            raise ValueError("two entries have the same id")
        return entries

    @field_validator("networks")
    @classmethod
    def _told_apart(cls, networks: tuple[Network, ...]) -> tuple[Network, ...]:
        if len({network.name for network in networks}) != len(networks):
            raise ValueError("two networks have the same name")
        return networks

    @model_validator(mode="after")
    def _answerable(self) -> Self:
        known = (*EVIDENCE, *(f"rule:{rule.id}" for rule in self.rules))
        for item in self.checklist:
            if item.evidence is not None and item.evidence not in known:
                close = nearest(item.evidence, known)
                raise ValueError(f"checklist: {item.id}: there is no evidence {item.evidence!r}{close}")
        return self

    @property
    def digest(self) -> str:
        """sha256 (hex) of the policy's content; comments and order of keys do not matter.

        The path of a network does not matter either, because its sha256 identifies it. A policy without
        networks and margin has the digest that it had before these keys existed: releases are bound to it.
        """
        content = self.model_dump(mode="json")
        for network in content["networks"]:
            del network["file"]
        if not self.networks:
            del content["networks"]
        if self.margin == MARGIN:
            del content["margin"]
        return json_digest(content)

    @property
    def audits(self) -> tuple[str, ...]:
        """Names of the audits that the rules need, in order of first mention."""
        return tuple(dict.fromkeys(rule.audit for rule in self.rules))

    def only(self, audits: Sequence[str]) -> Policy:
        """The rules of these audits alone, each with the error rate that it has in the whole policy."""
        rules = tuple(rule for rule in self.rules if rule.audit in audits)
        return self.model_copy(update={"rules": rules})

    def alpha(self, audit: str) -> float:
        """The share of the error rate that an audit may spend: equal shares for the bounds that block."""
        blocking = [rule.audit for rule in self.rules if rule.severity == "block" and rule.side != "value"]
        return self.error_rate * max(blocking.count(audit), 1) / max(len(blocking), 1)


def load_policy(path: Path) -> Policy:
    """Read a policy file.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value does not fit.
    """
    return parse(read_toml(path), Policy, str(path))


def judge(policy: Policy, findings: Sequence[Finding]) -> tuple[VerdictOutcome, tuple[RuleResult, ...]]:
    """Hold findings against a policy: the outcome, and one result per rule and scope."""
    results = tuple(result for rule in policy.rules for result in _judge_rule(rule, findings))
    blocking = {result.outcome for result in results if result.severity == "block"}
    if "fail" in blocking:
        return "fail", results
    return ("inconclusive" if "inconclusive" in blocking else "pass"), results


def _judge_rule(rule: Rule, findings: Sequence[Finding]) -> list[RuleResult]:
    matching = [f for f in findings if (f.audit, f.statistic) == (rule.audit, rule.statistic)]
    if not matching:
        reason = f"the evidence is missing: no finding {rule.statistic!r} of the audit {rule.audit!r}"
        return [_result(rule, "fail", reason)]
    return [_judge_finding(rule, finding) for finding in matching]


def _judge_finding(rule: Rule, finding: Finding) -> RuleResult:
    if not finding.applicable:
        outcome: RuleOutcome = "accepted" if rule.not_applicable == "accept" else "fail"
        return _result(rule, outcome, f"not applicable: {finding.reason}", finding)
    judged = _judged(rule, finding)
    if judged is not None and not _OPERATORS[rule.op](judged, rule.threshold):
        reason = f"{rule.statistic} {judged:.4g} is not {rule.op} {rule.threshold:g}"
        return _result(rule, "fail", reason, finding)
    if judged is None or not finding.conclusive:
        reason = finding.reason or "the statistic could not be measured"
        return _result(rule, "inconclusive", reason, finding)
    return _result(rule, "pass", "", finding)


def _judged(rule: Rule, finding: Finding) -> float | None:
    if rule.side == "value":
        return finding.value
    return None if finding.interval is None else finding.interval[rule.side == "upper"]


def _result(rule: Rule, outcome: RuleOutcome, reason: str, finding: Finding | None = None) -> RuleResult:
    return RuleResult(
        id=rule.id,
        severity=rule.severity,
        audit=rule.audit,
        statistic=rule.statistic,
        side=rule.side,
        op=rule.op,
        threshold=rule.threshold,
        rationale=rule.rationale,
        outcome=outcome,
        reason=reason,
        scope=finding.scope if finding else {},
        value=_judged(rule, finding) if finding and finding.applicable else None,
        interval=finding.interval if finding else None,
        waivable_by=rule.waivable_by,
    )
