"""`privsyn release`: draft a release, approve it, seal it, and revoke it later."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from privsyn.cli.keys import PassphraseFile, signers
from privsyn.cli.options import HERE, Force, Json, Keys, PublicKey, StudyFolder, TrustFile, group, pairs
from privsyn.cli.trust import trusted
from privsyn.errors import PrivsynError

if TYPE_CHECKING:
    from privsyn.release.approvals import GivenAnswer

Choice = TypeVar("Choice", bound=str)

SingleAnswers = Annotated[
    list[str] | None,
    typer.Option(
        "--answer", metavar="ID=ANSWER", help="yes, no or not-applicable, and a comment after a colon."
    ),
]
AnswersFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help='A TOML file of answers, as in: id = "not-applicable: no text".'),
]
Waive = Annotated[
    list[str] | None,
    typer.Option(metavar="RULE=REASON", help="Waive a rule that did not pass, if your role may."),
]
Comment = Annotated[
    str, typer.Option(metavar="TEXT", help="Required with reject and changes; part of the release.")
]
Conflict = Annotated[str, typer.Option(metavar="TEXT", help="Declare one; part of the release.")]
OutFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write the decision there, to be carried to the study.")
]

app = group("release")


@app.callback()
def release() -> None:
    """Draft a release, approve it, seal it, and revoke it later."""


@app.command("draft")
def draft(
    key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The pipeline's key; without it the draft cannot be approved."),
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
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days until the release expires.")] = 365,
    supersedes: Annotated[
        str | None, typer.Option(metavar="SHA256", help="Statement of the release that this one replaces.")
    ] = None,
    force: Force = False,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Write the release folder with its statement, for approval.

    It is written whatever the verdict, which it carries.
    """
    from privsyn.cli.console import show
    from privsyn.release.draft import draft
    from privsyn.release.predicate import ReleaseTerms

    signer = signers([key], public_key, passphrase_file)[0] if key else None
    decided = ReleaseTerms(tuple(author or ()), terms, valid_days, supersedes)
    folder = draft(study, decided, signer=signer, force=force)
    follow = "privsyn release checklist" if signer else f"privsyn verify {folder}"
    show(
        {"release": str(folder), "signed": signer is not None},
        f"drafted {folder}: not approved yet",
        f"next: {follow}",
        as_json=as_json,
    )


