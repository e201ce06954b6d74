"""Signed bytes: DSSE envelopes (https://github.com/secure-systems-lab/dsse), one JSON line each.

Standard library and securesystemslib, which verifies Ed25519 in pure Python where `cryptography` is missing.
An envelope has exactly one spelling. A key's id is derived from the key (RFC 8785-like spelling of its public
part), never taken from a document: libraries that count signatures by id accept one key under two ids twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from securesystemslib.dsse import Envelope as Dsse
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Signature, Signer, SSlibKey

from privsyn.errors import PrivsynError
from privsyn.strict_json import Fields, JsonObject, JsonValue, check_digest, read_strictly, refuse

IN_TOTO = "application/vnd.in-toto+json"
TRUST = "application/vnd.privsyn.trust+json"
STATUS = "application/vnd.privsyn.status+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
KEY_FIELDS = ("keyid", "keytype", "scheme", "keyval")
SCHEMES = (("ed25519", "ed25519"), ("ecdsa", "ecdsa-sha2-nistp256"), ("ecdsa", "ecdsa-sha2-nistp384"))
_ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
_ED25519_PRIME = 2**255 - 19
# y of the points whose order divides 8: with one as a key, anybody can make a signature that fits.
_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _ED25519_PRIME - 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    }
)
_SPKI = {  # what comes before the point in a public key, and the bytes of the uncompressed point
    "ecdsa-sha2-nistp256": ("3059301306072a8648ce3d020106082a8648ce3d030107034200", 65),
    "ecdsa-sha2-nistp384": ("3076301006072a8648ce3d020106052b81040022036200", 97),
}


@dataclass(frozen=True)
class Envelope:
    """A payload with its signatures, which `signers` checks.

    Attributes:
        signatures: pairs of key id and signature.
    """

    payload: bytes
    payload_type: str
    signatures: tuple[tuple[str, bytes], ...] = ()

    @property
    def line(self) -> bytes:
        """The one spelling, with a newline at its end."""
        document = {
            "payload": base64.b64encode(self.payload).decode(),
            "payloadType": self.payload_type,
            "signatures": [
                {"keyid": keyid, "sig": base64.b64encode(signature).decode()}
                for keyid, signature in self.signatures
            ],
        }
        return json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"

    @property
    def digest(self) -> str:
        """sha256 (hex) of what was signed, so that it stays the same with further signatures."""
        return hashlib.sha256(self.payload).hexdigest()

    def signed(self, *signers: Signer) -> Envelope:
        """This envelope with further signatures; signing twice with one key changes nothing."""
        made = [signer.sign(self._bytes_to_sign()) for signer in signers]
        by_key = {**dict(self.signatures), **{each.keyid: bytes.fromhex(each.signature) for each in made}}
        return Envelope(self.payload, self.payload_type, tuple(sorted(by_key.items())))

    def signers(self, keys: Mapping[str, SSlibKey], what: str) -> frozenset[str]:
        """The ids of the keys that signed.

        Args:
            keys: by id, as `public_key` derives it.

        Raises:
            Refused: a signature is of none of the keys, or does not fit.
        """
        message = self._bytes_to_sign()
        for keyid, signature in self.signatures:
            if keyid not in keys:
                refuse(what, f"is signed with a key that the trust file does not know ({keyid[:12]})")
            _check_signature(keys[keyid], signature, message, what)
        return frozenset(keyid for keyid, _ in self.signatures)

    def by_known(self, keys: Mapping[str, SSlibKey]) -> Envelope:
        """Without signatures of keys that are not known, as TUF reads a file that others signed too."""
        return Envelope(
            self.payload, self.payload_type, tuple(pair for pair in self.signatures if pair[0] in keys)
        )

    def _bytes_to_sign(self) -> bytes:
        encoded: bytes = Dsse(self.payload, self.payload_type, {}).pae()
        return encoded


def read_envelope(line: bytes, payload_type: str, what: str) -> Envelope:
    """Read one envelope that may be hostile.

    Raises:
        Refused: it is none of this type, or is not spelled as `Envelope.line` spells it.
    """
    fields = Fields(read_strictly(line, what), what, ("payload", "payloadType", "signatures"))
    if fields.text("payloadType", longest=200) != payload_type:
        refuse(what, f"is not of the type {payload_type}")
    signatures = []
    for listed in fields.list("signatures"):
        signature = Fields(listed, f"a signature of {what}", ("keyid", "sig"))
        signatures.append((signature.digest("keyid"), _bytes(signature.document.get("sig"), what)))
    if len({keyid for keyid, _ in signatures}) != len(signatures):
        refuse(what, "is signed twice with one key")
    if signatures != sorted(signatures):
        refuse(what, "has its signatures in another order than that of their keys")
    found = Envelope(_bytes(fields.document.get("payload"), what), payload_type, tuple(signatures))
    if found.line != line:
        refuse(what, "is not spelled as privsyn spells an envelope")
    return found


def statement_about(
    subjects: Mapping[str, str], predicate_type: str, predicate: Mapping[str, JsonValue]
) -> JsonObject:
    """An in-toto Statement about digests: name to sha256 (hex)."""
    listed: list[JsonObject] = [
        {"name": name, "digest": {"sha256": digest}} for name, digest in sorted(subjects.items())
    ]
    return {
        "_type": STATEMENT_TYPE,
        "subject": listed,
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }


def read_about(payload: bytes, predicate_type: str, what: str) -> tuple[dict[str, str], JsonObject]:
    """Subjects (name to sha256) and predicate of an in-toto Statement of a type.

    Raises:
        Refused: it is none.
    """
    fields = Fields(read_strictly(payload, what), what, ("_type", "subject", "predicateType", "predicate"))
    if (
        fields.document.get("_type") != STATEMENT_TYPE
        or fields.document.get("predicateType") != predicate_type
    ):
        refuse(what, f"is not an in-toto Statement v1 of the type {predicate_type}")
    subjects: dict[str, str] = {}
    for entry in fields.list("subject"):
        subject = Fields(entry, f"a subject of {what}", ("name", "digest"))
        name = subject.text("name")
        digest = Fields(subject.mapping("digest"), f"a subject of {what}", ("sha256",)).digest("sha256")
        if name in subjects:
            refuse(what, "names a subject twice")
        subjects[name] = digest
    return subjects, fields.mapping("predicate")


def predicate_type(payload: bytes, what: str) -> str:
    """The predicate type of a statement, to know what it is."""
    return Fields(read_strictly(payload, what), what).text("predicateType", longest=200)


def public_key(document: object, what: str) -> SSlibKey:
    """A public key from its JSON, under the id that follows from it.

    Raises:
        Refused: it is not a key of a known kind, or has an id that is not its own.
    """
    fields = Fields(document, what, KEY_FIELDS)
    kind = (fields.text("keytype", longest=40), fields.text("scheme", longest=40))
    if kind not in SCHEMES:
        refuse(what, f"is a key of a kind that is not accepted: {kind!a}")
    value = Fields(fields.mapping("keyval"), what, ("public",)).text("public")
    if kind[0] == "ed25519":
        _check_point(check_digest(value, what), what)  # 32 bytes in hex, by chance of the same form
    else:
        _check_pem(value, kind[1], what)
    keyid = key_id(kind[0], kind[1], value)
    if fields.document.get("keyid") not in (None, keyid):
        refuse(what, "goes under an id that is not its own")
    return SSlibKey(keyid, *kind, {"public": value})


def key_id(keytype: str, scheme: str, public: str) -> str:
    """sha256 (hex) of the key's one spelling."""
    document = {"keytype": keytype, "keyval": {"public": public}, "scheme": scheme}
    return hashlib.sha256(json.dumps(document, separators=(",", ":"), sort_keys=True).encode()).hexdigest()


