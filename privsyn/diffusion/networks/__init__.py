"""The networks that a recipe can name as `model.network`: one module each, found by its `NETWORK`.

To add one, add a module to this folder that has a `NETWORK`, and rules in `privsyn/dp/layers.py` for layers
that are not there yet, so that it can be trained with differential privacy.
"""

from __future__ import annotations

import importlib
import pkgutil

from privsyn.diffusion.networks.declaration import NetworkDeclaration
from privsyn.errors import RecipeError
from privsyn.recipe import nearest


def _declared() -> dict[str, NetworkDeclaration]:
    names = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    modules = (importlib.import_module(name) for name in names)
    found = (module.NETWORK for module in modules if hasattr(module, "NETWORK"))
    return {network.name: network for network in found}


NETWORKS = _declared()


def find_network(name: str) -> NetworkDeclaration:
    """The network of this name.

    Raises:
        RecipeError: there is none; the nearest name is in the message.
    """
    if name not in NETWORKS:
        raise RecipeError(f"model.network {name!r} is unknown{nearest(name, NETWORKS)}")
    return NETWORKS[name]
