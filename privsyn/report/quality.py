"""Findings about quality as tables: one per audit, with one row per finding and the rules that judge it.

A quality audit measures each class and subgroup by itself, so it returns hundreds of findings. They are read
down a column, beside the baseline of real images, and need no charts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privsyn.auditing.findings import Finding
from privsyn.auditing.verdict import RuleResult
from privsyn.report.details import NetworkInfo, read

LONG = 25  # rows; a longer table shows what holds overall, and folds the rest away
OVERALL, CLASS, SUBGROUP = "Overall", "By class", "By subgroup"
WORST_FIRST = ("fail", "inconclusive", "pass", "accepted")

FindingKey = tuple[str, str, tuple[tuple[str, str], ...]]  # audit, statistic, sorted scope


@dataclass(frozen=True)
class FindingRow:
    """One finding, and the rows of the verdict that judge it."""

    finding: Finding
    rules: tuple[RuleResult, ...]


@dataclass(frozen=True)
class ScopeBlock:
    """Findings of one kind of scope: all images, classes, or subgroups."""

    title: str
    lines: tuple[FindingRow, ...]


@dataclass(frozen=True)
class AuditTable:
    """The findings of one audit.

    Attributes:
        confidence: of most intervals; the rows of the others print theirs.
        open, folded: blocks that are shown at once, and those that a reader unfolds.
        networks: the networks that embedded the images, by their name in the scopes.
    """

    audit: str
    version: str
    confidence: float | None
    open: tuple[ScopeBlock, ...]
    folded: tuple[ScopeBlock, ...]
    networks: tuple[tuple[str, NetworkInfo], ...]

    @property
    def judged(self) -> bool:
        """A rule of the policy judges at least one line."""
        return any(line.rules for line in _lines((*self.open, *self.folded)))

    @property
    def in_words(self) -> str:
        """How many findings there are, and how their rules ended."""
        lines = _lines((*self.open, *self.folded))
        return f"{len(lines):,} findings: {_outcome(lines)}" if len(lines) > 1 else ""

    @property
    def folded_in_words(self) -> str:
        """A summary of the folded rows."""
        lines, kinds = _lines(self.folded), " and ".join(block.title.lower() for block in self.folded)
        return f"{len(lines):,} more rows, {kinds}: {_outcome(lines)}"

    def columns(self, blocks: Sequence[ScopeBlock]) -> list[str]:
        """The keys of the scopes in some blocks, which become one column each."""
        keys = {key for line in _lines(blocks) for key in line.finding.scope}
        return sorted(keys, key=lambda key: (key not in ("class", "subgroup"), key))


@dataclass(frozen=True)
class RuleRow:
    """A row of the verdict, or the worst of all rows that one rule has for a quality.

    Attributes:
        among: how many rows it represents.
        outcomes: of those rows, in words.
    """

    rule: RuleResult
    among: int = 1
    outcomes: str = ""


def tables(
    findings: Sequence[Finding], rules: Sequence[RuleResult], classes: Sequence[str]
) -> list[AuditTable]:
    """Findings of threat `quality`, audit by audit in the order of the policy."""
    judging: dict[object, list[RuleResult]] = {}
    for rule in rules:
        judging.setdefault(judged_key(rule), []).append(rule)
    lines: dict[str, list[FindingRow]] = {}
    for finding in findings:
        line = FindingRow(finding, tuple(judging.get(finding.key, ())))
        lines.setdefault(finding.audit, []).append(line)
    asked = dict.fromkeys(rule.audit for rule in rules if rule.audit in lines)
    return [_table(lines[audit], classes) for audit in asked | lines]


def verdict_rows(rules: Sequence[RuleResult], findings: Sequence[Finding]) -> list[RuleRow]:
    """The verdict with one row, the worst scope, for each rule on `findings`; the tables list all scopes."""
    quality = {finding.key for finding in findings}
    shown: dict[object, list[RuleResult]] = {}
    for row, rule in enumerate(rules):
        shown.setdefault(("rule", rule.id) if judged_key(rule) in quality else row, []).append(rule)
    return [
        RuleRow(min(rows, key=_badness), len(rows), outcomes(row.outcome for row in rows))
        for rows in shown.values()
    ]


def outcomes(each: Iterable[str]) -> str:
    """`2 fail, 31 pass`, worst first."""
    counted = Counter(each)
    return ", ".join(f"{counted[outcome]:,} {outcome}" for outcome in WORST_FIRST if counted[outcome])


def _lines(blocks: Iterable[ScopeBlock]) -> list[FindingRow]:
    return [line for block in blocks for line in block.lines]


def _outcome(lines: Sequence[FindingRow]) -> str:
    conclusive = sum(line.finding.applicable and line.finding.conclusive for line in lines)
    judged = outcomes(rule.outcome for line in lines for rule in line.rules)
    return f"{conclusive:,} conclusive; rules: {judged}" if judged else f"{conclusive:,} conclusive"


def _table(lines: Sequence[FindingRow], classes: Sequence[str]) -> AuditTable:
    findings = [line.finding for line in lines]
    blocks = []
    for title in (OVERALL, CLASS, SUBGROUP):
        mine = [line for line in lines if _title(line.finding) == title]
        if mine:
            blocks.append(ScopeBlock(title, tuple(_in_order(mine, classes))))
    long = len(lines) > LONG
    confidences = Counter(finding.confidence for finding in findings if finding.interval is not None)
    return AuditTable(
        audit=findings[0].audit,
        version=findings[0].version,
        confidence=confidences.most_common(1)[0][0] if confidences else None,
        open=tuple(block for block in blocks if block.title == OVERALL or not long),
        folded=tuple(block for block in blocks if block.title != OVERALL and long),
        networks=_networks(findings),
    )


def _in_order(lines: Sequence[FindingRow], classes: Sequence[str]) -> list[FindingRow]:
    """Findings with a rule first; then ordered so that one statistic can be read down the classes."""
    statistics = list(dict.fromkeys(line.finding.statistic for line in lines))
    names = list(classes)

    def place(line: FindingRow) -> tuple[object, ...]:
        scope = dict(line.finding.scope)
        name, subgroup = scope.pop("class", ""), scope.pop("subgroup", "")
        nth = names.index(name) if name in names else len(names)
        statistic = statistics.index(line.finding.statistic)
        return not line.rules, statistic, sorted(scope.items()), subgroup, nth, name

    return sorted(lines, key=place)


def _title(finding: Finding) -> str:
    if "subgroup" in finding.scope:
        return SUBGROUP
    return CLASS if "class" in finding.scope else OVERALL


def judged_key(rule: RuleResult) -> FindingKey:
    """The `Finding.key` of the finding that a row of the verdict judges."""
    return rule.audit, rule.statistic, tuple(sorted(rule.scope.items()))


def _badness(rule: RuleResult) -> tuple[int, float]:
    """Smaller is worse: by outcome, then by how far the value lies on the bad side."""
    value = rule.value
    if value is None:
        return WORST_FIRST.index(rule.outcome), float("inf")
    return WORST_FIRST.index(rule.outcome), -value if rule.op in ("<", "<=") else value


def _networks(findings: Sequence[Finding]) -> tuple[tuple[str, NetworkInfo], ...]:
    found: dict[tuple[str, NetworkInfo], None] = {}
    for finding in findings:
        seen = read(finding, "network", NetworkInfo)
        if seen is not None:
            found[finding.scope.get("network", ""), seen] = None
    return tuple(found)
