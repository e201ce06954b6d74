"""The recipes and policies that ship with the package."""

from __future__ import annotations

import importlib.resources
from pathlib import Path
from typing import Literal

from privsyn.errors import RecipeError
from privsyn.recipe.documents import nearest

Kind = Literal["recipes", "policies"]
_SINGULAR = {"recipes": "recipe", "policies": "policy"}


def shipped(kind: Kind) -> dict[str, Path]:
    """Name to path of the recipes or policies that come with the package, installed or in a checkout."""
    folder = Path(str(importlib.resources.files("privsyn"))) / kind
    if not folder.is_dir():
        checkout = Path(__file__).resolve().parents[2]
        folder = checkout / {"recipes": "recipes", "policies": "audits/policies"}[kind]
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_shipped(kind: Kind, name: str) -> Path:
    """The shipped file of that name, or a file the user points to."""
    known = shipped(kind)
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise RecipeError(f"no {_SINGULAR[kind]} {name!r}{nearest(name, known)}")
