"""What several synthetic sets of one cohort are worth, side by side, as a table in Markdown.

    privsyn audit --policy fitness-for-use --out quality-a          (in each study)
    python benchmarks/quality_table.py "trained=a/quality-a" "epsilon 8=b/quality-b" [--overall]

The first column is the floor: what real images show in place of the synthetic ones, in the first set's
audit. A dagger marks what was not conclusive. With --json FILE the rows are written as well.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from privsyn.report.words import NOTHING, interval, number

DAGGER = "†"
Key = tuple[str, str, tuple[tuple[str, str], ...]]


def findings(folder: Path) -> dict[Key, dict[str, Any]]:
    """The quality findings of an audit by name and scope."""
    document = json.loads((folder / "findings.json").read_text(encoding="utf-8"))
    return {
        (each["audit"], each["statistic"], tuple(sorted(each["scope"].items()))): each
        for each in document["findings"]
        if each["threat"] == "quality"
    }


def cell(finding: dict[str, Any] | None) -> str:
    if finding is None or finding["value"] is None:
        return NOTHING
    bounds = "" if finding["interval"] is None else f" {interval(finding['interval'])}"
    return f"{number(finding['value'])}{bounds}{'' if finding['conclusive'] else f' {DAGGER}'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("audits", nargs="+", metavar="NAME=DIR", help="a column and the folder of its audit")
    parser.add_argument("--overall", action="store_true", help="leave out single classes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE")
    asked = parser.parse_args()
    columns = {
        name: findings(Path(folder)) for name, _, folder in (each.partition("=") for each in asked.audits)
    }
    keys = dict.fromkeys(key for column in columns.values() for key in column)
    if asked.overall:
        keys = {key: None for key in keys if "class" not in dict(key[2])}
    print(f"| audit | statistic | scope | real | {' | '.join(columns)} |")
    print("|---|---|---|---|" + "---|" * len(columns))
    rows = []
    for audit, statistic, scope in keys:
        found = {name: column.get((audit, statistic, scope)) for name, column in columns.items()}
        floor = next((each["baseline"] for each in found.values() if each), None)
        where = ", ".join(value for _, value in scope)
        cells = " | ".join(cell(each) for each in found.values())
        print(f"| `{audit}` | `{statistic}` | {where} | {number(floor)} | {cells} |")
        rows.append(
            {"audit": audit, "statistic": statistic, "scope": dict(scope), "floor": floor, "found": found}
        )
    if asked.json:
        asked.json.write_text(json.dumps({"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
