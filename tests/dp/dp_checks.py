"""What a private step must do: checks of the real path, recipe, U-Net and `private_steps`, by its update.

A check is a plain function that raises AssertionError and says why; `test_broken_on_purpose.py` runs each on
the code as it is, and on code that is broken on purpose.

Two neighbouring cohorts can be compared to the last digit only if the patients they share get the same
randomness in both (the bound must hold for every such draw). A seed alone does not do that: caps are drawn
after one coin per unit, and a micro-batch draws timesteps and noise for all its units together. So either

    Scaled    the added patient has more images than all others, and no other needs the cap. Units are grouped
              by their number of images, fewest first, so it comes last and in a micro-batch of its own; or it
              replaces, as the last of all, a patient with as many images. All draws of the others stay.
    Undrawn   the loss ignores timestep and noise. Then the added patient may be anywhere and share a
              micro-batch, if those of the others that need the cap have identical images.

Statistical bounds are Z = 6 standard errors, 2e-9 for each that is normal; with secret noise, which no seed
makes repeatable, a check looks at fewer than 200 of them, so a false alarm has a chance below 1e-6.

Over 400 lines, for the neighbouring cohorts and the checks that read them off share one way of stepping.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from parts import part_of_arrays
from scipy.stats import chi2, kstest
from torch import Tensor

from privsyn.claim.document import Mechanism, Query
from privsyn.cohort.cohort import Part
from privsyn.diffusion.model import DiffusionModel, build_model
from privsyn.dp.clipping import StepFacts
from privsyn.recipe import Recipe, find_shipped, load_recipe
from privsyn.training.checkpoint import State, Training
from privsyn.training.steps import private_steps

Images = NDArray[np.uint8]

Z = 6.0  # standard errors
RARE = 1e-10  # chance on either side of a chi-square bound
SLACK = 1e-4  # of C; micro-batches round a gradient differently, by about 1e-6 of its length, in float32
SHAKEN = 0.05  # standard deviation of what is added to the weights: a fresh network has zero gradients inside
WILD = 9  # the label that only the added patient has

KEYED = ("privacy.insecure_seed=0",)
NARROW = ("model.channels=4", "model.groups=2", "model.multipliers=[1]", "model.attention_levels=[]")
REPEATABLE = (*KEYED, *NARROW)
SIGMA, DIVISOR = 1.7, 32


# Patients


@dataclass(frozen=True, eq=False)
class Patient:
    """Images (n, 8, 8, 1) of one class."""

    images: Images
    label: int


def digits(number: int, label: int, seed: int = 0) -> Patient:
    """Different real digits of one of nine classes, whatever label they are given."""
    images, labels = _all_digits()
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(labels == label % WILD))[:number]
    return Patient(images[rows], label)


def copies(number: int, label: int, seed: int = 0) -> Patient:
    """One real digit, many times."""
    return Patient(np.repeat(digits(1, label, seed).images, number, axis=0), label)


def flat(number: int, label: int, value: int) -> Patient:
    """Images of one grey: 0 is black, 255 white."""
    return Patient(np.full((number, 8, 8, 1), value, dtype=np.uint8), label)


def speckle(number: int, label: int, seed: int = 0) -> Patient:
    """Images of which every pixel is random."""
    return Patient(np.random.default_rng(seed).integers(0, 256, (number, 8, 8, 1), dtype=np.uint8), label)


def part_of(people: Sequence[tuple[str, Patient]]) -> Part:
    """A cohort's part: first images of all patients, then second ones, so no patient's rows are adjacent."""
    rows = [(place, name, who) for name, who in people for place in range(len(who.images))]
    rows.sort(key=lambda row: row[0])
    return part_of_arrays(
        np.stack([who.images[place] for place, _, who in rows]),
        np.array([who.label for _, _, who in rows]),
        np.array([name for _, name, _ in rows]),
    )


def named(people: Sequence[Patient]) -> list[tuple[str, Patient]]:
    """Ids that sort as they are given."""
    return [(f"{place:03}", who) for place, who in enumerate(people)]


@cache
def _all_digits() -> tuple[Images, NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return np.round(found.images * (255 / 16)).astype(np.uint8)[..., np.newaxis], found.target


# Steps


class Scaled(DiffusionModel):
    """The real model, with a factor on the loss of each class.

    Attributes:
        scales: (labels,); it makes the gradients of one patient huge, opposite, undefined or zero.
    """

    def __init__(self, built: DiffusionModel) -> None:
        super().__init__(built.network, built.process, built.image_shape)
        self.scales = torch.ones(built.null_label + 1)

    def loss(self, images: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return super().loss(images, labels, timesteps, noise) * self.scales[labels]


class Undrawn(Scaled):
    """At timestep 0 without noise, whatever was drawn."""

    def loss(self, images: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
        return super().loss(images, labels, timesteps * 0, noise * 0)


class OnlyLabels(Scaled):
    """Looks at the class alone, so that many steps can be taken."""

    def loss(self, images: Tensor, labels: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:  # noqa: ARG002
        return self.network.label(labels).square().mean(dim=1)


class ReadOut(torch.optim.SGD):
    """Gradient descent with rate 1 that remembers its update.

    Attributes:
        update: of the newest step, one per parameter.
        moves: whether the weights follow it; if not, every step sees the same network.
    """

    update: Sequence[Tensor] = ()
    moves = False

    def step(self, closure: None = None) -> None:
        self.update = [parameter.grad.double() for parameter in self.param_groups[0]["params"]]
        if self.moves:
            super().step(closure)


@dataclass(frozen=True)
class Steps:
    """The real private steps.

    Attributes:
        parameters: names of those that are trained.
    """

    model: Scaled
    parameters: list[str]
    read_out: ReadOut
    take: Callable[[int], StepFacts]

    def update(self, step: int) -> dict[str, Tensor]:
        """(sum + noise) / (C * divisor) by parameter, float64: what SGD with rate 1 subtracts."""
        self.read_out.update = ()  # of a step that is never taken
        self.take(step)
        found = self.read_out.update or [torch.zeros(0)] * len(self.parameters)
        return dict(zip(self.parameters, found, strict=True))

    def flat_update(self, step: int) -> Tensor:
        return torch.cat([part.flatten() for part in self.update(step).values()])


def recipe_of(*settings: str) -> Recipe:
    """`toy` with differential privacy, without label dropout and with settings."""
    fixed = (
        "privacy.dp=true",
        "train.label_dropout=0.0",
        "train.device='cpu'",
        f"train.batch_size={DIVISOR}",
    )
    return load_recipe(find_shipped("recipes", "toy"), [*fixed, *settings])


def steps_of(
    part: Part,
    *settings: str,
    network: type[Scaled] = Scaled,
    noise_multiplier: float = 0.0,
    sample_rate: float = 1.0,
    shaken: float = SHAKEN,
    trained: str = "",
) -> Steps:
    """Private steps on a part; the same weights for the same settings.

    Args:
        trained: what the names of the parameters begin with that are trained; the others are held.
    """
    recipe = recipe_of(*settings)
    model = network(build_model(recipe))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        parameter.data += shaken * torch.randn(parameter.shape, generator=generator)
        parameter.requires_grad_(name.startswith(trained))
    chosen = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    read_out = ReadOut(chosen.values(), lr=1.0)
    state = State(0, recipe, "", (Query("dp-sgd", Mechanism(noise_multiplier, sample_rate, 0)),), "")
    take = private_steps(Training(model, model, read_out), state, part)
    return Steps(model, list(chosen), read_out, take)


# One unit


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Cohorts with and without one patient, arranged as the module's docstring says.

    Attributes:
        place: how many of the others have an id before the added one's.
        scale: factor on the added patient's loss.
        late: its loss is scaled only after it was decided how units go through the network, on noise; so they
            go at once, as they would not go through a network that is wild from the start.
    """

    others: Sequence[Patient]
    added: Patient
    network: type[Scaled] = Undrawn
    place: int = 0
    scale: float = 1.0
    late: bool = True
    shaken: float = SHAKEN
    settings: Sequence[str] = NARROW

    def sum(self, *added: Patient) -> Tensor:
        """The un-noised sum in units of C, of the others and whom is added."""
        people = named(self.others)
        people[self.place : self.place] = [(f"{self.place - 1:03}+", who) for who in added]
        steps = steps_of(part_of(people), *KEYED, *self.settings, network=self.network, shaken=self.shaken)
        if self.late and self.scale != 1:
            steps.take(0)
        steps.model.scales[WILD] = self.scale
        return steps.flat_update(0) * DIVISOR

    @property
    def units(self) -> int:
        """As how many units the added patient counts."""
        return 1 if recipe_of(*self.settings).privacy.unit == "patient" else len(self.added.images)


