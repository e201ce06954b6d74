"""A release, command by command: who may do what, what blocks, and what leaves no trace."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drafted import write_audit, write_set

from privsyn.cli import main
from privsyn.files import file_digest
from privsyn.release.bundle import read_bundle
from privsyn.release.envelope import IN_TOTO, read_envelope
from privsyn.release.manifest import BUNDLE
from privsyn.report.html import report
from privsyn.study import Study

PASSPHRASE = "correct horse battery"
PLAN = """
id = "st-elsewhere"
version = {version}
expires = 2099-01-01

[persons]
rosa = {{ name = "Rosa Root", key = "rosa.pub.json" }}
machine = {{ name = "Training server", key = "machine.pub.json" }}
ada = {{ name = "Ada Archivist", key = "ada.pub.json" }}
bob = {{ name = "Bob Privacy", key = "bob.pub.json" }}
cyd = {{ name = "Cyd Clinician", key = "cyd.pub.json" }}

[roles]
root = {{ persons = ["rosa"], threshold = 1 }}
pipeline = {{ persons = ["machine"], threshold = 1 }}
sealer = {{ persons = ["ada"], threshold = 1 }}
data-custodian = {{ persons = ["ada"], threshold = 1 }}
privacy-officer = {{ persons = ["bob"], threshold = 1 }}
clinical-lead = {{ persons = ["cyd"], threshold = 1 }}
"""
ANSWERS = {"ada": "opt-outs-applied", "bob": "residual-risk", "cyd": "clinically-plausible"}
ROLE = {"ada": "data-custodian", "bob": "privacy-officer", "cyd": "clinical-lead"}


class Office:
    """Runs the program as people do, each with a key of their own outside of the study."""

    def __init__(self, study: Study, folder: Path, out: Callable[[], tuple[str, str]]) -> None:
        self.study, self.folder, self._out = study, folder, out
        folder.mkdir()
        (folder / "pass").write_text(PASSPHRASE + "\n", encoding="utf-8")
        self.trust = folder / "trust.json"
        for name in ("rosa", "machine", "ada", "bob", "cyd"):
            assert self.run("keys", "new", folder / name, "--passphrase-file", folder / "pass")[0] == 0
        (folder / "trust.toml").write_text(PLAN.format(version=1), encoding="utf-8")
        signed = self.run("trust", "sign", folder / "trust.toml", *self.key("rosa"), "--out", self.trust)
        assert signed[0] == 0, signed

    def run(self, *words: object) -> tuple[int, str, str]:
        self._out()
        code = main([str(word) for word in words])
        return (code, *self._out())

    def key(self, name: str) -> list[object]:
        return ["--key", self.folder / name, "--passphrase-file", self.folder / "pass"]

    def release(self, verb: str, name: str | None = None, *words: object) -> tuple[int, str, str]:
        """`privsyn release VERB` in the study, with somebody's key."""
        trust = [] if verb in ("draft", "checklist") else ["--trust", self.trust]
        key = self.key(name) if name else []
        return self.run("release", verb, "--study", self.study.root, *key, *trust, *words)

    def approve(self, name: str, *words: object) -> tuple[int, str, str]:
        return self.release("approve", name, "--role", ROLE[name], "--answer", f"{ANSWERS[name]}=yes", *words)

    def verify(self, *words: object) -> tuple[int, str, str]:
        return self.run("verify", self.study.release, "--trust", self.trust, *words)


