"""Attacks on seal and verify that were found by review; each test says what must happen instead.

Long because it is one list, with a short test for each finding.
"""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from house import APPROVERS, DAY, NOW, ROLES, House, claims, dp, fill, new_signer, rule, state_of, words
from securesystemslib.signer import CryptoSigner

from privsyn.claim.document import Mechanism
from privsyn.claim.recompute import epsilon_bound
from privsyn.errors import PrivsynError, Refused
from privsyn.files import json_text
from privsyn.home import home
from privsyn.release.approvals import GivenAnswer, Waiver
from privsyn.release.approve import ApprovalRequest, approve, current_draft, standing
from privsyn.release.bundle import Bundle, Certificate, certificate_payload
from privsyn.release.draft import draft
from privsyn.release.envelope import IN_TOTO, Envelope, key_document, public_key
from privsyn.release.keys import new_key, open_key
from privsyn.release.manifest import BUNDLE, Statement
from privsyn.release.revoke import revoke
from privsyn.release.status_list import StatusEntry, read_status
from privsyn.release.trust import read_trust
from privsyn.release.verify import verify
from privsyn.study import Study

OFFICER = ApprovalRequest("privacy-officer")


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipient without dp-accounting."""
    monkeypatch.setattr("privsyn.release.claim_check.installed_accountant", lambda: None)


def put(folder: Path, bundle: Bundle) -> Path:
    (folder / BUNDLE).write_bytes(bundle.to_bytes())
    return folder


def everybody(house: House, statement: Statement, **changes: Any) -> list[Envelope]:
    return [house.approval(statement, person, **changes) for person in APPROVERS]


def closed(house: House, draft_: Bundle, approvals: list[Envelope], by: tuple[str, ...] = ("ada",), *,
           at: datetime = NOW - DAY / 2, **changes: Any) -> Bundle:  # fmt: skip
    """A bundle whose certificate has other fields than `seal` would write."""
    found = Bundle(draft_.envelope, draft_.statement, draft_.gate, tuple(approvals))
    stated = replace(Certificate("st-elsewhere", 1, {}, at), **changes)
    certificate = house.signed(Envelope(certificate_payload(found, stated), IN_TOTO), *by)
    return replace(found, certificate=certificate)


# -- the privacy claim ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("by_hand")
def test_no_noise_at_all_confirms_no_claim(house: House, folder: Path, trust: Path) -> None:
    """inf - inf is NaN and max(0.0, NaN) is 0.0: next to no noise `confirms` epsilon 0.01, exit 0."""
    house.release(folder, claims(privacyClaim=dp({"noise_multiplier": 1e-153, "steps": 10**6}, epsilon=0.01)))
    found = verify(folder, trust=trust, now=NOW)
    assert found.exit_code != 0, words(found, "privacy claim")


def test_the_bound_is_one_for_tiny_rates_and_many_steps() -> None:
    """log of a sum that rounds to 1 loses what each step costs: 170 at order 2 alone becomes nothing."""
    assert epsilon_bound([Mechanism(1.0, 1e-9, 10**20)], 1e-5) > 50
    assert epsilon_bound([Mechanism(1e8, 0.5, 10**17)], 1e-5) > 5


@pytest.mark.usefixtures("by_hand")
def test_less_than_half_of_the_true_epsilon_is_not_a_pass(house: House, folder: Path, trust: Path) -> None:
    """21.1 is exact and 22.9 the bound; 9.2 is `bounded`, and exit 0 for whoever lacks dp-accounting."""
    house.release(folder, claims(privacyClaim=dp(epsilon=9.2)))
    assert verify(folder, trust=trust, now=NOW).exit_code != 0


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        ({"noise_multiplier": 1e-200}, {}),
        ({"noise_multiplier": 1e-200, "sample_rate": 1}, {}),
        ({"noise_multiplier": 1e200}, {}),
        ({"noise_multiplier": 10**400}, {}),
        ({"sample_rate": 1 + 5e-13}, {}),
        ({"steps": 10**400}, {}),
        ({}, {"epsilon": 10**400}),
    ],
)
def test_impossible_parameters_are_refused_in_words(
    house: House, folder: Path, trust: Path, mechanism: dict[str, Any], changes: dict[str, Any]
) -> None:
    """Overflow and division by zero end the whole check with `unexpected OverflowError`."""
    house.release(folder, claims(privacyClaim=dp(mechanism, **changes)))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


@pytest.mark.parametrize(
    ("mechanism", "changes"),
    [
        ({"noise_multiplier": 1e-3}, {}),  # 4 GB arrays
        ({"noise_multiplier": 1e-4}, {}),  # MemoryError, 373 GB
        ({"steps": 10**9}, {}),  # does not end
        ({"sample_rate": 1e-9, "steps": 10**20}, {}),  # does not end
        ({"composed": [{"noise_multiplier": 1 + n, "sample_rate": 0.1, "steps": 1} for n in range(999)]}, {}),
        ({}, {"delta": 5e-324}),  # "the accountants disagree"
    ],
)
def test_a_stranger_does_not_choose_how_long_the_check_takes(
    make_release: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    mechanism: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    """Nobody signed this statement, and yet dp-accounting is let loose on its parameters."""

    def asked(*_: Any) -> float:
        pytest.fail("dp-accounting was asked")

    monkeypatch.setattr("privsyn.release.claim_check.installed_accountant", lambda: asked)
    assert verify(make_release(privacyClaim=dp(mechanism, **changes)), now=NOW).exit_code != 0


@pytest.mark.parametrize("changes", [{"neighbouring": "replace-one"}, {"unit": None}, {"delta": 0.999}])
def test_a_claim_that_means_something_else_is_not_confirmed(
    house: House, folder: Path, trust: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """What is computed is for adding or removing one unit; the claim is about something else, or nothing."""
    monkeypatch.setattr("privsyn.release.claim_check.installed_accountant", lambda: lambda *_: 20.0)
    house.release(folder, claims(privacyClaim=dp(**changes)))
    assert verify(folder, trust=trust, now=NOW).exit_code != 0


# -- revocation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "digest",
    [
        lambda b: b.envelope.digest,  # what the certificate itself calls "statement"
        lambda b: b.gate.digest,
        lambda b: b.certificate.digest,
        lambda b: b.approvals[1].digest,
        lambda b: b.statement.tree,
    ],
)
def test_every_digest_of_a_release_can_be_revoked(
    house: House, folder: Path, trust: Path, digest: Callable[[Any], str]
) -> None:
    """`revoke` takes any digest, and `verify` looks for three of them: the rest is revoked in vain."""
    listed = folder.parent / "status.json"
    listed.write_bytes(house.status(StatusEntry(digest(house.release(folder)), "revoked", "x", NOW - DAY)))
    assert verify(folder, trust=trust, status=listed, now=NOW).exit_code == 1


@pytest.mark.parametrize("change", [lambda s: s[::-1], lambda s: s[:1]])
def test_a_revoked_certificate_stays_revoked(
    folder: Path, tmp_path: Path, change: Callable[[Any], Any]
) -> None:
    """Its digest covers the signatures, which anyone can swap, or drop where there are enough."""
    house = House(roles={**ROLES, "sealer": (("ada", "eve"), 1)})
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    whole = closed(house, drafted, everybody(house, drafted.statement), ("ada", "eve"))
    assert whole.certificate is not None
    listed = tmp_path / "status.json"
    listed.write_bytes(house.status(StatusEntry(whole.certificate.digest, "revoked", "x", NOW - DAY)))
    trust = house.write_trust(tmp_path / "trust.json")
    other = replace(whole.certificate, signatures=change(whole.certificate.signatures))
    found = verify(put(folder, replace(whole, certificate=other)), trust=trust, status=listed, now=NOW)
    assert found.exit_code == 1


def test_a_revocation_that_was_seen_is_not_forgotten(house: House, folder: Path, trust: Path) -> None:
    """This machine has checked a list that revokes the release; leaving --status out makes it pass again."""
    bundle, listed = house.release(folder), folder.parent / "status.json"
    listed.write_bytes(house.status(StatusEntry(bundle.statement.digest, "revoked", "x", NOW - DAY)))
    assert verify(folder, trust=trust, status=listed, now=NOW).exit_code == 1
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_a_later_list_does_not_drop_a_revocation(house: House, folder: Path, trust: Path) -> None:
    """Version 2 without the entry that version 1 had."""
    bundle, listed = house.release(folder), folder.parent / "status.json"
    listed.write_bytes(house.status(StatusEntry(bundle.statement.digest, "revoked", "x", NOW - DAY)))
    assert verify(folder, trust=trust, status=listed, now=NOW).exit_code == 1
    listed.write_bytes(house.status(version=2))
    assert verify(folder, trust=trust, status=listed, now=NOW).exit_code == 1


def test_revocations_at_once_all_count(house: House, tmp_path: Path) -> None:
    """Eight people revoke at the same moment: eight versions, and no entry is lost."""
    listed, trust = tmp_path / "status.json", read_trust(house.trust_envelope().line, now=NOW)
    signers = [house.signers["ada"]]

    def do(digit: str) -> None:
        revoke(digit * 64, state="revoked", reason="x", signers=signers, trust=trust, status=listed)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(do, "12345678"))
    found = read_status(listed.read_bytes(), trust)
    assert (found.version, set(found.entries)) == (8, {digit * 64 for digit in "12345678"})


def test_a_fresh_status_cannot_be_required_in_vain(house: House, folder: Path) -> None:
    """Without --trust the list, and that it is required, are ignored without a word."""
    house.release(folder)
    found = verify(folder, status=folder.parent / "no-such-file", require_fresh_status=True, now=NOW)
    assert found.exit_code == 1


# -- whom to believe --------------------------------------------------------------------------------------


def test_a_release_does_not_bring_its_own_trust(folder: Path) -> None:
    """A stranger ships trust.json as one of the stated files: `--trust release/trust.json` passes."""
    stranger = House()
    fill(folder)
    own = stranger.write_trust(folder / "trust.json")
    drafted = stranger.drafted(state_of(folder, claims()))
    put(folder, stranger.sealed(drafted, everybody(stranger, drafted.statement)))
    with contextlib.suppress(PrivsynError):
        assert verify(folder, trust=own, now=NOW).exit_code != 0


def test_one_key_in_two_spellings_is_one_key() -> None:
    """A PEM with another line break is another id, but the same ECDSA key: one person, two names."""
    private = generate_private_key(SECP256R1())
    document = key_document(CryptoSigner(private, None).public_key)
    pem = document["keyval"]["public"]
    twins = []
    for text in (pem, pem + "\n", "any text\n" + pem):
        try:
            twins.append(public_key({**document, "keyid": None, "keyval": {"public": text}}, "a key").keyid)
        except Refused:
            continue
    assert len(set(twins)) == 1


def test_a_key_that_fits_every_signature_is_refused() -> None:
    """The neutral point of Ed25519: whoever likes signs for its owner, and the owner can deny all."""
    with pytest.raises(Refused):
        public_key(
            {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": "01" + "00" * 31}}, "a key"
        )


def test_roots_can_be_replaced(house: House, folder: Path, trust: Path, tmp_path: Path) -> None:
    """The old roots signed as they must, and cannot be persons of a file that takes their keys away."""
    house.release(folder)
    assert verify(folder, trust=trust, now=NOW).exit_code == 0
    signers = {**house.signers, "rosa": new_signer(), "rolf": new_signer()}
    later = replace(house, version=2, signers=signers)
    both = tmp_path / "t2"
    both.write_bytes(house.signed(later.trust_envelope(), "rosa", "rolf").line)
    assert verify(folder, trust=both, now=NOW).exit_code == 0


@pytest.mark.parametrize("kept", ["{", "[]", '{"status": {}, "trust": ""}'])
def test_a_memory_that_cannot_be_read_is_said(house: House, folder: Path, trust: Path, kept: str) -> None:
    """Whether this file is older than one seen before was not checked; `next time` is not what is wrong."""
    house.release(folder)
    (home() / "seen").mkdir()
    (home() / "seen" / "st-elsewhere.json").write_text(kept, encoding="utf-8")
    listed = folder.parent / "status.json"
    listed.write_bytes(house.status())
    found = verify(folder, trust=trust, status=listed, now=NOW)
    assert found.exit_code != 0, found.lines()


# -- certificate and times --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"organisation": "another-house"},
        {"waivers": {"no-copies": ("rosa", "never granted")}},
    ],
)
def test_a_certificate_says_what_is_so(
    house: House, folder: Path, trust: Path, changes: dict[str, Any]
) -> None:
    """The house and the waivers that it names are compared with nothing."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    put(folder, closed(house, drafted, everybody(house, drafted.statement), **changes))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_nothing_is_sealed_before_it_was_decided(house: House, folder: Path, tmp_path: Path) -> None:
    """Ada left in 2020 and her key with her: dated 2019, it seals what was decided yesterday."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    approvals = [house.approval(drafted.statement, person) for person in ("eve", "bob", "cyd")]
    past = datetime(2019, 1, 1, tzinfo=UTC)
    put(folder, closed(house, drafted, approvals, at=past))
    trust = house.write_trust(tmp_path / "trust.json", ada={"valid_until": past + DAY})
    (home() / "seen" / "st-elsewhere.json").unlink(missing_ok=True)
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_nothing_is_approved_before_it_was_drafted(house: House, folder: Path, tmp_path: Path) -> None:
    """The same with an approver's old key: the statement has a random id and did not exist then."""
    fill(folder)
    drafted = house.drafted(
        state_of(folder, claims(release={"id": "0" * 32, "created": "2026-11-01T00:00:00Z"}))
    )
    past = datetime(2019, 1, 1, tzinfo=UTC)
    bob = house.approval(drafted.statement, "bob", decided_at=past, valid_from=past)
    rest = [house.approval(drafted.statement, person) for person in ("ada", "cyd")]
    put(folder, house.sealed(drafted, [bob, *rest]))
    trust = house.write_trust(tmp_path / "trust.json", bob={"valid_until": past + DAY})
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


