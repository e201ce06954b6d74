"""Every check of `dp_checks` passes on our code, and catches code that is broken in the way it is there for.

Several of these faults were published: noise too small by the batch size (found by an audit, Tramer et al.
2022, https://arxiv.org/abs/2202.12219), shuffled batches with the accounting of Poisson samples (Chua et al.
2024, https://arxiv.org/abs/2403.17673), clipping by parameter (https://github.com/fedbiomed/fedbiomed/issues/1443).

Most of its lines are the broken versions and the one table that holds them against the checks, which is best
read in one piece. A test whose body is one call asserts inside of it: what fails is raised by `dp_checks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from dp_checks import (
    DIVISOR,
    KEYED,
    NARROW,
    REPEATABLE,
    REPLACED,
    WILD,
    WILD_PATIENTS,
    Neighbours,
    Patient,
    bounded_replacement,
    bounded_sensitivity,
    copies,
    digits,
    divisor_is_public,
    flat,
    noise_fresh_between_runs,
    noise_never_repeats,
    noise_scale,
    one_unit_is_one_example,
    part_of,
    poisson_sampling,
    speckle,
    steps_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.optimizers.optimizer import DPOptimizer
from torch import Tensor

from privsyn.diffusion.batches import Draws, draw
from privsyn.dp import clipping
from privsyn.dp.cipher_stream import CipherStream, keyed_stream
from privsyn.dp.clipping import PrivateOptimizer, StepFacts, private_step
from privsyn.dp.gradients import UnitGradients
from privsyn.dp.sampling import poisson_sample, units_of
from privsyn.training import steps

Check = Callable[[], None]
Break = Callable[[pytest.MonkeyPatch], None]


# Our code


@pytest.mark.parametrize("case", WILD_PATIENTS.values(), ids=WILD_PATIENTS)
def test_adding_or_removing_a_patient_moves_the_sum_by_at_most_c(case: Neighbours) -> None:
    """Whatever the patient's images are, and whatever gradients come of them."""
    bounded_sensitivity(case)


@pytest.mark.parametrize(("case", "other"), REPLACED.values(), ids=REPLACED)
def test_changing_a_patient_moves_the_sum_by_at_most_twice_c(case: Neighbours, other: Patient) -> None:
    """Others may have any number of images."""
    bounded_replacement((case, other))


def test_the_bound_is_reached() -> None:
    """A long gradient moves the sum by C and its opposite by nearly 2 C, so the checks see what there is."""
    case = WILD_PATIENTS["an ordinary image"]
    assert float((case.sum(case.added) - case.sum()).norm()) == pytest.approx(1, abs=1e-3)
    opposite, other = REPLACED["a digit by its opposite"]
    assert float((opposite.sum(opposite.added) - opposite.sum(other)).norm()) > 1.8


@st.composite
def neighbours(choose: st.DrawFn) -> Neighbours:
    """Random patients, caps m, draws K, clip norms and units; the added patient is anywhere among the others.

    An other with more than m images has m copies of one, so that it does not matter which of them are drawn.
    """
    most, seed = choose(st.integers(1, 4)), choose(st.integers(0, 2**16))
    sizes = choose(st.lists(st.integers(1, most + 3), min_size=1, max_size=4))
    others = [
        (digits if size <= most else copies)(size, label, seed + label) for label, size in enumerate(sizes)
    ]
    number = choose(st.integers(1, 8))
    added = choose(
        st.sampled_from(
            [
                digits(number, WILD, seed),
                copies(number, WILD, seed),
                speckle(number, WILD, seed),
                flat(number, WILD, 0),
                flat(number, WILD, 255),
            ]
        )
    )
    return Neighbours(
        others,
        added,
        place=choose(st.integers(0, len(others))),
        scale=choose(st.sampled_from([1.0, -1e4, 1e12, 1e30, math.inf, math.nan])),
        late=choose(st.booleans()),
        settings=(
            *NARROW,
            f"privacy.max_images_per_unit={most}",
            f"privacy.noise_multiplicity={choose(st.integers(1, 3))}",
            f"privacy.clip_norm={choose(st.sampled_from([1e-6, 1e-3, 1.0]))}",
            f"privacy.unit={choose(st.sampled_from(['patient', 'image']))!r}",
        ),
    )


@settings(max_examples=15, derandomize=True, deadline=None, database=None)
@given(neighbours())
def test_no_unit_among_random_patients_moves_the_sum_by_more_than_c(case: Neighbours) -> None:
    """Under the unit `image`, a patient counts as many times as there are images."""
    bounded_sensitivity(case)


