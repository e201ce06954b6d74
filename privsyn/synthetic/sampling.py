"""Draws synthetic images from a model: the same bytes for the same seed, whatever the batch size.

Image i has random numbers of its own, keyed by (seed, i), and the network always sees chunks of one fixed
size at fixed places, because kernels round differently for other batch shapes and one flipped rounding would
be another image. On a CPU each thread takes chunks of its own, so the number of threads does not matter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privsyn import __version__
from privsyn.bit_depth import DTYPES, Images
from privsyn.cohort.cohort import load_cohort
from privsyn.diffusion.check import check_recipe
from privsyn.diffusion.model import DiffusionModel, device_of, to_pixels
from privsyn.diffusion.process import Process
from privsyn.diffusion.samplers import Denoised, clamped, find_sampler, guided
from privsyn.errors import PrivsynError, RecipeError
from privsyn.parallel import each
from privsyn.progress import SILENT, Progress
from privsyn.recipe import Recipe
from privsyn.recipe import Sample as SampleSettings
from privsyn.study import Study, as_study
from privsyn.synthetic.dataset import SyntheticSet, read_synthetic, write_synthetic
from privsyn.synthetic.provenance import ClassCounts, Provenance
from privsyn.synthetic.rejection_filter import NearCopies, charge_for
from privsyn.training.finished import FinishedModel, load_finished
from privsyn.training.warmup import noisy_proportions

COMPUTE_BATCH = 32  # images the network sees at once, always; another number would draw other images
ROUNDS = 10  # of drawing again what was rejected


def sample(
    study: Study | Path | str,
    *,
    count: int | None = None,
    classes: Mapping[str, int] | None = None,
    like: Literal["cohort"] | None = None,
    reject_near_copies: bool = False,
    settings: Sequence[str] = (),
    force: bool = False,
    progress: Progress = SILENT,
) -> SyntheticSet:
    """Draw the study's synthetic set from its finished model and write it.

    Args:
        count: images; default `sample.count` of the recipe.
        classes: images of each class by name; those not named get none.
        like: draw the classes in the proportions of the cohort's training images: by the noisy counts of the
            warm-up, or by the exact ones if they were declared public (`sample.counts_are_public`).
        reject_near_copies: draw again what lies nearer to a training image than fresh patients do. It looks
            at the training images without noise: that voids a DP claim, is recorded in the set and in the
            ledger, and takes no audit's place.
        settings: `section.key=value` changes of the recipe; only `seed` and `[sample]` matter here.
        force: replace the synthetic set that the study has.

    Raises:
        StudyError: there is no finished model, or its claim is about other weights.
        RecipeError: `[data]` is not what the model was trained on, or the classes asked for are not its own.
        PrivsynError: there is a synthetic set already.
        Refused: near copies are to be rejected, and the population's grant does not allow it.
    """
    study = as_study(study)
    recipe = study.recipe(settings)
    check_recipe(recipe)
    with study.exclusively("sample"):
        study.need(study.privacy_file, "train")
        finished = load_finished(study.model)
        trained = finished.recipe
        if recipe.data.classes != trained.data.classes:
            raise RecipeError("data.classes is not what the model was trained on: restore it, or train again")
        if recipe.sample.guidance_scale != 1 and not trained.train.label_dropout:
            raise RecipeError(
                "the model was trained with train.label_dropout = 0: set sample.guidance_scale = 1"
            )
        if study.synthetic.exists() and not force:
            raise PrivsynError(f"{study.synthetic} already exists: pass --force to replace it")
        labels, class_counts = _labels(study, recipe, count, classes, like)
        images = _images(study, finished.model, recipe, labels, reject_near_copies, progress)
        provenance = _provenance(recipe, finished, len(labels), reject_near_copies, class_counts)
        write_synthetic(
            study.synthetic,
            images,
            labels,
            trained.data.classes,
            name=study.name,
            claim=finished.claim.of_set(
                near_copies_rejected=provenance.near_copies_rejected,
                exact_class_counts=provenance.exact_class_counts,
            ),
            provenance=provenance,
            force=force,
        )
        return _read_back(study, trained)


def _images(
    study: Study,
    model: DiffusionModel,
    recipe: Recipe,
    labels: NDArray[np.int64],
    reject_near_copies: bool,
    progress: Progress,
) -> Images:
    device = str(device_of(recipe))
    draw_these = partial(
        draw, model, wanted=recipe.sample, seed=recipe.seed, device=device, progress=progress
    )
    if not reject_near_copies:
        return draw_these(labels)
    cohort = load_cohort(study.need(study.cohort, "prepare"))
    charge_for(cohort)
    return _unlike(NearCopies.of(cohort, progress), labels, draw_these)


def _read_back(study: Study, trained: Recipe) -> SyntheticSet:
    """The set as it lies on disk."""
    data = trained.data
    return read_synthetic(
        study.synthetic,
        size=data.size,
        channels=data.channels,
        bit_depth=data.bit_depth,
        classes=data.classes,
    )


def draw(
    model: DiffusionModel,
    labels: NDArray[np.int64],
    *,
    wanted: SampleSettings,
    seed: int,
    first: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Images:
    """Draw one image per label.

    Args:
        labels: (N,) int64; `model.null_label` draws from all classes.
        wanted: sampler and its settings; `batch_size` cannot change the result.
        seed: with the place of an image, decides its random numbers.
        first: place of the first image, a multiple of `COMPUTE_BATCH`; so several processes can share a set.

    Returns:
        (N, H, W, C) of the model's bit depth.
    """
    if first % COMPUTE_BATCH:
        raise ValueError(f"first must be a multiple of {COMPUTE_BATCH}, not {first}")
    model = model.to(device).eval()
    starts = range(0, len(labels), COMPUTE_BATCH)
    questions = evaluations(wanted) * (1 if wanted.guidance_scale == 1 else 2)
    lock, interrupted = threading.Lock(), threading.Event()
    with progress.stage("sample", len(starts) * questions) as advance:  # advanced by one thread at a time

        def asked() -> None:
            if interrupted.is_set():
                raise KeyboardInterrupt
            with lock:
                advance()

        def chunk(start: int) -> Images:
            told = labels[start : start + COMPUTE_BATCH]
            clean = _draw_chunk(model, told, wanted, seed, first + start, device, asked)
            return to_pixels(clean, model.bit_depth)

        if torch.device(device).type == "cpu":  # by threads always, so that kernels round alike everywhere
            threads = max(1, min(torch.get_num_threads(), _chunks(wanted.batch_size), len(starts)))
            drawn = each(chunk, starts, threads, interrupted)
        else:
            drawn = [chunk(start) for start in starts]
    channels, *sides = model.image_shape
    return np.concatenate([np.empty((0, *sides, channels), DTYPES[model.bit_depth]), *drawn])


def _chunks(images: int) -> int:
    """How many chunks hold so many images."""
    return -(-images // COMPUTE_BATCH)


def evaluations(wanted: SampleSettings) -> int:
    """How often a sampler asks for the clean image."""
    return find_sampler(wanted.sampler).evaluations(wanted.steps)


def _draw_chunk(
    model: DiffusionModel,
    labels: NDArray[np.int64],
    wanted: SampleSettings,
    seed: int,
    first: int,
    device: str,
    asked: Callable[[], None],
) -> Tensor:
    """Up to `COMPUTE_BATCH` images in [-1, 1]; the chunk is filled up with copies of its first ones."""
    filled = np.arange(COMPUTE_BATCH) % len(labels)
    told = torch.tensor(labels[filled], device=device)
    numbers = [_numbers_of(seed, first + place) for place in range(len(labels))]

    def noise() -> Tensor:
        drawn = [image.standard_normal(model.image_shape, dtype=np.float32) for image in numbers]
        return torch.from_numpy(np.stack(drawn)[filled]).to(device)

    def denoise(labels: Tensor, x: Tensor, times: Tensor) -> Denoised:
        said, share = model.predict(x, times, labels)
        asked()
        return Denoised(model.process.denoise(said, x, times), share)

    null = torch.full_like(told, model.null_label)
    ask = guided(
        partial(denoise, told), partial(denoise, null), wanted.guidance_scale, wanted.guidance_rescale
    )
    run, times = _sampler(model.process, wanted)
    return run(clamped(ask, wanted.threshold), model.process, noise(), times, noise=noise)[: len(labels)]


def _sampler(process: Process, wanted: SampleSettings) -> tuple[Callable[..., Tensor], list[float]]:
    """The algorithm with its settings, and its time grid."""
    sampler = find_sampler(wanted.sampler)
    return sampler.with_settings(wanted), sampler.times(process, wanted.steps)


def _labels(
    study: Study,
    recipe: Recipe,
    count: int | None,
    classes: Mapping[str, int] | None,
    like: Literal["cohort"] | None,
) -> tuple[NDArray[np.int64], ClassCounts]:
    names = recipe.data.classes
    if classes is not None:
        unknown = [name for name in classes if name not in names]
        if unknown:
            raise RecipeError(f"no class is called {unknown[0]!r}: choose from {', '.join(names)}")
        counts = [classes.get(name, 0) for name in names]
        if count is not None or like is not None:
            raise RecipeError(
                "the images of each class were given: leave out their number and what they are like"
            )
        if min(counts) < 0 or not sum(counts):
            raise RecipeError("the number of images of a class must not be negative, nor all be 0")
        return balanced_labels(sum(counts), counts), "declared"
    number = recipe.sample.count if count is None else count
    if like is None:
        weights = recipe.sample.class_weights or (1.0,) * len(names)
        return balanced_labels(number, weights), "declared"
    if recipe.sample.counts_are_public:
        cohort = load_cohort(study.need(study.cohort, "prepare"))
        exact = np.bincount(cohort.part("train").labels, minlength=len(names)).tolist()
        return balanced_labels(number, exact), "exact, declared public"
    noisy = noisy_proportions(study.class_means)
    if noisy is None or not any(noisy):
        raise RecipeError(
            "how many images each class has is private, and the model has no noisy counts of a warm-up: give "
            "sample.class_weights that are known anyway, or declare the counts public with "
            "sample.counts_are_public"
        )
    return balanced_labels(number, noisy), "noisy"


def _unlike(near: NearCopies, labels: NDArray[np.int64], draw: Callable[..., Images]) -> Images:
    """Images none of which is a near copy: those rejected are drawn again, at places never used before."""
    images = draw(labels)
    left = np.flatnonzero(near.among(images))
    first = _chunks(len(labels)) * COMPUTE_BATCH
    for _ in range(ROUNDS):
        if not len(left):
            return images
        images[left] = draw(labels[left], first=first)
        first += _chunks(len(left)) * COMPUTE_BATCH
        left = left[near.among(images[left])]
    raise PrivsynError(
        f"after {ROUNDS} rounds some images are still near copies of training images: the model memorises; "
        "train with differential privacy, or for fewer steps"
    )


def balanced_labels(count: int, weights: Sequence[float]) -> NDArray[np.int64]:
    """`count` labels in the proportions of `weights` by largest remainder, evenly interleaved.

    With equal weights, label i is i modulo the number of classes, however many are drawn.
    """
    shares = np.array(weights) / sum(weights) * count
    counts = np.floor(shares).astype(np.int64)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: count - counts.sum()]] += 1
    places = np.concatenate([(np.arange(number) + 0.5) / number for number in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(places, kind="stable")]


def _numbers_of(seed: int, image: int) -> np.random.Generator:
    """The random numbers of one image; keyed with all bits, unlike a seeded torch generator."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, image])))


def _provenance(
    recipe: Recipe, finished: FinishedModel, count: int, rejected: bool, class_counts: ClassCounts
) -> Provenance:
    not_of_the_sampler = {"count", "class_weights", "batch_size", "counts_are_public"}
    return Provenance(
        version=__version__,
        model_sha256=finished.weights_sha256,
        recipe_sha256=finished.recipe.digest,
        seed=recipe.seed,
        count=count,
        near_copies_rejected=rejected,
        class_counts=class_counts,
        sampling=recipe.sample.model_dump(mode="json", exclude=not_of_the_sampler),
    )
