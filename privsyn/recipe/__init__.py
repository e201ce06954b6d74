"""The modeller's file: how to train and sample. TOML in, frozen values out, unknown keys refused by name.

`sections` has every setting, `recipe` what must hold between them; names of samplers and networks are checked
by `privsyn.diffusion.check`, which knows them. How to judge is the data steward's file and is read by
`privsyn.auditing.policy`; see docs/decisions/0005-policy-apart-from-recipe.md.
"""

from privsyn.recipe.documents import Document, apply_settings, nearest, parse, parse_setting, read_toml
from privsyn.recipe.recipe import Recipe, load_recipe
from privsyn.recipe.sections import (
    IN_COLOUR,
    Biomarker,
    Data,
    Model,
    Sample,
    Section,
    Slug,
    Train,
)
from privsyn.recipe.shipped import find_shipped, shipped

__all__ = [
    "IN_COLOUR", "Biomarker", "Data", "Document", "Model", "Recipe", "Sample", "Section", "Slug", "Train",
    "apply_settings", "find_shipped", "load_recipe", "nearest", "parse", "parse_setting", "read_toml",
    "shipped",
]  # fmt: skip