FEW = (digits(1, 0), digits(2, 1), digits(1, 2), digits(2, 3))  # nobody needs the cap of 4
MANY = (*FEW, digits(9, 4), digits(4, 5), copies(20, 6))
WILD_PATIENTS: dict[str, Neighbours] = {
    "an ordinary image": Neighbours(FEW, digits(1, WILD)),
    "a huge gradient": Neighbours(FEW, digits(1, WILD), place=2, scale=1e4),
    "a huge and opposite gradient": Neighbours(FEW, digits(1, WILD), scale=-1e4),
    "a gradient whose square overflows": Neighbours(FEW, digits(2, WILD), scale=1e25),
    "an infinite gradient": Neighbours(FEW, digits(1, WILD), scale=math.inf),
    "NaN": Neighbours(FEW, digits(1, WILD), place=4, scale=math.nan),
    "NaN, units in turn": Neighbours(FEW, digits(1, WILD), scale=math.nan, late=False),
    "100 identical images": Neighbours(FEW, copies(100, WILD), Scaled),
    "100 different images": Neighbours(FEW, speckle(100, WILD), Scaled, place=3),
    "all black": Neighbours(FEW, flat(4, WILD, 0), Scaled),
    "all white, whole toy network": Neighbours(FEW, flat(4, WILD, 255), Scaled, settings=()),
    "huge weights": Neighbours(FEW, digits(5, WILD), Scaled, shaken=1e3),
    "weights beyond float32": Neighbours(FEW, digits(5, WILD), Scaled, shaken=1e20),
}


