"""Make, read and open signing keys; a private key never lies in a study.

A key is an Ed25519 private key in an encrypted PEM file (PKCS 8) with a public half beside it. What else can
sign, such as a hardware token, goes through a signer of securesystemslib, named by its URI.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import SIGNER_FOR_URI_SCHEME, CryptoSigner, Signer, SSlibKey

from privsyn.errors import PrivsynError
from privsyn.files import whole_file
from privsyn.release.envelope import key_document, key_id, public_key
from privsyn.strict_json import read_file, read_strictly

SHORTEST = 12  # characters of a passphrase
PUBLIC = ".pub.json"
FILES = (
    "file",
    "file2",
    "envvar",
)  # signers of securesystemslib that take a key from a file or the environment

Passphrase = Callable[[], str]


def new_key(file: Path | str, passphrase: str | None) -> SSlibKey:
    """Make a key pair: `file`, readable by its owner alone, and `file` with `.pub.json` for everybody else.

    Args:
        passphrase: that encrypts the private key; None leaves it in the clear, for tokens and tests.

    Returns:
        The public key.

    Raises:
        PrivsynError: a file exists, lies in a study, or the passphrase is short.
    """
    file = Path(file)
    public_file = file.with_name(file.name + PUBLIC)
    _outside_any_study(file)
    for path in (file, public_file):
        if os.path.lexists(path):
            raise PrivsynError(f"{path} already exists, and keys are never replaced: choose another name")
    if passphrase is not None and len(passphrase) < SHORTEST:
        raise PrivsynError(f"the passphrase is shorter than {SHORTEST} characters: choose a longer one")
    private = Ed25519PrivateKey.generate()
    locked = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)
    key = _public_half(private)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(pem)
    with whole_file(public_file) as partial:
        partial.write_text(json.dumps(key_document(key), indent=2) + "\n", encoding="utf-8")
    return key


def read_public(file: Path | str) -> SSlibKey:
    """The public key in a file that `new_key` wrote.

    Raises:
        PrivsynError: there is none.
    """
    return public_key(read_strictly(read_file(file), str(file)), str(file))


def open_key(key: str, passphrase: Passphrase, public: Path | None = None) -> Signer:
    """What signs.

    Args:
        key: a file that `new_key` wrote, or a URI that a signer of securesystemslib understands, such as
            `hsm:2?label=...`.
        passphrase: asked only if the file is encrypted.
        public: file of the public key, needed with a URI.

    Raises:
        PrivsynError: the key cannot be used, or is not kept as it should be.
    """
    scheme = key.partition(":")[0]
    if scheme in FILES and not Path(key).exists():
        raise PrivsynError(f"{scheme}: reads a private key in the clear: name the file of `privsyn keys new`")
    if scheme in SIGNER_FOR_URI_SCHEME and not Path(key).exists():
        if public is None:
            raise PrivsynError(f"{scheme}: needs --public-key FILE with the public half of the key")
        return _by_uri(key, read_public(public), passphrase)
    file = Path(key)
    _outside_any_study(file)
    pem = read_file(file)
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PrivsynError(f"{file} can be read by others than its owner: chmod 600 {file}")
    private = _unlocked(file, pem, passphrase)
    return CryptoSigner(private, _public_half(private))


def _unlocked(file: Path, pem: bytes, passphrase: Passphrase) -> Ed25519PrivateKey:
    locked = b"ENCRYPTED" in pem.splitlines()[0] if pem else False
    try:
        private = load_pem_private_key(pem, passphrase().encode() if locked else None)
    except (ValueError, TypeError):
        why = "the passphrase is wrong, or the file is damaged" if locked else "no private key in PEM form"
        raise PrivsynError(f"{file}: {why}") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise PrivsynError(f"{file} holds a key of another kind than Ed25519")
    return private


def _by_uri(uri: str, public: SSlibKey, passphrase: Passphrase) -> Signer:
    try:
        return Signer.from_priv_key_uri(uri, public, lambda _: passphrase())
    except Exception as error:  # every signer has its own
        raise PrivsynError(
            f"the key {uri.partition(':')[0]}: cannot be used ({type(error).__name__}: {error})"
        ) from None


def _public_half(private: Ed25519PrivateKey) -> SSlibKey:
    public = private.public_key().public_bytes_raw().hex()
    return SSlibKey(key_id("ed25519", "ed25519", public), "ed25519", "ed25519", {"public": public})


def _outside_any_study(file: Path) -> None:
    for folder in file.resolve().parents:
        if (folder / "study.toml").exists():
            raise PrivsynError(f"{file} lies in the study {folder}: a private key is kept outside of it")
