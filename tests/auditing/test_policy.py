"""Findings held against a policy: fail over inconclusive over pass."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from privsyn.auditing.findings import Finding
from privsyn.auditing.policy import EVIDENCE, Policy, judge, load_policy
from privsyn.errors import RecipeError
from privsyn.recipe import shipped


def rule(**changes: Any) -> dict[str, Any]:
    known = {"id": "r", "audit": "a", "statistic": "s", "side": "lower", "op": "<=", "threshold": 0.5}
    return {**known, "rationale": "choice of this test", **changes}


def written(file: Path, section: str, entries: Sequence[Mapping[str, Any]]) -> Path:
    """A policy of one rule as TOML, with the tables of one section."""
    lines = ["title = 't'", "purpose = 'p'", "[[rules]]"]
    lines += [f"{key} = {value!r}" for key, value in rule().items()]
    for entry in entries:
        lines += [f"[[{section}]]", *(f"{key} = {value!r}" for key, value in entry.items())]
    file.write_text("\n".join(lines))
    return file


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:
    return Policy.model_validate({"title": "t", "purpose": "p", "rules": rules, **changes})


def item(**changes: Any) -> dict[str, Any]:
    known = {"id": "q", "question": "Is it so?", "role": "privacy-officer", "reference": "none"}
    return {**known, **changes}


def network(**changes: Any) -> dict[str, Any]:
    return {"name": "net", "file": "net.onnx", "sha256": "ab" * 32, "size": 299, **changes}


def finding(**changes: Any) -> Finding:
    known = {"audit": "a", "version": "1", "threat": "model", "statistic": "s", "value": 0.5}
    return Finding.model_validate({**known, "interval": (0.4, 0.6), "confidence": 0.95, **changes})


def outcome(rules: Policy, *findings: Finding) -> tuple[str, list[str]]:
    verdict, rows = judge(rules, findings)
    return verdict, [row.outcome for row in rows]


def test_a_met_rule_passes() -> None:
    """A conclusive finding on the right side of the threshold passes."""
    assert outcome(policy(rule()), finding()) == ("pass", ["pass"])


def test_the_side_of_the_rule_is_what_is_judged() -> None:
    """value, lower and upper bound can lie on different sides of one threshold."""
    assert outcome(policy(rule(side="upper")), finding()) == ("fail", ["fail"])
    assert outcome(policy(rule(side="value")), finding()) == ("pass", ["pass"])


def test_a_leak_fails_though_the_audit_is_not_conclusive() -> None:
    """What was found counts, even if a control failed."""
    assert outcome(policy(rule()), finding(interval=(0.7, 0.9), conclusive=False)) == ("fail", ["fail"])


def test_an_inconclusive_audit_never_passes() -> None:
    """Finding nothing is not evidence where nothing could have been found."""
    verdict, rows = judge(policy(rule()), [finding(conclusive=False, reason="too few patients")])
    assert verdict == "inconclusive"
    assert rows[0].reason == "too few patients"


def test_a_finding_without_the_judged_number_is_inconclusive() -> None:
    """A rule on an interval cannot be met by a finding that has none."""
    assert outcome(policy(rule()), finding(interval=None)) == ("inconclusive", ["inconclusive"])


def test_missing_evidence_fails() -> None:
    """A rule whose audit returned nothing is not met."""
    verdict, rows = judge(policy(rule()), [])
    assert verdict == "fail"
    assert "missing" in rows[0].reason


@pytest.mark.parametrize(("choice", "expected"), [("fail", "fail"), ("accept", "pass")])
def test_the_policy_decides_about_evidence_that_cannot_exist(choice: str, expected: str) -> None:
    """Not applicable fails unless the policy accepts it."""
    rules = policy(rule(not_applicable=choice))
    assert judge(rules, [finding(applicable=False, value=None, interval=None)])[0] == expected


def test_warnings_do_not_block() -> None:
    """A broken rule of severity warn is shown and leaves the verdict alone."""
    rules = policy(rule(), rule(id="w", severity="warn", side="upper"))
    assert outcome(rules, finding()) == ("pass", ["pass", "fail"])


def test_fail_comes_before_inconclusive() -> None:
    """One found leak decides, whatever else is open."""
    rules = policy(rule(id="open", statistic="open"), rule())
    found = [finding(statistic="open", conclusive=False), finding(interval=(0.7, 0.9))]
    assert outcome(rules, *found)[0] == "fail"


def test_every_scope_must_meet_the_rule() -> None:
    """A rule is held against each finding of its statistic."""
    found = [finding(scope={"class": "0"}), finding(scope={"class": "1"}, interval=(0.9, 0.95))]
    assert outcome(policy(rule()), *found) == ("fail", ["pass", "fail"])


def test_the_error_rate_is_shared_by_the_bounds_that_block() -> None:
    """Rules on plain values, and warnings, take no part of it; the shares add up to the whole."""
    rules = policy(
        rule(id="1"),
        rule(id="2", statistic="z"),
        rule(id="3", audit="b"),
        rule(id="4", audit="c", side="value"),
        rule(id="5", audit="b", severity="warn"),
        error_rate=0.03,
    )
    assert rules.alpha("a") == pytest.approx(0.02)
    assert rules.alpha("b") == pytest.approx(0.01)


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    """A comment does not change a policy; a threshold does."""
    text = shipped("policies")["internal-review"].read_text()
    for name, change in (
        ("same", "# note\n" + text),
        ("other", text.replace("threshold = 0.6", "threshold = 0.61")),
    ):
        (tmp_path / f"{name}.toml").write_text(change)
    original = load_policy(shipped("policies")["internal-review"]).digest
    assert load_policy(tmp_path / "same.toml").digest == original
    assert load_policy(tmp_path / "other.toml").digest != original


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"treshold": 1}, "did you mean 'threshold'"),
        ({"op": "=="}, "op"),
        ({"rationale": ""}, "rationale"),
    ],
)
def test_a_broken_rule_is_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Unknown keys come with the nearest match, bad values with their place."""
    lines = ["title = 't'", "purpose = 'p'", "[[rules]]"]
    lines += [f"{key} = {value!r}" for key, value in rule(**change).items()]
    (tmp_path / "policy.toml").write_text("\n".join(lines))
    with pytest.raises(RecipeError, match=message):
        load_policy(tmp_path / "policy.toml")


