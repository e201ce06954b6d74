"""`privsyn verify` where nothing else of privsyn is installed: the standard library's command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.verify import verify

DESCRIPTION = """Check that a release is complete and unchanged, who approved it, whether it was revoked, and
its privacy claim. No network is needed. Exit code: 0 unchanged and approved; 1 something is wrong;
2 wrong usage; 3 unchanged, but something could not be checked, such as approvals without a trust file."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the check and return its exit code."""
    parser = argparse.ArgumentParser("privsyn-verify", description=DESCRIPTION)
    parser.add_argument("release", type=Path, metavar="RELEASE", help="the release folder as it was received")
    parser.add_argument("--trust", type=Path, metavar="FILE", help="whose signatures count")
    parser.add_argument("--status", type=Path, metavar="FILE", help="the newest status list")
    parser.add_argument("--require-fresh-status", action="store_true", help="refuse without a valid list")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(words)
    try:
        found = verify(
            options.release,
            trust=options.trust,
            status=options.status,
            require_fresh_status=options.require_fresh_status,
        )
    except PrivsynError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    sys.stdout.write(json_text(found.to_dict()) if options.json else "\n".join([*found.lines(), ""]))
    return found.exit_code
