"""What the terminal shows: progress with an estimate, also in a log, and nothing read as markup."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

from privsyn.cli import console
from privsyn.cli.console import TerminalProgress, show, table

STAGES = """
import time
from privsyn.cli.console import TerminalProgress
progress = TerminalProgress()
for name in ("[bold]first", "second"):
    with progress.stage(name, 4) as advance:
        for _ in range(4):
            with progress.stage("inner", 2) as step:
                step(2)
            time.sleep(0.15)
            advance(1, loss="[red]0.3")
"""


def test_a_log_tells_start_estimate_and_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where stderr is not a terminal: lines at the start, about every 10 % with an estimate, at the end."""
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    progress = TerminalProgress()
    with progress.stage("train [bold]", 100) as advance:
        for _ in range(100):
            advance(1, loss="0.3")
        with progress.stage("inner", 1):
            pass
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "train [bold] ..."
    assert lines[1] == "train [bold]: 10 % (10/100), 0:00 elapsed, about 0:00 left  loss 0.3"
    assert len(lines) == 1 + 9 + 1
    assert lines[-1] == "train [bold]: done in 0:00"


def test_a_terminal_shows_bars() -> None:
    """On a terminal: a bar with percentage and estimate for each stage, each left standing once."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", STAGES], stdin=follower, stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    try:
        while block := os.read(leader, 65536):
            shown += block
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    text = shown.decode()
    for part in ("[bold]first", "second", "50%", "100%", "left", "loss [red]0.3"):
        assert part in text
    assert text.rindex("[bold]first") < text.index("second")


def test_json_is_alone_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the document on stdout, the readable parts on stderr; without it, these on stdout."""
    document = {"name": "\x1b[31mü"}
    parts = (table("a", rows=[("[red]cell\x1b[31m",)]), "[bold]line")
    show(document, *parts, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == document
    assert "\x1b" not in out + err
    show(document, *parts, as_json=False)
    assert capsys.readouterr().out == err
    assert "[red]cell\\x1b[31m" in err
    assert "[bold]line" in err
