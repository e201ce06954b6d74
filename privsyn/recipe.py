"""The modeller's file: how to train and sample. TOML in, frozen values out, unknown keys refused by name.

How to judge is the data steward's file and lives in `privsyn.auditing.policy`; see
docs/decisions/0005-policy-apart-from-recipe.md.
"""

from __future__ import annotations

import difflib
import importlib.resources
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from privsyn.errors import RecipeError
from privsyn.files import json_digest

Positive = Annotated[int, Field(gt=0)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
Unit = Literal["patient", "image"]
Biomarker = Literal["lung-opacity", "layer-contrast", "nuclear-density", "stain-ratio"]
IN_COLOUR = frozenset({"nuclear-density", "stain-ratio"})


class Section(BaseModel):
    """A frozen group of settings that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _names_patient(pattern: str) -> bool:
    try:
        return "patient" in re.compile(pattern).groupindex
    except re.error:
        return False


class Data(Section):
    """What every image must be. All of it is treated as public knowledge."""

    size: int = Field(ge=8, le=1024, description="height and width in pixels")
    channels: Literal[1, 3] = Field(1, description="1 grey, 3 RGB")
    bit_depth: Literal[8, 16] = Field(8, description="bits per channel and pixel; 16 is for grey alone")
    classes: tuple[str, ...] = Field(min_length=1, description="class names, in label order; public")
    resize: Literal["fit", "crop", "pad"] | None = Field(
        None, description="what to do with images of another size; without it they are refused"
    )
    split: tuple[float, float, float] = Field(
        (0.6, 0.2, 0.2), description="shares of patients in train, holdout and test; they sum to 1"
    )
    window: tuple[float, float] | None = Field(
        None,
        description="centre and width of what grey DICOM and NIfTI images show, in the units of their "
        "rescaled values (HU for CT); images stored in 8 bits are shown already. Without it, what the file "
        "says, else all that its bits can hold",
    )
    label_tag: str | None = Field(
        None, description="DICOM keyword whose value is the label, such as BodyPartExamined"
    )
    patient_pattern: str | None = Field(
        None, description="regular expression with a group `patient`, searched for in the name of each file"
    )
    text: Literal["refuse", "drop", "mask"] = Field(
        "refuse", description="what to do with an image that has text in its pixels, as far as looked for"
    )
    text_scan: Annotated[int, Field(ge=0)] | Literal["auto", "all"] = Field(
        "auto",
        description="how many images to look for text in, drawn at random; auto is 1000 if the source holds "
        "DICOM, else 0",
    )
    near_duplicates: Literal["off", "report", "link"] = Field(
        "off", description="near-duplicates across patients: link makes them one unit of the split"
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.bit_depth == 16 and self.channels != 1:
            raise ValueError("data.bit_depth = 16 is for grey images: set data.channels = 1")
        if self.window is not None and self.window[1] <= 0:
            raise ValueError("data.window is [centre, width], and the width is above 0")
        if self.text != "refuse" and self.text_scan != "all":
            raise ValueError(
                f'data.text = "{self.text}" needs data.text_scan = "all": what is not looked at stays'
            )
        if self.patient_pattern is not None and not _names_patient(self.patient_pattern):
            raise ValueError("data.patient_pattern is no regular expression with a group (?P<patient>...)")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("data.classes names a class twice")
        if min(self.split) <= 0 or abs(sum(self.split) - 1) > 1e-6:
            raise ValueError("data.split must be three positive shares that sum to 1")
        return self


class Model(Section):
    """The network: width, depth and where it attends. Each network checks the settings that are its own."""

    network: str = Field("unet", description="unet, or swin-unet, the reference study's Swin U-Net")
    channels: Positive = Field(32, description="width of the first level")
    multipliers: tuple[Positive, ...] = Field((1, 2, 2), min_length=1, description="width factor per level")
    blocks: Positive | tuple[Positive, ...] = Field(
        1, description="residual blocks per level: one number, or one per level"
    )
    attention_levels: tuple[int, ...] = Field(
        (2,), description="levels (0 = full size) with self-attention, or with Swin blocks"
    )
    head_channels: Positive | None = Field(
        None, description="U-Net: channels of each attention head; one head for all when absent"
    )
    heads: tuple[Positive, ...] | None = Field(None, description="Swin: attention heads per level")
    windows: tuple[Positive, ...] | None = Field(None, description="Swin: side of a window per level, pixels")
    groups: Positive = Field(8, description="groups of each GroupNorm")
    dropout: float = Field(0.0, ge=0, lt=1)
    scale_shift: bool = Field(
        False, description="U-Net: the embedding scales and shifts after the norm; the Swin U-Net always does"
    )

    @property
    def blocks_per_level(self) -> tuple[int, ...]:
        return (self.blocks,) * len(self.multipliers) if isinstance(self.blocks, int) else self.blocks

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        levels, widths = len(self.multipliers), {self.channels * factor for factor in self.multipliers}
        if any(not 0 <= level < levels for level in self.attention_levels):
            raise ValueError("model.attention_levels names a level that model.multipliers does not have")
        if self.channels % self.groups:
            raise ValueError("model.channels must be a multiple of model.groups")
        if len(self.blocks_per_level) != levels:
            raise ValueError(f"model.blocks needs one number, or {levels} like model.multipliers")
        if self.head_channels is not None and any(width % self.head_channels for width in widths):
            raise ValueError("model.head_channels must divide the width of every level")
        return self


class Diffusion(Section):
    """The variance-preserving process and what is learned of it; training always covers all timesteps."""

    timesteps: Positive = Field(1000, description="length T of the process")
    continuous: bool = Field(False, description="train between the timesteps too")
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    target: Literal["v", "epsilon", "x0", "edm"] = Field("v", description="what the network predicts")
    sigma_data: float = Field(
        0.5, gt=0, description="spread of the data that the target edm is scaled for; PUBLIC"
    )
    learned_variance: bool = Field(
        False, description="the network also says a step's variance, taught by the hybrid loss"
    )
    min_snr: float | None = Field(
        None, gt=0, description="gamma of the min-SNR weighting, usually 5; none when absent"
    )
    law: Literal["uniform", "normal"] = Field(
        "uniform", description="law of the times that training draws: uniform in t, or normal in log-SNR"
    )
    law_mean: float = Field(2.4, description="mean log-SNR of the law normal")
    law_std: float = Field(2.4, gt=0, description="standard deviation of log-SNR of the law normal")
    noise_shift: float | None = Field(
        None,
        ge=1,
        description="law uniform: moves it towards noise, 1 = not; when absent 1 without DP, and with DP "
        "max(1, (10 / epsilon)^(1/4))",
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.learned_variance and (self.continuous or self.timesteps < 2):
            raise ValueError(
                "diffusion.learned_variance needs whole timesteps: continuous = false and two or more"
            )
        if self.law == "normal" and self.noise_shift is not None:
            raise ValueError(
                "diffusion.noise_shift belongs to the law uniform: lower diffusion.law_mean instead"
            )
        return self


class Train(Section):
    """The training loop; the same numbers serve both modes."""

    steps: Positive = Field(2000, description="optimiser steps")
    batch_size: Positive = Field(
        64, description="images per step; with --dp the EXPECTED number of units per step"
    )
    learning_rate: float = Field(3e-4, gt=0)
    warmup_steps: int = Field(50, ge=0, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("constant", description="of the rate after the warm-up")
    weight_decay: float = Field(0.0, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1, description="longest; shorter in the first steps")
    label_dropout: float = Field(0.1, ge=0, le=1, description="share of labels hidden, for guidance")
    augment: tuple[Literal["flip", "flip-vertical", "rotate-90"], ...] = Field(
        (),
        description="what an image may look like as well: flip for tissue, nothing for chest X-rays, "
        "where left and right mean something",
    )
    accumulate: Positive = Field(
        1,
        description="parts in which a batch goes through the network, to save memory; unused with DP",
    )
    checkpoint_every: Positive = Field(500, description="steps between checkpoints")
    device: str = Field("auto", description="auto (CUDA, else CPU), cpu, cuda, cuda:N")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="of the passes through the network; auto is bf16 where the device computes in it"
    )
    compile: bool | Literal["auto"] = Field(
        "auto", description="torch.compile for the network; auto where a run is long enough to pay for it"
    )
    init_from: str | None = Field(
        None,
        description="folder of a model to start from: of ours, whose images were declared public "
        "(privacy.public_data), or of diffusers",
    )
    init_is_public: bool = Field(
        False,
        description="declares that a diffusers model to start from is PUBLIC and knows none of the cohort's "
        "patients; such folders carry no claim",
    )
    tune: Literal["all", "attention"] = Field("all", description="the weights that learn; the others stay")
    canaries: int = Field(
        0,
        ge=0,
        description="pictures of nobody, each trained on or not by a secret coin, for the audit `canary`; "
        "their number is PUBLIC",
    )


class Privacy(Section):
    """Differential privacy for the unit; used only with `dp = true` (`privsyn train --dp`)."""

    dp: bool = Field(False, description="train with DP-SGD")
    unit: Unit = Field("patient", description="whom one added or removed record stands for")
    epsilon: float = Field(8.0, ge=1e-4, le=1000, description="privacy budget asked for")
    delta: float | None = Field(None, gt=0, lt=1, description="default expected_units ** -1.1")
    expected_units: Positive | None = Field(
        None,
        description="PUBLIC estimate of the number of training units; sample rate, divisor and delta "
        "come from it, never from counting private data",
    )
    clip_norm: float = Field(1e-3, gt=0, description="bound C on one unit's gradient; small = normalised")
    adam_bias_correction: bool = Field(
        False, description="take the noise's known variance out of Adam's second moment (DP-AdamBC)"
    )
    noise_multiplicity: Positive = Field(8, description="noise draws K per image and step (free in privacy)")
    max_images_per_unit: Positive = Field(4, description="images of one unit used in a step, drawn anew")
    public_data: bool = Field(
        False,
        description="declares that the training images are PUBLIC: no patient is protected, and other models "
        "may start from this one (train.init_from)",
    )
    insecure_seed: int | None = Field(
        None, description="repeatable noise, for tests only: the claim becomes invalid for release"
    )


class Warmup(Section):
    """Steps on noisy moments of the images before DP-SGD, paid for by the same budget; only with DP."""

    images: int = Field(0, ge=0, description="noisy means per class (DP-FETA); 0 = no warm-up")
    noise_multiplier: float = Field(5.0, gt=0, description="noise of each mean by its sensitivity")
    covariance_noise: float | None = Field(
        None,
        gt=0,
        description="noise of the covariance within classes by its sensitivity; asked for when given, and "
        "steps are then on pictures drawn from a Gaussian per class, not on the means",
    )
    covariance_size: Positive = Field(
        8, description="side of the grid that the covariance is seen on, pixels"
    )
    spread: float = Field(
        0.4,
        gt=0,
        le=2,
        description="root mean square distance of a coarse image from its class mean, on [-1, 1], beyond "
        "which it is brought nearer; PUBLIC",
    )
    expected_units: Positive | None = Field(
        None, description="EXPECTED number of units in a query, PUBLIC; default privacy.expected_units (all)"
    )
    steps: Positive = Field(200, description="plain optimiser steps on the pictures; free in privacy")
    batch_size: Positive = Field(128, description="pictures per step")


class Sample(Section):
    """How the synthetic set is drawn."""

    count: Positive = Field(1000, description="images")
    sampler: str = Field("ddpm", description="algorithm")
    steps: Positive = Field(
        50, description="denoising steps, at most diffusion.timesteps; heun takes two each"
    )
    eta: float = Field(0.0, ge=0, le=1, description="ddim: 0 = deterministic, 1 = as noisy as ddpm")
    churn: float = Field(0.0, ge=0, description="heun: S_churn, 0 = deterministic; 10 to 40 add noise back")
    guidance_scale: float = Field(1.0, ge=0, description="1 = plain conditional; above 1 sharpens")
    guidance_rescale: float = Field(
        0.0, ge=0, le=1, description="share of the contrast that guidance may not add"
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="dynamic thresholding at this share of the pixels; plain clamping when absent",
    )
    class_weights: tuple[float, ...] | None = Field(
        None, description="public class proportions; balanced when absent"
    )
    counts_are_public: bool = Field(
        False, description="declares PUBLIC how many images each class has; `sample --like cohort` needs it"
    )
    batch_size: Positive = Field(256, description="images in flight; cannot change the result")


class Quality(Section):
    """What a synthetic set of this kind of images is measured by, beyond what every image has."""

    biomarkers: tuple[Biomarker, ...] = Field((), description="of the modality; docs/quality.md tells them")


class Recipe(Section):
    """How to train and sample, whole and checked."""

    seed: int = Field(0, ge=0, lt=2**63, description="one seed for split, weights and samples")
    data: Data
    model: Model = Model()
    diffusion: Diffusion = Diffusion()
    train: Train = Train()
    privacy: Privacy = Privacy()
    warmup: Warmup = Warmup()
    sample: Sample = Sample()
    quality: Quality = Quality()

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.sample.steps > self.diffusion.timesteps:
            raise ValueError("sample.steps exceeds diffusion.timesteps")
        weights = self.sample.class_weights
        if weights is not None and (
            len(weights) != len(self.data.classes) or min(weights) < 0 or not sum(weights)
        ):
            raise ValueError("sample.class_weights needs one weight >= 0 per class, not all zero")
        if self.privacy.dp and self.privacy.expected_units is None:
            raise ValueError(
                "DP training needs privacy.expected_units: a PUBLIC estimate of the number of training "
                f"{self.privacy.unit}s. Declaring it says that anybody may know this number; sample rate, "
                "divisor and delta come from it, and the cohort is never counted for them"
            )
        expected = self.privacy.expected_units
        if self.privacy.dp and expected is not None and self.train.batch_size > expected:
            raise ValueError(
                "train.batch_size exceeds privacy.expected_units: the sample rate would be above 1"
            )
        if expected is not None and (self.warmup.expected_units or 0) > expected:
            raise ValueError(
                "warmup.expected_units exceeds privacy.expected_units: the sample rate would be above 1"
            )
        if self.warmup.covariance_noise is not None and not self.warmup.images:
            raise ValueError(
                "warmup.covariance_noise needs warmup.images: the covariance is around the noisy means"
            )
        if self.warmup.covariance_noise is not None and self.warmup.covariance_size > self.data.size:
            raise ValueError("warmup.covariance_size exceeds data.size: no grid is finer than the pixels")
        if self.train.tune == "attention" and self.train.init_from is None:
            raise ValueError(
                "train.tune = attention needs train.init_from: the rest of a fresh network would never learn"
            )
        if self.privacy.dp and self.train.compile is True:
            raise ValueError(
                "train.compile is for training without DP, whose passes differ in shape: leave it auto"
            )
        if self.data.channels == 1 and (coloured := IN_COLOUR.intersection(self.quality.biomarkers)):
            raise ValueError(f"quality.biomarkers: {min(coloured)} is for data.channels = 3")
        if self.privacy.dp and self.privacy.public_data:
            raise ValueError("privacy.public_data protects nobody: train without differential privacy")
        return self

    @property
    def digest(self) -> str:
        """sha256 (hex) of the resolved recipe, defaults included."""
        return json_digest(self.model_dump(mode="json"))

    def with_settings(self, settings: Sequence[str]) -> Recipe:
        """This recipe with `section.key=value` assignments applied, checked again as a whole."""
        return parse(
            apply_settings(self.model_dump(mode="json", exclude_none=True), settings), Recipe, "--set"
        )


M = TypeVar("M", bound=BaseModel)


def load_recipe(path: Path, settings: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `section.key=value` settings.

    Raises:
        RecipeError: the file is missing or not TOML, a key is unknown, a value does not fit.
    """
    return parse(apply_settings(read_toml(path), settings), Recipe, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file, or say where it is broken."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from None


def parse(document: dict[str, Any], model: type[M], where: str) -> M:
    """Check a document against a model; the first fault becomes one clear line."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error, model)}") from None


def parse_setting(setting: str) -> tuple[list[str], Any]:
    """Split `section.key=value` at the first `=`; the value is TOML, or a bare word taken as a string."""
    name, equals, text = setting.partition("=")
    keys = name.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"--set {setting!r}: expected section.key=value, for example train.steps=500")
    try:
        return keys, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        if any(mark in text for mark in "[]{}\"'\n"):
            raise RecipeError(f"--set {setting!r}: {text!r} is not a TOML value") from None
        return keys, text.strip()


def apply_settings(document: dict[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """A copy of the document with each setting in its place."""
    result = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
    for setting in settings:
        keys, value = parse_setting(setting)
        table: Any = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {setting!r}: {key!r} is not a section")
        table[keys[-1]] = value
    return result


def shipped(kind: Literal["recipes", "policies"]) -> dict[str, Path]:
    """Name to path of the recipes or policies that come with the package, installed or in a checkout."""
    folder = Path(str(importlib.resources.files("privsyn"))) / kind
    if not folder.is_dir():
        checkout = Path(__file__).resolve().parent.parent
        folder = checkout / {"recipes": "recipes", "policies": "audits/policies"}[kind]
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_shipped(kind: Literal["recipes", "policies"], name: str) -> Path:
    """The shipped file of that name, or a file the user points to."""
    known = shipped(kind)
    if name in known:
        return known[name]
    if Path(name).is_file():
        return Path(name)
    raise RecipeError(
        f"no {kind[:-3] + 'y' if kind == 'policies' else 'recipe'} {name!r}{nearest(name, known)}"
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """`: did you mean X?`, or the list of what there is."""
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f": did you mean {close[0]!r}?" if close else f": choose from {', '.join(choices)}"


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    fault = error.errors()[0]
    place = [str(part) for part in fault["loc"]]
    if fault["type"] == "extra_forbidden":
        return f"unknown key {'.'.join(place)!r}{nearest(place[-1], _keys_at(model, place[:-1]))}"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "missing":
        message = "is missing"
    return f"{'.'.join(place)}: {message}" if place else message


def _keys_at(model: type[BaseModel], place: Sequence[str]) -> list[str]:
    for part in place:
        field = model.model_fields.get(part)
        candidates = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        for candidate in candidates:
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
    return list(model.model_fields)
