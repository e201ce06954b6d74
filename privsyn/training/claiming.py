"""Builds the privacy claim of a training: what it promises, from which numbers, and what it does not cover.

Everything in it is public by declaration or follows from public numbers, except its provenance and the
ledger's view, which stay inside. Anybody can recompute epsilon from the queries and delta alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from privsyn.claim.document import (
    REPEATED,
    Accountant,
    Bound,
    CanaryCommitment,
    Claim,
    CumulativeCost,
    GroupEpsilon,
    LedgerEntry,
    Mechanism,
    ModelProvenance,
    PublicQuantities,
    Query,
    mechanisms,
)
from privsyn.claim.words import plural
from privsyn.cohort.cohort import Cohort
from privsyn.dp.accounting import accountant_name, default_delta, epsilon, epsilon_rdp, group_epsilon
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe

PUBLIC_DATA = (
    "Trained on images that were declared public, without differential privacy: it promises nothing to "
    "anybody, and other models may start from it."
)
NO_BOUND = (
    "Trained without differential privacy: nothing bounds in advance what this model, or an image drawn from "
    "it, can reveal about one {unit}. Only audits speak for it, and they can only find leaks."
)
IMPORTED_STATEMENT = (
    "Imported: how this model was trained, and on whose images, is not known here, so nothing bounds in "
    "advance what it, or an image drawn from it, can reveal about one {unit}. Only audits speak for it, and "
    "they can only find leaks."
)
BOUND = (
    "Adding or removing one {unit} changes the chance of any outcome by a factor of at most e^epsilon, but "
    "for a chance of delta."
)
INSECURE = (
    "privacy.insecure_seed is set: whoever knows it can repeat the noise, so the bound does not hold. "
    "For tests only."
)
NOT_COVERED = (
    "Settings chosen by looking at private data, such as earlier trainings or audits of the same patients; "
    "that they were tried is not accounted for.",
    "Other models trained on the same patients: their epsilons add up with this one; `cumulative` is the "
    "total that the ledger of this machine knew of.",
    "What was declared public: class names, image size, channels, value range, expected_units, the recipe.",
    "Early stopping, or choosing a checkpoint, by looking at train.jsonl or at an audit. Training itself "
    "reads no label histogram, value range or validation loss: the number of steps is fixed in advance, "
    "pixels are scaled by their bit depth, and classes are drawn as the recipe says.",
    "How the cohort was made: which patients were asked, labelled and kept, the removal of duplicates, and "
    "which part of the split a patient is in.",
    "The internal files of the study: cohort, train.jsonl (un-noised losses), findings and internal report; "
    "the bound is for the weights and what is drawn from them.",
    "The audits' own figures: they are measured on real data and are not differentially private.",
    "Time and memory that training took, and side channels of the machine.",
    "Rounding: noise is a float64 Gaussian on a grid that hides its floating-point structure, gradients are "
    "clipped and summed in float32, and neither is proven to the last bit. Noise and coins come from "
    "ChaCha20 with a key of the operating system.",
)
NOT_COVERED_PATIENT = (
    "What relatives, or one patient entered under two ids that share no image, reveal together: the unit is "
    "one patient id, or several ids that share an image.",
)
NOT_COVERED_FINER = (
    "A patient with several {units}: the bound is for one {unit}. `group` says what it is for 2, 4 and 8 "
    "{units} of one patient at the same delta; beyond that, more.",
)
CANARIES = (
    "Pictures of nobody, each trained on if its coin said so; they are not protected and not counted as "
    "patients, and take nothing from the bound for patients. Commitment: sha256 of seed, pictures and coins, "
    "written before the first step."
)
GROUP_SIZES = (2, 4, 8)  # units; public numbers, not what the cohort holds
PUBLIC_START = (
    "The weights that it started from: that their images are public, and of other patients, was declared, "
    "and checked only against this machine's ledger."
)


def delta_of(recipe: Recipe) -> float:
    """The recipe's delta, or the default for its public number of units."""
    expected = recipe.privacy.expected_units
    assert expected is not None  # the recipe demands it for DP
    return recipe.privacy.delta if recipe.privacy.delta is not None else default_delta(expected)


def check_delta(recipe: Recipe, units: int) -> None:
    """See that delta is below one in the REAL number of training units, which the message does not name.

    Raises:
        RecipeError: it is not: such a delta allows publishing somebody in the clear.
    """
    if recipe.privacy.dp and delta_of(recipe) * units >= 1:
        raise RecipeError(
            f"privacy.delta is not below one in the number of training {plural(recipe.privacy.unit)}, so it "
            "allows publishing one of them in the clear: lower it, or correct privacy.expected_units, from "
            "which its default follows"
        )