# -- decisions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_an_objection_outlives_an_approval_that_does_not_count(
    house: House, folder: Path, trust: Path, how: str
) -> None:
    """Eve rejects, approves, and her approval falls: what is left of her is the rejection."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    no = house.approval(drafted.statement, "eve", decision="reject", comment="x", decided_at=NOW - 3 * DAY)
    ends = {"valid_until": NOW - DAY / 4} if how == "expired" else {}
    yes = house.approval(drafted.statement, "eve", **ends)
    put(folder, house.sealed(drafted, [no, yes, *everybody(house, drafted.statement)]))
    listed = folder.parent / "status.json"
    entry = [StatusEntry(yes.digest, "revoked", "a mistake", NOW - DAY)] if how == "revoked" else []
    listed.write_bytes(house.status(*entry))
    assert verify(folder, trust=trust, status=listed, now=NOW).exit_code == 1


def test_one_person_does_not_waive_in_a_second_role(house: House, folder: Path, trust: Path) -> None:
    """Bob is counted as officer; his decision as clinician fills no place and waives all the same."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims([rule("fail", waivable=["clinical-lead"])])))
    second = house.approval(drafted.statement, "bob", "clinical-lead", waivers=(Waiver("no-copies", "fine"),))
    put(folder, house.sealed(drafted, [second, *everybody(house, drafted.statement)]))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_one_person_does_not_answer_in_a_second_role(house: House, folder: Path, trust: Path) -> None:
    """The same for the clinician's question, which Cyd left open."""
    item = {"id": "seen", "question": "Seen?", "role": "clinical-lead", "evidence": None, "reference": "x"}
    fill(folder)
    drafted = house.drafted(state_of(folder, claims(checklist=[item])))
    yes = {"seen": GivenAnswer("yes")}
    second = house.approval(drafted.statement, "bob", "clinical-lead", answers=yes)
    put(folder, house.sealed(drafted, [second, *everybody(house, drafted.statement)]))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_an_author_whom_nobody_knows_excludes_nobody(house: House, folder: Path, trust: Path) -> None:
    """`--author bobb` for bob: an id that the trust file does not have is a mistake, and Bob approves."""
    house.release(folder, claims(authors=["bobb"]))
    assert verify(folder, trust=trust, now=NOW).exit_code != 0


