"""Converts our process to the `scheduler_config.json` of diffusers' `DDPMScheduler`, and back.

https://github.com/huggingface/diffusers, schedulers/scheduling_ddpm.py
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privsyn.diffusion.interchange_unet import LAYOUT, Config, refused, whole_number
from privsyn.diffusion.process import BETAS, Schedule, cosine_betas, linear_betas
from privsyn.errors import RecipeError
from privsyn.recipe import Recipe
from privsyn.strict_json import JsonObject, JsonValue

# What a scheduler takes where its file is silent, and what of it we read; a test compares the values.
SCHEDULER_DEFAULTS: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "rescale_betas_zero_snr": False,
}
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler")
PREDICTIONS = {"v": "v_prediction", "epsilon": "epsilon", "x0": "sample"}


def scheduler_config(recipe: Recipe) -> JsonObject:
    """The scheduler whose process, and whose steps, are those of the recipe and of our sampler `ddpm`.

    Raises:
        RecipeError: the target is "edm", which also scales what the network sees.
    """
    diffusion = recipe.diffusion
    if diffusion.target not in PREDICTIONS:
        raise RecipeError(
            f'diffusion.target is "{diffusion.target}", which no scheduler of diffusers expresses: only '
            f"models trained with {', '.join(PREDICTIONS)} can be exported"
        )
    return {
        "_class_name": "DDPMScheduler",
        "_diffusers_version": LAYOUT,
        "num_train_timesteps": diffusion.timesteps,
        **_beta_fields(diffusion.schedule, diffusion.timesteps),
        "prediction_type": PREDICTIONS[diffusion.target],
        "variance_type": "learned_range" if diffusion.learned_variance else "fixed_small",
        "timestep_spacing": "trailing",
        "steps_offset": 0,
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }


def process_settings(config: Config, where: str, *, learned_variance: bool) -> JsonObject:
    """`timesteps`, `schedule` and `target` of a `scheduler_config.json`; sampling settings are ignored.

    Args:
        where: begins every message.
        learned_variance: the network predicts a variance.

    Raises:
        RecipeError: our process cannot express a field; the message names it.
    """
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        raise refused(where, "_class_name", name, " or ".join(SCHEDULERS))
    get = {field: config.get(field, default) for field, default in SCHEDULER_DEFAULTS.items()}
    if get["rescale_betas_zero_snr"]:
        raise refused(where, "rescale_betas_zero_snr", True, "false, because our process keeps some signal")
    targets = {theirs: ours for ours, theirs in PREDICTIONS.items()}
    if get["prediction_type"] not in targets:
        raise refused(where, "prediction_type", get["prediction_type"], " or ".join(targets))
    variance = str(get["variance_type"])
    if learned_variance != (variance == "learned_range") or variance == "learned":
        needed = "learned_range for a network with twice as many outputs, and nothing learned for another"
        raise refused(where, "variance_type", variance, needed)
    schedule, timesteps = _schedule(get, where)
    return {"timesteps": timesteps, "schedule": schedule, "target": targets[get["prediction_type"]]}


def _beta_fields(schedule: Schedule, timesteps: int) -> JsonObject:
    """The schedule by the name that diffusers has for it, or as a list where it has none."""
    betas = BETAS[schedule](timesteps)
    if schedule == "cosine":
        return {"beta_schedule": "squaredcos_cap_v2", "trained_betas": None}
    if schedule == "linear" and np.array_equal(betas, np.linspace(betas[0], betas[-1], timesteps)):
        ends = {"beta_start": float(betas[0]), "beta_end": float(betas[-1])}
        return {"beta_schedule": "linear", **ends, "trained_betas": None}
    return {"beta_schedule": "linear", "trained_betas": betas.tolist()}


def _schedule(get: Config, where: str) -> tuple[str, int]:
    """Name and length of the one of our schedules that has these betas, to float32."""
    betas = _betas_of(get, where)
    for name, ours in BETAS.items():
        if np.allclose(betas, ours(len(betas)), rtol=1e-5, atol=1e-7):
            return name, len(betas)
    given = "trained_betas" if get["trained_betas"] is not None else "beta_schedule"
    found = (
        "a list" if given == "trained_betas" else f"{get['beta_schedule']}, {betas[0]:.6g} to {betas[-1]:.6g}"
    )
    linear = linear_betas(len(betas))
    needed = (
        f"at {len(betas)} steps one of our schedules: {', '.join(BETAS)} (linear is {linear[0]:.6g} to "
        f"{linear[-1]:.6g})"
    )
    raise refused(where, given, found, needed)


def _betas_of(get: Config, where: str) -> NDArray[np.float64]:
    """The betas (T,) of a scheduler, each in (0, 1)."""
    if get["trained_betas"] is not None:
        return _numbers(get["trained_betas"], "trained_betas", where)
    timesteps = whole_number(get["num_train_timesteps"], "num_train_timesteps", where)
    if get["beta_schedule"] == "squaredcos_cap_v2":
        return cosine_betas(timesteps)
    if get["beta_schedule"] == "linear":
        start, end = (float(_numbers([get[field]], field, where)[0]) for field in ("beta_start", "beta_end"))
        return np.linspace(start, end, timesteps)
    needed = "linear or squaredcos_cap_v2, or trained_betas be given"
    raise refused(where, "beta_schedule", get["beta_schedule"], needed)


def _numbers(given: JsonValue, field: str, where: str) -> NDArray[np.float64]:
    """(n,) numbers between 0 and 1."""
    try:
        numbers = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        numbers = np.zeros(1)
    if numbers.ndim != 1 or not numbers.size or not ((numbers > 0) & (numbers < 1)).all():
        raise refused(where, field, given, "between 0 and 1")
    return numbers
