"""What a training may spend: the noise that keeps to its budget, and what the ledger charges for it."""

from __future__ import annotations

from collections.abc import Sequence

from privsyn import ledger
from privsyn.claim.document import DP_SGD, NEIGHBOURING, Clipping, Mechanism, Query, mechanisms
from privsyn.dp import accounting
from privsyn.recipe import Recipe
from privsyn.training.checkpoint import State
from privsyn.training.claiming import delta_of
from privsyn.training.warmup import warm_up_queries


def charge(recipe: Recipe, planned: Sequence[Mechanism]) -> ledger.TrainingCharge:
    """What a training asks the ledger to charge."""
    why = _why_unbounded(recipe)
    return ledger.TrainingCharge(
        unit=recipe.privacy.unit,
        neighbouring=NEIGHBOURING,
        delta=delta_of(recipe) if recipe.privacy.dp else None,
        mechanisms=() if why else tuple(planned),
        why_unbounded=why,
    )


def steps_taken(state: State) -> tuple[int, ...]:
    """The steps of each mechanism that the ledger charges; none where it charges none, or for a shadow."""
    charged = charge(state.recipe, mechanisms(state.queries)).mechanisms if state.reference else ()
    return tuple(part.steps for part in charged)


def _why_unbounded(recipe: Recipe) -> str:
    """Why nothing bounds what a training reveals; "" if something does."""
    if recipe.privacy.public_data:
        return "trained on images that were declared public"
    if not recipe.privacy.dp:
        return "trained without differential privacy"
    if recipe.privacy.insecure_seed is not None:
        return "trained with noise that can be repeated (privacy.insecure_seed)"
    return ""


def planned_query(recipe: Recipe) -> Query:
    """DP-SGD with the noise that keeps to the budget beside the warm-up, with no step taken yet."""
    privacy, steps = recipe.privacy, recipe.train.steps
    assert privacy.expected_units is not None  # the recipe demands it for DP
    rate = recipe.train.batch_size / privacy.expected_units
    noise = accounting.noise_multiplier(
        privacy.epsilon, delta_of(recipe), rate, steps, composed=mechanisms(warm_up_queries(recipe))
    )
    clipping = Clipping(privacy.clip_norm, privacy.noise_multiplicity, privacy.max_images_per_unit)
    return Query(DP_SGD, Mechanism(noise, rate, steps=0), clipping)
