"""`privsyn init`: a new study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from privsyn.cli.options import Json, Settings

Folder = Annotated[
    Path, typer.Argument(metavar="DIR", help="The folder of the new study; must not exist, or be empty.")
]
Recipe = Annotated[
    str,
    typer.Option("--recipe", metavar="NAME", help="How to train and sample: a shipped name, or a TOML file."),
]
Policy = Annotated[
    str, typer.Option("--policy", metavar="NAME", help="How to judge: a shipped name, or a TOML file.")
]


def init(
    folder: Folder,
    recipe: Recipe,
    policy: Policy = "internal-review",
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """Make a new study.

    It holds copies of a recipe and a policy, yours to edit; `privsyn recipes` and `privsyn policies` list
    what ships. Settings are written into the copied recipe.
    """
    from privsyn.auditing.policy import load_policy
    from privsyn.cli.console import show
    from privsyn.diffusion.check import check_recipe
    from privsyn.recipe import find_shipped, load_recipe
    from privsyn.study import init

    load_policy(find_shipped("policies", policy))
    check_recipe(load_recipe(find_shipped("recipes", recipe), settings or ()))
    study = init(folder, recipe=recipe, policy=policy, settings=settings or ())
    document = {
        "study": str(study.root),
        "recipe": recipe,
        "policy": policy,
        "recipe_sha256": study.recipe().digest,
    }
    show(
        document,
        f"made the study {study.root}",
        f"next: cd {study.root} && privsyn prepare SOURCE",
        as_json=as_json,
    )
