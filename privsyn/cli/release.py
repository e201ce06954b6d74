"""`privsyn release`: what leaves the house, and who agreed to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privsyn.cli.keys import PassphraseFile, passphrase
from privsyn.cli.options import HERE, Force, Json, Keys, PublicKey, StudyFolder, TrustFile, group, pairs

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

    from privsyn.release.trust import Trust

app = group("release")


@app.callback()
def release() -> None:
    """Put together what leaves the house, decide about it, and seal it."""


@app.command("draft")
def draft(
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The pipeline's key; without it nobody can approve the draft."),
    ] = None,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    author: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PERSON", help="Id of a person who made it and so cannot approve it. Repeatable."
        ),
    ] = None,
    terms: Annotated[str | None, typer.Option(metavar="TEXT", help="Terms of use, in words.")] = None,
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days to rely on it.")] = 365,
    supersedes: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Statement of the release that this one replaces.")
    ] = None,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Write the release folder with its statement.

    It is written whatever the verdict, which it carries. Nobody has approved it yet.
    """
    from privsyn.cli.console import show
    from privsyn.release.draft import draft

    signer = signers([key], public_key, passphrase_file)[0] if key else None
    folder = draft(
        study,
        signer=signer,
        authors=author or (),
        terms=terms,
        valid_days=valid_days,
        supersedes=supersedes,
        force=force,
    )
    follow = "privsyn release checklist" if signer else f"privsyn verify {folder}"
    show(
        {"release": str(folder), "signed": signer is not None},
        f"drafted {folder}: nobody has approved it yet",
        f"next: {follow}",
        as_json=as_json,
    )


@app.command("checklist")
def checklist(study: StudyFolder = HERE, as_json: Json = False) -> None:
    """Print the policy's questions, who answers each, and which the evidence answers by itself.

    Answer those of your role with `privsyn release approve --answer ID=yes`, or --answers FILE.
    """
    from privsyn.cli.console import show
    from privsyn.release.approve import questions

    found = questions(study)
    lines = []
    for item, why in found:
        lines += [f"[{' ' if why else 'x'}] {item['id']} ({item['role']}): {item['question']}"]
        lines += [f"    open: {why}"] if why else []
    left = sum(1 for _, why in found if why)
    show(
        {"items": [{**item, "open": why or None} for item, why in found], "open": left},
        *lines,
        f"{left} of {len(found)} questions wait for a person",
        as_json=as_json,
    )


@app.command("approve")
def approve(
    key: Annotated[str, typer.Option(metavar="KEY", help="Your own key.")],
    trust: TrustFile,
    role: Annotated[str, typer.Option(metavar="ROLE", help="The role in which you decide.")],
    decision: Annotated[str, typer.Option(metavar="WHAT", help="approve, reject or changes.")] = "approve",
    answer: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=ANSWER", help="yes, no or not-applicable, and a comment after a colon."),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='A TOML file of answers, as in: id = "not-applicable: no text".'),
    ] = None,
    waive: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE=REASON", help="Pass over a rule that did not pass, if your role may."),
    ] = None,
    comment: Annotated[
        str, typer.Option(metavar="TEXT", help="Wanted with reject and changes; leaves in the bundle.")
    ] = "",
    conflict_of_interest: Annotated[str, typer.Option(metavar="TEXT", help="Declare one; leaves too.")] = "",
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days that it counts.")] = 180,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the decision there, to be carried to the study."),
    ] = None,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Decide about the draft as it lies there, in your role and with your key."""
    from privsyn.cli.console import show
    from privsyn.errors import PrivsynError
    from privsyn.release.approvals import DECISIONS, Waiver
    from privsyn.release.approve import approve

    if decision not in DECISIONS:
        raise PrivsynError(f"--decision {decision!r}: expected one of {', '.join(DECISIONS)}")
    chosen: Any = decision
    file = approve(
        study,
        signer=signers([key], public_key, passphrase_file)[0],
        trust=read(trust),
        role=role,
        decision=chosen,
        answers=_answers(answers, answer or ()),
        waivers=[Waiver(rule, why) for rule, why in pairs(waive or (), "--waive", "rule=reason").items()],
        comment=comment,
        conflict_of_interest=conflict_of_interest,
        valid_days=valid_days,
        out=out,
    )
    show(
        {"approval": str(file), "decision": decision},
        f"signed: {decision} as {role} in {file}",
        as_json=as_json,
    )


@app.command("status")
def status(trust: TrustFile, study: StudyFolder = HERE, as_json: Json = False) -> int:
    """Show which approvals are there, and once all are, what they amount to.

    Exit code: 0 can be sealed, 1 somebody objects or something is missing, 3 decisions are outstanding.
    """
    from privsyn.cli.console import show
    from privsyn.release.approve import standing

    known = read(trust)
    there = standing(study, known)
    lines = [
        f"{name}: {there.decided.get(name, 0)} of {role.threshold} decided"
        for name, role in known.approver_roles.items()
    ]
    if not there.complete:
        lines.append("what was decided is shown when every role has decided")
        show({"complete": False, "decided": dict(there.decided)}, *lines, as_json=as_json)
        return 3
    reasons = there.tally.reasons
    lines += reasons or ["everything is there: privsyn release seal"]
    document = {"complete": True, "decided": dict(there.decided), "reasons": reasons}
    show(document, *lines, as_json=as_json)
    return 1 if reasons else 0


@app.command("seal")
def seal(
    key: Keys,
    trust: TrustFile,
    approval: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A decision that lies elsewhere. Repeatable.")
    ] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The status list, for withdrawn approvals.")
    ] = None,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Close the release with a certificate, if everybody whom the trust file asks for agreed."""
    from privsyn.cli.console import show
    from privsyn.release.seal import seal

    signing = signers(key, public_key, passphrase_file)
    folder = seal(study, signers=signing, trust=read(trust), approvals=approval or (), status=status)
    show(
        {"release": str(folder)},
        f"sealed {folder}: it may leave",
        f"next: privsyn verify {folder} --trust {trust}",
        as_json=as_json,
    )


