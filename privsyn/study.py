"""The study folder: one cohort, one model, one synthetic set, one audit, one release.

This module is the only place that knows what the artefacts are called.
"""

from __future__ import annotations

import os
import shutil
import socket
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import tomlkit

from privsyn.errors import RecipeError, Refused, StudyError
from privsyn.files import held, whole_folder, write_text
from privsyn.recipe import Recipe, find_shipped, load_recipe, parse, parse_setting


@dataclass(frozen=True)
class Study:
    """A study folder that exists; all but `release` and `synthetic` is internal.

    Attributes:
        audited: where another audit than the study's own lies, such as one under a second policy.
    """

    root: Path
    audited: Path | None = None

    @property
    def name(self) -> str:
        return str(tomllib.loads((self.root / "study.toml").read_text(encoding="utf-8"))["name"])

    @property
    def recipe_file(self) -> Path:
        return self.root / "recipe.toml"

    @property
    def policy_file(self) -> Path:
        return self.root / "policy.toml"

    @property
    def cohort(self) -> Path:
        return self.root / "cohort"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def checkpoints(self) -> Path:
        return self.model / "checkpoints"

    @property
    def privacy_file(self) -> Path:
        return self.model / "privacy.json"

    @property
    def resolved_recipe_file(self) -> Path:
        return self.model / "recipe.json"

    @property
    def training_log(self) -> Path:
        return self.model / "train.jsonl"

    @property
    def class_means(self) -> Path:
        return self.model / "central-images.safetensors"

    @property
    def synthetic(self) -> Path:
        return self.root / "synthetic"

    @property
    def audit(self) -> Path:
        return self.audited or self.root / "audit"

    @property
    def findings_file(self) -> Path:
        return self.audit / "findings.json"

    @property
    def verdict_file(self) -> Path:
        return self.audit / "verdict.json"

    @property
    def internal_report(self) -> Path:
        return self.audit / "internal-report.html"

    @property
    def public_report(self) -> Path:
        return self.audit / "public-report.html"

    @property
    def approvals(self) -> Path:
        return self.root / "approvals"

    @property
    def release(self) -> Path:
        return self.root / "release"

    def recipe(self, settings: Sequence[str] = ()) -> Recipe:
        """The study's recipe with `section.key=value` settings applied on top."""
        return load_recipe(self.recipe_file, settings)

    def keep(self, settings: Sequence[str]) -> None:
        """Write settings into the study's `recipe.toml`, if that changes it; its comments stay."""
        text = self.recipe_file.read_text(encoding="utf-8")
        changed = set_in_toml(text, settings)
        if tomllib.loads(changed) != tomllib.loads(text):
            write_text(self.recipe_file, changed)

    @contextmanager
    def exclusively(self, command: str) -> Iterator[None]:
        """Work on the study alone: two commands at once would mix their artefacts.

        Args:
            command: such as `train`, named to whoever comes second.

        Raises:
            StudyError: another process works on it.
        """
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        holder = f"`privsyn {command}` (process {os.getpid()} on {socket.gethostname()}, since {since})"
        with ExitStack() as stack:
            try:
                stack.enter_context(held(self.root / ".in-use", holder))
            except Refused as refusal:
                raise StudyError(f"{self.root} is in use by {refusal}: wait until it ends") from None
            yield

    def need(self, path: Path, command: str) -> Path:
        """Return `path` if it exists, else raise an error that names the command that makes it."""
        if not path.exists():
            named = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            raise StudyError(f"{self.root} has no {named} yet: run `privsyn {command}` first")
        return path


def init(folder: Path | str, *, recipe: str, policy: str, settings: Sequence[str] = ()) -> Study:
    """Make a new study folder with copies of a recipe and a policy, yours to edit.

    Args:
        folder: must not exist, or be empty.
        recipe: shipped name, or a TOML file.
        policy: shipped name, or a TOML file, whose networks are copied along.
        settings: `section.key=value` changes, written into the copied recipe.
    """
    root = Path(folder)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StudyError(f"{root} already exists and is not an empty folder: choose another place")
    recipe_file, policy_file = find_shipped("recipes", recipe), find_shipped("policies", policy)
    rules = policy_file.read_text(encoding="utf-8")
    text = set_in_toml(recipe_file.read_text(encoding="utf-8"), settings)
    card = tomlkit.document()
    names = {"name": root.resolve().name, "recipe": recipe_file.stem, "policy": policy_file.stem}
    card.update({**names, "cohort": "cohort"})  # names only: the paths of the files are private
    parse(tomllib.loads(text), Recipe, f"{recipe_file.name} with --set" if settings else str(recipe_file))
    with whole_folder(root, replace=True) as partial:
        write_text(partial / "recipe.toml", text)
        write_text(partial / "policy.toml", rules)
        for network in _networks(policy_file, rules):
            (partial / network).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(policy_file.parent / network, partial / network)
        write_text(partial / "study.toml", tomlkit.dumps(card))
    return Study(root)


def _networks(policy_file: Path, rules: str) -> Iterator[Path]:
    """Files that a policy names relative to itself; `audit` reports other faults of the policy."""
    try:
        declared = tomllib.loads(rules).get("networks")
    except ValueError as error:
        raise StudyError(f"{policy_file} is not TOML: {error}") from None
    for network in declared if isinstance(declared, list) else ():
        file = network.get("file") if isinstance(network, dict) else None
        if not isinstance(file, str) or Path(file).is_absolute():
            continue
        if ".." in Path(file).parts or not (policy_file.parent / file).is_file():
            raise StudyError(
                f"{policy_file} names a network {file!r} that is not in its folder: put it there"
            )
        yield Path(file)


def open_study(folder: Path | str) -> Study:
    """The study in a folder, or a hint how to make one."""
    root = Path(folder)
    if not (root / "study.toml").is_file():
        raise StudyError(
            f"{root} is not a study (no study.toml): "
            "go to one, pass --study DIR, or make one with `privsyn init`"
        )
    return Study(root)


def as_study(study: Study | Path | str) -> Study:
    """Accept a study or its folder."""
    return study if isinstance(study, Study) else open_study(study)


def set_in_toml(text: str, settings: Sequence[str]) -> str:
    """Apply settings to a TOML text and keep its comments."""
    document = tomlkit.parse(text)
    for setting in settings:
        keys, value = parse_setting(setting)
        table = document
        for key in keys[:-1]:
            if key not in table:
                table[key] = tomlkit.table()
            table = table[key]
            if not isinstance(table, dict):
                raise RecipeError(f"--set {setting!r}: {key!r} is not a section")
        table[keys[-1]] = value
    return tomlkit.dumps(document)
