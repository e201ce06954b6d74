"""Where the program `privsyn` starts: make sure that the import name is ours, then hand over.

The tabular package `privsyn-core` installs the same import name, so this check cannot live inside
`privsyn`: where that package shadows ours, `privsyn.cli` may not even be importable.
"""

from __future__ import annotations

import sys

CLASH = """\
error: the import name `privsyn` belongs to another package here, most likely the tabular `privsyn-core`.
Keep the two apart: make a fresh virtual environment, and install only `privsyn` in it."""


def is_ours() -> bool:
    """Whether `import privsyn` gives this project."""
    try:
        import privsyn
    except ImportError:
        return False
    return getattr(privsyn, "__distribution__", None) == "privsyn"


def main() -> int:
    """Run the command line and return the exit code; 2 if another package answers to our name."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot spell must not end a command
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if not is_ours():
        sys.stderr.write(CLASH + "\n")
        return 2
    from privsyn.cli import main

    return main()