def test_a_patient_is_one_example_however_many_images_there_are() -> None:
    """One alone moves the sum by C, with one image or a hundred."""
    one_unit_is_one_example()


def test_what_a_unit_adds_does_not_depend_on_the_others() -> None:
    """Updates of two groups add up to that of both, so the divisor is not counted."""
    divisor_is_public()


@pytest.mark.parametrize("repeatable", [(), KEYED], ids=["secret", "insecure seed"])
@pytest.mark.parametrize("check", [noise_scale, noise_never_repeats])
def test_noise_is_what_is_accounted_for(check: Callable[..., None], repeatable: tuple[str, ...]) -> None:
    """Normal, of the right scale on every parameter, and never used twice."""
    check(repeatable)


def test_two_runs_of_a_recipe_share_no_noise() -> None:
    """Neither the recipe's seed nor torch's reaches it; only `privacy.insecure_seed` does, which says so."""
    noise_fresh_between_runs()
    with pytest.raises(AssertionError, match="two runs share noise"):
        noise_fresh_between_runs(REPEATABLE)


def test_samples_are_poisson() -> None:
    """Sizes have a binomial's mean and variance, and units come independently of each other."""
    poisson_sampling()


def test_the_update_that_is_read_is_that_of_gradient_descent() -> None:
    """Plain SGD with rate 1 moves the weights by it."""
    run = steps_of(part_of([("only", digits(3, 0))]), *REPEATABLE, noise_multiplier=1.0)
    read = run.flat_update(0)
    before = torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()]).double()
    run.read_out.moves = True
    run.take(0)
    after = torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()]).double()
    torch.testing.assert_close(before - after, read, rtol=0, atol=1e-6)


# Code that is broken


def put(target: Any, name: str, value: Any) -> Break:
    """Replace one name."""
    return lambda patch: patch.setattr(target, name, value)


def clips(factors: Callable[[Tensor, Sequence[Tensor], float], Tensor]) -> Break:
    """Clipping with other factors, made from each unit's norms (units, parameters), its gradients and C."""

    def clip_and_accumulate(self: DPOptimizer) -> None:
        gradients = self.grad_samples
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in gradients], dim=1)
        all_factors = factors(norms, gradients, self.max_grad_norm).expand_as(norms)
        for place, parameter in enumerate(self.params):
            clipped = torch.einsum("i,i...->...", all_factors[:, place], gradients[place])
            had = parameter.summed_grad
            parameter.summed_grad = clipped if had is None else had + clipped

    return put(DPOptimizer, "clip_and_accumulate", clip_and_accumulate)


