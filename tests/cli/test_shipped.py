"""`privsyn recipes` and `privsyn policies`: list, show, copy, check, and the schemas of both."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import pytest

from privsyn.recipe import shipped

if TYPE_CHECKING:
    from tests.cli.conftest import Run

KINDS = ("recipes", "policies")


@pytest.mark.parametrize("kind", KINDS)
def test_listing_names_every_file_and_its_purpose(run: Run, kind: str) -> None:
    """A newcomer sees what there is."""
    listed = run(kind, "--json").document[kind]
    assert [entry["name"] for entry in listed] == list(shipped(kind))  # type: ignore[arg-type]
    assert all(entry["purpose"] for entry in listed)
    shown = run(kind).out
    assert all(entry["name"] in shown for entry in listed)


@pytest.mark.parametrize("kind", KINDS)
def test_every_shipped_file_can_be_shown_copied_and_checked(run: Run, kind: str, tmp_path: Path) -> None:
    """What ships can be used as it is, and a copy is byte for byte the same."""
    for name, path in shipped(kind).items():  # type: ignore[arg-type]
        assert run(kind, "show", name).out == path.read_text(encoding="utf-8")
        copy = tmp_path / f"{name}.toml"
        assert run(kind, "copy", name, copy).code == 0
        assert copy.read_bytes() == path.read_bytes()
        assert run(kind, "check", copy).code == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_replaces_nothing_unless_told_so(run: Run, kind: str, tmp_path: Path) -> None:
    """The user's file stays."""
    mine = tmp_path / "mine.toml"
    mine.write_text("mine", encoding="utf-8")
    name = next(iter(shipped(kind)))  # type: ignore[arg-type]
    refused = run(kind, "copy", name, mine)
    assert (refused.code, mine.read_text(encoding="utf-8")) == (2, "mine")
    assert "--force" in refused.err
    assert run(kind, "copy", name, mine, "--force").code == 0
    assert mine.read_text(encoding="utf-8") != "mine"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_cannot_be_used_is_named(run: Run, kind: str, tmp_path: Path) -> None:
    """`check` exits 2 and says why."""
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("colour = 1\n", encoding="utf-8")
    ran = run(kind, "check", wrong)
    assert ran.code == 2
    assert "wrong.toml" in ran.err


def test_the_listing_counts_what_a_policy_asks(run: Run) -> None:
    """Rules that audits answer, and questions that people answer."""
    for entry in run("policies", "--json").document["policies"]:
        policy = tomllib.loads(shipped("policies")[entry["name"]].read_text(encoding="utf-8"))
        assert (entry["rules"], entry["questions"]) == (len(policy["rules"]), len(policy["checklist"]))
        checked = run("policies", "check", shipped("policies")[entry["name"]])
        assert f"{entry['rules']} rules, {entry['questions']} questions" in checked.out


def test_the_schemas_fit_what_ships(run: Run) -> None:
    """Editors can check both kinds of file by the exported JSON Schemas."""
    schemas = run("recipes", "schema").document
    for kind, one in (("recipes", "recipe"), ("policies", "policy")):
        for path in shipped(kind).values():  # type: ignore[arg-type]
            jsonschema.validate(tomllib.loads(path.read_text(encoding="utf-8")), schemas[one])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"data": {"size": 8, "classes": ["a"], "colour": 1}}, schemas["recipe"])
