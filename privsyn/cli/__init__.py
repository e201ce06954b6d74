"""The command line: each command parses its arguments, calls one library function and prints the result.

Exit codes: 0 done or passed, 1 refused or failed, 2 wrong usage or bad input, 3 inconclusive,
130 interrupted. To start fast, a command imports what it needs when it runs.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence

from privsyn.errors import PrivsynError

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one or two lines on stderr.

    Args:
        argv: the words after `privsyn`; default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = [word for word in words if word != "--debug"] or ["--help"]
    try:
        from privsyn.cli.app import command

        code = int(command()(args=arguments, prog_name="privsyn", standalone_mode=False) or 0)
    except Exception as error:
        if "--debug" in words:
            traceback.print_exc()
        return _complain(*_explain(error), as_json="--json" in words)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        return _complain("interrupted; nothing is left half-written", INTERRUPTED, as_json="--json" in words)
    return code


def _explain(error: Exception) -> tuple[str, int]:
    """The message for the user, and the exit code."""
    from typer import TyperException

    if isinstance(error, PrivsynError):
        return str(error), error.exit_code
    if isinstance(error, TyperException):
        return f"{error.format_message()}\nSee `{_command_path(error)} --help`.", error.exit_code
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror, 2
    first = next(iter(str(error).splitlines()), "")
    return f"unexpected {type(error).__name__} ({first}): pass --debug for the traceback", 2


def _command_path(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return "privsyn" if context is None else str(context.command_path)


def _complain(message: str, code: int, *, as_json: bool) -> int:
    from privsyn.cli.options import plain

    sys.stderr.write(f"error: {plain(message)}\n" if code != INTERRUPTED else f"{message}\n")
    if as_json:
        sys.stdout.write(json.dumps({"error": message, "exit_code": code}, indent=2) + "\n")
    return code
