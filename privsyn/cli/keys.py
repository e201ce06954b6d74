"""`privsyn keys`: make signing keys; and open them for the commands that sign."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from privsyn.cli.options import Json, group

if TYPE_CHECKING:
    from securesystemslib.signer import Signer

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
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write the private key; not in a study.")
    ],
    passphrase_file: PassphraseFile = None,
    unencrypted: Annotated[
        bool,
        typer.Option("--unencrypted", help="Do not encrypt the private key, as for a pipeline's vault."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an Ed25519 key pair: FILE, encrypted, which you keep, and FILE.pub.json, which you give away."""
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


def signers(keys: Sequence[str], public: Path | None, passphrase_file: Path | None) -> list[Signer]:
    """The keys, each opened with the passphrase of the file, or asked for on the terminal."""
    from privsyn.release.keys import open_key

    return [open_key(key, lambda: passphrase(passphrase_file), public) for key in keys]


def passphrase(file: Path | None, *, confirm: bool = False) -> str:
    """The passphrase in a file; without a file, ask for it on the terminal."""
    from privsyn.errors import PrivsynError

    if file is None:
        return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))
    try:
        return file.read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise PrivsynError(f"{file} has no first line with a passphrase") from None
