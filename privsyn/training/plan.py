"""Estimates what a recipe spends, costs and reaches, before any privacy is spent: `privsyn plan`.

Nothing here reads a real image. Noise comes from the accountant; time and memory from a short probe on this
machine, on images of random numbers; what was spent before, from the ledger.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from privsyn import ledger
from privsyn.claim.document import Mechanism, Query, mechanisms
from privsyn.claim.words import plural
from privsyn.cohort.cohort import load_cohort
from privsyn.diffusion.batches import Draws, noise_draws
from privsyn.diffusion.model import device_of
from privsyn.dp import accounting
from privsyn.dp.cipher_stream import keyed_stream
from privsyn.dp.clipping import private_optimizer, private_step
from privsyn.dp.generators import keyed_generator
from privsyn.dp.gradients import median_seconds
from privsyn.errors import RecipeError
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.strict_json import JsonObject
from privsyn.study import Study, as_study
from privsyn.training.budget import charge, planned_query
from privsyn.training.checkpoint import fresh_training
from privsyn.training.claiming import delta_of
from privsyn.training.steps import plain_step, planned_passes
from privsyn.training.warmup import warm_up_queries

SCHEMA_VERSION = 1
BUDGETS = (1.0, 3.0, 8.0, 10.0)
WORRYING = 0.1  # units to whom nothing is promised, in expectation; what public-release accepts
PLAIN_IMAGES = 64  # of the step without privacy that is timed for comparison, at most


@dataclass(frozen=True)
class Cost:
    """A training step on this machine, measured on noise.

    Attributes:
        per_unit: seconds of one unit, by its number of images, with `draws` noise draws each.
        per_step: seconds of a step apart from its units: noise, optimiser.
        plain: seconds per image of a step without privacy.
        peak_bytes: of the process (CPU) or the device (CUDA) while it was measured, cohort not included.
    """

    device: str
    draws: int
    per_unit: dict[int, float]
    per_step: float
    plain: float
    peak_bytes: int


@dataclass(frozen=True)
class Variation:
    """The recipe with one thing changed.

    Attributes:
        signal_to_noise: see `signal_to_noise`.
        relative: signal_to_noise by that of the recipe as it stands.
        draw_noise: 1 / sqrt(K), by which more draws K calm a unit's own gradient; they change no other noise.
        seconds: of the whole training, for units of one image.
    """

    change: str
    epsilon: float
    batch_size: int
    steps: int
    noise_multiplicity: int
    noise_multiplier: float | None
    signal_to_noise: float | None
    relative: float | None
    draw_noise: float
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a training with DP would spend, cost and reach.

    Attributes:
        unit, epsilon, epsilon_rdp, delta, queries: what its claim would state.
        parameters: weights that learn.
        signal_to_noise: see `signal_to_noise`.
        seconds: of the whole training, by images per unit, from one to the cap.
        variations, budgets: the recipe with one setting changed, or with another epsilon.
        outlook: the ledger's answer; None while there is no cohort.
        declares: what the recipe makes public, in words.
        notes: what a careful reader would object to.
    """

    recipe: Recipe
    epsilon: float
    epsilon_rdp: float
    delta: float
    queries: tuple[Query, ...]
    parameters: int
    signal_to_noise: float
    cost: Cost
    seconds: Mapping[int, float]
    variations: tuple[Variation, ...]
    budgets: tuple[Variation, ...]
    outlook: ledger.Outlook | None
    declares: str
    notes: tuple[str, ...]

    @property
    def mechanism(self) -> Mechanism:
        """DP-SGD with all of its steps."""
        return self.queries[-1].mechanism

    @property
    def seconds_nonprivate(self) -> float:
        """Of the same steps without DP."""
        return self.recipe.train.steps * self.recipe.train.batch_size * self.cost.plain

    def to_document(self) -> JsonObject:
        """What `privsyn plan --json` prints."""
        privacy, outlook = self.recipe.privacy, self.outlook
        return {
            "schema_version": SCHEMA_VERSION,
            "claim": {
                "unit": privacy.unit,
                "epsilon": self.epsilon,
                "epsilon_rdp": self.epsilon_rdp,
                "delta": self.delta,
                "expected_units": privacy.expected_units,
                "clip_norm": privacy.clip_norm,
                "noise_multiplicity": privacy.noise_multiplicity,
                "max_images_per_unit": privacy.max_images_per_unit,
                **self.mechanism.to_dict(),
                "composed": [query.mechanism.to_dict() for query in self.queries[:-1]],
            },
            "network": {"parameters": self.parameters},
            "signal_to_noise": self.signal_to_noise,
            "cost": self._cost(),
            "variations": [asdict(variation) for variation in self.variations],
            "budgets": [asdict(variation) for variation in self.budgets],
            "ledger": None if outlook is None else _outlook_document(outlook),
            "declares": self.declares,
            "notes": list(self.notes),
        }

    def _cost(self) -> JsonObject:
        """From all units with one image to all with as many as the cap; only the data would tell which."""
        rows = self.recipe.train.batch_size * self.recipe.privacy.noise_multiplicity
        per_step = self.seconds[1] / self.recipe.train.steps
        return {
            "device": self.cost.device,
            "threads": torch.get_num_threads(),
            "seconds_by_images_per_unit": {str(images): each for images, each in self.seconds.items()},
            "seconds_per_step": per_step,
            "ratio_per_pass": per_step / (rows * self.cost.plain),
            "seconds_nonprivate": self.seconds_nonprivate,
            "peak_bytes": self.cost.peak_bytes,
            "measured_on": "noise",
        }


