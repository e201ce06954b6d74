"""`privsyn prepare` on the terminal: what it says, in words and as JSON, and with which exit code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privsyn.files import tree_digests
from privsyn.study import init

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "cohorts.md"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """24 images in two classes, twelve patients by their names, and a text."""
    generator = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "source" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = generator.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"x-{number // 2}-{number}.png")
    (tmp_path / "source" / "a" / "notes.txt").write_text("what the nurse said\n")
    return tmp_path / "source"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Of the toy recipe, with the patient in the name."""
    settings = ['data.classes=["a", "b"]', "data.patient_pattern='-(?P<patient>[0-9]+)-'"]
    return init(tmp_path / "study", recipe="toy", policy="internal-review", settings=settings).root


def _run(study: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "privsyn", *words], cwd=study, capture_output=True, text=True, check=False
    )


def test_the_command_of_the_guide_looks_and_writes_nothing(study: Path, source: Path) -> None:
    """As printed in docs/cohorts.md; the table, and then `prepare` makes what was foretold."""
    (line,) = re.findall(r"^privsyn prepare SOURCE --check$", GUIDE.read_text(encoding="utf-8"), re.M)
    words = [str(source) if word == "SOURCE" else word for word in shlex.split(line)[1:]]
    before = tree_digests(study)
    told = _run(study, *words)
    assert told.returncode == 0, told.stderr
    assert tree_digests(study) == before
    for wanted in ("a/notes.txt", "is not an image", "patients", "holdout has", "not searched"):
        assert wanted in told.stdout
    document = json.loads(_run(study, *words, "--json").stdout)
    made = json.loads(_run(study, "prepare", str(source), "--json").stdout)
    assert made["counts"] == document["cohort"]["counts"]
    assert made["populations"] == []


def test_a_source_that_would_be_refused_is_told_with_exit_code_1(study: Path, source: Path) -> None:
    """With every file and reason; `prepare` itself says bad input, in one line, and lists the files."""
    (source / "b" / "x-9-9.png").write_bytes(b"no picture")
    told = _run(study, "prepare", str(source), "--check", "--json")
    assert told.returncode == 1
    document = json.loads(told.stdout)
    assert document["cohort"] is None
    assert [each["file"] for each in document["refused"]] == ["b/x-9-9.png"]
    assert document["refusal"].startswith("1 of 25 images cannot be used")
    refused = _run(study, "prepare", str(source))
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "b/x-9-9.png" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert _run(study, "prepare", str(source), "--skip-unusable").returncode == 0


def test_subgroups_are_counted_where_they_are_asked_for(study: Path, source: Path, tmp_path: Path) -> None:
    """As printed in docs/cohorts.md; in the table and the JSON of `--check` and of `prepare` alike."""
    (line,) = re.findall(r"^privsyn prepare SOURCE --table .*$", GUIDE.read_text(encoding="utf-8"), re.M)
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*.png"))
    rows = [f"{file},{file[0]},{file.split('-')[1]},{('women', '')[n % 2]}" for n, file in enumerate(files)]
    (tmp_path / "t.csv").write_text("\n".join(["file,label,patient,sex", *rows]) + "\n")
    replaced = {"SOURCE": str(source), "FILE": str(tmp_path / "t.csv")}
    words = [replaced.get(word, word) for word in shlex.split(line)[1:]]
    told = _run(study, *words, "--check", "--json")
    assert told.returncode == 0, told.stderr
    for name in ("women", r"\(unknown\)"):
        assert re.search(rf"subgroup {name} +│ +\d+ +│ +\d+ +│ +\d+", told.stderr)
    counted = json.loads(told.stdout)["cohort"]["subgroups"]
    assert {name: sum(parts.values()) for name, parts in counted.items()} == {"": 12, "women": 12}
    assert json.loads(_run(study, *words, "--json").stdout)["subgroups"] == counted
    refused = _run(study, *words[:-1], "subgroup=age", "--check")
    assert refused.returncode == 2
    assert "has no column 'age'" in refused.stderr


def test_values_of_identifiers_are_shown_to_who_asks_for_them(study: Path, source: Path) -> None:
    """`--show` belongs to `--check`; without it only names and numbers appear."""
    exif = Image.Exif()
    exif[0x013B] = "Dr. Secretive"
    Image.fromarray(np.full((8, 8), 9, np.uint8)).save(source / "a" / "x-1-77.jpg", exif=exif)
    assert "Secretive" in _run(study, "prepare", str(source), "--check", "--show").stdout
    told = _run(study, "prepare", str(source), "--check")
    assert "EXIF Artist" in told.stdout
    assert "Secretive" not in told.stdout + told.stderr
    misused = _run(study, "prepare", str(source), "--show")
    assert misused.returncode == 2
    assert "--check" in misused.stderr


def test_patients_whom_the_ledger_knows_are_recognised(study: Path, source: Path) -> None:
    """A later extract, relabelled and with other files, is on the same account."""
    from privsyn import ledger
    from privsyn.cohort.cohort import load_cohort

    assert _run(study, "prepare", str(source)).returncode == 0
    population = ledger.register(load_cohort(study / "cohort").records["patient"])
    (source / "a" / "x-0-0.png").rename(source / "b" / "x-0-99.png")
    again = json.loads(_run(study, "prepare", str(source), "--force", "--json").stdout)
    assert again["populations"] == [{"population": population, "of_these": 12}]
