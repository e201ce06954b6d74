"""Progress that counts what was read, and stops a run as Ctrl-C does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from privsyn.progress import Advance


class Stops:
    """Ctrl-C after some images were read; counts them."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.read = after, 0

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        def advance(amount: int = 1, **facts: str) -> None:
            assert not facts
            if name == "read images":
                self.read += amount
                if self.after is not None and self.read >= self.after:
                    raise KeyboardInterrupt

        yield advance
