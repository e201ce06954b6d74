"""`privsyn recipes`: the modeller's files."""

from __future__ import annotations

import typer

from privsyn.cli.options import Force, Json, group
from privsyn.cli.shipped import Name, Source, Target, copy_shipped, list_shipped, show_shipped

app = group("recipes")


@app.callback(invoke_without_command=True)
def recipes(context: typer.Context, as_json: Json = False) -> None:
    """List the recipes; show, copy or check one; print schemas."""
    if context.invoked_subcommand is None:
        list_shipped("recipes", as_json=as_json)


@app.command("show")
def show_recipe(name: Name, as_json: Json = False) -> None:
    """Print one recipe as it stands."""
    show_shipped("recipes", name, as_json=as_json)


@app.command("copy")
def copy_recipe(name: Name, file: Target, force: Force = False, as_json: Json = False) -> None:
    """Copy one recipe to a file of yours."""
    copy_shipped("recipes", name, file, force=force, as_json=as_json)


@app.command("check")
def check_recipe(file: Source, as_json: Json = False) -> None:
    """Check that a recipe can be used, and print its digest (sha256 of the resolved recipe)."""
    from privsyn.cli.console import show
    from privsyn.diffusion.check import check_recipe
    from privsyn.recipe import load_recipe

    recipe = load_recipe(file)
    check_recipe(recipe)
    show(
        {"file": str(file), "sha256": recipe.digest},
        f"{file} is a recipe that can be used\nsha256 {recipe.digest}",
        as_json=as_json,
    )


@app.command("schema")
def schema(as_json: Json = False) -> None:  # noqa: ARG001 - the answer is JSON in any case
    """Print the JSON Schemas of recipe and policy as one JSON document."""
    from privsyn.auditing.policy import Policy
    from privsyn.cli.console import show
    from privsyn.diffusion.check import recipe_schema

    show({"recipe": recipe_schema(), "policy": Policy.model_json_schema()}, as_json=True)
