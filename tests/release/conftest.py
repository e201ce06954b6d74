"""A release made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from privsyn.files import tree_digests
from privsyn.release.manifest import STATEMENT, STATEMENT_DIGEST, digest_line, state


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Path]:
    """Make a small release by hand, with claims of one's own."""

    def make(name: str = "release", **claims: Any) -> Path:
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        for number, file in enumerate(
            ["README.md", "croissant.json", "data/a.parquet", "public-report.html"]
        ):
            (folder / file).write_bytes(bytes(range(number, 40)))
        digests = tree_digests(folder)
        sizes = {file: (folder / file).stat().st_size for file in digests}
        statement = state(digests, sizes, {"release": {"name": "r"}, **claims}).to_bytes()
        (folder / STATEMENT).write_bytes(statement)
        (folder / STATEMENT_DIGEST).write_bytes(digest_line(statement))
        return folder

    return make
