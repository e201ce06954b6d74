"""`export` and `import` as a user runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.conftest import Run


def test_a_model_goes_out_and_comes_back(run: Run, study: Path, tmp_path: Path) -> None:
    """One JSON document each, the claim said, and what is there is replaced by force alone."""
    out, at = tmp_path / "out", ["--study", study]
    assert run("export", "--format", "diffusers", "--out", out, *at, "--json").document == {
        "folder": str(out), "claim": "dp",
    }  # fmt: skip
    again = run("export", "--out", out, *at)
    assert (again.code, "pass --force" in again.err) == (2, True)
    told = run("export", "--out", out, *at, "--force")
    assert (told.code, "internal, like the model" in told.out) == (0, True)
    refused = run("import", out, *at)
    assert (refused.code, "pass --force" in refused.err) == (2, True)
    imported = run("import", out, *at, "--force")
    assert (imported.code, "privacy claim: none (the model was imported" in imported.out) == (0, True)
    assert run("import", out, *at, "--force", "--json").document["kind"] == "none"
    assert run("sample", *at, "--force").code == 0


def test_an_unknown_format_is_answered_with_the_known_ones(run: Run, study: Path, tmp_path: Path) -> None:
    """Exit 2, and nothing is written."""
    ran = run("export", "--format", "difusers", "--out", tmp_path / "out", "--study", study)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "error: no export format 'difusers': did you mean 'diffusers'?\n"
    assert not (tmp_path / "out").exists()
