"""Sealed releases: which signatures the verifier accepts, and what it refuses, with a reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from house import (
    APPROVERS,
    DAY,
    DP,
    NOW,
    PEOPLE,
    POLICY,
    ROLES,
    House,
    claims,
    fill,
    new_signer,
    rule,
    state_of,
    words,
)

from privsyn.errors import Refused
from privsyn.files import json_text
from privsyn.home import home
from privsyn.release.approvals import GivenAnswer, Waiver
from privsyn.release.bundle import Bundle
from privsyn.release.envelope import IN_TOTO, Envelope, key_document, public_key
from privsyn.release.manifest import BUNDLE
from privsyn.release.status_list import StatusEntry
from privsyn.release.trust import read_trust
from privsyn.release.verify import ReleaseVerification, verify
from privsyn.strict_json import spelled


def rewritten(folder: Path, bundle: Bundle) -> Path:
    (folder / BUNDLE).write_bytes(bundle.to_bytes())
    return folder


def test_a_sealed_release_passes_and_says_why(house: House, folder: Path, trust: Path) -> None:
    """Exit 0, with the people who approved by name and role, and what was not asked."""
    house.release(folder)
    found = verify(folder, trust=trust, now=NOW)
    assert (found.outcome, found.exit_code) == ("pass", 0), found.lines()
    assert found.approved_by == APPROVERS
    assert "Bob (bob) as privacy-officer" in words(found, "approvals")
    assert "not checked" in words(found, "revocation")
    assert json.loads(json_text(found.to_dict()))["outcome"] == "pass"
    assert verify(folder, now=NOW).exit_code == 3


def test_a_draft_is_not_a_release(house: House, folder: Path, trust: Path) -> None:
    """With a trust file, statement and gate alone fail: they are not sealed."""
    fill(folder)
    rewritten(folder, house.drafted(state_of(folder, claims())))
    found = verify(folder, trust=trust, now=NOW)
    assert found.exit_code == 1
    assert "was not sealed" in words(found, "certificate")


@pytest.mark.parametrize(
    ("who", "changes", "because"),
    [
        ("bob", {"decision": "reject", "comment": "no"}, "bob as privacy-officer decided: reject"),
        ("bob", {"decision": "changes", "comment": "no"}, "decided: changes"),
        ("bob", {"valid_until": NOW - DAY / 4}, "it expired on"),
        ("bob", {"decided_at": NOW + DAY}, "in the future"),
        ("bob", {"valid_from": NOW + DAY}, "in the future"),
        ("bob", {"role": "data-custodian"}, "bob is not in that role"),
        ("bob", {"role": "root"}, "bob is not in that role"),
        ("bob", {"role": "unheard-of"}, "bob is not in that role"),
        ("bob", {"policy": "c" * 64}, "another policy or another internal report"),
        ("bob", {"report": "c" * 64}, "another policy or another internal report"),
        ("bob", {"statement": "c" * 64}, "about other contents"),
        ("bob", {"tree": "c" * 64}, "about other contents"),
        ("bob", {"by": "cyd"}, "is signed by cyd"),
        ("machine", {"role": "privacy-officer"}, "the pipeline approves nothing"),
    ],
)
def test_an_approval_that_does_not_count(
    house: House, folder: Path, trust: Path, who: str, changes: dict[str, Any], because: str
) -> None:
    """A rejection, one out of its time, role or binding: refused, even if sealed."""
    fill(folder)
    draft = house.drafted(state_of(folder, claims()))
    one = house.approval(draft.statement, who, **changes)
    others = [house.approval(draft.statement, person) for person in ("ada", "cyd")]
    found = verify(rewritten(folder, house.sealed(draft, [one, *others])), trust=trust, now=NOW)
    assert found.exit_code == 1
    assert because in words(found, "approvals"), found.lines()


def test_the_author_does_not_approve(house: House, folder: Path, trust: Path) -> None:
    """Whom the statement names as an author is not counted, though everything else is in order."""
    house.release(folder, claims(authors=["bob"]))
    found = verify(folder, trust=trust, now=NOW)
    assert "an author of the release cannot approve it" in words(found, "approvals")
    assert found.exit_code == 1


def test_one_person_fills_one_place(house: House, folder: Path, trust: Path) -> None:
    """Bob may be officer or clinician, not both at once; with Cyd he is placed where he is needed."""
    fill(folder)
    draft = house.drafted(state_of(folder, claims()))
    ada = house.approval(draft.statement, "ada")
    bob = [house.approval(draft.statement, "bob", role) for role in ("privacy-officer", "clinical-lead")]
    alone = verify(rewritten(folder, house.sealed(draft, [ada, *bob])), trust=trust, now=NOW)
    assert alone.exit_code == 1
    assert "1 approval(s) missing in the role" in words(alone, "approvals")
    cyd = house.approval(draft.statement, "cyd")
    both = verify(rewritten(folder, house.sealed(draft, [ada, *bob, cyd])), trust=trust, now=NOW)
    assert (both.exit_code, both.approved_by) == (0, APPROVERS)


def test_the_latest_decision_counts(house: House, folder: Path, trust: Path) -> None:
    """Who asked for changes may approve later; who approved may reject later."""
    fill(folder)
    draft = house.drafted(state_of(folder, claims()))
    rest = [house.approval(draft.statement, person) for person in ("ada", "cyd")]
    for first, second, code in (("changes", "approve", 0), ("approve", "reject", 1)):
        decisions: list[Any] = [
            house.approval(draft.statement, "bob", decision=what, comment="x", decided_at=NOW - n * DAY)
            for n, what in ((3, first), (1, second))
        ]
        found = verify(rewritten(folder, house.sealed(draft, [*rest, *decisions])), trust=trust, now=NOW)
        assert found.exit_code == code, found.lines()


@pytest.mark.parametrize(
    ("role", "waivable", "code"),
    [
        ("privacy-officer", ["privacy-officer"], 0),
        ("privacy-officer", ["data-custodian"], 1),
        ("privacy-officer", [], 1),
    ],
)
def test_a_waiver_needs_a_rule_that_allows_it(
    house: House, folder: Path, trust: Path, role: str, waivable: list[str], code: int
) -> None:
    """A failed rule passes only if the policy lets that role waive it; the answer says who did and why."""
    fill(folder)
    draft = house.drafted(state_of(folder, claims([rule("fail", waivable=waivable)])))
    waiver = (Waiver("no-copies", "seen by eye: scanner logo"),)
    bob = house.approval(draft.statement, "bob", role, waivers=waiver)
    rest = [house.approval(draft.statement, person) for person in ("ada", "cyd")]
    found = verify(rewritten(folder, house.sealed(draft, [bob, *rest])), trust=trust, now=NOW)
    assert found.exit_code == code, found.lines()
    if not code:
        assert "no-copies was waived by bob: seen by eye" in words(found, "approvals")
    unwaived = house.sealed(draft, [house.approval(draft.statement, person) for person in APPROVERS])
    refused = verify(rewritten(folder, unwaived), trust=trust, now=NOW)
    assert "has no valid waiver" in words(refused, "approvals")


def test_an_open_question_is_named(house: House, folder: Path, trust: Path) -> None:
    """Every question needs the answer of its role, or evidence; a no from any person keeps it open."""
    item = {"id": "seen", "question": "Seen?", "role": "clinical-lead", "evidence": None, "reference": "x"}
    fill(folder)
    draft = house.drafted(state_of(folder, claims(checklist=[item])))

    def answered(**answers: dict[str, Any]) -> ReleaseVerification:
        approvals = [house.approval(draft.statement, p, answers=answers.get(p, {})) for p in APPROVERS]
        return verify(rewritten(folder, house.sealed(draft, approvals)), trust=trust, now=NOW)

    yes, no = {"seen": GivenAnswer("yes")}, {"seen": GivenAnswer("no")}
    assert answered(cyd=yes).exit_code == 0
    for answers in ({}, {"bob": yes}, {"cyd": yes, "bob": no}):
        found = answered(**answers)
        assert found.exit_code == 1
        assert "open question: seen" in words(found, "approvals")


def test_a_bundle_cannot_lose_or_gain_a_line(house: House, folder: Path, trust: Path) -> None:
    """Dropping a rejection, adding an approval, moving lines: the certificate names what was counted."""
    fill(folder)
    draft = house.drafted(state_of(folder, claims()))
    approvals = [house.approval(draft.statement, person) for person in APPROVERS]
    reject = house.approval(draft.statement, "eve", decision="reject", comment="no")
    whole = house.sealed(draft, [*approvals, reject])
    for kept in (
        approvals,
        [*approvals, reject, house.approval(draft.statement, "eve", comment="x")],
        [reject, *approvals],
    ):
        found = verify(rewritten(folder, replace(whole, approvals=tuple(kept))), trust=trust, now=NOW)
        assert found.exit_code == 1
        assert "other approvals than the bundle has" in words(found, "certificate")


def test_a_certificate_of_another_release_does_not_fit(house: House, tmp_path: Path, trust: Path) -> None:
    """Nor do its statement, gate or approvals."""
    mine = house.release(tmp_path / "mine")
    other = house.release(tmp_path / "other", claims(release={"id": "1" * 32, "name": "other"}))
    for part in ("gate", "approvals", "certificate"):
        mixed = replace(mine, **{part: getattr(other, part)})
        assert verify(rewritten(tmp_path / "mine", mixed), trust=trust, now=NOW).exit_code == 1
    swapped = replace(mine, envelope=other.envelope, statement=other.statement)
    assert verify(rewritten(tmp_path / "mine", swapped), trust=trust, now=NOW).exit_code == 1


@pytest.mark.parametrize("what", ["statement", "gate", "certificate"])
def test_only_who_may_signs(house: House, folder: Path, trust: Path, what: str) -> None:
    """Statement and gate by the pipeline, the certificate by a sealer; no other signer, and not unsigned."""
    bundle = house.release(folder)
    for by in ("bob", "eve"):
        part = {"statement": "envelope"}.get(what, what)
        envelope = getattr(bundle, part)
        forged = house.signed(Envelope(envelope.payload, IN_TOTO), by)
        found = verify(rewritten(folder, replace(bundle, **{part: forged})), trust=trust, now=NOW)
        assert found.exit_code == 1
        assert f"is signed by {by}" in words(found, what)
    nobody = replace(bundle, **{part: Envelope(envelope.payload, IN_TOTO)})
    assert "is signed by nobody" in words(verify(rewritten(folder, nobody), trust=trust, now=NOW), what)


def test_a_stranger_with_the_same_names_is_refused(folder: Path, trust: Path) -> None:
    """A house of other keys can make a release that is in order by its own trust file, and not by ours."""
    stranger = House()
    stranger.release(folder)
    theirs = stranger.write_trust(folder.parent / "theirs.json")
    assert verify(folder, trust=trust, now=NOW).exit_code == 1
    assert "does not know" in words(verify(folder, trust=trust, now=NOW), "statement")
    assert "differs from the version 1" in words(verify(folder, trust=theirs, now=NOW), "trust")


@pytest.mark.parametrize(
    ("state", "said"),
    [("revoked", "was revoked on"), ("superseded", "was superseded"), ("suspended", "was suspended")],
)
def test_what_was_revoked_is_refused(house: House, folder: Path, trust: Path, state: str, said: str) -> None:
    """By the digest of the statement, with the reason; another release stays as it was."""
    bundle = house.release(folder)
    listed = folder.parent / "status.json"
    entries = []
    for version, digest, code in ((1, "c" * 64, 0), (2, bundle.statement.digest, 1)):
        entries.append(StatusEntry(digest, state, "a patient withdrew", NOW - DAY))
        listed.write_bytes(house.status(*entries, version=version))
        found = verify(folder, trust=trust, status=listed, now=NOW)
        assert found.exit_code == code, found.lines()
    assert said in words(found, "revocation")
    assert "a patient withdrew" in words(found, "revocation")


def test_a_withdrawn_approval_no_longer_counts(house: House, folder: Path, trust: Path) -> None:
    """The status list can name the envelope of one decision."""
    bundle = house.release(folder)
    listed = folder.parent / "status.json"
    listed.write_bytes(house.status(StatusEntry(bundle.approvals[1].digest, "revoked", "mistake", NOW - DAY)))
    found = verify(folder, trust=trust, status=listed, now=NOW)
    assert found.exit_code == 1
    assert "it was revoked" in words(found, "approvals")


def test_an_old_status_list_is_a_note_or_a_refusal(house: House, folder: Path, trust: Path) -> None:
    """Expired, it says nothing: told as such, or refused where a fresh one is required; so is none at all."""
    house.release(folder)
    listed = folder.parent / "status.json"
    listed.write_bytes(house.status(age=20 * DAY))
    lax = verify(folder, trust=trust, status=listed, now=NOW)
    assert lax.exit_code == 0
    assert "unknown since" in words(lax, "revocation")
    for status in (listed, None):
        strict = verify(folder, trust=trust, status=status, require_fresh_status=True, now=NOW)
        assert strict.exit_code == 1, strict.lines()
    listed.write_bytes(house.status(version=2))
    assert verify(folder, trust=trust, status=listed, require_fresh_status=True, now=NOW).exit_code == 0


def test_older_files_than_seen_before_are_refused(
    house: House, folder: Path, trust: Path, tmp_path: Path
) -> None:
    """A status list or trust file of an earlier version, or another of the same version, is a rollback."""
    house.release(folder)
    new, old, other = tmp_path / "s2", tmp_path / "s1", tmp_path / "s2b"
    new.write_bytes(house.status(version=2))
    old.write_bytes(house.status(version=1))
    other.write_bytes(house.status(StatusEntry("c" * 64, "revoked", "x", NOW), version=2))
    assert verify(folder, trust=trust, status=new, now=NOW).exit_code == 0
    for status in (old, other):
        found = verify(folder, trust=trust, status=status, now=NOW)
        assert found.exit_code == 1
        assert "was seen before" in words(found, "trust") or "that was seen before" in words(found, "trust")
    later = replace(house, version=2)
    assert verify(folder, trust=later.write_trust(tmp_path / "t2"), now=NOW).exit_code == 0
    back = verify(folder, trust=trust, now=NOW)
    assert back.exit_code == 1
    assert "version 2 was seen before" in words(back, "trust")


def test_the_next_trust_file_needs_the_old_roots(
    house: House, folder: Path, trust: Path, tmp_path: Path
) -> None:
    """New roots cannot appoint themselves; signed by the old ones as well, they can."""
    house.release(folder)
    assert verify(folder, trust=trust, now=NOW).exit_code == 0
    signers = {**house.signers, "rosa": new_signer(), "rolf": new_signer()}
    usurper = replace(house, version=2, signers=signers)
    taken = verify(folder, trust=usurper.write_trust(tmp_path / "t2"), now=NOW)
    assert "too few roots of version 1" in words(taken, "trust")
    rightful = tmp_path / "t2r"
    rightful.write_bytes(house.signed(usurper.trust_envelope(), "rosa", "rolf").line)
    assert verify(folder, trust=rightful, now=NOW).exit_code == 0


def test_a_home_that_cannot_be_written_is_told(
    house: House, folder: Path, trust: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check goes on, and says that an older file would not be noticed next time."""
    house.release(folder)
    monkeypatch.setenv("PRIVSYN_HOME", str(trust / "not-a-folder"))
    found = verify(folder, trust=trust, now=NOW)
    assert found.exit_code == 0
    assert "would not be noticed next time" in words(found, "trust")