def test_a_question_belongs_to_the_digest() -> None:
    """Who asks something else has another policy, and needs other approvals."""
    asked = policy(rule(), checklist=[item()])
    assert asked.digest == policy(rule(), checklist=[item()]).digest
    assert asked.digest != policy(rule(), checklist=[item(question="Is it not?")]).digest
    assert asked.digest != policy(rule()).digest


@pytest.mark.parametrize(
    ("checklist", "message"),
    [
        ([item(), item(question="Again?")], "checklist: two entries have the same id"),
        ([item(id="Is it so")], "checklist.0.id"),
        ([item(role="Privacy Officer")], "checklist.0.role"),
        ([item(question="")], "checklist.0.question"),
        ([item(evidense="verdict")], "did you mean 'evidence'"),
        ([item(evidence="verdikt")], "q: there is no evidence 'verdikt': did you mean 'verdict'"),
        ([item(evidence="rule:other")], "there is no evidence 'rule:other': did you mean 'rule:r'"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    tmp_path: Path, checklist: list[dict[str, str]], message: str
) -> None:
    """By its place, with the nearest match; evidence may be a name of the list or a rule of this policy."""
    with pytest.raises(RecipeError, match=message):
        load_policy(written(tmp_path / "policy.toml", "checklist", checklist))


def test_nobody_waives_a_rule_unless_the_policy_names_a_role() -> None:
    """A rule that says nothing holds for everybody, and a role is a plain id."""
    assert policy(rule()).rules[0].waivable_by == ()
    assert policy(rule(waivable_by=["privacy-officer"])).rules[0].waivable_by == ("privacy-officer",)
    with pytest.raises(ValueError, match="waivable_by"):
        policy(rule(waivable_by=["The Officer"]))


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("internal-review", "33654f6a243a53e50a867d5e3e8a7119c34ec31773db36bba95ccd9ae2e61151"),
        ("public-release", "913cae3c8d4f11b94198c6bbb5b4f84a4de7cb579a8be9ca68b5909544cbbce9"),
        ("trusted-environment", "22017d1b60231ec7d1533994c9fee5fc21e7e10c857c0c884ec9d8a8241dffbb"),
    ],
)
def test_a_shipped_policy_keeps_its_digest(name: str, digest: str) -> None:
    """Releases are bound to it: another one here means another text there, and no more than that."""
    assert load_policy(shipped("policies")[name]).digest == digest


