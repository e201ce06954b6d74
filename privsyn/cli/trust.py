"""`privsyn trust`: the trust file, which says whose signatures count."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.cli.keys import PassphraseFile, signers
from privsyn.cli.options import Json, Keys, PublicKey, group

if TYPE_CHECKING:
    from privsyn.release.trust import Trust

app = group("trust")


@app.callback()
def trust() -> None:
    """Write and show trust files: persons, their keys and roles."""


@app.command("sign")
def sign(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A plan in TOML, or a trust file with earlier signatures."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The trust file to write.")],
    key: Keys,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign a trust file. The next version needs the roots of the old one and of the new one.

    Exit code: 3 while too few roots have signed.
    """
    from privsyn.cli.console import show
    from privsyn.release.trust_plan import write_trust

    found, lacking = write_trust(source, signers=signers(key, public_key, passphrase_file), out=out)
    show(
        {"trust": str(out), "id": found.id, "version": found.version, "lacking": lacking},
        f"wrote {out}: {found.id}, version {found.version}",
        f"not valid yet: {lacking}"
        if lacking
        else "next: give it to every recipient, through another channel than the release",
        as_json=as_json,
    )
    raise typer.Exit(3 if lacking else 0)


@app.command("show")
def show_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The trust file.")], as_json: Json = False
) -> None:
    """Show persons, keys and roles of a trust file."""
    from privsyn.cli.console import show

    found = trusted(file)
    roles = {name: sorted(role.persons) for name, role in found.roles.items()}
    lines = [f"{found.id}, version {found.version}, until {found.expires:%Y-%m-%d}"]
    lines += [
        f"{name}: {role.threshold} of {', '.join(sorted(role.persons))}" for name, role in found.roles.items()
    ]
    lines += [f"{p.id}: {p.name}, key {p.key.keyid[:12]}" for p in found.persons.values()]
    show(
        {"id": found.id, "version": found.version, "roles": roles, "sha256": found.digest},
        *lines,
        as_json=as_json,
    )


def trusted(file: Path) -> Trust:
    """Read a trust file that is signed by enough of its roots and has not expired."""
    from privsyn.release.trust import read_trust
    from privsyn.strict_json import read_file

    return read_trust(read_file(file))
