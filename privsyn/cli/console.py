"""Terminal output: tables and text on stdout, progress on stderr; no text is parsed as markup."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from privsyn.cli.options import plain
from privsyn.progress import Advance

PLAIN_WIDTH = 160
QUIET_SECONDS = 2.0
UNKNOWN_SECONDS = 10.0  # between lines of a stage of unknown length
STYLES = {
    "pass": "green", "done": "green", "accepted": "green",
    "fail": "bold red", "missing": "yellow", "stale": "yellow", "inconclusive": "yellow",
}  # fmt: skip


def console(*, stderr: bool) -> Console:
    """A console that prints strings as they are; at least 160 columns wide if it is not a terminal."""
    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = max(made.width, PLAIN_WIDTH)
    return made


def show(document: Mapping[str, object], *parts: RenderableType, as_json: bool) -> None:
    """Print the readable parts to stdout; with `--json` the document to stdout and the parts to stderr."""
    screen = console(stderr=as_json)
    for part in parts:
        screen.print(part if not isinstance(part, str) else plain(part), soft_wrap=isinstance(part, str))
    if as_json:
        console(stderr=False).file.write(json.dumps(document, indent=2, allow_nan=False) + "\n")


def table(*columns: str, rows: Sequence[Sequence[object]]) -> Table:
    """A table of plain cells; states and outcomes are coloured."""
    made = Table(header_style="bold")
    for column in columns:
        made.add_column(plain(column), overflow="fold")
    for row in rows:
        cells = ["" if cell is None else plain(str(cell)) for cell in row]
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in cells))
    return made


class TerminalProgress:
    """Progress bars with percentage, elapsed and remaining time on stderr; plain lines without a terminal.

    The bar of a nested stage disappears when the stage ends; that of the outer one stays.
    """

    def __init__(self) -> None:
        self._screen = console(stderr=True)
        self._bars = _bars(self._screen)
        self._depth = 0

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show a stage of `total` steps (None: unknown) until the block ends."""
        shown = self._bar if self._screen.is_terminal else self._lines
        self._depth += 1
        try:
            with shown(plain(name), total) as advance:
                yield advance
        finally:
            self._depth -= 1

    @contextmanager
    def _bar(self, name: str, total: int | None) -> Iterator[Advance]:
        inner = self._depth > 1
        if not inner:
            self._bars = _bars(self._screen)
            self._bars.start()
        bars = self._bars
        task = bars.add_task("  " * inner + name, total=total, facts="")

        def advance(amount: int = 1, **facts: str) -> None:
            bars.advance(task, amount)
            if facts:
                bars.update(task, facts=_facts(facts))

        try:
            yield advance
        finally:
            bars.stop_task(task)
            if inner:
                bars.remove_task(task)
            else:
                bars.stop()

    @contextmanager
    def _lines(self, name: str, total: int | None) -> Iterator[Advance]:
        inner, start = self._depth > 1, time.monotonic()
        done, told, last = 0, 0, start

        def advance(amount: int = 1, **facts: str) -> None:
            nonlocal done, told, last
            done += amount
            now, percent = time.monotonic(), 100 * done // max(total or 1, 1)
            if total is None:
                if now - last >= UNKNOWN_SECONDS:
                    self._screen.print(f"{name}: {done:,} in {_clock(now - start)}  {_facts(facts)}".rstrip())
                    last = now
            elif percent >= told + 10 and now - last >= QUIET_SECONDS and done < total:
                left = (now - start) * (total - done) / done
                times = f"{_clock(now - start)} elapsed, about {_clock(left)} left"
                self._screen.print(f"{name}: {percent} % ({done}/{total}), {times}  {_facts(facts)}".rstrip())
                told, last = percent, now

        if not inner:
            self._screen.print(f"{name} ...")
        yield advance
        if not inner:
            self._screen.print(f"{name}: done in {_clock(time.monotonic() - start)}")


def _bars(screen: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TextColumn("left", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[facts]}", markup=False),
        console=screen,
    )


def _facts(facts: Mapping[str, str]) -> str:
    return plain("  ".join(f"{name} {value}" for name, value in facts.items()))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
