"""Quality findings of several synthetic sets of one cohort, side by side in a Markdown table.

    privsyn audit --policy fitness-for-use --out quality-a          (in each study)
    python benchmarks/quality_table.py "trained=a/quality-a" "epsilon 8=b/quality-b" [--overall]

The column *real* is the baseline of the first audit that has the statistic: what real images reach in place
of the synthetic ones. A dagger marks findings that are not conclusive. --json FILE writes the rows as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from privsyn.auditing.findings import Finding
from privsyn.report.words import NOTHING, interval, number

DAGGER = "†"
Key = tuple[str, str, tuple[tuple[str, str], ...]]


def quality_findings(folder: Path) -> dict[Key, Finding]:
    """The quality findings of an audit, by audit, statistic and scope."""
    document = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    findings = map(Finding.model_validate, document["findings"])
    return {finding.key: finding for finding in findings if finding.threat == "quality"}


def cell(finding: Finding | None) -> str:
    """Value, interval, and a dagger if the finding is not conclusive."""
    if finding is None or finding.value is None:
        return NOTHING
    bounds = "" if finding.interval is None else f" {interval(finding.interval)}"
    return f"{number(finding.value)}{bounds}{'' if finding.conclusive else f' {DAGGER}'}"


def baseline(findings: list[Finding | None]) -> float | None:
    """Of the first audit that has the finding."""
    return next((finding.baseline for finding in findings if finding), None)


def print_table(columns: dict[str, dict[Key, Finding]], keys: list[Key]) -> None:
    print(f"| audit | statistic | scope | real | {' | '.join(columns)} |")
    print("|---|---|---|---|" + "---|" * len(columns))
    for key in keys:
        audit, statistic, scope = key
        findings = [column.get(key) for column in columns.values()]
        where = ", ".join(value for _, value in scope)
        cells = " | ".join(map(cell, findings))
        print(f"| `{audit}` | `{statistic}` | {where} | {number(baseline(findings))} | {cells} |")


def write_rows(file: Path, columns: dict[str, dict[Key, Finding]], keys: list[Key]) -> None:
    rows = []
    for key in keys:
        audit, statistic, scope = key
        findings = {name: column.get(key) for name, column in columns.items()}
        documents = {name: each and each.model_dump(mode="json") for name, each in findings.items()}
        row = {"audit": audit, "statistic": statistic, "scope": dict(scope)}
        rows.append(row | {"floor": baseline(list(findings.values())), "found": documents})
    file.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audits", nargs="+", metavar="NAME=DIR", help="a column and the folder of its audit")
    parser.add_argument("--overall", action="store_true", help="leave out single classes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    options = parser.parse_args()
    named = (each.partition("=") for each in options.audits)
    columns = {name: quality_findings(Path(folder)) for name, _, folder in named}
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    shown = [key for key in keys if not (options.overall and "class" in dict(key[2]))]
    print_table(columns, shown)
    if options.json:
        write_rows(options.json, columns, shown)


if __name__ == "__main__":
    main()