def test_a_declared_conflict_of_interest_is_told(house: House, folder: Path, trust: Path) -> None:
    """It was signed, and neither stops anything nor is ever shown."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    approvals = everybody(house, drafted.statement, conflict_of_interest="my company sells the model")
    put(folder, house.sealed(drafted, approvals))
    assert "my company sells the model" in " ".join(verify(folder, trust=trust, now=NOW).lines())


# -- statements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [[["data-custodian"]], [{}], ["data-custodian", 7]])
def test_odd_roles_of_a_waiver_are_refused_in_words(
    house: House, folder: Path, trust: Path, roles: list[Any]
) -> None:
    """A list is not hashable: TypeError, and no answer at all."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims([{**rule("fail"), "waivable_by": roles}])))
    waivers = (Waiver("no-copies", "because"),)
    put(folder, house.sealed(drafted, everybody(house, drafted.statement, waivers=waivers)))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_every_row_of_a_rule_must_be_waivable(house: House, folder: Path, trust: Path) -> None:
    """A rule has a row for each scope; only the first one's `waivable_by` is read, whichever failed."""
    rows = [rule("pass", waivable=["privacy-officer"]), rule("fail")]
    fill(folder)
    drafted = house.drafted(state_of(folder, claims(rows)))
    waivers = (Waiver("no-copies", "because"),)
    put(folder, house.sealed(drafted, everybody(house, drafted.statement, waivers=waivers)))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_a_verdict_on_no_rule_is_none(house: House, folder: Path, trust: Path) -> None:
    """`rules: []` is what is left when the rules are lost, and reads as a pass."""
    fill(folder)
    drafted = house.drafted(state_of(folder, claims()))
    lost = replace(
        drafted.statement, predicate={**drafted.statement.predicate, "verdict": claims([])["verdict"]}
    )
    envelope = house.signed(Envelope(lost.to_bytes(), IN_TOTO), "machine")
    put(folder, closed(house, replace(drafted, envelope=envelope, statement=lost), everybody(house, lost)))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_what_no_release_holds_is_refused(house: House, folder: Path, trust: Path) -> None:
    """Allow-listed types only: a pickle and a script that somebody signed are still that."""
    fill(folder)
    for name in ("data/weights.pkl", "setup.py", "data/model.safetensors"):
        (folder / name).write_bytes(b"x")
    drafted = house.drafted(state_of(folder, claims()))
    put(folder, house.sealed(drafted, everybody(house, drafted.statement)))
    assert verify(folder, trust=trust, now=NOW).exit_code == 1