def bounded_sensitivity(*cases: Neighbours) -> None:
    """Adding or removing one unit moves the un-noised sum by at most C; without cases, all wild patients."""
    for case in cases or WILD_PATIENTS.values():
        with_it, without = case.sum(case.added), case.sum()
        assert with_it.isfinite().all(), "a unit spoils the whole sum"
        moved = float((with_it - without).norm())
        assert moved <= case.units + SLACK, f"{case.units} added unit(s) moved the sum by {moved:.4g} C"


REPLACED: dict[str, tuple[Neighbours, Patient]] = {
    "black by white": (Neighbours(MANY, flat(4, WILD, 0), Scaled, place=len(MANY)), flat(4, 0, 255)),
    "a digit by its opposite": (
        Neighbours(MANY, digits(1, WILD), Scaled, place=len(MANY), scale=-1e4),
        digits(1, 0),
    ),
    "100 images by NaN": (
        Neighbours(MANY, speckle(100, WILD), Scaled, place=len(MANY), scale=math.nan),
        digits(100, 7),
    ),
}


def bounded_replacement(*cases: tuple[Neighbours, Patient]) -> None:
    """Changing one unit into another of as many images moves the un-noised sum by at most 2 C."""
    for case, other in cases or REPLACED.values():
        before, after = case.sum(case.added), case.sum(other)
        assert before.isfinite().all(), "a unit spoils the whole sum"
        moved = float((after - before).norm())
        assert moved <= 2 * case.units + SLACK, f"{case.units} changed unit(s) moved the sum by {moved:.4g} C"


def one_unit_is_one_example() -> None:
    """A patient counts once, however many images there are: the sum of one alone is C long."""
    crowds = (digits(1, 0), copies(4, 0), speckle(4, 0), copies(100, 0), speckle(100, 0))
    for who in crowds:
        steps = steps_of(part_of([("only", who)]), *REPEATABLE)
        length = float(steps.flat_update(0).norm()) * DIVISOR
        assert abs(length - 1) <= SLACK, f"a patient of {len(who.images)} images adds {length:.4g} C"


def divisor_is_public() -> None:
    """What a unit adds to an update is the same whatever the others: the divisor does not count units."""
    sides = (FEW[:1], FEW[1:])

    def update(people: Sequence[Patient]) -> Tensor:
        return steps_of(part_of(named(people)), *REPEATABLE, network=Undrawn).flat_update(0)

    gap = float((update(FEW) - sum(update(side) for side in sides)).norm()) * DIVISOR
    assert gap <= len(FEW) * SLACK, f"apart and together, units add up to something else, by {gap:.4g} C"


# Noise


def noise_of(steps: int, *settings: str, sample_rate: float = 1.0) -> dict[str, Tensor]:
    """Updates of a run whose gradients are all zero, by parameter, (steps, ...); their deviation should be 1.

    The noise is secret, unless the settings make it repeatable.
    """
    run = steps_of(part_of(named(FEW[:1])), *settings, noise_multiplier=SIGMA, sample_rate=sample_rate)
    run.model.scales.zero_()
    updates = [run.update(step) for step in range(steps)]
    assert all(part.numel() for update in updates for part in update.values()), "a step went without noise"
    return {name: torch.stack([update[name] for update in updates]) * DIVISOR / SIGMA for name in updates[0]}


