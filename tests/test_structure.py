"""The limits of the code's structure, and the picture of its rooms."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import grimp

ROOT = Path(__file__).resolve().parents[1]


def tool(name: str) -> ModuleType:
    """A program in `docs/tools/`, as a module."""
    specification = importlib.util.spec_from_file_location(
        f"tools_{name}", ROOT / "docs" / "tools" / f"{name}.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


def test_the_structure_stays_within_its_limits() -> None:
    """No import circle between modules, and at most 12 files directly in `privsyn/`; as JSON and as text."""
    program = [sys.executable, str(ROOT / "docs" / "tools" / "structure.py")]
    document = json.loads(subprocess.run([*program, "--json"], check=True, capture_output=True).stdout)
    assert document["circles"] == []
    assert len(document["loose_files"]) <= 12
    text = tool("structure").in_words(tool("structure").measure())
    assert "import circles                   0 (none)" in text
    assert str(document["modules"][0]["lines"]) in text


def test_a_circle_is_found() -> None:
    """Modules that import each other through a third are one circle; others are none."""
    graph = grimp.ImportGraph()
    for importer, imported in (("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")):
        graph.add_import(importer=importer, imported=imported)
    assert tool("structure").import_circles(graph) == (("a", "b", "c"),)


def test_the_picture_of_the_rooms_is_up_to_date() -> None:
    """docs/rooms.svg is what docs/tools/rooms.py draws from the import rules."""
    rooms = tool("rooms")
    assert (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8") == rooms.draw(rooms.read_rules())


def test_the_picture_holds_every_layer() -> None:
    """Each module directly in `privsyn` is a box, and so are the libraries with a room of their own."""
    picture = (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    names = [path.stem for path in (ROOT / "privsyn").iterdir() if path.suffix == ".py" or path.is_dir()]
    assert all(f">{name}" in picture for name in names if name not in ("__init__", "__pycache__"))
    assert all(library in picture for library in ("opacus", "dp_accounting", "faiss", "pydicom", "rapidocr"))


def test_the_architecture_names_files_and_functions_that_exist() -> None:
    """Every path in docs/architecture.md exists, and every function of a walk is defined in its file."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for path in re.findall(r"`((?:privsyn|audits|tools|tests)/[^`*]*)`", page):
        if "NAME" in path:
            continue
        assert (ROOT / path).exists(), path
    steps = re.findall(r"^\| \d+ \| `([^`]+)` \| ([^|]*) \|", page, re.M)
    assert len(steps) > 30
    for path, names in steps:
        text = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^\s*(?:def|class) {name}\b", text, re.M), f"{path}: {name}"