@pytest.fixture
def office(study: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Office:
    return Office(study, tmp_path / "office", lambda: tuple(capsys.readouterr()))  # type: ignore[arg-type, return-value]


def test_the_story_of_a_release(office: Office) -> None:
    """Draft, blind decisions, a rejection, a changed file, approval, seal, verify, revoke, verify refuses."""
    assert office.release("draft", "machine")[0] == 0
    assert "3 of 3 questions wait" in office.release("checklist")[1]
    assert office.release("status")[0] == 3
    for name in ("ada", "cyd"):
        assert office.approve(name)[0] == 0
    hidden = office.release("status")
    assert (hidden[0], "approve" in hidden[1]) == (3, False)  # nobody sees what others decided
    rejected = office.approve("bob", "--decision", "reject", "--comment", "a scanner's logo")
    assert rejected[0] == 0, rejected
    blocked = office.release("seal", "ada")
    assert (blocked[0], "bob as privacy-officer decided: reject" in blocked[2]) == (1, True)

    write_set(office.study, seed=2, force=True)  # mended: whatever was decided is void
    write_audit(office.study, attempt=2)
    report(office.study)
    assert office.release("draft", "machine", "--force")[0] == 0
    assert "approval(s) missing" in office.release("seal", "ada")[2]
    for name in ROLE:
        assert office.approve(name)[0] == 0
    assert office.release("status")[0] == 0
    sealed = office.release("seal", "ada")
    assert sealed[0] == 0, sealed
    checked = office.verify()
    assert (checked[0], "Bob Privacy (bob) as privacy-officer" in checked[1]) == (0, True), checked

    listed = office.folder / "status.json"
    sign = [*office.key("ada"), "--trust", office.trust, "--status", listed]
    revoked = office.run("release", "revoke", office.study.release, *sign, "--reason", "a patient objected")
    assert revoked[0] == 0, revoked
    refused = office.verify("--status", listed)
    assert (refused[0], "was revoked on" in refused[1], "a patient objected" in refused[1]) == (1, True, True)


def test_the_guide_runs_as_printed(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command of docs/release.md, in its order, with the plan of a trust file that it shows."""
    guide = (Path(__file__).resolve().parents[2] / "docs" / "release.md").read_text(encoding="utf-8")
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", guide, re.M | re.S)
    (plan,) = (text for language, text in fenced if language == "toml")
    blocks = [text for language, text in fenced if not language]
    office = tmp_path / "office"
    office.mkdir()
    (office / "passphrase").write_text(PASSPHRASE + "\n", encoding="utf-8")
    (office / "trust.toml").write_text(plan, encoding="utf-8")
    (office / "custodian.toml").write_text('opt-outs-applied = "yes"\n', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = 0
    for line in (line for block in blocks for line in block.splitlines()):
        program, *words = shlex.split(line)
        if program != "privsyn":  # the one-file verifier has tests of its own
            continue
        if words[:2] == ["release", "draft"]:
            monkeypatch.chdir(study.root)
        assert main(words) == 0, (line, capsys.readouterr())
        done += 1
    assert done == 17
    assert (
        main(["verify", "release", "--trust", "../office/trust.json", "--status", "../office/status.json"])
        == 1
    )


def test_a_failed_rule_is_waived_by_who_may(office: Office) -> None:
    """Not sealed without; the officer's role may not, the custodian's may and says why."""
    write_audit(office.study, verdict="fail")
    report(office.study)
    assert office.release("draft", "machine")[0] == 0
    for name in ROLE:
        assert office.approve(name)[0] == 0
    refused = office.release("seal", "ada")
    assert (refused[0], "members-not-told-apart did not pass" in refused[2]) == (1, True)
    waive = ["--waive", "members-not-told-apart=two records of one person, looked at"]
    assert "not the role privacy-officer" in office.approve("bob", *waive)[2]
    assert "needs no waiver" in office.approve("ada", "--waive", "no-such-rule=because")[2]
    assert office.approve("ada", *waive)[0] == 0
    assert office.release("seal", "ada")[0] == 0
    said = office.verify()
    assert said[0] == 0
    assert "waived by ada: two records of one person" in said[1]
    assert "not passed: members-not-told-apart" in said[1]


def test_an_author_a_stranger_and_the_pipeline_do_not_approve(office: Office) -> None:
    """Each is refused by name before anything is written."""
    assert office.release("draft", "machine", "--author", "bob")[0] == 0
    assert "an author cannot approve it" in office.approve("bob")[2]
    assert office.run("keys", "new", office.folder / "eve", "--unencrypted")[0] == 0
    stranger = office.release("approve", "eve", "--role", "privacy-officer")
    assert (stranger[0], "has no person with this key" in stranger[2]) == (1, True)
    machine = office.release("approve", "machine", "--role", "privacy-officer")
    assert (machine[0], "may approve as: nothing" in machine[2]) == (1, True)
    assert not office.study.approvals.exists()


def test_a_decision_can_be_carried(office: Office) -> None:
    """Signed into a file elsewhere, handed over at sealing; one about other contents is refused."""
    assert office.release("draft", "machine")[0] == 0
    files = []
    for name in ROLE:
        files.append(office.folder / f"{name}-decides.json")
        assert office.approve(name, "--out", files[-1])[0] == 0
    carried = [word for file in files for word in ("--approval", file)]
    assert office.release("seal", "ada", *carried)[0] == 0
    assert office.verify()[0] == 0
    assert office.release("draft", "machine", "--force")[0] == 0
    assert "about other contents" in office.release("seal", "ada", *carried)[2]


def test_an_unsigned_draft_cannot_be_decided_on(office: Office) -> None:
    """Without the pipeline's key there is nothing to approve; and a draft that was changed is refused."""
    assert office.release("draft")[0] == 0
    assert "not signed by the pipeline" in office.approve("bob")[2]
    assert office.release("draft", "machine", "--force")[0] == 0
    (office.study.release / "README.md").write_text("epsilon = 0.1", encoding="utf-8")
    refused = office.approve("bob")
    assert (refused[0], "changed: README.md" in refused[2]) == (1, True)


def test_the_report_that_was_read_is_the_one_that_counts(office: Office) -> None:
    """A changed internal report since the draft: an approval would not refer to the one in the statement."""
    assert office.release("draft", "machine")[0] == 0
    page = office.study.internal_report
    page.write_text(page.read_text(encoding="utf-8") + "<!-- more -->", encoding="utf-8")
    assert "not the report that the draft was made with" in office.approve("bob")[2]


def test_a_policy_edited_after_the_audit_is_refused(office: Office) -> None:
    """Its questions and waivers would not be those that the audit judged by."""
    policy = office.study.policy_file
    policy.write_text(policy.read_text(encoding="utf-8").replace("0.55", "0.9"), encoding="utf-8")
    assert "not the policy that the audit judged by" in office.release("draft", "machine")[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--decision", "maybe"], "expected one of approve, reject, changes"),
        (["--decision", "reject"], "needs a --comment"),
        (["--answer", "clinically-plausible=yes"], "is not a question for the role"),
        (["--answer", "residual-risk"], "expected NAME=VALUE"),
        (["--waive", "members-not-told-apart=x"], "needs no waiver"),
        (["--answers", "nowhere.toml"], "not a TOML file of answers"),
        (["--key", "nowhere.pem"], "nowhere.pem cannot be read"),
    ],
)
def test_wrong_words_are_bad_input(office: Office, words: list[str], said: str) -> None:
    """Exit 2 and one line."""
    assert office.release("draft", "machine")[0] == 0
    ran = office.approve("bob", *words)
    assert (ran[0], said in ran[2], ran[2].count("\n")) == (2, True, 1), ran


def test_a_private_key_is_encrypted_and_leaves_no_trace(office: Office) -> None:
    """For its owner alone, under a passphrase, never in a study; no artefact, message or log holds it."""
    key = office.folder / "bob"
    assert key.stat().st_mode & 0o777 == 0o600
    assert key.read_text(encoding="utf-8").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    said = [
        office.release("draft", "machine"),
        *(office.approve(name) for name in ROLE),
        office.release("seal", "ada"),
    ]
    secret = [line for line in key.read_text(encoding="utf-8").splitlines() if "PRIVATE" not in line]
    secret.append(PASSPHRASE)
    told = "".join(text for _, out, err in said for text in (out, err))
    kept = "".join(
        file.read_bytes().decode("latin-1") for file in office.study.root.rglob("*") if file.is_file()
    )
    assert [word for word in secret if word in told + kept] == []
    assert str(office.folder) not in kept
    inside = office.run("keys", "new", office.study.root / "sub" / "key", "--unencrypted")
    assert (inside[0], "is kept outside" in inside[2]) == (2, True)
    shutil.copy(key, office.study.root / "key")
    used = office.release("approve", None, "--role", "privacy-officer", "--key", office.study.root / "key")
    assert (used[0], "is kept outside" in used[2]) == (2, True)


def test_a_key_that_others_can_read_or_a_wrong_passphrase_is_refused(office: Office) -> None:
    """And keys are never replaced, nor made with a short passphrase."""
    assert office.release("draft", "machine")[0] == 0
    (office.folder / "bob").chmod(0o644)
    assert "chmod 600" in office.approve("bob")[2]
    (office.folder / "bob").chmod(0o600)
    (office.folder / "pass").write_text("something else entirely\n", encoding="utf-8")
    assert "the passphrase is wrong" in office.approve("bob")[2]
    again = office.run("keys", "new", office.folder / "bob", "--passphrase-file", office.folder / "pass")
    assert (again[0], "never replaced" in again[2]) == (2, True)
    (office.folder / "pass").write_text("short\n", encoding="utf-8")
    short = office.run("keys", "new", office.folder / "new", "--passphrase-file", office.folder / "pass")
    assert (short[0], "shorter than 12" in short[2], (office.folder / "new").exists()) == (2, True, False)


def killed_at_write(number: int, words: list[str], place: str) -> int:
    """Run the program in a child that is killed before its n-th write below a folder; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    left = number

    def kill(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in ("open", "os.rename", "os.remove") and place in str(arguments[0]):
            flags = arguments[2] if event == "open" else os.O_WRONLY
            left -= bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(kill)
    os._exit(main(words))


@pytest.mark.parametrize("verb", ["draft", "approve", "seal"])
def test_a_kill_at_any_write_leaves_files_whole_or_absent(office: Office, verb: str) -> None:
    """SIGKILL before the first write, the second, and so on until none is left; then it is run again."""
    commands: dict[str, list[Any]] = {
        "draft": ["release", "draft", *office.key("machine"), "--force"],
        "approve": ["release", "approve", *office.key("bob"), "--role", ROLE["bob"], "--trust", office.trust],
        "seal": ["release", "seal", *office.key("ada"), "--trust", office.trust],
    }
    if verb != "draft":
        assert office.release("draft", "machine")[0] == 0
    if verb == "seal":
        assert [office.approve(name)[0] for name in ROLE] == [0, 0, 0]
    words = [str(word) for word in [*commands[verb], "--study", office.study.root]]
    killed = 0
    for count in range(100):
        status = killed_at_write(count, words, str(office.study.root))
        if not os.WIFSIGNALED(status):
            assert os.waitstatus_to_exitcode(status) == 0
            break
        killed += 1
        if office.study.release.exists():
            assert office.run("verify", office.study.release)[0] == 3
        for envelope in office.study.approvals.glob("[!.]*.json"):
            read_envelope(envelope.read_bytes(), IN_TOTO, envelope.name)
    assert killed >= 2
    assert office.run("verify", office.study.release)[0] == 3


def test_the_digest_of_the_report_is_all_that_leaves_of_it(office: Office) -> None:
    """Sealed, the bundle names the internal report by its sha256 and holds no path of the study."""
    assert office.release("draft", "machine")[0] == 0
    for name in ROLE:
        assert office.approve(name)[0] == 0
    assert office.release("seal", "ada")[0] == 0
    bundle = read_bundle((office.study.release / BUNDLE).read_bytes())
    assert bundle.statement.report == file_digest(office.study.internal_report)
    payloads = b"".join(
        each.payload for each in (bundle.envelope, bundle.gate, *bundle.approvals, bundle.certificate) if each
    )
    assert str(office.study.root).encode() not in payloads
