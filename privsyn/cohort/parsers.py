"""Guard third-party parsers, which warn, log and raise any exception on damaged files."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

from privsyn.cohort.entries import SourceImage
from privsyn.errors import CohortError


def guarded(pictures: Iterator[SourceImage], what: str, loggers: Sequence[str]) -> Iterator[SourceImage]:
    """The images of a parser; any exception becomes a CohortError without the parser's own text.

    That text may contain the name of the patient.

    Args:
        what: the format, as in "it cannot be read as DICOM".
        loggers: names of loggers that are silenced meanwhile.
    """
    while True:
        with _silence(loggers):
            try:
                picture = next(pictures, None)
            except CohortError:
                raise
            except Exception:
                raise CohortError(f"is damaged: it cannot be read as {what}") from None
        if picture is None:
            return
        yield picture


@contextlib.contextmanager
def _silence(names: Sequence[str]) -> Iterator[None]:
    """Suppress warnings and log lines; the error message gives the reason."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL + 1)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
