"""File names, table cells and stamps in one form for all sources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from privsyn.errors import CohortError


def shown(name: str) -> str:
    """A file name that cannot disturb the terminal."""
    return name if name.isprintable() else repr(name)


def as_text(value: object) -> str | None:
    """A cell as text; 17.0, which a table with gaps makes of 17, reads as 17.

    What UTF-8 cannot hold is escaped: bytes, and half a surrogate pair, which JSON can spell.
    """
    if value is None or value != value:
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    content = value if isinstance(value, bytes) else str(value).encode(errors="backslashreplace")
    return content.decode(errors="backslashreplace")


def file_stamp(path: str | Path) -> str:
    """Path, size and time of a file, which change when the file does; only the path if there is no file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return os.path.abspath(path)
    return f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}"


@contextmanager
def readable(path: str | Path, what: str) -> Iterator[None]:
    """Turn any exception of a parser into a CohortError: the file is not `what` it should be."""
    try:
        yield
    except CohortError:
        raise
    except Exception as error:
        text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        raise CohortError(f"{path} is not {what} ({shown(text.partition(chr(10))[0][:200])})") from None