@app.command("revoke")
def revoke(
    digest: Annotated[
        str,
        typer.Argument(
            metavar="SHA256|RELEASE", help="A release folder, or the digest of a statement or approval."
        ),
    ],
    status: Annotated[Path, typer.Option(metavar="FILE", help="The status list; made if it is not there.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why.")],
    key: Keys,
    trust: TrustFile,
    state: Annotated[str, typer.Option(metavar="WHAT", help="revoked, superseded or suspended.")] = "revoked",
    valid_days: Annotated[int, typer.Option(min=1, max=90, help="Days until the next list.")] = 30,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Put a release or an approval on the status list, in its next version."""
    from privsyn.cli.console import show
    from privsyn.errors import PrivsynError
    from privsyn.release.bundle import read_bundle
    from privsyn.release.manifest import BUNDLE
    from privsyn.release.seal import revoke
    from privsyn.release.status_list import STATES
    from privsyn.strict_json import check_digest

    if state not in STATES:
        raise PrivsynError(f"--state {state!r}: expected one of {', '.join(STATES)}")
    folder = Path(digest)
    if folder.is_dir():
        try:
            digest = read_bundle((folder / BUNDLE).read_bytes()).statement.digest
        except OSError as error:
            raise PrivsynError(f"{folder} is not a release ({error.strerror})") from None
    found = revoke(
        check_digest(digest, "the digest"),
        state=state,
        reason=reason,
        signers=signers(key, public_key, passphrase_file),
        trust=read(trust),
        status=status,
        valid_days=valid_days,
    )
    show(
        {"status": str(status), "version": found.version, "sha256": digest, "state": state},
        f"{state}: {digest[:12]} in {status}, version {found.version}",
        "next: give the list to every recipient, who passes it as privsyn verify --status",
        as_json=as_json,
    )


@app.command("verifier")
def verifier(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where it goes.")] = Path("privsyn-verify.pyz"),
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write the recipient's check as one file that any Python 3.11 runs, with nothing installed."""
    from privsyn.cli.console import show
    from privsyn.release.portable import write_portable

    digest = write_portable(out, force=force)
    show(
        {"verifier": str(out), "sha256": digest},
        f"wrote {out}, sha256 {digest}",
        f"recipients run: python3 {out.name} RELEASE --trust trust.json",
        as_json=as_json,
    )


def signers(keys: Sequence[str], public: Path | None, passphrase_file: Path | None) -> list[Signer]:
    """The keys, each opened with its passphrase, which is asked for if no file has it."""
    from privsyn.release.keys import open_key

    return [open_key(key, lambda: passphrase(passphrase_file), public) for key in keys]


def read(file: Path) -> Trust:
    """A trust file that is to be believed."""
    from privsyn.release.trust import read_trust
    from privsyn.strict_json import read_file

    return read_trust(read_file(file))


def _answers(file: Path | None, single: Sequence[str]) -> dict[str, dict[str, str]]:
    """Those of the file, and those given singly, which win."""
    import tomllib

    from privsyn.errors import PrivsynError

    found: dict[str, Any] = {}
    if file is not None:
        try:
            found = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise PrivsynError(f"{file} is not a TOML file of answers ({error})") from None
    found |= pairs(single, "--answer", "question=yes")
    made = {}
    for item, text in found.items():
        answer, _, comment = str(text).partition(":")
        made[item] = {"answer": answer.strip(), "comment": comment.strip()}
    return made