def test_what_was_seen_is_kept_for_the_owner(house: House, folder: Path, trust: Path) -> None:
    """One file for each organisation, and nothing of the release in it."""
    house.release(folder)
    verify(folder, trust=trust, now=NOW)
    (kept,) = (home() / "seen").glob("[!.]*")
    assert kept.name == "st-elsewhere.json"


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({**ROLES, "root": (("rosa",), 2)}, "asks for 2 persons and names 1"),
        ({**ROLES, "root": (("rosa", "ghost"), 2)}, "names ghost"),
        ({**ROLES, "privacy-officer": (("machine",), 1)}, "pipeline and privacy-officer"),
        ({name: role for name, role in ROLES.items() if name != "sealer"}, "has no role sealer"),
        ({name: ROLES[name] for name in ("root", "pipeline", "sealer")}, "no role of approvers"),
    ],
)
def test_a_trust_file_that_means_less_than_it_says(house: House, roles: Any, message: str) -> None:
    """Roles that cannot be filled, or that a machine fills, are refused."""
    with pytest.raises(Refused, match=message):
        read_trust(replace(house, roles=roles).trust_envelope().line, now=NOW)


def test_one_key_under_two_names_is_refused(house: House) -> None:
    """Counting ids would take one key for two persons; ids follow from keys, and keys are unique."""
    twin = replace(house, signers={**house.signers, "cyd": house.signers["bob"]})
    with pytest.raises(Refused, match="one key to two persons"):
        read_trust(twin.trust_envelope().line, now=NOW)
    document = key_document(house.signers["bob"].public_key)
    with pytest.raises(Refused, match="not its own"):
        public_key({**document, "keyid": "0" * 64}, "a key")