def test_the_number_of_bytes_is_as_stated(make_release: Callable[..., Path]) -> None:
    """Else a sparse file of terabytes, in an unsigned statement, is hashed for hours."""
    folder = make_release()
    line = json.loads((folder / BUNDLE).read_bytes())
    document = json.loads(base64.b64decode(line["payload"]))
    document["predicate"]["tree"].update(bytes=1, files=1)
    (folder / BUNDLE).write_bytes(Envelope(json_text(document).encode(), IN_TOTO).line)
    assert verify(folder, now=NOW).exit_code == 1


# -- the study --------------------------------------------------------------------------------------------


@pytest.fixture
def office(house: House) -> Any:
    later = replace(house, expires=datetime(2999, 1, 1, tzinfo=UTC))
    return read_trust(later.trust_envelope().line)


def test_nobody_approves_under_a_policy_that_changed(study: Study, house: House, office: Any) -> None:
    """The approval says which policy the person saw; what lies there to be seen is another by now."""
    draft(study, signer=house.signers["machine"])
    text = study.policy_file.read_text(encoding="utf-8")
    study.policy_file.write_text(text.replace("0.55", "0.95"), encoding="utf-8")
    with pytest.raises(PrivsynError):
        approve(study, OFFICER, signer=house.signers["bob"], trust=office)


