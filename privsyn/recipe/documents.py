"""TOML documents and `section.key=value` settings, checked against a model; faults become one clear line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from privsyn.errors import RecipeError

M = TypeVar("M", bound=BaseModel)
Document = dict[str, object]  # of TOML or JSON, before a model checks it


def read_toml(path: Path) -> Document:
    """Parse a TOML file, or say where it is broken."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None


def parse(document: Mapping[str, object], model: type[M], where: str) -> M:
    """Check a document against a model; the first fault becomes one clear line."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, model)}") from None


def parse_setting(setting: str) -> tuple[list[str], object]:
    """Split `section.key=value` at the first `=`; the value is TOML, or a bare word taken as a string."""
    name, equals, text = setting.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {setting!r}: expected section.key=value, for example train.steps=500")
    try:
        return keys, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if any(mark in text for mark in "[]{}\"'\n"):
            raise RecipeError(f"--set {setting!r}: {text!r} is not a TOML value") from None
        return keys, text.strip()


def apply_settings(document: Mapping[str, object], settings: Iterable[str]) -> Document:
    """A copy of the document with each setting in its place."""
    result: Document = {
        key: dict(value) if isinstance(value, dict) else value for key, value in document.items()
    }
    for setting in settings:
        keys, value = parse_setting(setting)
        table: Document = result
        for key in keys[:-1]:
            section = table.setdefault(key, {})
            if not isinstance(section, dict):
                raise RecipeError(f"--set {setting!r}: {key!r} is not a section")
            table = section
        table[keys[-1]] = value
    return result


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean X?`, or the list of what there is."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    fault = error.errors()[0]
    place = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)!r}{nearest(place[-1], _keys_at(model, place[:-1]))}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "is missing"
    return f"{'.'.join(place)}: {message}" if place else message


def _keys_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
    return list(model.model_fields)
