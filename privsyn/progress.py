"""Progress reporting of long-running work.

Library functions take a `Progress` and default to `SILENT`; the command line passes one that draws bars
with an estimated time of arrival on stderr.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Advance(Protocol):
    """Report `amount` more steps done, with facts to show beside the bar (`loss="0.31"`)."""

    def __call__(self, amount: int = 1, **facts: str) -> None: ...


class Progress(Protocol):
    """A listener for stages."""

    def stage(self, name: str, total: int | None) -> AbstractContextManager[Advance]:
        """Open a stage of `total` steps, None if unknown; the value is called as work gets done."""
        ...


class _Silent:
    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002 - reports to nothing
        def advance(amount: int = 1, **facts: str) -> None:
            """Do nothing."""

        yield advance


SILENT: Progress = _Silent()
