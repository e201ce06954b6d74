"""The statement: what is written is read back, and what is hostile is refused in words."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privsyn.errors import Refused
from privsyn.files import tree_digest
from privsyn.release.manifest import PREDICATE_TYPE, STATEMENT, STATEMENT_DIGEST, STATEMENT_TYPE, parse, state

EMPTY = hashlib.sha256(b"").hexdigest()


def document(names: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    names = ["data/a.parquet"] if names is None else names
    tree = {"sha256": tree_digest(dict.fromkeys(names, EMPTY))}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": EMPTY}} for name in names],
        "predicateType": PREDICATE_TYPE,
        "predicate": {"tree": tree},
        **changes,
    }


def test_a_statement_survives_writing_and_reading() -> None:
    """parse(to_bytes(statement)) is the statement."""
    written = state({"b": EMPTY, "a/c.d": "0" * 64}, {"b": 0, "a/c.d": 7}, {"release": {"name": "日本"}})
    assert parse(written.to_bytes()) == written
    assert written.predicate["tree"]["bytes"] == 7
    assert written.predicate["status"] == "draft"
    assert written.predicate["approvals"] == []


def test_the_document_has_the_shape_of_an_in_toto_statement() -> None:
    """_type, subject with digests, predicateType and predicate, and nothing else."""
    found = json.loads(state({"b": EMPTY}, {"b": 0}, {}).to_bytes())
    assert sorted(found) == ["_type", "predicate", "predicateType", "subject"]
    assert found["subject"] == [{"name": "b", "digest": {"sha256": EMPTY}}]
    assert (found["_type"], found["predicateType"]) == (STATEMENT_TYPE, PREDICATE_TYPE)


def test_claims_cannot_pose_as_approval() -> None:
    """Whatever the claims say, a draft is a draft that nobody approved."""
    posing = {"status": "released", "approvals": ["me"], "tree": {}}
    predicate = state({"b": EMPTY}, {"b": 0}, posing).predicate
    assert (predicate["status"], predicate["approvals"]) == ("draft", [])
    assert predicate["tree"]["sha256"] == tree_digest({"b": EMPTY})


def test_the_digest_line_is_what_sha256sum_checks(make_release: Callable[..., Path]) -> None:
    """`sha256sum --check` accepts the file as it is."""
    program = shutil.which("sha256sum")
    if program is None:
        pytest.skip("needs sha256sum")
    done = subprocess.run(
        [program, "--strict", "--check", STATEMENT_DIGEST],
        cwd=make_release(),
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0


def test_a_minimal_foreign_statement_is_understood() -> None:
    """Unknown keys and further digests are allowed, as in-toto asks."""
    entry = {"name": "data/a.parquet", "digest": {"sha256": EMPTY, "sha512": "x"}, "annotations": {}}
    assert parse(json.dumps(document(subject=[entry], more=1)).encode()).subjects == {"data/a.parquet": EMPTY}


def subject(name: Any = "a", digest: Any = EMPTY) -> dict[str, Any]:
    return document(subject=[{"name": name, "digest": {"sha256": digest}}])


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([], "not an in-toto Statement"),
        ("x", "not an in-toto Statement"),
        (document(_type="https://in-toto.io/Statement/v0.1"), "not an in-toto Statement"),
        (document(predicateType="https://slsa.dev/provenance/v1"), "does not speak about a release"),
        (document(predicate=None), "no predicate"),
        (document(predicate={"tree": []}), "no predicate"),
        (document(predicate={"tree": {"sha256": EMPTY}}), "digest of the tree"),
        (document(predicate={"tree": {"sha256": [EMPTY]}}), "digest of the tree"),
        (document(subject=None), "names no files"),
        (document(subject={}), "names no files"),
        (document([]), "names no files"),
        (document(subject=["a"]), "without a name or a sha256"),
        (document(subject=[{"name": "a"}]), "without a name or a sha256"),
        (subject(digest=None), "without a name or a sha256"),
        (subject(digest=12), "without a name or a sha256"),
        (subject(digest=[EMPTY]), "without a name or a sha256"),
        (subject(digest=EMPTY.upper()), "without a name or a sha256"),
        (subject(digest=EMPTY + "\n"), "without a name or a sha256"),
        (subject(name=["a"]), "without a name or a sha256"),
        (document(["a", "a"]), "twice"),
        (document(["a", "A"]), "twice"),
        (document([STATEMENT]), "names itself"),
        (document([STATEMENT.upper()]), "names itself"),
        (document([STATEMENT_DIGEST]), "names itself"),
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
        parse(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"a": 1, "a": 2}', "same key twice"),
        (b'{"a": NaN}', "no JSON number"),
        (b'{"a": -Infinity}', "no JSON number"),
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
        parse(raw)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_unsafe_names_are_not_stated() -> None:
    """What `parse` would refuse is refused before it is written."""
    with pytest.raises(Refused, match="plain relative path"):
        state({"data/a b.parquet": EMPTY}, {"data/a b.parquet": 0}, {})