def flat_noise(steps: int, *settings: str, sample_rate: float = 1.0) -> Tensor:
    """The same in one tensor, (steps, numbers)."""
    noise = noise_of(steps, *settings, sample_rate=sample_rate)
    return torch.cat([layer.flatten(1) for layer in noise.values()], dim=1)


def noise_scale(settings: Sequence[str] = REPEATABLE) -> None:
    """Noise in an update is normal with deviation sigma * C / divisor before C is divided out, on every
    parameter, whether the sample has units or is empty.

    The standard error of a deviation from n numbers is 1 / sqrt(2 n) of it; a sum of k squares has a
    chi-square distribution with k degrees of freedom, and leaves the bounds with a chance of 2 RARE.
    """
    for sample_rate in (1.0, 1e-12):
        noise = noise_of(4, *settings, sample_rate=sample_rate)
        values = torch.cat([layer.flatten() for layer in noise.values()])
        deviation = float(values.square().mean().sqrt())
        assert abs(deviation - 1) < Z / math.sqrt(2 * len(values)), (
            f"noise has {deviation:.4g} times the deviation that is accounted for"
        )
        for name, layer in noise.items():
            squares, k = float(layer.square().sum()), layer.numel()
            assert chi2.ppf(RARE, k) < squares < chi2.isf(RARE, k), f"{name} has noise of its own scale"
        assert kstest(values.numpy(), "norm").pvalue > RARE, "the noise is not normal"


def noise_never_repeats(settings: Sequence[str] = REPEATABLE) -> None:
    """No step shares noise with another, and no parameter with another.

    The correlation of n independent pairs has standard error 1 / sqrt(n). Equal numbers do happen in float32:
    noise of deviation s below 2 s, as 95 % is, is on a grid of at most ulp(2 s) = 2**-22 s, so two of them
    coincide with a chance of less than 2**-22 / sqrt(pi) < 2**-22, or twice that once C is divided out.
    """
    noise = flat_noise(4, *settings)
    expected, repeated = noise.numel() ** 2 / 2 * 2**-21, noise.numel() - len(noise.unique())
    assert repeated < expected + Z * math.sqrt(expected), f"{repeated} values of noise repeat"
    correlation = torch.corrcoef(noise).fill_diagonal_(0).abs().max()
    assert correlation < Z / math.sqrt(noise.shape[1]), f"noise of two steps correlates: {correlation:.3g}"


def noise_fresh_between_runs(settings: Sequence[str] = NARROW) -> None:
    """Two runs from the same recipe share no noise, though torch's global seed is the same for both."""
    runs = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            runs.append(flat_noise(3, *settings))
    correlation = torch.corrcoef(torch.cat(runs))[:3, 3:].abs().max()
    assert correlation < Z / math.sqrt(runs[0].shape[1]), "two runs share noise"


# Samples


def poisson_sampling(steps: int = 200, number: int = 16, rate: float = 0.25) -> None:
    """Every unit is in every step by a coin of its own: sizes vary as a binomial's do, nobody's presence says
    anything about another's or about the next step.

    Each unit has a class of its own, so the rows of the class embedding that get a gradient tell who is in.
    With the known rate q, (x - q)(y - q) of independent coins has mean 0 and deviation q (1 - q).
    """
    people = [digits(1, label) for label in range(number)]
    classes = f"data.classes={[str(label) for label in range(number)]}"
    label = "network.label.weight"
    run = steps_of(
        part_of(named(people)), *REPEATABLE, classes, network=OnlyLabels, sample_rate=rate, trained=label
    )
    seen = torch.stack([run.update(step)[label].abs().sum(dim=1)[:number] > 0 for step in range(steps)])

    one = rate * (1 - rate)
    variance, off = number * one, seen.double() - rate
    sizes = off.sum(dim=1) + number * rate
    mean_error = math.sqrt(variance / steps)
    assert abs(float(off.sum(dim=1).mean())) < Z * mean_error, f"{sizes.mean():.3g} units per step"
    together = (off.T @ off / steps).fill_diagonal_(0).abs().max()
    assert together < Z * one / math.sqrt(steps), f"units come together: covariance {together:.3g}"
    after = float((off[1:] * off[:-1]).mean())
    assert abs(after) < Z * one / math.sqrt(number * (steps - 1)), f"steps remember: covariance {after:.3g}"
    found = float(off.sum(dim=1).square().mean())
    fourth = 3 * variance**2 + variance * (1 - 6 * one)  # central moment of a binomial
    error = math.sqrt((fourth - variance**2) / steps)
    assert abs(found - variance) < Z * error, f"the number of units varies by {found:.3g}, not {variance:.3g}"
