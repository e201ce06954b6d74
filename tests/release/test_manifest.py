"""The statement: what is written is read back, and what is hostile is refused in words."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from privsyn.errors import Refused
from privsyn.files import json_text, tree_digest
from privsyn.release.envelope import STATEMENT_TYPE
from privsyn.release.manifest import BUNDLE, RELEASE_TYPE, make_statement, parse_statement

EMPTY = hashlib.sha256(b"").hexdigest()


def document(names: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    names = ["data/a.parquet"] if names is None else names
    tree = {"sha256": tree_digest(dict.fromkeys(names, EMPTY))}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": EMPTY}} for name in names],
        "predicateType": RELEASE_TYPE,
        "predicate": {"tree": tree},
        **changes,
    }


def test_a_statement_survives_writing_and_reading() -> None:
    """parse_statement(to_bytes(statement)) is the statement."""
    written = make_statement(
        {"b": EMPTY, "a/c.d": "0" * 64}, {"b": 0, "a/c.d": 7}, {"release": {"name": "日本"}}
    )
    assert parse_statement(written.to_bytes()) == written
    assert json.loads(written.to_bytes())["predicate"]["tree"]["bytes"] == 7
    assert written.digest == hashlib.sha256(written.to_bytes()).hexdigest()


def test_the_document_has_the_shape_of_an_in_toto_statement() -> None:
    """_type, subject with digests, predicateType and predicate, and nothing else."""
    found = json.loads(make_statement({"b": EMPTY}, {"b": 0}, {}).to_bytes())
    assert sorted(found) == ["_type", "predicate", "predicateType", "subject"]
    assert found["subject"] == [{"name": "b", "digest": {"sha256": EMPTY}}]
    assert (found["_type"], found["predicateType"]) == (STATEMENT_TYPE, RELEASE_TYPE)


def test_claims_cannot_pose_as_the_tree() -> None:
    """Whatever the claims say, the tree is that of the files."""
    statement = make_statement({"b": EMPTY}, {"b": 0}, {"tree": {}})
    assert statement.tree == tree_digest({"b": EMPTY})


def test_a_statement_has_one_spelling() -> None:
    """Spaces, another order of keys, a key more: refused, so that what is shown is what was signed."""
    raw = json_text(document()).encode()
    parse_statement(raw)
    for other in (raw + b" ", json.dumps(document()).encode(), json_text(document(more=1)).encode()):
        with pytest.raises(Refused):
            parse_statement(other)


@pytest.mark.parametrize(
    ("outcome", "partial", "rules", "failing"),
    [
        ("pass", False, [("a", "block", "pass"), ("b", "warn", "fail"), ("c", "block", "accepted")], ()),
        (
            "fail",
            False,
            [("a", "block", "fail"), ("b", "block", "inconclusive"), ("c", "block", "odd")],
            "abc",
        ),
        ("pass", False, [("a", "block", "inconclusive")], None),
        ("fail", False, [("a", "warn", "fail")], None),
        ("pass", True, [("a", "block", "pass")], None),
        ("pass", False, [("a", "odd", "pass")], None),
    ],
)
def test_a_verdict_must_follow_from_its_rules(outcome: str, partial: bool, rules: Any, failing: Any) -> None:
    """Blocking rules that did not pass are named; a verdict that hides one, or is partial, is refused."""
    rows = [{"id": name, "severity": severity, "outcome": how} for name, severity, how in rules]
    verdict = {"outcome": outcome, "partial": partial, "rules": rows}
    statement = make_statement({"b": EMPTY}, {"b": 0}, {"verdict": verdict})
    if failing is None:
        with pytest.raises(Refused):
            statement.failing_rules  # noqa: B018 - it is the asking that refuses
    else:
        assert statement.failing_rules == tuple(failing)


def subject(name: Any = "a", digest: Any = EMPTY) -> dict[str, Any]:
    return document(subject=[{"name": name, "digest": {"sha256": digest}}])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "not an in-toto Statement|not a JSON object"),
        ("x", "not an in-toto Statement|not a JSON object"),
        (document(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto Statement|not a JSON object"),
        (document(predicateType="https://slsa.dev/provenance/v1"), "not an in-toto Statement"),
        (document(predicate=None), "has no predicate"),
        (document(predicate={"tree": []}), "has no tree"),
        (document(predicate={"tree": {"sha256": EMPTY}}), "digest of the tree"),
        (document(predicate={"tree": {"sha256": [EMPTY]}}), "not a sha256"),
        (document(subject=None), "has no subject"),
        (document(subject={}), "has no subject"),
        (document([]), "names no files"),
        (document(subject=["a"]), "not a JSON object"),
        (document(subject=[{"name": "a"}]), "has no digest"),
        (subject(digest=None), "not a sha256"),
        (subject(digest=12), "not a sha256"),
        (subject(digest=[EMPTY]), "not a sha256"),
        (subject(digest=EMPTY.upper()), "not a sha256"),
        (subject(digest=EMPTY + "\n"), "not a sha256"),
        (subject(name=["a"]), "has no name"),
        (document(["a", "a"]), "twice"),
        (document(["a", "A"]), "twice"),
        (document([BUNDLE]), "names itself"),
        (document([BUNDLE.upper()]), "names itself"),
        *[
            (document([name]), "not a plain relative path")
            for name in (
                "", ".", "..", "/etc/passwd", "../a", "a/../b", "a//b", "a/", "./a", "a\\b", "C:a", "a\0",
                "a\nb",
                ".hidden", "a/.git/b", "a.", "a ", "con", "a/NUL.txt", "é", "\x1b[31m",
                "a" * 201, "-rf",
            )
        ],
    ],
)  # fmt: skip
def test_what_is_no_statement_of_ours_is_refused(found: Any, message: str) -> None:
    """Wrong types, unsafe or ambiguous names, digests that are none: refused in words."""
    with pytest.raises(Refused, match=message):
        parse_statement(json_text(found).encode())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"a": NaN}', "not a JSON number"),
        (b'{"a": -Infinity}', "not a JSON number"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        (b"[" * 40 + b"]" * 40, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply|not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b" " * (16 * 2**20 + 1), "larger than"),
    ],
    ids=range(13),
)
def test_hostile_json_is_refused(raw: bytes, message: str) -> None:
    """Deep nesting, huge numbers, double keys, broken text: one line each, never a traceback."""
    with pytest.raises(Refused, match=message) as caught:
        parse_statement(raw)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_unsafe_names_are_not_stated() -> None:
    """What `parse_statement` would refuse is refused before it is written."""
    with pytest.raises(Refused, match="plain relative path"):
        make_statement({"data/a b.parquet": EMPTY}, {"data/a b.parquet": 0}, {})