def with_repeated(queries: Sequence[Query], repeated: Sequence[Mechanism]) -> tuple[Query, ...]:
    """The queries of a model, with the steps that its training took again; the last stays the last.

    Args:
        repeated: the mechanisms of all queries with these steps; empty if none were.
    """
    if not repeated:
        return tuple(queries)
    again = [
        replace(query, name=query.name + REPEATED, mechanism=part)
        for query, part in zip(queries, repeated, strict=True)
        if part.steps
    ]
    return (*queries[:-1], *again, *queries[-1:])


def claim_of_training(
    recipe: Recipe,
    cohort: Cohort,
    queries: Sequence[Query],
    *,
    steps: int,
    weights_sha256: str,
    init_sha256: str | None = None,
    canaries_sha256: str | None = None,
    ledger: LedgerEntry | None = None,
    cumulative: CumulativeCost | None = None,
    noisy_units: float | None = None,
) -> Claim:
    """The claim of a finished training.

    Args:
        queries: every query of the private data, in order; empty without DP.
        steps: optimiser steps in the weights.
        init_sha256: of the public weights that it started from.
        canaries_sha256: commitment to the canaries, if any were planted.
        ledger, cumulative: where it is recorded, and what all trainings on these patients cost together.
        noisy_units: number of training units, if a query counted them with noise.
    """
    unit, dp = recipe.privacy.unit, recipe.privacy.dp
    no_bound = PUBLIC_DATA if recipe.privacy.public_data else NO_BOUND
    planted = recipe.train.canaries
    return Claim(
        unit=unit,
        statement=(BOUND if dp else no_bound).format(unit=unit),
        public=_public(recipe, init_sha256),
        provenance=ModelProvenance(
            recipe_sha256=recipe.digest,
            cohort_fingerprint=cohort.fingerprint,
            cohort_sha256=cohort.digest,
            weights_sha256=weights_sha256,
            steps_done=steps,
        ),
        bound=_bound(recipe, queries, noisy_units) if dp else None,
        public_data=recipe.privacy.public_data,
        canaries=None if canaries_sha256 is None else CanaryCommitment(planted, canaries_sha256, CANARIES),
        ledger=ledger,
        cumulative=cumulative,
    )


def imported_claim(recipe: Recipe, *, weights_sha256: str, source_sha256: str) -> Claim:
    """The claim of a model that was trained elsewhere: none.

    Args:
        recipe: of the study; `[data]`, `[model]` and `[diffusion]` are those of the model.
        weights_sha256: of the weights as this study keeps them.
        source_sha256: of the file that they came from.
    """
    public = _public(recipe, None)
    return Claim(
        unit=recipe.privacy.unit,
        statement=IMPORTED_STATEMENT.format(unit=recipe.privacy.unit),
        public=PublicQuantities(public.classes, public.size, public.channels, public.value_range),
        provenance=ModelProvenance(
            recipe_sha256=recipe.digest,
            cohort_fingerprint=None,
            cohort_sha256=None,
            weights_sha256=weights_sha256,
            steps_done=0,
            imported_sha256=source_sha256,
        ),
        imported=True,
    )


def _bound(recipe: Recipe, queries: Sequence[Query], noisy_units: float | None) -> Bound:
    privacy, delta, history = recipe.privacy, delta_of(recipe), mechanisms(queries)
    assert privacy.expected_units is not None  # the recipe demands it for DP
    return Bound(
        epsilon=epsilon(history, delta),
        delta=delta,
        epsilon_rdp=epsilon_rdp(history, delta),
        queries=tuple(queries),
        expected_units=privacy.expected_units,
        accountant=Accountant(**accountant_name()),
        group=group_of(recipe, history),
        not_covered=_not_covered(recipe),
        invalid=INSECURE if privacy.insecure_seed is not None else "",
        noisy_units=noisy_units,
    )


def group_of(recipe: Recipe, history: Sequence[Mechanism]) -> tuple[GroupEpsilon, ...]:
    """Where the unit is finer than a patient: what the claim is worth to one with several, at the same
    delta."""
    if recipe.privacy.unit == "patient":
        return ()
    delta = delta_of(recipe)
    return tuple(GroupEpsilon(k, group_epsilon(history, delta, k), delta) for k in GROUP_SIZES)


def _public(recipe: Recipe, init_sha256: str | None) -> PublicQuantities:
    data = recipe.data
    return PublicQuantities(
        classes=data.classes,
        size=data.size,
        channels=data.channels,
        value_range=(0, 2**data.bit_depth - 1),
        hyper_parameters=f"the whole recipe, sha256 {recipe.digest}",
        expected_units=recipe.privacy.expected_units if recipe.privacy.dp else None,
        init_sha256=init_sha256,
    )


def _not_covered(recipe: Recipe) -> tuple[str, ...]:
    unit, start = recipe.privacy.unit, (PUBLIC_START,) if recipe.train.init_from else ()
    if unit == "patient":
        return (*start, *NOT_COVERED_PATIENT, *NOT_COVERED)
    finer = (each.format(unit=unit, units=plural(unit)) for each in NOT_COVERED_FINER)
    return (*start, *finer, *NOT_COVERED)
