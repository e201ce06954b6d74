"""Trains a model: ONE loop, with differential privacy or without (`steps` has what differs)."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from privsyn import ledger
from privsyn.claim.document import (
    Claim,
    Query,
    mechanisms,
)
from privsyn.claim.words import rounded_up
from privsyn.cohort.cohort import Cohort, Part, load_cohort
from privsyn.diffusion.model import DiffusionModel, device_of
from privsyn.dp import accounting
from privsyn.dp.clipping import StepFacts
from privsyn.dp.dirac_canaries import DiracCanaryScores
from privsyn.dp.layers import check_supported
from privsyn.errors import CheckpointError, PrivsynError, RecipeError, StudyError
from privsyn.files import file_digest, whole_folder, write_json
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.recipe import Train as TrainSettings
from privsyn.strict_json import JsonObject
from privsyn.study import Study, as_study
from privsyn.training.budget import charge, planned_query, steps_taken
from privsyn.training.canaries import Canaries, plant, planted, with_canaries
from privsyn.training.checkpoint import (
    EMA,
    State,
    Training,
    check_own_run,
    fresh_training,
    load_state,
    load_training,
    newest,
    save_checkpoint,
    start_from,
    step_folder,
)
from privsyn.training.claiming import check_delta, claim_of_training, delta_of, group_of, with_repeated
from privsyn.training.diagnosis import Watch
from privsyn.training.log import begin_log, log_line, mean_loss, shorten_log
from privsyn.training.steps import plain_steps, private_steps
from privsyn.training.warmup import noisy_units, warm_up, warm_up_queries

LOG_EVERY = 10  # steps


def train(
    study: Study | Path | str,
    *,
    dp: bool | None = None,
    epsilon: float | None = None,
    canaries: int | None = None,
    settings: Sequence[str] = (),
    resume: bool = False,
    force: bool = False,
    allow_unbounded: bool = False,
    progress: Progress = SILENT,
) -> Claim:
    """Train the study's model on its cohort's training patients, and write its privacy claim.

    What it will spend is charged to the patients' population before the first step (`privsyn.ledger`).
    Holdout and test are never read. A killed run leaves whole checkpoints, and `resume` continues from the
    newest; the claim is written last, so a model that has one is finished. Where the newest is gone, steps
    are taken again, charged again, and counted in the claim, whose epsilon may then exceed the budget.

    Args:
        dp: train with differential privacy; default `privacy.dp` of the recipe.
        epsilon: budget of the whole training; default `privacy.epsilon`.
        canaries: number of synthetic canaries to insert for the audit `canary`; default `train.canaries`.
        settings: `section.key=value` changes of the recipe.
        resume: continue; dp, epsilon, canaries and settings must be those of the run, but the first three may
            be left out.
        force: replace the model that the study has, once the new run has started validly; what the old one
            spent stays charged.
        allow_unbounded: train without a bound although the patients' population has a grant.

    Returns:
        The privacy claim, as `model/privacy.json` has it.

    Raises:
        StudyError: there is no cohort, there is a model already, or another command works on the study.
        RecipeError: the recipe does not fit the cohort, or no noise reaches the budget.
        CheckpointError: nothing to resume, a broken checkpoint, or one of another recipe or cohort.
        Refused: the population's grant does not allow it; nothing was trained or replaced.
    """
    study = as_study(study)
    with study.exclusively("train"):
        cohort = load_cohort(study.need(study.cohort, "prepare"))
        if resume:
            training, state = _resumed(study, cohort, dp, epsilon, canaries, settings)
            _reserve(state, cohort, allow_unbounded)
            ledger.resumed(state.reference, _already_taken(study, state))
            shorten_log(study.training_log, state.step)
        else:
            recipe = _recipe(study, cohort, dp, epsilon, canaries, settings)
            training, state = _begun(study, cohort, recipe, force, allow_unbounded, progress)
        return _trained(study, cohort, training, state, progress)


def _trained(study: Study, cohort: Cohort, training: Training, state: State, progress: Progress) -> Claim:
    """Take all steps that are left, and state the claim."""
    if state.step == 0 and warm_up_queries(state.recipe):
        taken = steps_taken(state)
        # without canaries: they would spoil the moments, and no score looks at them
        warm_up(
            study.class_means,
            training,
            state,
            cohort.part("train"),
            progress,
            before_writing=lambda: ledger.written(state.reference, (0,) * len(taken), taken),
        )
    state = run_steps(study, training, state, cohort.part("train"), _planted(study, state), progress)
    return _finish(study, cohort, state)


def run_steps(
    study: Study, training: Training, state: State, part: Part, canaries: Canaries | None, progress: Progress
) -> State:
    """The loop. Returns the state after the last step, which is also the newest checkpoint."""
    recipe, settings, first = state.recipe, state.recipe.train, state.step
    part, scored = with_canaries(part, canaries), _canary_scores(training, state)
    take_step = (
        private_steps(training, state, part, scored)
        if recipe.privacy.dp
        else plain_steps(training, state, part)
    )
    training.model.train()
    recent: list[StepFacts] = []
    watch = Watch()
    began, shown = time.monotonic(), dict[str, str]()
    with progress.stage("train", settings.steps) as advance, study.training_log.open("a") as log:
        advance(first)
        for step in range(first, settings.steps):
            set_learning_rate(training.optimizer, rate_of_step(step, settings))
            recent.append(take_step(step))
            if not recipe.privacy.dp:
                watch.see(step + 1, recent[-1].loss)
            update_ema(training, ema_decay(step, settings.ema_decay))

            done = step + 1
            to_save = done % settings.checkpoint_every == 0 or done == settings.steps
            shown["images/s"] = f"{(done - first) * settings.batch_size / (time.monotonic() - began):.0f}"
            if done % LOG_EVERY == 0 or to_save:
                log.write(log_line(done, recent))
                log.flush()
                if not recipe.privacy.dp:  # with it, the loss is private and stays in the log
                    shown["loss"] = f"{mean_loss(recent):.4f}"
                recent.clear()
            if to_save:
                before, state = steps_taken(state), replace(state.with_steps(done), step=done)
                ledger.written(state.reference, before, steps_taken(state))
                _check_finite(training.model, done)
                if scored is not None:
                    state = replace(state, canary_scores=scored.scores)
                save_checkpoint(study.checkpoints, training, state)
                if recipe.privacy.dp:
                    shown["epsilon"] = _epsilon_so_far(state)
            advance(1, **shown)
    return state


def _canary_scores(training: Training, state: State) -> DiracCanaryScores | None:
    """What reads the canaries off the noised sums; None without canaries or without DP."""
    if training.canary_weights is None:
        return None
    number, clip_norm = len(training.canary_weights), state.recipe.privacy.clip_norm
    return DiracCanaryScores(state.dp_sgd, clip_norm, number, state.canary_scores)


def _epsilon_so_far(state: State) -> str:
    rough = state.step < state.recipe.train.steps
    history = mechanisms(_queries(state))
    return rounded_up(accounting.epsilon(history, delta_of(state.recipe), rough=rough))


def _queries(state: State) -> tuple[Query, ...]:
    """All that was asked so far, with what was asked again after files of the run were gone."""
    return with_repeated(state.queries, ledger.repeated(state.reference))


def _check_finite(model: DiffusionModel, done: int) -> None:
    """Stop a training that has diverged; with DP the weights are noisy, so looking at them costs nothing."""
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        raise PrivsynError(
            f"the weights are no longer finite at step {done}: lower train.learning_rate and train again "
            "with --force"
        )


def rate_of_step(step: int, settings: TrainSettings) -> float:
    """Learning rate of a step (from 0): linear over the warm-up; then constant, or a half cosine to 0."""
    warm = settings.warmup_steps
    if step < warm or settings.schedule == "constant":
        return settings.learning_rate * min(1.0, (step + 1) / (warm + 1))
    done = (step - warm) / max(settings.steps - warm, 1)
    return settings.learning_rate * (1 + math.cos(math.pi * done)) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def ema_decay(step: int, longest: float) -> float:
    """Short at first, so that the average forgets the fresh weights; at most `longest`."""
    return min(longest, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(training: Training, decay: float) -> None:
    """ema = decay * ema + (1 - decay) * model, after a real step."""
    for average, weight in zip(training.ema.parameters(), training.model.parameters(), strict=True):
        average.lerp_(weight, 1 - decay)


def _recipe(
    study: Study,
    cohort: Cohort,
    dp: bool | None,
    epsilon: float | None,
    canaries: int | None,
    settings: Sequence[str],
) -> Recipe:
    """The recipe of a training, with the privacy unit that the cohort supports."""
    recipe = study.recipe([*settings, *_settings_of(dp, epsilon, canaries)])
    recipe = recipe.claiming(cohort.document.unit)
    if epsilon is not None and not recipe.privacy.dp:
        raise RecipeError("an epsilon was given for a training without differential privacy: add --dp")
    return recipe


def _begun(
    study: Study, cohort: Cohort, recipe: Recipe, force: bool, allow_unbounded: bool, progress: Progress
) -> tuple[Training, State]:
    """A new model folder with the checkpoint of step 0, so that there is always one to resume from.

    It is charged when all else is ready: what is refused leaves the old model, and what fails is not charged.
    """
    if study.model.exists() and not force:
        raise StudyError(f"{study.model} already exists: --resume continues it, --force replaces it")
    _check_data(recipe, cohort)
    training, initial = fresh_training(recipe, device_of(recipe)), recipe.train.init_from
    start = None if initial is None else _start(study.root / initial, training, cohort, recipe.train)
    state = State(0, recipe, cohort.digest, (), secrets.token_hex(16), start)
    if recipe.privacy.dp:
        check_supported(training.model)
        with progress.stage("find the noise for the budget", 1) as advance:
            state = replace(state, queries=(*warm_up_queries(recipe), planned_query(recipe)))
            group_of(recipe, mechanisms(state.planned))  # what the claim will need, before anything is spent
            advance()
    try:
        with whole_folder(study.model, replace=force) as folder:
            if recipe.train.canaries:
                committed = plant(folder, recipe.train.canaries, recipe.data).commitment
                state = replace(state, canaries_sha256=committed)
            save_checkpoint(folder / study.checkpoints.name, training, state)
            begin_log(folder / study.training_log.name)
            _reserve(state, cohort, allow_unbounded)
    except BaseException:
        with suppress(PrivsynError):  # nothing was reserved, or the ledger cannot be written
            ledger.void(state.reference)
        raise
    return training, state


def _planted(study: Study, state: State) -> Canaries | None:
    """The canaries that were committed to when the run began; coins are never tossed again."""
    canaries = planted(study.model, state.recipe.data) if state.canaries_sha256 else None
    if (canaries.commitment if canaries else None) != state.canaries_sha256:
        raise CheckpointError(
            f"{study.model} has other canaries than its checkpoint: train again with --force"
        )
    return canaries


def _start(folder: Path, training: Training, cohort: Cohort, settings: TrainSettings) -> str:
    """Begin with public weights, unless the ledger knows that our own patients are in them."""
    digest, population = start_from(folder, training, settings)
    patients = cohort.records["patient"].tolist()
    if population is not None and population in ledger.ids_of(patients):
        raise RecipeError(
            f"train.init_from {str(folder)!r} was trained on patients of this cohort, whatever it declares: "
            "start from another model, or from none"
        )
    return digest


def _reserve(state: State, cohort: Cohort, allow_unbounded: bool) -> None:
    """Charge the whole training to the population; for a resumed run, see that it is charged."""
    ledger.reserve(
        state.reference,
        cohort.training_patients,
        charge(state.recipe, mechanisms(state.planned)),
        allow_unbounded=allow_unbounded,
    )


def _resumed(
    study: Study,
    cohort: Cohort,
    dp: bool | None,
    epsilon: float | None,
    canaries: int | None,
    settings: Sequence[str],
) -> tuple[Training, State]:
    folder = newest(study.need(study.checkpoints, "train"))
    state = load_state(folder)
    dp = state.recipe.privacy.dp if dp is None else dp
    epsilon = state.recipe.privacy.epsilon if epsilon is None else epsilon
    canaries = state.recipe.train.canaries if canaries is None else canaries
    if state.cohort_sha256 != cohort.digest:
        raise CheckpointError(
            f"{folder} was trained on another cohort, or another split of it: replace it with --force"
        )
    asked = _recipe(study, cohort, dp, epsilon if dp else None, canaries, settings)
    different = _differences(state.recipe, asked)
    if different:
        raise CheckpointError(
            f"{folder} was trained with another {', '.join(different)}: pass the same options again, "
            "or replace it with --force"
        )
    if ledger.state_of(state.reference) == "settled" and state.step < state.recipe.train.steps:
        raise CheckpointError(
            f"{folder} is from before the end of a training that was finished and settled; going on would "
            "spend privacy that is not charged: train again with --force"
        )
    _check_data(asked, cohort)
    return load_training(folder, state, device_of(state.recipe)), state


def _already_taken(study: Study, state: State) -> tuple[int, ...]:
    """The steps that a resumed run need not take: a warm-up only while its moments, or its network, exist."""
    taken = steps_taken(state)
    return (0,) * len(taken) if state.step == 0 and not study.class_means.exists() else taken


def _differences(trained: Recipe, asked: Recipe) -> list[str]:
    """Settings that shape a model and differ; how to sample is not among them."""
    ours, theirs = (recipe.model_dump(exclude={"sample"}) for recipe in (trained, asked))
    ours, theirs = ({"": {"seed": each.pop("seed")}, **each} for each in (ours, theirs))
    pairs = [(part, key) for part in ours for key in ours[part]]
    return [f"{part}.{key}".lstrip(".") for part, key in pairs if ours[part][key] != theirs[part][key]]


def _settings_of(dp: bool | None, epsilon: float | None, canaries: int | None) -> list[str]:
    asked = [] if dp is None else [f"privacy.dp={str(dp).lower()}"]
    asked += [] if epsilon is None else [f"privacy.epsilon={epsilon!r}"]
    return asked + ([] if canaries is None else [f"train.canaries={canaries}"])


def _check_data(recipe: Recipe, cohort: Cohort) -> None:
    """A stale cohort is not trained on, nor with a delta that is too large for its real number of units."""
    check_delta(recipe, len(np.unique(cohort.part("train").units(recipe.privacy.unit))))
    different = cohort.document.outdated_by(recipe.data.model_dump(mode="json"))
    if different:
        names = ", ".join(f"data.{key}" for key in different)
        raise RecipeError(
            f"the cohort was prepared with another {names} than the recipe has: prepare it again with "
            "`privsyn prepare SOURCE --force`, or restore recipe.toml or --set"
        )
    absent = [name for name, images in cohort.document.counts["train"].classes.items() if not images]
    if absent:
        raise RecipeError(
            f"no training image is of class {', '.join(map(repr, absent))}, so its images would be drawn "
            "from an untrained embedding: leave it out of data.classes, or prepare more images of it"
        )


def _finish(study: Study, cohort: Cohort, state: State) -> Claim:
    recipe = state.recipe
    check_own_run(study.checkpoints, state.reference)
    weights = file_digest(step_folder(study.checkpoints, state.step) / EMA)
    ledger.settle(state.reference, charge(recipe, mechanisms(state.queries)).mechanisms, outcome=weights)
    entry, cumulative = ledger.account(state.reference)
    claim = claim_of_training(
        recipe,
        cohort,
        _queries(state),
        steps=state.step,
        weights_sha256=weights,
        init_sha256=state.init_sha256,
        canaries_sha256=state.canaries_sha256,
        ledger=entry,
        cumulative=cumulative,
        noisy_units=noisy_units(study.class_means, recipe) if recipe.privacy.dp else None,
    )
    write_json(study.resolved_recipe_file, resolved_recipe(recipe))
    write_json(study.privacy_file, claim.to_document())
    return claim


def resolved_recipe(recipe: Recipe) -> JsonObject:
    """`model/recipe.json`: the recipe with all defaults and settings, as the model was trained by it."""
    return {"schema_version": 1, "sha256": recipe.digest, "recipe": recipe.model_dump(mode="json")}
