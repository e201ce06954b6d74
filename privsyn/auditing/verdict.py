"""The verdict: how each rule of a policy ended on the findings, and on what exactly it was given.

`Verdict.to_document` is the only writer of `audit/verdict.json`, and `read_verdict` its only reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from privsyn.strict_json import Fields, JsonObject

SCHEMA_VERSION = 1
WHAT = "the verdict"

RuleOutcome = Literal["pass", "fail", "inconclusive", "accepted"]
VerdictOutcome = Literal["pass", "fail", "inconclusive"]
Severity = Literal["block", "warn"]
Side = Literal["value", "lower", "upper"]
Interval = tuple[float, float | None]


@dataclass(frozen=True)
class RuleResult:
    """What became of one rule on one finding.

    Attributes:
        id: of the rule.
        side: what is judged: the point estimate, or a bound of its interval.
        scope: of the finding; empty if there is none.
        value: what was judged; None if it could not be measured.
        reason: why the rule did not pass, one sentence; "" if it did.
        waivable_by: roles that may waive the rule.
    """

    id: str
    severity: Severity
    audit: str
    statistic: str
    side: Side
    op: str
    threshold: float
    rationale: str
    outcome: RuleOutcome
    reason: str = ""
    scope: Mapping[str, str] = field(default_factory=dict)
    value: float | None = None
    interval: Interval | None = None
    waivable_by: tuple[str, ...] = ()

    def to_dict(self) -> JsonObject:
        interval = None if self.interval is None else list(self.interval)
        return {
            **asdict(self),
            "scope": dict(self.scope),
            "interval": interval,
            "waivable_by": list(self.waivable_by),
        }


@dataclass(frozen=True)
class PolicySummary:
    """What a verdict says of its policy."""

    title: str
    purpose: str
    error_rate: float


@dataclass(frozen=True)
class PluginVersion:
    """An audit that was run, and the distribution that answers for it."""

    name: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Inputs:
    """sha256 (hex) of all that a verdict rests on.

    Attributes:
        recipe: None where no model of a study drew the set.
    """

    policy: str
    recipe: str | None
    synthetic: str
    findings: str


@dataclass(frozen=True)
class Verdict:
    """The outcome of an audit.

    Attributes:
        partial: only some of the policy's audits were run.
        attempt: number of this audit among all of the cohort, 1 for the first.
    """

    outcome: VerdictOutcome
    partial: bool
    attempt: int
    policy: PolicySummary
    cohort_fingerprint: str
    inputs: Inputs
    plugins: tuple[PluginVersion, ...]
    privsyn_version: str
    rules: tuple[RuleResult, ...]

    def to_document(self) -> JsonObject:
        """`audit/verdict.json`."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.outcome,
            "partial": self.partial,
            "attempt": self.attempt,
            "policy": asdict(self.policy),
            "cohort_fingerprint": self.cohort_fingerprint,
            "inputs": asdict(self.inputs),
            "plugins": [asdict(plugin) for plugin in self.plugins],
            "privsyn_version": self.privsyn_version,
            "rules": [rule.to_dict() for rule in self.rules],
        }


def read_verdict(document: Any, what: str = WHAT) -> Verdict:
    """Parse `audit/verdict.json`.

    Args:
        what: named in messages.

    Raises:
        Refused: it is not a verdict of this version.
    """
    fields = Fields(document, what)
    fields.need_version(SCHEMA_VERSION)
    policy, inputs = fields.fields("policy"), fields.fields("inputs")
    return Verdict(
        outcome=fields.choice("verdict", get_args(VerdictOutcome)),
        partial=fields.flag("partial"),
        attempt=fields.integer("attempt", least=1),
        policy=PolicySummary(policy.text("title"), policy.text("purpose"), policy.number("error_rate")),
        cohort_fingerprint=fields.text("cohort_fingerprint"),
        inputs=Inputs(
            policy=inputs.text("policy"),
            recipe=inputs.text_or_none("recipe"),
            synthetic=inputs.text("synthetic"),
            findings=inputs.text("findings"),
        ),
        plugins=tuple(
            PluginVersion(*(each.text(key) for key in ("name", "distribution", "version")))
            for each in fields.objects("plugins")
        ),
        privsyn_version=fields.text("privsyn_version"),
        rules=tuple(_rule(each) for each in fields.objects("rules")),
    )


def _rule(fields: Fields) -> RuleResult:
    return RuleResult(
        id=fields.text("id"),
        severity=fields.choice("severity", get_args(Severity)),
        audit=fields.text("audit"),
        statistic=fields.text("statistic"),
        side=fields.choice("side", get_args(Side)),
        op=fields.text("op"),
        threshold=fields.number("threshold", least=float("-inf")),
        rationale=fields.text("rationale"),
        outcome=fields.choice("outcome", get_args(RuleOutcome)),
        reason=fields.text("reason"),
        scope={key: str(value) for key, value in fields.mapping("scope").items()},
        value=fields.number_or_none("value", least=float("-inf")),
        interval=_interval(fields),
        waivable_by=fields.texts("waivable_by") if "waivable_by" in fields.document else (),
    )


def _interval(fields: Fields) -> Interval | None:
    if fields.document.get("interval") is None:
        return None
    ends = fields.list("interval")
    if len(ends) != 2 or not isinstance(ends[0], int | float) or not isinstance(ends[1], int | float | None):
        fields.refuse("has an interval that is not two numbers")
    return float(ends[0]), None if ends[1] is None else float(ends[1])
