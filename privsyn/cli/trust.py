"""`privsyn trust`: whose signatures count."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.keys import PassphraseFile
from privsyn.cli.options import Json, Keys, PublicKey, group

app = group("trust")


@app.callback()
def trust() -> None:
    """Write and show trust files: persons, their keys and roles."""


@app.command("sign")
def sign(
    source: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A plan in TOML, or a trust file that others signed already."),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The trust file to write.")],
    key: Keys,
    public_key: PublicKey = None,
    passphrase_file: PassphraseFile = None,
    as_json: Json = False,
) -> None:
    """Sign a trust file; a next version is signed by the roots of the old one and of the new one.

    Exit code: 3 while too few roots have signed.
    """
    from privsyn.cli.console import show
    from privsyn.cli.release import signers
    from privsyn.release.seal import write_trust

    found, lacking = write_trust(source, signers=signers(key, public_key, passphrase_file), out=out)
    show(
        {"trust": str(out), "id": found.id, "version": found.version, "lacking": lacking},
        f"wrote {out}: {found.id}, version {found.version}",
        f"not yet to be believed: {lacking}"
        if lacking
        else "next: give it to every recipient, by another way than the release",
        as_json=as_json,
    )
    raise typer.Exit(3 if lacking else 0)


@app.command("show")
def show_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The trust file.")], as_json: Json = False
) -> None:
    """Show who may do what by a trust file."""
    from privsyn.cli.console import show
    from privsyn.cli.release import read

    found = read(file)
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