def test_an_approval_does_not_overwrite_a_key(
    study: Study, house: House, office: Any, tmp_path: Path
) -> None:
    """`--out` replaces whatever is there, a private key too."""
    draft(study, signer=house.signers["machine"])
    new_key(tmp_path / "bob", None)
    before = (tmp_path / "bob").read_bytes()
    with pytest.raises(PrivsynError):
        approve(study, OFFICER, signer=house.signers["bob"], trust=office, out=tmp_path / "bob")
    assert (tmp_path / "bob").read_bytes() == before


def test_a_uri_does_not_open_a_key_in_a_study(study: Study, tmp_path: Path) -> None:
    """`file2:` reads a private key that lies in the study, in the clear, whoever else can read it."""
    new_key(tmp_path / "bob", None)
    (study.root / "bob").write_bytes((tmp_path / "bob").read_bytes())
    with pytest.raises(PrivsynError):
        open_key(f"file2:{study.root / 'bob'}", lambda: "", tmp_path / "bob.pub.json")


def test_a_junk_decision_does_not_steer_the_clock(study: Study, house: House, office: Any) -> None:
    """Nobody signed it, and it dates Bob's next decision to the year 9999, where it counts no more."""
    draft(study, signer=house.signers["machine"])
    statement = current_draft(study).statement
    late = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    forged = house.approval(
        statement, "bob", "privacy-officer", policy=statement.policy, report=statement.report, decided_at=late
    )
    study.approvals.mkdir()
    (study.approvals / "x.json").write_bytes(Envelope(forged.payload, IN_TOTO).line)
    file = approve(study, OFFICER, signer=house.signers["bob"], trust=office)
    assert b"9999" not in base64.b64decode(json.loads(file.read_bytes())["payload"])


def test_the_blind_phase_does_not_end_by_decisions_out_of_role(
    study: Study, house: House, office: Any
) -> None:
    """Eve holds one role and signs in all three: `status` calls it complete and shows what Ada decided."""
    draft(study, signer=house.signers["machine"])
    statement = current_draft(study).statement
    study.approvals.mkdir()
    same = {"policy": statement.policy, "report": statement.report}
    for role in ("data-custodian", "privacy-officer", "clinical-lead"):
        forged = house.approval(statement, "eve", role, decision="changes", comment="x", **same)
        (study.approvals / f"{role}.json").write_bytes(forged.line)
    assert not standing(study, office).complete


def test_too_many_days_are_refused_in_words(house: House, tmp_path: Path, office: Any) -> None:
    """OverflowError: date value out of range."""
    with pytest.raises(PrivsynError):
        revoke("1" * 64, state="revoked", reason="x", signers=[house.signers["ada"]], trust=office,
               status=tmp_path / "s", valid_days=10**7)  # fmt: skip