@app.command("checklist")
def checklist(study: StudyFolder = HERE, as_json: Json = False) -> None:
    """Print the policy's questions, which role answers each, and which the evidence answers.

    Answer those of your role with `privsyn release approve --answer ID=yes`, or --answers FILE.
    """
    from privsyn.cli.console import show
    from privsyn.release.approve import questions

    found = questions(study)
    lines = []
    for question, why in found:
        lines += [f"[{' ' if why else 'x'}] {question.id} ({question.role}): {question.question}"]
        lines += [f"    open: {why}"] if why else []
    left = sum(1 for _, why in found if why)
    show(
        {"items": [{**each.to_dict(), "open": why or None} for each, why in found], "open": left},
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
    answer: SingleAnswers = None,
    answers: AnswersFile = None,
    waive: Waive = None,
    comment: Comment = "",
    conflict_of_interest: Conflict = "",
    valid_days: Annotated[int, typer.Option(min=1, max=3650, help="Days that the decision counts.")] = 180,
    out: OutFile = None,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Sign your decision about the draft, in your role and with your key."""
    from privsyn.cli.console import show
    from privsyn.release.approvals import DECISIONS, Waiver
    from privsyn.release.approve import ApprovalRequest, approve

    request = ApprovalRequest(
        role=role,
        decision=_chosen(decision, DECISIONS, "--decision"),
        answers=_answers(answers, answer or ()),
        waivers=tuple(Waiver(*each) for each in pairs(waive or (), "--waive", "rule=reason").items()),
        comment=comment,
        conflict_of_interest=conflict_of_interest,
        valid_days=valid_days,
    )
    signer = signers([key], public_key, passphrase_file)[0]
    file = approve(study, request, signer=signer, trust=trusted(trust), out=out)
    show(
        {"approval": str(file), "decision": decision},
        f"signed: {decision} as {role} in {file}",
        as_json=as_json,
    )


@app.command("status")
def status(trust: TrustFile, study: StudyFolder = HERE, as_json: Json = False) -> int:
    """Show how many approvals there are, and once every role has decided, what is missing.

    Exit code: 0 can be sealed, 1 somebody objects or something is missing, 3 decisions are outstanding.
    """
    from privsyn.cli.console import show
    from privsyn.release.approve import standing

    known = trusted(trust)
    there = standing(study, known)
    lines = [
        f"{name}: {there.decided.get(name, 0)} of {role.threshold} decided"
        for name, role in known.approver_roles.items()
    ]
    if not there.complete:
        lines.append("decisions are shown when every role has decided")
        show({"complete": False, "decided": dict(there.decided)}, *lines, as_json=as_json)
        return 3
    reasons = there.tally.reasons
    lines += reasons or ["nothing is missing: privsyn release seal"]
    document = {"complete": True, "decided": dict(there.decided), "reasons": reasons}
    show(document, *lines, as_json=as_json)
    return 1 if reasons else 0


@app.command("seal")
def seal(
    key: Keys,
    trust: TrustFile,
    approval: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A decision that is not in the study. Repeatable."),
    ] = None,
    status: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The status list, for withdrawn approvals.")
    ] = None,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    study: StudyFolder = HERE,
    as_json: Json = False,
) -> None:
    """Close the release with a certificate, once everybody required by the trust file has approved it."""
    from privsyn.cli.console import show
    from privsyn.release.seal import seal

    signing = signers(key, public_key, passphrase_file)
    folder = seal(study, signers=signing, trust=trusted(trust), approvals=approval or (), status=status)
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
    valid_days: Annotated[int, typer.Option(min=1, max=90, help="Days until the list expires.")] = 30,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Put a release or an approval on the status list, in its next version."""
    from privsyn.cli.console import show
    from privsyn.release.revoke import revoke
    from privsyn.release.status_list import STATES

    digest = _release_digest(digest)
    found = revoke(
        digest,
        state=_chosen(state, STATES, "--state"),
        reason=reason,
        signers=signers(key, public_key, passphrase_file),
        trust=trusted(trust),
        status=status,
        valid_days=valid_days,
    )
    show(
        {"status": str(status), "version": found.version, "sha256": digest, "state": state},
        f"{state}: {digest[:12]} in {status}, version {found.version}",
        "next: give the list to every recipient, for privsyn verify --status",
        as_json=as_json,
    )


@app.command("verifier")
def verifier(
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write it.")] = Path(
        "privsyn-verify.pyz"
    ),
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


def _chosen(value: str, choices: tuple[Choice, ...], option: str) -> Choice:
    for choice in choices:
        if choice == value:
            return choice
    raise PrivsynError(f"{option} {value!r}: expected one of {', '.join(choices)}")


def _release_digest(named: str) -> str:
    """The digest itself, or that of the statement in a release folder."""
    from privsyn.release.bundle import read_bundle
    from privsyn.release.manifest import BUNDLE
    from privsyn.strict_json import check_digest

    folder = Path(named)
    if not folder.is_dir():
        return check_digest(named, "the digest")
    try:
        return read_bundle((folder / BUNDLE).read_bytes()).statement.digest
    except OSError as error:
        raise PrivsynError(f"{folder} is not a release ({error.strerror})") from None


def _answers(file: Path | None, single: Sequence[str]) -> dict[str, GivenAnswer]:
    """The answers in a file, and those given one by one, which take precedence."""
    from privsyn.release.approvals import parse_answer

    try:
        listed = {} if file is None else tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PrivsynError(f"{file} is not a TOML file of answers ({error})") from None
    found = {**listed, **pairs(single, "--answer", "question=yes")}
    return {item: parse_answer(item, str(text)) for item, text in found.items()}
