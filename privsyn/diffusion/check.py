"""Whether a recipe names a sampler and a network that exist, with settings that the network can use.

`privsyn.recipe` checks all else without importing torch; what samplers and networks there are is declared
beside their code, so the check is here. Every command that takes a recipe into use calls it.
"""

from __future__ import annotations

from privsyn.diffusion.networks import NETWORKS, find_network
from privsyn.diffusion.samplers import SAMPLERS, find_sampler
from privsyn.errors import RecipeError
from privsyn.recipe import Model, Recipe
from privsyn.strict_json import JsonObject


def check_recipe(recipe: Recipe) -> None:
    """Check the names that only the diffusion code knows.

    Raises:
        RecipeError: no such sampler or network, or settings that do not fit the network.
    """
    find_sampler(recipe.sample.sampler)
    network = find_network(recipe.model.network)
    for owner in NETWORKS.values():
        for name in owner.settings:
            is_set = getattr(recipe.model, name) != Model.model_fields[name].default
            if is_set and name not in network.settings:
                raise RecipeError(f"model.{name} belongs to the network {owner.name}, not to {network.name}")
    network.check(recipe.model)


def recipe_schema() -> JsonObject:
    """The JSON Schema of a recipe, with the names of samplers and networks."""
    schema = Recipe.model_json_schema()
    for section, key, names in (("Sample", "sampler", SAMPLERS), ("Model", "network", NETWORKS)):
        schema["$defs"][section]["properties"][key]["enum"] = list(names)
    return schema