def plan(
    study: Study | Path | str,
    *,
    epsilon: float | None = None,
    settings: Sequence[str] = (),
    progress: Progress = SILENT,
) -> Plan:
    """What `privsyn train --dp` with the same options would do; spends nothing and writes nothing.

    Args:
        epsilon: budget of the whole training; default `privacy.epsilon`.
        settings: `section.key=value` changes of the recipe.

    Raises:
        RecipeError: the recipe does not say what DP needs, or no noise reaches the budget.
    """
    study = as_study(study)
    asked = [] if epsilon is None else [f"privacy.epsilon={epsilon!r}"]
    recipe = study.recipe([*settings, "privacy.dp=true", *asked])
    if study.cohort.exists():
        recipe = recipe.claiming(load_cohort(study.cohort).document.unit)
    changes = _changes(recipe)
    with progress.stage("plan", len(changes) + len(BUDGETS) + 2) as advance:
        queries = _planned_queries(recipe)
        advance()
        cost, parameters = probe(recipe)
        advance()
        here = signal_to_noise(recipe, queries[-1].mechanism.noise_multiplier, parameters)

        def vary(change: str, *changed: str) -> Variation:
            advance()
            return _variation(change, recipe.with_settings(changed), cost, parameters, here)

        variations = [vary(change, *changed) for change, changed in changes]
        budgets = [vary(f"epsilon {budget:g}", f"privacy.epsilon={budget}") for budget in BUDGETS]
    history, delta = mechanisms(queries), delta_of(recipe)
    return Plan(
        recipe=recipe,
        epsilon=accounting.epsilon(history, delta),
        epsilon_rdp=accounting.epsilon_rdp(history, delta),
        delta=delta,
        queries=queries,
        parameters=parameters,
        signal_to_noise=here,
        cost=cost,
        seconds={images: _training_seconds(recipe, cost, images) for images in cost.per_unit},
        variations=tuple(variations),
        budgets=tuple(budgets),
        outlook=_outlook(study, recipe, history),
        declares=declaration(recipe),
        notes=tuple(doubts(recipe, here)),
    )


def _planned_queries(recipe: Recipe) -> tuple[Query, ...]:
    """All queries of a training that takes all of its steps, DP-SGD last."""
    sgd = planned_query(recipe)
    whole = replace(sgd, mechanism=replace(sgd.mechanism, steps=recipe.train.steps))
    return (*warm_up_queries(recipe), whole)


def signal_to_noise(recipe: Recipe, noise_multiplier: float, parameters: int) -> float:
    """sqrt(T) B / (sigma sqrt(P)): how far all steps together can move the weights beyond their noise.

    A proxy, for comparing settings of one network: it takes the clipped gradients of all units to agree.
    """
    units, steps = recipe.train.batch_size, recipe.train.steps
    return math.sqrt(steps) * units / (noise_multiplier * math.sqrt(parameters))


def declaration(recipe: Recipe) -> str:
    """What `expected_units` makes public, in words."""
    privacy = recipe.privacy
    return (
        f"privacy.expected_units = {privacy.expected_units} is declared PUBLIC: anybody may know that about "
        f"so many {plural(privacy.unit)} are trained on. Sample rate, divisor and delta follow from it, the "
        "cohort is not counted for them. Choose it from what is known anyway, not by looking."
    )


def probe(recipe: Recipe) -> tuple[Cost, int]:
    """Time a few passes of a fresh network on noise, and the number of its parameters."""
    device = device_of(recipe)
    training = fresh_training(recipe.with_settings(["train.canaries=0"]), device)
    parameters = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    draws = recipe.privacy.noise_multiplicity
    passes = planned_passes(training.model, recipe, device)
    cap = 1 if recipe.privacy.unit == "image" else recipe.privacy.max_images_per_unit

    def noise(units: int, rows: int) -> Draws:
        return noise_draws(training.model, units, rows, keyed_generator(device, "plan", units, rows))

    batch = noise(1, min(PLAIN_IMAGES, recipe.train.batch_size))
    inner = training.optimizer
    plain = median_seconds(device, lambda: plain_step(training.model, inner, batch)) / batch[1].shape[1]
    optimizer = private_optimizer(training.model, inner, noise_multiplier=1.0, clip_norm=1.0, divisor=1)

    def step(images: int, units: int) -> None:
        found = (
            [passes(images).method(training.model, parameters, noise(units, images * draws))] if units else []
        )
        private_step(optimizer, found, keyed_stream("plan noise"))

    empty = median_seconds(device, partial(step, 1, 0))
    per_unit = {}
    for images in sorted({1, cap}):
        units = min(passes(images).units, recipe.train.batch_size)
        whole = median_seconds(device, partial(step, images, units))
        per_unit[images] = max(whole - empty, 0.0) / units
    count = sum(parameter.numel() for parameter in parameters)
    return Cost(str(device), draws, per_unit, empty, plain, _peak(device)), count