def each_unit(norms: Tensor, gradients: Sequence[Tensor], C: float) -> Tensor:  # noqa: ARG001
    """As it should be."""
    return (C / (norms.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1)


def nothing(norms: Tensor, gradients: Sequence[Tensor], C: float) -> Tensor:  # noqa: ARG001
    return torch.ones_like(norms)


def each_batch(norms: Tensor, gradients: Sequence[Tensor], C: float) -> Tensor:  # noqa: ARG001
    total = torch.stack([gradient.sum(dim=0).norm() for gradient in gradients]).norm()
    return (C / (total + 1e-6)).clamp(max=1)


def batch_mean(norms: Tensor, gradients: Sequence[Tensor], C: float) -> Tensor:
    """The mean gradient is clipped, and counts once for every unit."""
    return each_batch(norms, [gradient / max(1, len(gradient)) for gradient in gradients], C)


def each_parameter(norms: Tensor, gradients: Sequence[Tensor], C: float) -> Tensor:  # noqa: ARG001
    return (C / (norms + 1e-6)).clamp(max=1)


def noise(sample: Callable[[DPOptimizer, Tensor], Tensor]) -> Break:
    """Other noise for each parameter."""

    def add_noise(self: DPOptimizer) -> None:
        for parameter in self.params:
            parameter.grad = parameter.summed_grad + sample(self, parameter)

    return put(PrivateOptimizer, "add_noise", add_noise)


def normal(std: float, like: Tensor, stream: CipherStream) -> Tensor:
    return std * torch.from_numpy(stream.normal(*like.shape)).float()


def right(self: DPOptimizer, parameter: Tensor) -> Tensor:
    """As it should be."""
    return normal(self.noise_multiplier * self.max_grad_norm, parameter, self.stream)


def without_clip_norm(self: DPOptimizer, parameter: Tensor) -> Tensor:
    return normal(self.noise_multiplier, parameter, self.stream)


def without_multiplier(self: DPOptimizer, parameter: Tensor) -> Tensor:
    return normal(self.max_grad_norm, parameter, self.stream)


def divided_twice(self: DPOptimizer, parameter: Tensor) -> Tensor:
    return right(self, parameter) / DIVISOR


def all_but_the_last(self: DPOptimizer, parameter: Tensor) -> Tensor:
    return right(self, parameter) * (parameter is not self.params[-1])


def laplace(self: DPOptimizer, parameter: Tensor) -> Tensor:
    """Of the same deviation."""
    uniform = torch.from_numpy(self.stream.uniform(parameter.numel())).reshape(parameter.shape) - 0.5
    b = self.noise_multiplier * self.max_grad_norm / math.sqrt(2)
    drawn: Tensor = -b * uniform.sign() * torch.log1p(-2 * uniform.abs().clamp(max=0.499999))
    return drawn.float()


def same_for_layers(self: DPOptimizer, parameter: Tensor) -> Tensor:
    if parameter is self.params[0]:
        self.key = self.stream.octets(32)
    return normal(self.noise_multiplier * self.max_grad_norm, parameter, CipherStream(self.key))


def partly_shared(self: DPOptimizer, parameter: Tensor) -> Tensor:
    """Of the right deviation, but half of its variance is the same in every step."""
    shared = keyed_stream(str(parameter.shape))
    fixed = normal(self.noise_multiplier * self.max_grad_norm, parameter, shared)
    return (right(self, parameter) + fixed) / math.sqrt(2)


def global_seed(self: DPOptimizer, parameter: Tensor) -> Tensor:
    if parameter is self.params[0]:
        torch.manual_seed(0)
    return torch.normal(0.0, self.noise_multiplier * self.max_grad_norm, parameter.shape)


def no_noise_when_empty(
    optimizer: PrivateOptimizer, passes: Iterable[UnitGradients], stream: CipherStream
) -> StepFacts:
    found = list(passes)
    return private_step(optimizer, found, stream) if found else StepFacts(math.nan, 0, 0)


def dividing_by_the_sample(
    optimizer: PrivateOptimizer, passes: Iterable[UnitGradients], stream: CipherStream
) -> StepFacts:
    found = list(passes)
    units = max(1, sum(len(losses) for _, losses in found))

    def rescale(of: DPOptimizer) -> None:
        for parameter in of.params:
            parameter.grad /= of.max_grad_norm * units

    optimizer.attach_step_hook(rescale)
    return private_step(optimizer, found, stream)


def samples(sampler: Callable[[int, float, CipherStream], list[int]]) -> Break:
    return put(steps, "poisson_sample", sampler)


def fixed_size(number: int, rate: float, stream: CipherStream) -> list[int]:
    return stream.permutation(number)[: round(number * rate)].tolist()


def one_coin_for_two(number: int, rate: float, stream: CipherStream) -> list[int]:
    heads = stream.uniform(number // 2) < rate
    return np.flatnonzero(np.tile(heads, 2)).tolist()


def twice_as_often(number: int, rate: float, stream: CipherStream) -> list[int]:
    return poisson_sample(number, 2 * rate, stream)


def shuffled_epochs(patch: pytest.MonkeyPatch) -> None:
    """Everybody once, then everybody once more in another order."""
    waiting: list[int] = []

    def batch(number: int, rate: float, stream: CipherStream) -> list[int]:
        if not waiting:
            waiting.extend(stream.permutation(number).tolist())
        return [waiting.pop() for _ in range(min(round(number * rate), len(waiting)))]

    samples(batch)(patch)


def every_sample_twice(patch: pytest.MonkeyPatch) -> None:
    """Poisson samples, but each serves two steps."""
    kept: list[list[int]] = []

    def sample(number: int, rate: float, stream: CipherStream) -> list[int]:
        if kept:
            return kept.pop()
        kept.append(poisson_sample(number, rate, stream))
        return kept[0]

    samples(sample)(patch)


def each_draw_a_unit(
    images: Any, labels: Any, rows: Any, model: Any, generator: torch.Generator, **how: Any
) -> Draws:
    """Units (units, K * m, ...) become (units * K, m, ...)."""
    drawn = draw(images, labels, rows, model, generator, **how)
    images_each = rows.shape[1]
    return tuple(part.unflatten(1, (-1, images_each)).flatten(0, 1) for part in drawn)  # type: ignore[return-value]


def each_image_a_unit(units: np.ndarray) -> list[np.ndarray]:
    return units_of(np.arange(len(units)))


images_are_units = put(steps, "units_of", each_image_a_unit)
draws_are_units = put(steps, "draw", each_draw_a_unit)
not_finite_counts = put(clipping, "_zero_where_not_finite", lambda gradients, losses: losses)  # noqa: ARG005
one_state = put(steps, "secret_stream", lambda: keyed_stream("always"))
the_recipes_seed = put(steps, "protecting", lambda recipe, *key: keyed_stream(recipe.seed, *key))
empty_skipped = put(steps, "private_step", no_noise_when_empty)
sample_divides = put(steps, "private_step", dividing_by_the_sample)


def added(name: str) -> Check:
    return partial(bounded_sensitivity, WILD_PATIENTS[name])


def replaced(name: str) -> Check:
    return partial(bounded_replacement, REPLACED[name])


secret_noise_never_repeats = partial(noise_never_repeats, NARROW)

# what is wrong, how, the check that must catch it, what the check must say
BROKEN: list[tuple[str, Break, Check, str]] = [
    ("no clipping", clips(nothing), added("an ordinary image"), "added unit.* moved the sum"),
    ("no clipping, on a change", clips(nothing), replaced("black by white"), "changed unit.* moved the sum"),
    ("clip per batch", clips(each_batch), added("a huge and opposite gradient"), "moved the sum"),
    ("clip per batch, in two groups", clips(each_batch), divisor_is_public, "apart and together"),
    ("clip the mean of a batch", clips(batch_mean), added("a huge and opposite gradient"), "moved the sum"),
    ("clip each parameter to C", clips(each_parameter), added("an ordinary image"), "moved the sum"),
    ("what is not finite counts", not_finite_counts, added("NaN"), "spoils the whole sum"),
    ("each image is a unit", images_are_units, one_unit_is_one_example, "of 4 images adds"),
    ("each image is a unit, when added", images_are_units, added("100 identical images"), "moved the sum"),
    ("each noise draw is a unit", draws_are_units, one_unit_is_one_example, "of 1 images adds"),
    ("each noise draw is a unit, when added", draws_are_units, added("an ordinary image"), "moved the sum"),
    ("divide by the sample's units", sample_divides, divisor_is_public, "apart and together"),
    ("noise lacks the clip norm", noise(without_clip_norm), noise_scale, "times the deviation"),
    ("noise lacks the multiplier", noise(without_multiplier), noise_scale, "times the deviation"),
    ("noise is divided twice", noise(divided_twice), noise_scale, "times the deviation"),
    ("one parameter gets no noise", noise(all_but_the_last), noise_scale, "noise of its own scale"),
    ("noise is not normal", noise(laplace), noise_scale, "not normal"),
    ("empty samples get no noise", empty_skipped, noise_scale, "went without noise"),
    ("noise reused in every step", one_state, secret_noise_never_repeats, "values of noise repeat"),
    ("noise partly shared by all steps", noise(partly_shared), noise_never_repeats, "two steps correlates"),
    ("noise reused in every layer", noise(same_for_layers), noise_never_repeats, "values of noise repeat"),
    ("noise from a global seed", noise(global_seed), noise_never_repeats, "values of noise repeat"),
    ("noise from a global seed, twice", noise(global_seed), noise_fresh_between_runs, "two runs share noise"),
    ("noise from the recipe's seed", the_recipes_seed, noise_fresh_between_runs, "two runs share noise"),
    ("shuffled epochs", shuffled_epochs, poisson_sampling, "steps remember"),
    ("batches of fixed size", samples(fixed_size), poisson_sampling, "number of units varies"),
    ("one coin for two units", samples(one_coin_for_two), poisson_sampling, "units come together"),
    ("every sample used twice", every_sample_twice, poisson_sampling, "steps remember"),
    ("twice the sample rate", samples(twice_as_often), poisson_sampling, "units per step"),
]


@pytest.mark.parametrize(
    ("breaks", "check", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN]
)
def test_code_that_is_broken_is_caught(
    breaks: Break, check: Check, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check fails, for the reason that it is there for."""
    breaks(monkeypatch)
    with pytest.raises(AssertionError, match=says):
        check()


@pytest.mark.parametrize(
    ("mends", "check"),
    [
        (clips(each_unit), added("a huge and opposite gradient")),
        (noise(right), noise_scale),
        (noise(right), noise_never_repeats),
    ],
)
def test_the_replaced_parts_are_right_but_for_the_fault(
    mends: Break, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clipping and noise of this file pass when they do as they should, so a fault is all that is caught."""
    mends(monkeypatch)
    check()
