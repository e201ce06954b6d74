"""The program as a whole: light, documented, and clear about what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import privsyn
from privsyn.cli import main
from privsyn.cli.app import command

if TYPE_CHECKING:
    from tests.cli.conftest import Run

CHECKOUT = Path(__file__).resolve().parents[2]
NUMERICAL = {"dp_accounting", "faiss", "opacus", "scipy", "sklearn", "torch"}  # take seconds to import
HEAVY = NUMERICAL | {"matplotlib", "numpy", "pandas", "pyarrow", "pydantic", "rich"}
VERBS = (
    "demo", "init", "status", "recipes", "policies", "prepare", "plan", "train", "sample", "audit", "report",
    "keys", "keys new", "trust", "trust sign", "trust show", "verify", "release",
    *(f"release {sub}" for sub in ("draft", "checklist", "approve", "status", "seal", "revoke", "verifier")),
    *(f"recipes {sub}" for sub in ("show", "copy", "check", "schema")),
    *(f"policies {sub}" for sub in ("show", "copy", "check")),
    "export", "import", "ledger", *(f"ledger {sub}" for sub in ("show", "check", "grant")),
)  # fmt: skip


def _loaded(*words: str) -> tuple[int, set[str]]:
    """Exit code, and the heavy packages that a fresh process has loaded when it ends."""
    program = (
        "import sys; from privsyn.cli import main; code = main(sys.argv[1:]); "
        "print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr); sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    return ran.returncode, HEAVY & set(ran.stderr.split())


WITHOUT_THEM = (
    "privsyn.exchange.layout", "privsyn.release.draft", "privsyn.release.verify", "privsyn.report.html",
    "privsyn.status",
)  # fmt: skip


@pytest.mark.parametrize("module", WITHOUT_THEM)
def test_reports_releases_and_exports_start_without_torch(module: str) -> None:
    """Importing them loads none of the packages that train and account."""
    program = f"import sys, {module}; print(*({NUMERICAL} & sys.modules.keys()))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "\n"


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["report"],
        ["release", "draft", "--force"],
        ["export", "--format", "imagefolder", "--out", "exported"],
    ],
    ids=lambda words: words[0],
)
def test_commands_about_what_is_there_run_without_torch(
    study: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From start to end, in a finished study."""
    monkeypatch.chdir(study)
    code, loaded = _loaded(*words)
    assert (code, loaded & NUMERICAL) == (0, set())


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_start_up_is_light(words: list[str]) -> None:
    """Asking for help loads none of the packages that do the work."""
    assert _loaded(*words) == (0, set())


def test_the_recipients_check_needs_no_packages_for_arrays(study: Path) -> None:
    """`verify` loads torch in no case; dp-accounting, where it is installed, brings numpy and scipy."""
    code, loaded = _loaded("verify", str(study / "release"))
    assert code == 3
    assert loaded <= {"pydantic", "rich", "numpy", "scipy", "dp_accounting"}  # the first two: command line


def test_the_verbs_are_the_documented_ones() -> None:
    """Nobody adds a verb without adding it here, and with it to the checks below."""
    found = set()
    for name, verb in command().commands.items():
        found |= {name} | {f"{name} {sub}" for sub in getattr(verb, "commands", {})}
    assert found == set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run: Run, verb: str) -> None:
    """Each says what it does, explains every option, and offers `--json`."""
    ran = run(*verb.split(), "--help")
    assert ran.code == 0
    assert ran.out.startswith(f"Usage: privsyn {verb}")
    assert verb in ("keys", "trust", "release") or "--json" in ran.out
    target = command()
    for word in verb.split():
        target = target.commands[word]
    assert target.help
    assert all(getattr(param, "help", None) for param in target.params if param.name != "help")


def test_every_verb_is_in_the_readme() -> None:
    """What the program can do, its README says."""
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    assert [verb for verb in VERBS if f"privsyn {verb}" not in readme] == []


def test_python_m_privsyn_is_the_same_program() -> None:
    """The same version, and the same exit codes."""
    start = [sys.executable, "-m", "privsyn"]
    shown = subprocess.run([*start, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown == f"privsyn {privsyn.__version__}\n"
    assert subprocess.run([*start, "trian"], capture_output=True, check=False).returncode == 2


def test_without_a_verb_the_program_shows_its_help(run: Run) -> None:
    """The first thing that a newcomer types is answered."""
    assert run().out == run("--help").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["trian"], "train"),
        (["train", "--epsilom", "3"], "--epsilon"),
        (["train", "--epsilon", "much"], "--epsilon"),
        (["init"], "DIR"),
        (["sample", "--count", "0"], "--count"),
        (["prepare", "digits", "--column", "file"], "expected NAME=VALUE"),
        (["status"], "is not a study"),
        (["recipes", "show", "digit"], "did you mean 'digits'"),
        (["init", "new", "--recipe", "toy", "--set", "train.stepz=3"], "did you mean 'steps'"),
    ],
)
def test_wrong_usage_is_two_lines_and_exit_2(
    run: Run, words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`error:`, what is wrong, what to do; with --json the same as one document; and nothing is made."""
    monkeypatch.chdir(tmp_path)
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert told in ran.err
    assert len(ran.err.splitlines()) <= 2
    assert run(*words, "--json").document == {
        "error": ran.err.removeprefix("error: ").rstrip("\n"),
        "exit_code": 2,
    }
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback_before_or_after_the_verb(run: Run, tmp_path: Path) -> None:
    """Without --debug there never is one."""
    plain = run("status", "--study", tmp_path)
    assert "Traceback" not in plain.err
    for words in (["--debug", "status"], ["status", "--debug"]):
        ran = run(*words, "--study", tmp_path)
        assert "Traceback" in ran.err
        assert ran.err.endswith(plain.err)


def test_an_unexpected_error_is_one_line(run: Run, tmp_path: Path) -> None:
    """A fault of ours, or of the machine, is told without a traceback."""
    (tmp_path / "recipe.toml").mkdir()
    ran = run("recipes", "check", tmp_path / "recipe.toml")
    assert (ran.code, ran.err) == (2, f"error: Is a directory: {tmp_path / 'recipe.toml'}\n")


def test_no_name_can_steer_the_terminal(run: Run) -> None:
    """Escape sequences and markup are shown, not obeyed."""
    ran = run("recipes", "show", "\x1b[31m[red]evil\u202e")
    assert "\x1b" not in ran.err
    assert "\u202e" not in ran.err
    assert "\\x1b[31m[red]evil\\u202e" in ran.err


def test_the_exit_code_of_the_process_is_that_of_main(tmp_path: Path) -> None:
    """What tests see in this process is what shells see."""
    ran = subprocess.run(
        [sys.executable, "-m", "privsyn", "status", "--study", str(tmp_path), "--json"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == main(["status", "--study", str(tmp_path)]) == 2
    assert json.loads(ran.stdout)["exit_code"] == 2