def training_seconds(recipe: Recipe) -> float:
    """Seconds that the steps of a training take on this machine, from a few passes on noise."""
    if recipe.privacy.dp:
        cost, _ = probe(recipe)
        return _training_seconds(recipe, cost, images=1)
    device = device_of(recipe)
    training = fresh_training(recipe, device)
    rows = min(PLAIN_IMAGES, recipe.train.batch_size)
    batch = noise_draws(training.model, 1, rows, keyed_generator(device, "plan", 1, rows))
    seconds = median_seconds(device, lambda: plain_step(training.model, training.optimizer, batch))
    return recipe.train.steps * recipe.train.batch_size * seconds / rows


def _changes(recipe: Recipe) -> list[tuple[str, tuple[str, ...]]]:
    """What is worth trying: half and double of batch, draws and steps, as far as the recipe allows it."""
    batch, steps, draws = recipe.train.batch_size, recipe.train.steps, recipe.privacy.noise_multiplicity
    expected = recipe.privacy.expected_units or batch
    tried: list[tuple[str, tuple[str, ...]]] = [("as it stands", ())]
    tried += [
        (f"batch {size}", (f"train.batch_size={size}",))
        for size in dict.fromkeys((batch // 2, 2 * batch, 4 * batch))
        if 1 <= size <= expected
    ]
    tried += [(f"steps {n}", (f"train.steps={n}",)) for n in dict.fromkeys((steps // 2, 2 * steps)) if n]
    return tried + [
        (f"draws {k}", (f"privacy.noise_multiplicity={k}",))
        for k in dict.fromkeys((1, draws // 2, 2 * draws))
        if k and k != draws
    ]


def _variation(change: str, recipe: Recipe, cost: Cost, parameters: int, here: float) -> Variation:
    privacy, train = recipe.privacy, recipe.train
    assert privacy.expected_units is not None
    try:
        noise: float | None = accounting.noise_multiplier(
            privacy.epsilon,
            delta_of(recipe),
            train.batch_size / privacy.expected_units,
            train.steps,
            composed=mechanisms(warm_up_queries(recipe)),
            rough=True,
        )
    except RecipeError:  # out of reach, which is an answer
        noise = None
    ratio = None if noise is None else signal_to_noise(recipe, noise, parameters)
    return Variation(
        change=change,
        epsilon=privacy.epsilon,
        batch_size=train.batch_size,
        steps=train.steps,
        noise_multiplicity=privacy.noise_multiplicity,
        noise_multiplier=noise,
        signal_to_noise=ratio,
        relative=None if ratio is None else ratio / here,
        draw_noise=1 / math.sqrt(privacy.noise_multiplicity),
        seconds=_training_seconds(recipe, cost, images=1),
    )


def _training_seconds(recipe: Recipe, cost: Cost, images: int) -> float:
    """Of a whole training, if every unit has so many images; other draws are taken to cost in proportion."""
    per_unit = cost.per_unit[images] * recipe.privacy.noise_multiplicity / cost.draws
    canaries = recipe.train.canaries / 2 / (recipe.privacy.expected_units or 1)  # by units: half are in
    return recipe.train.steps * (cost.per_step + recipe.train.batch_size * (1 + canaries) * per_unit)


def _outlook(study: Study, recipe: Recipe, history: Sequence[Mechanism]) -> ledger.Outlook | None:
    if not study.cohort.exists():
        return None
    return ledger.outlook(load_cohort(study.cohort).training_patients, charge(recipe, history))


def _outlook_document(outlook: ledger.Outlook) -> JsonObject:
    return {
        "population": outlook.population,
        "before": outlook.before.to_dict(),
        "after": outlook.after.to_dict(),
        "grants": [asdict(grant) for grant in outlook.grants],
        "allowed": outlook.allowed,
        "reason": outlook.reason,
    }


def doubts(recipe: Recipe, here: float) -> list[str]:
    """What a careful reader would object to in a recipe whose signal to noise is `here`."""
    privacy, notes = recipe.privacy, []
    assert privacy.expected_units is not None
    if delta_of(recipe) * privacy.expected_units > WORRYING:
        notes.append(
            f"delta {delta_of(recipe):g} promises nothing to {delta_of(recipe) * privacy.expected_units:.2g} "
            f"{plural(privacy.unit)} in expectation: leave privacy.delta out, or lower it"
        )
    if privacy.epsilon > 10:
        notes.append("an epsilon above 10 promises little; policies usually ask for 10 or less")
    if here < 1:
        notes.append(
            "signal to noise is below 1: expect little but noise. A larger batch, a smaller network or "
            "public weights to start from (train.init_from) help; more steps hardly do"
        )
    if privacy.insecure_seed is not None:
        notes.append("privacy.insecure_seed is set: the claim would not be valid")
    return notes


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
