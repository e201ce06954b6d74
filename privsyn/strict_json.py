"""Documents that anybody may have written: JSON without ambiguity, fields of the right kind, and times.

Standard library only. Whatever is wrong is refused in one printable line that names the document.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, TypeVar

from privsyn.errors import PrivsynError, Refused

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_TEXT = 10_000

# What may stand in a document that is written; what is read becomes a type of its own at once.
JsonValue: TypeAlias = "bool | int | float | str | Sequence[JsonValue] | Mapping[str, JsonValue] | None"
JsonObject: TypeAlias = "dict[str, JsonValue]"

Choice = TypeVar("Choice", bound=str)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,62}[a-z0-9])?")
_TIME = "%Y-%m-%dT%H:%M:%SZ"


def refuse(what: str, why: str) -> NoReturn:
    """Raise `Refused` about the document `what`."""
    raise Refused(f"{what} {why}")


def read_file(path: Path | str) -> bytes:
    """The bytes of a file, at most one more than a document may have.

    Raises:
        PrivsynError: it cannot be read.
    """
    try:
        with Path(path).open("rb") as handle:
            return handle.read(MAX_BYTES + 1)
    except OSError as error:
        raise PrivsynError(f"{path} cannot be read ({error.strerror})") from None


def read_strictly(raw: bytes, what: str) -> Any:
    """Parse JSON that every reader understands alike: UTF-8, no key twice, finite numbers, not deep.

    Raises:
        Refused: it is none; the message begins with `what`.
    """
    if len(raw) > MAX_BYTES:
        refuse(what, f"is larger than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        deep = _is_deep(document)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # lone surrogates cannot be printed later
    except RecursionError:
        deep = True
    except ValueError as error:
        refuse(what, f"is not valid JSON ({ascii(str(error))[1:-1][:120]})")
    if deep:
        refuse(what, "is nested too deeply")
    return document


def now_or(moment: datetime | None) -> datetime:
    """The moment, or now: with a time zone, to the second."""
    return (moment or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)


def spelled(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second: 2026-11-26T08:00:00Z."""
    return moment.astimezone(UTC).strftime(_TIME)


class Fields:
    """The fields of one JSON object, taken out with their kinds checked.

    Raises:
        Refused: it is not an object, or has a field that is not in `known` (if that is given).
    """

    def __init__(self, document: object, what: str, known: tuple[str, ...] | None = None) -> None:
        if not isinstance(document, Mapping):
            refuse(what, "is not a JSON object where one is expected")
        self.document: Mapping[str, Any] = document
        self.what = what
        unknown = sorted(set(document) - set(known)) if known is not None else []
        if unknown:
            refuse(what, f"has a field that means nothing here: {ascii(unknown[0])[:80]}")

    def text(self, name: str, *, longest: int = MAX_TEXT) -> str:
        """A string; it may be empty."""
        return str(self._of(name, str, lambda value: len(value) <= longest, f"a text of at most {longest}"))

    def text_or_none(self, name: str) -> str | None:
        return None if self.document.get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings."""
        found = self.list(name)
        if not all(isinstance(each, str) for each in found):
            self.refuse(f"has something else than texts in {name}")
        return tuple(found)

    def number(self, name: str, *, least: float = 0.0, most: float = sys.float_info.max) -> float:
        """A finite number within bounds."""
        value = self.document.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.refuse(f"has no {name}, or one that is impossible")
        return float(value)

    def number_or_none(
        self, name: str, *, least: float = 0.0, most: float = sys.float_info.max
    ) -> float | None:
        return None if self.document.get(name) is None else self.number(name, least=least, most=most)

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.document.get(name)
        if not isinstance(value, bool):
            self.refuse(f"has no {name}, or one that is not true or false")
        return value

    def choice(self, name: str, choices: tuple[Choice, ...]) -> Choice:
        """One of some texts, typed as they are."""
        value = self.one_of(name, tuple(str(each) for each in choices))
        return choices[[str(each) for each in choices].index(value)]

    def slug(self, name: str) -> str:
        """A short plain id: lower case, digits, dots and dashes."""
        return check_slug(self.document.get(name), f"{self.what}: {name}")

    def digest(self, name: str) -> str:
        """A sha256 in lower-case hex."""
        return check_digest(self.document.get(name), f"{self.what}: {name}")

    def integer(self, name: str, *, least: int, most: int | None = None) -> int:
        """A whole number within bounds."""
        expected = f"a whole number of at least {least}" + ("" if most is None else f" and at most {most}")
        value = self._of(name, int, lambda v: v >= least and (most is None or v <= most), expected)
        return int(value)

    def time(self, name: str) -> datetime:
        """A time in UTC, as `spelled` writes it."""
        value = self.document.get(name)
        try:
            moment = datetime.strptime(value, _TIME).replace(tzinfo=UTC)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            refuse(self.what, f"has no time like 2026-11-26T08:00:00Z as {name}")
        if spelled(moment) != value:
            refuse(self.what, f"has no time like 2026-11-26T08:00:00Z as {name}")
        return moment

    def time_or_none(self, name: str) -> datetime | None:
        return None if self.document.get(name) is None else self.time(name)

    def list(self, name: str) -> list[Any]:
        value: list[Any] = self._of(name, list, lambda _: True, "a list")
        return value

    def fields(self, name: str) -> Fields:
        """The fields of an object within this one."""
        return Fields(self.mapping(name), f"{self.what}: {name}")

    def objects(self, name: str) -> tuple[Fields, ...]:
        """The fields of each object in a list."""
        return tuple(Fields(each, f"{self.what}: {name}") for each in self.list(name))

    def need_version(self, version: int) -> None:
        """See that the document is of this `schema_version`."""
        if self.document.get("schema_version") != version:
            self.refuse(f"is not a document of schema version {version}: make it again")

    def refuse(self, why: str) -> NoReturn:
        """Raise `Refused` about this object."""
        refuse(self.what, why)

    def mapping(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = self._of(name, dict, lambda _: True, "an object")
        return value

    def one_of(self, name: str, choices: tuple[str, ...]) -> str:
        return str(self._of(name, str, lambda value: value in choices, f"one of {', '.join(choices)}"))

    def _of(self, name: str, kind: type, fits: Callable[[Any], bool], expected: str) -> Any:
        value = self.document.get(name)
        if not isinstance(value, kind) or isinstance(value, bool) or not fits(value):
            refuse(self.what, f"has no {name}, or one that is not {expected}")
        return value


def check_slug(value: object, what: str) -> str:
    """The value, if it is a short plain id."""
    if not isinstance(value, str) or not _SLUG.fullmatch(value):
        refuse(what, "is not a plain id (lower-case letters, digits, dots and dashes, at most 64)")
    return value


def check_digest(value: object, what: str) -> str:
    """The value, if it is a sha256 in lower-case hex."""
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        refuse(what, "is not a sha256")
    return value


def printable(name: str) -> str:
    """The name itself, or escaped where it holds control characters or bytes that are not text."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    found = dict(pairs)
    if len(found) != len(pairs):  # readers differ on which of two equal keys counts
        raise ValueError("an object has the same key twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _is_deep(document: JsonValue) -> bool:
    level: list[JsonValue] = [document]
    for _ in range(MAX_DEPTH):
        level = [child for each in level for child in _children(each)]
        if not level:
            return False
    return True


def _children(value: JsonValue) -> list[JsonValue]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
