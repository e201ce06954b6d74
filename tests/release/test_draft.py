"""The draft: what leaves, what stays, and what is refused as stale."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from drafted import AUC_ON_REAL_DATA, CLAIM, write_audit, write_set

from privsyn.auditing.policy import load_policy
from privsyn.errors import PrivsynError, Refused, StudyError
from privsyn.files import file_digest, read_json, tree_digests, write_json
from privsyn.release.bundle import read_bundle
from privsyn.release.draft import draft
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify
from privsyn.report.html import report
from privsyn.study import Study
from privsyn.synthetic.dataset import read_synthetic, write_synthetic


def predicate(study: Study) -> dict[str, Any]:
    return dict(read_bundle((study.release / BUNDLE).read_bytes()).statement.predicate)


def test_a_draft_is_intact_and_holds_what_may_leave(study: Study) -> None:
    """The set, its descriptions, the public report, the statement and its digest; verify answers 3."""
    (study.synthetic / "notes.txt").write_text("stays here", encoding="utf-8")
    (study.synthetic / "data/.DS_Store").touch()
    write_audit(study)
    report(study)
    assert draft(study.root) == study.release
    assert sorted(tree_digests(study.release)) == [
        "README.md",
        "croissant.json",
        "data/train-00000-of-00001.parquet",
        "public-report.html",
        "release.intoto.jsonl",
    ]
    assert verify(study.release).exit_code == 3
    assert [path.name for path in study.root.iterdir() if path.name.startswith(".partial")] == []
    shipped = read_synthetic(study.release, size=8, channels=1, classes=["a", "b"])
    assert len(shipped.images) == 20


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive"])
def test_it_is_written_whatever_the_verdict(study: Study, verdict: str) -> None:
    """The statement carries the verdict, its rules and the number of the attempt."""
    write_audit(study, verdict=verdict, attempt=3)
    report(study)
    draft(study)
    found = predicate(study)["verdict"]
    assert (found["outcome"], found["attempt"], found["partial"]) == (verdict, 3, False)
    assert [(rule["id"], rule["outcome"], rule["threshold"]) for rule in found["rules"]] == [
        ("members-not-told-apart", verdict, 0.55)
    ]


def test_who_may_waive_a_rule_is_taken_from_the_verdict(study: Study) -> None:
    """As the audit wrote it; a verdict of an earlier version, without it, leaves no rule waivable."""
    write_audit(study, verdict="fail", waivable_by=["clinical-lead"])
    report(study)
    draft(study)
    assert [rule["waivable_by"] for rule in predicate(study)["verdict"]["rules"]] == [["clinical-lead"]]
    verdict = read_json(study.verdict_file)
    del verdict["rules"][0]["waivable_by"]
    write_json(study.verdict_file, verdict)
    draft(study, force=True)
    assert [rule["waivable_by"] for rule in predicate(study)["verdict"]["rules"]] == [[]]


def test_the_statement_says_what_is_claimed(study: Study) -> None:
    """Claim with unit, epsilon and mechanism, policy and generator by digest, and what was not done."""
    draft(study)
    found = predicate(study)
    assert (found["privacyClaim"]["kind"], found["privacyClaim"]["unit"]) == ("dp", "patient")
    assert found["privacyClaim"]["mechanism"] == CLAIM["mechanism"]
    assert found["policy"]["sha256"] == load_policy(study.policy_file).digest
    assert found["generator"]["model_sha256"] == "ab" * 32
    assert found["source"] == {"population": None}  # the study's claim names no ledger
    assert found["set"] == {"synthetic": True, "images": 20, "classes": ["a", "b"]}
    assert found["identifierScan"] == found["scorecard"] == "not performed"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["release"]["created"])


@pytest.mark.parametrize(
    ("text", "images", "outcome"),
    [
        ({"policy": "refuse", "looked_at": 1000, "of": 5021, "flagged": 0}, "1000 at random", "none found"),
        ({"policy": "mask", "looked_at": 5021, "of": 5021, "flagged": 17}, "all", "masked"),
    ],
)
def test_a_search_for_text_is_told_without_what_it_found(
    study: Study, text: dict[str, object], images: str, outcome: str
) -> None:
    """How many images were looked at if the recipe says so, never how many there are or had text."""
    document = read_json(study.cohort / "cohort.json")
    document["identifiers"] = {**document["identifiers"], "text": text}
    write_json(study.cohort / "cohort.json", document)
    draft(study)
    found = predicate(study)["identifierScan"]
    assert found["outcome"] == "pass"
    assert (found["pixels"]["images"], found["pixels"]["withText"]) == (images, outcome)
    assert "5021" not in str(found)
    assert "17" not in str(found)


def test_nothing_measured_on_real_data_leaves(study: Study) -> None:
    """No value, interval or reason of a rule, no fingerprint of the cohort, no findings, no path."""
    draft(study)
    private = [
        str(AUC_ON_REAL_DATA)[:6],
        read_json(study.cohort / "cohort.json")["fingerprint"],
        file_digest(study.findings_file),
        file_digest(study.verdict_file),
        "interval",
        "cohort_fingerprint",
        str(study.root),
    ]
    for name in tree_digests(study.release):
        text = (study.release / name).read_bytes()
        assert [word for word in private if word.encode() in text] == [], name


def test_a_missing_station_is_named(study: Study) -> None:
    """Without set, verdict or report: which command makes it, and no release."""
    for path, command in [
        (study.public_report, "report"),
        (study.verdict_file, "audit"),
        (study.synthetic / "croissant.json", "sample"),
        (study.synthetic, "sample"),
    ]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        with pytest.raises(StudyError, match=f"privsyn {command}"):
            draft(study)
        assert not study.release.exists()


def test_a_set_changed_after_its_audit_is_refused(study: Study) -> None:
    """Another draw, one changed byte, or one more file: it is not the set that was judged."""
    (study.synthetic / "more.txt").touch()
    with pytest.raises(StudyError, match="audit"):
        draft(study)
    (study.synthetic / "more.txt").unlink()
    draft(study)
    write_set(study, seed=1, force=True)
    with pytest.raises(StudyError, match="audit"):
        draft(study, force=True)
    assert verify(study.release).exit_code == 3


def test_a_report_of_an_earlier_audit_is_refused(study: Study) -> None:
    """A new verdict needs a new report, and an edited report is refused."""
    write_audit(study, verdict="fail", attempt=2)
    with pytest.raises(StudyError, match="privsyn report"):
        draft(study)
    report(study)
    study.public_report.write_text(study.public_report.read_text(encoding="utf-8") + " ", encoding="utf-8")
    with pytest.raises(StudyError, match="privsyn report"):
        draft(study)
    assert not study.release.exists()


def test_a_set_of_an_earlier_model_is_refused(study: Study) -> None:
    """A claim speaks for the model that it was computed for and for no other."""
    write_json(
        study.privacy_file, {**CLAIM, "provenance": {**CLAIM["provenance"], "weights_sha256": "00" * 32}}
    )
    with pytest.raises(StudyError, match="earlier model"):
        draft(study)


def test_a_partial_verdict_is_refused(study: Study) -> None:
    """An audit of some rules alone opens no door: exit code 1."""
    write_audit(study, partial=True)
    report(study)
    with pytest.raises(Refused, match="--only"):
        draft(study)
    assert not study.release.exists()


def test_a_release_is_replaced_only_with_force(study: Study) -> None:
    """What is there stays untouched without --force."""
    draft(study)
    (study.release / "mine.txt").touch()
    with pytest.raises(PrivsynError, match="--force"):
        draft(study)
    assert (study.release / "mine.txt").exists()
    draft(study, force=True)
    assert verify(study.release).exit_code == 3


def test_a_set_without_a_model_claims_nothing(study: Study) -> None:
    """Where no model of the study drew the set, the claim is none, in words."""
    shutil.rmtree(study.model)
    report(study)
    draft(study)
    claim = predicate(study)["privacyClaim"]
    assert claim["kind"] == "none"
    assert "No claim" in claim["in_words"]


def test_a_set_from_elsewhere_names_the_ledger_of_the_study(study: Study) -> None:
    """It makes no claim, and yet its sealing is recorded with the training that the study charged."""
    ledger = {"population": "p", "entry": 1, "head": "ab" * 32}
    write_json(study.privacy_file, {**CLAIM, "ledger": ledger})
    drawn = read_synthetic(study.synthetic, size=8, channels=1, classes=["a", "b"])
    write_synthetic(
        study.synthetic,
        drawn.images,
        drawn.labels,
        ["a", "b"],
        name="s",
        claim=None,
        provenance=None,
        force=True,
    )
    write_audit(study)
    report(study)
    draft(study)
    found = predicate(study)
    assert found["privacyClaim"]["kind"] == "none"
    assert found["ledger"] == {**ledger, "cumulative": None}
    assert found["source"] == {"population": "p"}


KILL = """
import os, signal, sys
from privsyn.release.draft import draft
wanted, left = sys.argv[2], int(sys.argv[3])
def kill(event, arguments):
    global left
    if event == wanted and ".partial-" in str(arguments[0]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
draft(sys.argv[1])
"""


@pytest.mark.parametrize(("event", "count"), [("open", 3), ("os.rename", 1)])
def test_a_draft_killed_halfway_leaves_no_release(study: Study, event: str, count: int) -> None:
    """SIGKILL while files are copied, or just before the folder takes its name; the next draft is whole."""
    run = [sys.executable, "-c", KILL, str(study.root), event, str(count)]
    assert subprocess.run(run, capture_output=True, check=False).returncode == -9
    assert not study.release.exists()
    draft(study)
    assert verify(study.release).exit_code == 3


def test_odd_class_names_reach_the_statement_unharmed(study: Study) -> None:
    """The statement is JSON, whatever the study is called."""
    card = study.root / "study.toml"
    card.write_text('name = "<b>\\n=1+1 \\u202e"\n', encoding="utf-8")
    report(study)
    draft(study)
    assert predicate(study)["release"]["name"] == "<b>\n=1+1 \u202e"
    assert json.dumps(verify(study.release).to_dict())
    assert np.isfinite(predicate(study)["privacyClaim"]["epsilon"])
