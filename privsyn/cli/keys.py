"""`privsyn keys`: signing keys, which stay with their owners."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import Json, group

app = group("keys")

PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Read the passphrase from the first line of FILE instead of asking for it. "
        "There is no option and no environment variable for the passphrase itself.",
    ),
]


@app.callback()
def keys() -> None:
    """Make signing keys."""


@app.command("new")
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the private key goes; not in a study.")],
    passphrase_file: PassphraseFile = None,
    unencrypted: Annotated[
        bool,
        typer.Option("--unencrypted", help="Leave the private key in the clear, for a pipeline's vault."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key pair: FILE, encrypted, for you alone, and FILE.pub.json for everybody."""
    from privsyn.cli.console import show
    from privsyn.release.keys import PUBLIC, new_key

    key = new_key(file, None if unencrypted else passphrase(passphrase_file, confirm=True))
    public = file.with_name(file.name + PUBLIC)
    show(
        {"private": str(file), "public": str(public), "keyid": key.keyid},
        f"private key: {file} (keep it, and its passphrase, to yourself)",
        f"public key:  {public} ({key.keyid[:12]}), for the trust file",
        as_json=as_json,
    )


def passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """From a file, or asked on the terminal without showing it."""
    from privsyn.errors import PrivsynError

    if file is None:
        return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    try:
        return file.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise PrivsynError(f"{file} has no first line with a passphrase") from None
