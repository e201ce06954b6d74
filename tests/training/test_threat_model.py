"""The threat model speaks of everything that can be set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from privsyn.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
TABLE = GUIDE[GUIDE.index("## Threat model") : GUIDE.index("## Delta")]
COMMON = {"--study", "--json", "--help"}  # where to work, and how to print


def test_every_setting_of_a_recipe_has_a_row() -> None:
    """Why none of them can make a claim better than it is; no row is about a key that is gone."""
    keys = {"seed"}
    for section, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys |= {f"{section}.{name}" for name in kind.model_fields}
    told = set(re.findall(r"`([a-z]+\.[a-z_]+|seed)`", TABLE)) - {"patient.key", "train.jsonl"}
    assert told == keys


@pytest.mark.parametrize("command", ["prepare", "plan", "train", "sample"])
def test_every_option_has_a_row(command: str) -> None:
    """Of the commands between a source and a synthetic set."""
    source = (ROOT / "privsyn" / "cli" / f"{command}.py").read_text(encoding="utf-8")
    shared = (ROOT / "privsyn" / "cli" / "options.py").read_text(encoding="utf-8")
    used = set(re.findall(r'"(--[a-z-]+)', source))
    used |= {"--set"} & set(re.findall(r'"(--[a-z-]+)', shared))
    rows = [
        row for row in TABLE.splitlines() if row.startswith("|") and re.search(rf"`{command} --|`--", row)
    ]
    told = {option for row in rows for option in re.findall(r"(--[a-z-]+)", row.split("|")[1])}
    assert used - COMMON - {"--dp/--no-dp"} <= told | {"--no-dp"}