def test_a_trust_file_out_of_its_time_is_refused(house: House, folder: Path, trust: Path) -> None:
    """Expired, or signed by too few of its own roots."""
    house.release(folder)
    late = verify(folder, trust=trust, now=NOW + 200 * DAY)
    assert f"expired on {spelled(house.expires)}" in words(late, "trust")
    trust.write_bytes(house.trust_envelope(by=["rosa"]).line)
    assert "needs 2 signature(s) of the role root" in words(verify(folder, trust=trust, now=NOW), "trust")


def test_a_key_counts_only_in_its_time(house: House, folder: Path, tmp_path: Path) -> None:
    """A key that ran out before the decision is not counted; one that ran out since is."""
    house.release(folder)
    for days, code in ((2, 1), (0.5, 0)):
        trust = house.write_trust(tmp_path / "trust.json", bob={"valid_until": NOW - days * DAY})
        (home() / "seen" / "st-elsewhere.json").unlink(missing_ok=True)
        assert verify(folder, trust=trust, now=NOW).exit_code == code


def test_a_release_expires(house: House, folder: Path, trust: Path) -> None:
    """After its expiry it is refused."""
    house.release(folder, claims(validUntil=spelled(NOW - DAY)))
    assert "expired on" in words(verify(folder, trust=trust, now=NOW), "validity")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"epsilon": 22.0}, 0, "recomputed by dp-accounting"),
        ({"epsilon": 2.0}, 1, "does not hold"),
        ({"valid_for_release": False}, 1, "not valid for a release"),
        ({"mechanism": None}, 1, "not a JSON object"),
        ({"mechanism": {**DP["mechanism"], "steps": 0}}, 1, "steps"),
        ({"mechanism": {**DP["mechanism"], "noise_multiplier": 0}}, 1, "noise_multiplier"),
        ({"epsilon": float(10**400 > 1) * -1}, 1, "epsilon"),
        ({"kind": "odd"}, 1, "no privacy claim"),
    ],
)
def test_the_claim_is_computed_again(
    house: House, folder: Path, trust: Path, changes: dict[str, Any], code: int, said: str
) -> None:
    """An epsilon that the parameters do not give is refused, whoever signed it."""
    house.release(folder, claims(privacyClaim={**DP, **changes}))
    found = verify(folder, trust=trust, now=NOW)
    assert found.exit_code == code, found.lines()
    assert said in words(found, "privacy claim")


def test_everybody_has_a_key_of_their_own(house: House) -> None:
    """The fixture itself: as many keys as people, and the policy's digest where approvals look for it."""
    assert len({signer.public_key.keyid for signer in house.signers.values()}) == len(PEOPLE)
    assert claims()["policy"]["sha256"] == POLICY
