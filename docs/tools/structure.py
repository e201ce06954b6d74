"""Measures of the code's structure, printed as text or as one JSON document.

    python docs/tools/structure.py [--json]

Files directly in `privsyn/`, import circles between modules, untyped dictionaries, lengths of modules and
functions. `tests/test_structure.py` holds the first two to their limits. Needs the dev extra (grimp comes
with import-linter).
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import grimp
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"privsyn": ROOT / "privsyn", "privsyn_audits": ROOT / "audits" / "privsyn_audits"}
UNTYPED = ("dict[str, Any]", "Mapping[str, Any]")

MOST_LOOSE_FILES = 12
MOST_UNTYPED = 2.0  # in 1,000 lines
LONGEST_FUNCTION = 40


@dataclass(frozen=True)
class Length:
    """Lines of a module or function, and where it is."""

    lines: int
    where: str


@dataclass(frozen=True)
class Structure:
    """What is measured.

    Attributes:
        loose_files: Python files directly in `privsyn/`.
        circles: groups of modules that import each other; imports for type checking alone do not count.
        untyped: occurrences of `dict[str, Any]` and `Mapping[str, Any]`.
        lines: of all modules together.
        modules: length of every module, longest first.
        long_functions: functions of more than 40 lines, longest first.
    """

    loose_files: tuple[str, ...]
    circles: tuple[tuple[str, ...], ...]
    untyped: int
    lines: int
    modules: tuple[Length, ...]
    long_functions: tuple[Length, ...]

    @property
    def untyped_per_thousand_lines(self) -> float:
        return 1000 * self.untyped / self.lines


def measure() -> Structure:
    """The structure of this checkout's `privsyn` and `privsyn_audits`."""
    sources = {file: file.read_text(encoding="utf-8") for file in _files()}
    modules = [Length(text.count("\n"), str(file.relative_to(ROOT))) for file, text in sources.items()]
    functions = [length for file, text in sources.items() for length in _functions(file, text)]
    return Structure(
        loose_files=tuple(sorted(file.name for file in PACKAGES["privsyn"].glob("*.py"))),
        circles=import_circles(
            grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
        ),
        untyped=sum(text.count(word) for text in sources.values() for word in UNTYPED),
        lines=sum(each.lines for each in modules),
        modules=_longest_first(modules),
        long_functions=_longest_first(each for each in functions if each.lines > LONGEST_FUNCTION),
    )


def import_circles(graph: grimp.ImportGraph) -> tuple[tuple[str, ...], ...]:
    """Strongly connected components of more than one module."""
    names = sorted(graph.modules)
    number = {name: index for index, name in enumerate(names)}
    pairs = [
        (number[name], number[imported])
        for name in names
        for imported in graph.find_modules_directly_imported_by(name)
    ]
    importers, imported = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    matrix = csr_array((np.ones(len(pairs)), (importers, imported)), shape=(len(names), len(names)))
    count, groups = connected_components(matrix, connection="strong")
    circles = (tuple(names[index] for index in np.flatnonzero(groups == group)) for group in range(count))
    return tuple(circle for circle in circles if len(circle) > 1)


def _files() -> Iterator[Path]:
    for folder in PACKAGES.values():
        yield from sorted(folder.rglob("*.py"))


def _functions(file: Path, text: str) -> Iterator[Length]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Length(lines, f"{file.relative_to(ROOT)}:{node.lineno} {node.name}")


def _longest_first(lengths: Iterator[Length] | list[Length]) -> tuple[Length, ...]:
    return tuple(sorted(lengths, key=lambda each: (-each.lines, each.where)))


def in_words(structure: Structure) -> str:
    """The measures as text, one line each, with the long functions listed."""
    lengths = [module.lines for module in structure.modules]
    longest = structure.modules[0]
    lines = [
        f"files directly in privsyn/       {len(structure.loose_files)} (at most {MOST_LOOSE_FILES})",
        f"import circles                   {len(structure.circles)} (none)",
        *[f"    {' <-> '.join(circle)}" for circle in structure.circles],
        f"untyped dictionaries             {structure.untyped_per_thousand_lines:.2f} in 1,000 lines "
        f"(under {MOST_UNTYPED:g}): {structure.untyped} in {structure.lines:,} lines",
        f"lines of a module                median {statistics.median(lengths):g}, "
        f"most {longest.lines} ({longest.where})",
        f"functions over {LONGEST_FUNCTION} lines          {len(structure.long_functions)}",
        *[f"    {each.lines:4} {each.where}" for each in structure.long_functions],
    ]
    return "\n".join(lines)


def as_document(structure: Structure) -> dict[str, object]:
    """The measures for other programs."""
    rate = round(structure.untyped_per_thousand_lines, 3)
    median = statistics.median(module.lines for module in structure.modules)
    return {**asdict(structure), "untyped_per_thousand_lines": rate, "median_module": median}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    structure = measure()
    print(json.dumps(as_document(structure), indent=2) if parser.parse_args().json else in_words(structure))


if __name__ == "__main__":
    main()