def test_a_policy_without_networks_has_the_digest_of_before_there_were_any() -> None:
    """What is new and absent does not count; this one is of version 0.1.0."""
    known = "850851737cc4974732847dca596ffb7ebeb8b02337b2df7690c266e2dcd3ec80"
    assert policy(rule(), checklist=[item()]).digest == known
    assert policy(rule(), checklist=[item()], networks=[]).digest == known


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"sha256": "cd" * 32},
        {"size": 224},
        {"channels": 1},
        {"mean": [0.5, 0.5, 0.5]},
        {"std": [0.5, 0.5, 0.5]},
    ],
)
def test_a_network_belongs_to_the_digest(change: dict[str, Any]) -> None:
    """All that makes other rows of it, and its name; not where its file lies, which its sha256 tells."""
    with_it = policy(rule(), networks=[network()])
    assert with_it.digest != policy(rule()).digest
    assert with_it.digest != policy(rule(), networks=[network(**change)]).digest
    assert with_it.digest == policy(rule(), networks=[network(file="/elsewhere/net.onnx")]).digest


def test_the_rules_of_one_audit_keep_the_networks() -> None:
    """A partial audit embeds as the whole one does."""
    rules = policy(rule(), rule(id="2", audit="b"), networks=[network()])
    assert rules.only(["b"]).networks == rules.networks


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([network(name="lite0-mid")], "networks.0: name: 'lite0-mid' is the name of a built-in embedding"),
        ([network(name="The Net")], "networks.0.name"),
        ([network(), network(file="other.pt")], "networks: two networks have the same name"),
        ([network(sha256="abc")], "networks.0.sha256"),
        ([network(file="net.pkl")], "neither TorchScript"),
        ([network(channels=2)], "networks.0.channels"),
        ([network(size=0)], "networks.0.size"),
        ([network(mean=[0.5])], "mean: needs one number for each channel, 3"),
        ([network(channels=1, std=[1.0, 1.0])], "std: needs one number for each channel, 1"),
        ([network(std=[0.5, 0.0, 0.5])], "std: must be above 0"),
        ([network(sizes=3)], "did you mean 'size'"),
    ],
)
def test_a_network_that_cannot_be_meant_is_refused(
    tmp_path: Path, networks: list[dict[str, Any]], message: str
) -> None:
    """By its place in the file, before its own file is looked for."""
    with pytest.raises(RecipeError, match=message):
        load_policy(written(tmp_path / "policy.toml", "networks", networks))


@pytest.mark.parametrize("module", ["policy", "findings", "verdict"])
def test_reading_policies_findings_and_verdicts_takes_no_torch(module: str) -> None:
    """`privsyn policies` and the reports start at once, networks or not."""
    program = f"import sys, privsyn.auditing.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("name", sorted(shipped("policies")))
def test_shipped_checklists_ask_each_role_and_end_in_a_question_mark(name: str) -> None:
    """Custodian, privacy officer and clinician all have something to answer for."""
    checklist = load_policy(shipped("policies")[name]).checklist
    assert {entry.role for entry in checklist} == {"data-custodian", "privacy-officer", "clinical-lead"}
    assert all(entry.question.endswith("?") for entry in checklist)
    assert len({entry.question for entry in checklist}) == len(checklist)


def test_every_kind_of_evidence_can_be_named() -> None:
    """The names of the list, and a rule by its id."""
    names = [*EVIDENCE, "rule:r"]
    asked = policy(rule(), checklist=[item(id=f"q{i}", evidence=name) for i, name in enumerate(names)])
    assert [entry.evidence for entry in asked.checklist] == names


@pytest.mark.parametrize("name", sorted(shipped("policies")))
def test_shipped_policies_load_and_reach_all_three_outcomes(name: str) -> None:
    """Each shipped policy passes, fails and stays open on the findings that should make it."""
    rules = load_policy(shipped("policies")[name])
    assert {rule.op for rule in rules.rules} <= {"<=", ">="}

    def findings(offset: float, **changes: Any) -> list[Finding]:
        found = []
        for r in rules.rules:
            value = r.threshold + (offset if r.op == "<=" else -offset)
            bounds = (value - 1, value) if r.side == "upper" else (value, value + 1)
            given = {"audit": r.audit, "statistic": r.statistic, "value": value, "interval": bounds}
            found.append(finding(**given, **changes))
        return found

    assert judge(rules, findings(-0.1))[0] == "pass"
    assert judge(rules, findings(0.1))[0] == "fail"
    assert judge(rules, findings(-0.1, conclusive=False))[0] == "inconclusive"
