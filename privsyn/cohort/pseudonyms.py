"""Pseudonyms: keyed hashes that stand for patients and for the entries of a source.

Patient ids exist in the clear between reading a source and the functions of this module, and nowhere else.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
import unicodedata

from privsyn.cohort.entries import SourceEntry

_WHOLE = re.compile(r"([+-]?[0-9]+)\.0*")


def normal_id(patient: str | None) -> str:
    """A patient id in the one form in which ids are compared; "" if there is none.

    Unicode NFC, without surrounding blanks, and a whole number without the decimals that a table with gaps
    gives it: 17, 17.0 and " 17 " are one patient. Leading zeros stay: 017 may be another patient than 17.
    """
    plain = unicodedata.normalize("NFC", patient or "").strip()
    whole = _WHOLE.fullmatch(plain)
    return whole[1] if whole else plain


@functools.lru_cache(maxsize=1024)  # the images of a patient mostly follow each other
def pseudonym_of(name: str, key: bytes) -> bytes:
    """HMAC-SHA256 of a name under this machine's key, 32 bytes."""
    return hmac.digest(key, name.encode(), hashlib.sha256)


def entry_hash(entry: SourceEntry, key: bytes) -> int:
    """64 bits that identify an entry and all that is known of it without reading it; keyed."""
    known = f"{entry.label}\0{entry.patient}"
    if entry.subgroup is not None:
        known += f"\0{entry.subgroup}"
    content = f"{entry.where}\0{entry.stamp}\0{known}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=key).digest(), "little")
