"""The package as users get it: built from the sdist, installed afresh, alone or beside a namesake."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import privsyn

CHECKOUT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(CHECKOUT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture
def fresh(wheel: Path, tmp_path: Path) -> Path:
    """An environment that holds the wheel and borrows its dependencies from this one, without network."""
    root = tmp_path / "venv"
    venv.create(root, with_pip=False, symlinks=True)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(root / "bin" / "python"),
        "install",
        "-q",
        "--no-deps",
    ]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, capture_output=True)
    (_packages(root) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return root


def _packages(root: Path) -> Path:
    return next(root.glob("lib/python*/site-packages"))


def _run(root: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [str(root / "bin" / words[0]), *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)


def test_the_wheel_ships_all_and_only_what_users_need(wheel: Path) -> None:
    """Recipes, policies, templates, type marker and first-party audits are in; tests are not."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"privsyn/recipes/{path.name}" for path in (CHECKOUT / "recipes").glob("*.toml")}
    expected |= {f"privsyn/policies/{path.name}" for path in (CHECKOUT / "audits/policies").glob("*.toml")}
    expected |= {f"privsyn_audits/{path.name}" for path in (CHECKOUT / "audits/privsyn_audits").glob("*.py")}
    templates = CHECKOUT / "privsyn/report/templates"
    expected |= {f"privsyn/report/templates/{path.name}" for path in templates.iterdir()}
    assert expected | {"privsyn/py.typed", "privsyn_audits/py.typed", "privsyn_start.py"} <= names
    assert {name.split("/")[0] for name in names} == {"privsyn", "privsyn_audits", "privsyn_start.py"}
    assert not [name for name in names if name.endswith((".md", ".pyc"))]


def test_the_installed_wheel_runs(fresh: Path) -> None:
    """Version, recipes and policies come from the wheel, not from the checkout."""
    assert _run(fresh, "privsyn", "--version").stdout == f"privsyn {privsyn.__version__}\n"
    where = _run(fresh, "python", "-c", "import privsyn, privsyn_audits; print(privsyn.__file__)").stdout
    assert where.startswith(str(fresh))
    for kind in ("recipes", "policies"):
        listed = _run(fresh, "privsyn", kind)
        assert listed.returncode == 0, listed.stderr
    assert "internal-review" in listed.stdout


def test_a_namesake_that_overwrites_us_is_named(fresh: Path) -> None:
    """`privsyn-core` installed after us replaces `privsyn/__init__.py`: exit 2 and what to do."""
    package = _packages(fresh) / "privsyn"
    cannot_load, loads = "from .api import PrivSynModel\n", "PrivSynModel = None  # theirs\n"
    for theirs, start in (
        (cannot_load, ["privsyn"]),
        (loads, ["privsyn"]),
        (loads, ["python", "-m", "privsyn"]),
    ):
        (package / "__init__.py").write_text(theirs, encoding="utf-8")
        found = _run(fresh, *start, "--version")
        assert (found.returncode, found.stdout) == (2, "")
        assert "privsyn-core" in found.stderr
        assert "fresh virtual environment" in found.stderr
        assert "Traceback" not in found.stderr


def test_a_namesake_that_comes_first_is_named(fresh: Path, tmp_path: Path) -> None:
    """Where it shadows us whole, as it does an editable install, the program still says so."""
    (tmp_path / "privsyn").mkdir()
    (tmp_path / "privsyn" / "__init__.py").write_text("__all__ = []\n", encoding="utf-8")
    found = _run(fresh, "privsyn", "recipes", path=tmp_path)
    assert (found.returncode, found.stdout) == (2, "")
    assert "privsyn-core" in found.stderr


def test_the_first_party_audits_are_the_registered_ones() -> None:
    """A module without an entry point would never run, and an entry point without a module never load."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = project["entry-points"]["privsyn.audits"]
    modules = {path.stem for path in (CHECKOUT / "audits/privsyn_audits").glob("[!_]*.py")}
    assert {
        value.removeprefix("privsyn_audits.").removesuffix(":run") for value in declared.values()
    } == modules
    assert {name: name.replace("-", "_") for name in declared} == {
        name: value.removeprefix("privsyn_audits.").removesuffix(":run") for name, value in declared.items()
    }
    installed = importlib.metadata.entry_points(group="privsyn.audits")
    assert {point.name for point in installed} >= set(declared)
    assert all(callable(point.load()) for point in installed if point.name in declared)


def test_the_constraints_pin_torch_and_nothing_of_this_machine() -> None:
    """torch is named without a local version, and every line is one exact release."""
    lines = (CHECKOUT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert "torch==2.13.0" in pins
    assert all("==" in pin and "+" not in pin and "@" not in pin for pin in pins)