def key_document(key: SSlibKey) -> JsonObject:
    """What `public_key` reads."""
    return {"keyid": key.keyid, "keytype": key.keytype, "scheme": key.scheme, "keyval": dict(key.keyval)}


def _check_signature(key: SSlibKey, signature: bytes, message: bytes, what: str) -> None:
    if key.keytype == "ed25519" and (
        len(signature) != 64 or int.from_bytes(signature[32:], "little") >= _ED25519_ORDER
    ):
        refuse(what, "has a signature of the wrong form")
    try:
        key.verify_signature(Signature(key.keyid, signature.hex()), message)
    except UnverifiedSignatureError as error:
        if "cryptography" in str(error.__cause__ or error):
            raise PrivsynError(
                f"{what} is signed with {key.scheme}: `pip install cryptography` to check it"
            ) from None
        refuse(what, f"has a signature that does not fit what was signed (key {key.keyid[:12]})")


def _check_point(public: str, what: str) -> None:
    y = int.from_bytes(bytes.fromhex(public), "little") & (2**255 - 1)
    if y >= _ED25519_PRIME or y in _SMALL_ORDER:
        refuse(what, "is a key with which anybody could sign")


def _check_pem(public: str, scheme: str, what: str) -> None:
    """One key has one spelling, else it could be two persons'."""
    prefix, point = _SPKI[scheme]
    lines = public.strip("\n").split("\n")
    body = _bytes("".join(lines[1:-1]), what)
    encoded = base64.b64encode(body).decode()
    rows = [encoded[start : start + 64] for start in range(0, len(encoded), 64)]
    spelled = "\n".join(["-----BEGIN PUBLIC KEY-----", *rows, "-----END PUBLIC KEY-----", ""])
    der = bytes.fromhex(prefix)
    if public != spelled or body[: len(der) + 1] != der + b"\x04" or len(body) != len(der) + point:
        refuse(what, f"is not a public key of the kind {scheme} in PEM as privsyn spells it")


def _bytes(value: object, what: str) -> bytes:
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (ValueError, binascii.Error):
        pass
    refuse(what, "has a payload or signature that is not base64")
