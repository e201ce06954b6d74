"""The sections of a recipe: every setting with its range, its default and what it does."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from privsyn.claim.document import Unit

Positive = Annotated[int, Field(gt=0)]
Slug = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$")]
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
        None, description="what to do with images of another size; refused when absent"
    )
    split: tuple[float, float, float] = Field(
        (0.6, 0.2, 0.2), description="shares of patients in train, holdout and test; they sum to 1"
    )
    window: tuple[float, float] | None = Field(
        None,
        description="centre and width of the window for grey DICOM and NIfTI images, in the units of their "
        "rescaled values (HU for CT); images stored in 8 bits need none. When absent, the window in the "
        "file, else its whole range",
    )
    label_tag: str | None = Field(
        None, description="DICOM keyword whose value is the label, such as BodyPartExamined"
    )
    patient_pattern: str | None = Field(
        None, description="regular expression with a group `patient`, searched for in the name of each file"
    )
    text: Literal["refuse", "drop", "mask"] = Field(
        "refuse", description="what to do with an image in which `text_scan` finds text"
    )
    text_scan: Annotated[int, Field(ge=0)] | Literal["auto", "all"] = Field(
        "auto",
        description="how many images to look for text in, drawn at random; auto is 1000 if the source holds "
        "DICOM, else 0",
    )
    near_duplicates: Literal["off", "report", "link"] = Field(
        "off", description="near-duplicates across patients: link keeps them together in the split"
    )

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.bit_depth == 16 and self.channels != 1:
            raise ValueError("data.bit_depth = 16 is for grey images: set data.channels = 1")
        if self.window is not None and self.window[1] <= 0:
            raise ValueError("data.window is [centre, width], and the width is above 0")
        if self.text != "refuse" and self.text_scan != "all":
            raise ValueError(
                f'data.text = "{self.text}" needs data.text_scan = "all": text in unscanned images would stay'
            )
        if self.patient_pattern is not None and not _names_patient(self.patient_pattern):
            raise ValueError("data.patient_pattern is not a regular expression with a group (?P<patient>...)")
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
    """The variance-preserving process and the training target; training always covers all timesteps."""

    timesteps: Positive = Field(1000, description="length T of the process")
    continuous: bool = Field(False, description="train between the timesteps too")
    schedule: Literal["cosine", "linear", "sigmoid"] = "cosine"
    target: Literal["v", "epsilon", "x0", "edm"] = Field("v", description="what the network predicts")
    sigma_data: float = Field(
        0.5, gt=0, description="spread of the data that the target edm is scaled for; PUBLIC"
    )
    learned_variance: bool = Field(
        False, description="the network also predicts the variance of a step, trained by the hybrid loss"
    )
    min_snr: float | None = Field(
        None, gt=0, description="gamma of the min-SNR weighting, usually 5; none when absent"
    )
    law: Literal["uniform", "normal"] = Field(
        "uniform",
        description="distribution of training times: uniform in t, or normal in log-SNR",
    )
    law_mean: float = Field(2.4, description="mean log-SNR of the law normal")
    law_std: float = Field(2.4, gt=0, description="standard deviation of log-SNR of the law normal")
    noise_shift: float | None = Field(
        None,
        ge=1,
        description="law uniform: shifts it towards noise, 1 = no shift; when absent 1 without DP, with DP "
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
    label_dropout: float = Field(0.1, ge=0, lt=1, description="share of labels hidden, for guidance")
    augment: tuple[Literal["flip", "flip-vertical", "rotate-90"], ...] = Field(
        (),
        description="random augmentations of an image: flip for tissue, none for chest X-rays, "
        "where left and right mean something",
    )
    accumulate: Positive = Field(
        1,
        description="parts in which a batch goes through the network, to save memory; unused with DP",
    )
    checkpoint_every: Positive = Field(500, description="steps between checkpoints")
    device: str = Field("auto", description="auto (CUDA, else CPU), cpu, cuda, cuda:N")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="of the passes through the network; auto is bf16 where the device supports it"
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="torch.compile for the network; auto uses it where the run is long enough to gain",
    )
    init_from: str | None = Field(
        None,
        description="folder of a model to start from: one of privsyn, whose images were declared public "
        "(privacy.public_data), or one of diffusers",
    )
    init_is_public: bool = Field(
        False,
        description="declares that a diffusers model to start from is PUBLIC and was not trained on the "
        "cohort's patients; such folders carry no claim",
    )
    tune: Literal["all", "attention"] = Field(
        "all", description="the weights that are trained; the rest is fixed"
    )
    canaries: int = Field(
        0,
        ge=0,
        description="synthetic canaries, each included with probability 1/2, for the audit `canary`; "
        "their number is PUBLIC",
    )


class Privacy(Section):
    """Differential privacy for the unit; used only with `dp = true` (`privsyn train --dp`)."""

    dp: bool = Field(False, description="train with DP-SGD")
    unit: Unit = Field(
        "patient",
        description="what one added or removed record is; lowered to study, file or image where the cohort "
        "does not know more",
    )
    epsilon: float = Field(8.0, ge=1e-4, le=1000, description="privacy budget")
    delta: float | None = Field(
        None, gt=0, lt=1, description="default 1 / (100 expected_units); below one in the number of units"
    )
    expected_units: int | None = Field(
        None,
        gt=0,
        le=10**9,
        description="PUBLIC estimate of the number of training units; sample rate, divisor and delta "
        "come from it, never from counting private data",
    )
    clip_norm: float = Field(1e-3, gt=0, description="bound C on one unit's gradient; small = normalised")
    adam_bias_correction: bool = Field(
        False, description="subtract the known variance of the noise from Adam's second moment (DP-AdamBC)"
    )
    noise_multiplicity: Positive = Field(8, description="noise draws K per image and step; cost no privacy")
    max_images_per_unit: Positive = Field(4, description="images of one unit in a step, drawn in each step")
    public_data: bool = Field(
        False,
        description="declares that the training images are PUBLIC: no patient is protected, and other models "
        "may start from this one (train.init_from)",
    )
    insecure_seed: int | None = Field(
        None, description="repeatable noise, for tests only: the claim is then not valid for release"
    )


class Warmup(Section):
    """Steps on noisy moments of the images before DP-SGD, charged to the same budget; only with DP."""

    images: int = Field(0, ge=0, description="noisy means per class (DP-FETA); 0 = no warm-up")
    noise_multiplier: float = Field(5.0, gt=0, description="noise of each mean relative to its sensitivity")
    covariance_noise: float | None = Field(
        None,
        gt=0,
        description="noise of the covariance within classes relative to its sensitivity; when set, "
        "warm-up steps use pictures drawn from a Gaussian per class instead of the means",
    )
    covariance_size: Positive = Field(
        8, description="side of the grid on which the covariance is measured, pixels"
    )
    spread: float = Field(
        0.4,
        gt=0,
        le=2,
        description="root mean square distance of a coarse image from its class mean, on [-1, 1], to which "
        "larger distances are clipped; PUBLIC",
    )
    expected_units: Positive | None = Field(
        None, description="EXPECTED number of units in a query, PUBLIC; default privacy.expected_units (all)"
    )
    steps: Positive = Field(200, description="optimiser steps on the pictures; they cost no privacy")
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
    guidance_scale: float = Field(1.0, gt=0, description="1 = plain conditional; above 1 sharpens")
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
        False,
        description="declares PUBLIC how many images each class has; `sample --like cohort` follows it",
    )
    batch_size: Positive = Field(256, description="images in flight; cannot change the result")


class Quality(Section):
    """Measures of quality that only some kinds of images have."""

    biomarkers: tuple[Biomarker, ...] = Field((), description="of the modality; see docs/quality.md")
