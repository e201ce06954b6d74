"""Draws docs/rooms.svg from the import rules in `.importlinter`.

    python docs/tools/rooms.py [--check]

One row per layer: a module imports only from rows below its own. Modules in one row may import each other. A
library is named in italics in the rooms that may import it. `tests/test_structure.py` checks that the picture
is up to date.
"""

from __future__ import annotations

import argparse
import configparser
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "rooms.svg"

WIDTH, ROW, GAP, MARGIN = 900, 34, 8, 16
ROOMS_WIDTH, PLUGINS_LEFT = 620, 680
PLUGINS = "privsyn_audits"


@dataclass(frozen=True)
class Rules:
    """What the picture shows.

    Attributes:
        layers: names of modules of `privsyn`, top row first.
        libraries: libraries by room, where only some rooms may import them.
        open_to_plugins: modules that `privsyn_audits` may import.
    """

    layers: tuple[tuple[str, ...], ...]
    libraries: Mapping[str, tuple[str, ...]]
    open_to_plugins: frozenset[str]


def read_rules(file: Path = ROOT / ".importlinter") -> Rules:
    """The order of rooms, the rooms of libraries and the door for plug-ins."""
    config = configparser.ConfigParser()
    config.read_string(file.read_text(encoding="utf-8"))
    contracts = [config[name] for name in config.sections() if name.startswith("importlinter:contract:")]
    (order,) = (each for each in contracts if each["type"] == "layers")
    (door,) = (each for each in contracts if _lines(each, "source_modules") == [PLUGINS])
    layers = tuple(tuple(line.split(" : ")) for line in _lines(order, "layers"))
    closed = {_room(name) for name in _lines(door, "forbidden_modules")}
    libraries: dict[str, list[str]] = defaultdict(list)
    for each in contracts:
        for room in sorted({_room(name) for name in _lines(each, "allowed_importers")}):
            libraries[room] += _lines(each, "protected_modules")
    return Rules(
        layers=layers,
        libraries={room: tuple(names) for room, names in libraries.items()},
        open_to_plugins=frozenset({name for row in layers for name in row} - closed - {"__main__"}),
    )


def draw(rules: Rules) -> str:
    """The picture as SVG; the same rules give the same bytes."""
    height = 2 * MARGIN + len(rules.layers) * (ROW + GAP) - GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" font-size="14">',
        "<title>Rooms of privsyn: a module imports only from rows below its own</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for index, row in enumerate(rules.layers):
        parts += _row(row, MARGIN + index * (ROW + GAP), rules)
    parts += _plugins(rules, height)
    return "\n".join([*parts, "</svg>", ""])


def _row(names: Sequence[str], top: int, rules: Rules) -> Iterator[str]:
    width = (ROOMS_WIDTH - GAP * (len(names) - 1)) / len(names)
    for index, name in enumerate(names):
        left = MARGIN + index * (width + GAP)
        fill = "#d7ecd9" if name in rules.open_to_plugins else "#e8edf4"
        box = f'x="{left:g}" y="{top}" width="{width:g}" height="{ROW}" rx="4"'
        yield f'<rect {box} fill="{fill}" stroke="#5b6b7f"/>'
        middle, base = left + width / 2, top + ROW / 2 + 5
        yield f'<text x="{middle:g}" y="{base:g}" text-anchor="middle">{_label(name, rules)}</text>'


def _label(name: str, rules: Rules) -> str:
    libraries = ", ".join(rules.libraries.get(name, ()))
    extra = f' <tspan font-style="italic" font-size="12" fill="#55606e">{escape(libraries)}</tspan>'
    return escape(name) + (extra if libraries else "")


def _plugins(rules: Rules, height: int) -> Iterator[str]:
    width = WIDTH - PLUGINS_LEFT - MARGIN
    middle = PLUGINS_LEFT + width / 2
    tops = {name: MARGIN + index * (ROW + GAP) for index, row in enumerate(rules.layers) for name in row}
    lines = ["imports the green", "rooms alone, and is", "imported by none"]
    top = tops["auditing"]
    yield (
        f'<rect x="{PLUGINS_LEFT}" y="{top}" width="{width}" height="{3 * ROW}" rx="4" fill="#fdf3d8" '
        'stroke="#5b6b7f"/>'
    )
    yield f'<text x="{middle:g}" y="{top + 24}" text-anchor="middle">{PLUGINS}</text>'
    for index, line in enumerate(lines):
        yield (
            f'<text x="{middle:g}" y="{top + 46 + 17 * index}" text-anchor="middle" font-size="12" '
            f'fill="#55606e">{line}</text>'
        )
    x = ROOMS_WIDTH + MARGIN + 22
    yield (
        f'<path d="M{x} {MARGIN + 14} V{height - MARGIN - 2} m-5 -9 l5 9 l5 -9" fill="none" stroke="#5b6b7f" '
        'stroke-width="1.5"/>'
    )
    yield f'<text x="{x}" y="{MARGIN + 9}" text-anchor="middle" font-size="11" fill="#55606e">imports</text>'


def _lines(section: configparser.SectionProxy, key: str) -> list[str]:
    return [line.strip() for line in section.get(key, "").splitlines() if line.strip()]


def _room(name: str) -> str:
    """`dp` of `privsyn.dp.accounting`."""
    return name.removeprefix("privsyn.").split(".")[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the picture is out of date"
    )
    check = parser.parse_args().check
    picture = draw(read_rules())
    if not check:
        PICTURE.write_text(picture, encoding="utf-8")
    elif PICTURE.read_text(encoding="utf-8") != picture:
        sys.exit(f"{PICTURE.relative_to(ROOT)} is out of date: run python docs/tools/rooms.py")


if __name__ == "__main__":
    main()
