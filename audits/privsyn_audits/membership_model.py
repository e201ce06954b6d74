"""Does the model fit its training patients better than patients it never saw?

Threat: model access. Score of a patient = minus the mean log of the denoising loss over a grid of timesteps
and noises fixed before any data were seen and shared by everybody (loss attack: Matsumoto et al. 2023,
arXiv:2302.03262; Carlini et al. 2023, arXiv:2301.13188); one score per patient. Nothing is tuned on the
patients that are judged.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from privsyn.audit.contract import Control, Controls, Evidence, Finding, Power, Settings
from privsyn.audit.stats import auc, auc_interval, roc, smallest_auc, smallest_rate, tpr_at_fpr
from privsyn.diffusion.model import DiffusionModel, to_float
from privsyn.features.embed import Images

NAME, VERSION = "membership-model", "1"
TIMESTEP_SHARES = (0.03, 0.1, 0.2, 0.35)  # of T: neither nearly clean nor nearly noise tells most
NOISES = 2
PATIENTS = {"train": 1_000, "holdout": 1_500, "test": 500}  # scored; more costs time and shrinks little
IMAGES_PER_PATIENT = 4
FPR = 0.01
OVERFIT_PATIENTS, OVERFIT_STEPS, OVERFIT_OTHERS = 32, 150, 300
_BATCH = 128

Scores = NDArray[np.float64]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR at 1 % FPR of the loss attack, members against the holdout."""
    if evidence.model is None:
        reason = "the set comes without its model"
        return [_finding(name, applicable=False, reason=reason) for name in ("auc", "tpr-at-1%-fpr")]
    attack = _Attack(evidence, evidence.model, settings)
    members, holdout, test = (attack.scores(evidence.model, part) for part in ("train", "holdout", "test"))
    controls = Controls(
        positive=attack.overfitted(settings.control_level),
        negative=_never_trained(test, holdout, settings.control_level),
    )
    known = {"n": _sizes(members, holdout, test), "controls": controls, "confidence": 1 - settings.alpha}
    failed = [control for control in (controls.positive, controls.negative) if control and not control.passed]
    if failed or controls.positive is None:
        why = f"control failed: {failed[0].description}" if failed else "too few test patients for a control"
        known |= {"conclusive": False, "reason": why}
    return [_auc(members, holdout, settings, known), _tpr(members, holdout, settings, known)]


class _Attack:
    """The pre-declared grid, and the images of each side with their patients."""

    def __init__(self, evidence: Evidence, model: DiffusionModel, settings: Settings) -> None:
        self.evidence, self.settings = evidence, settings
        self.generator = evidence.generator(NAME, settings)
        timesteps = model.process.timesteps
        self.timesteps = [min(timesteps - 1, round(share * timesteps)) for share in TIMESTEP_SHARES]
        _, height, width, channels = evidence.train.images.shape
        noise = torch.Generator().manual_seed(settings.seed)
        self.noises = torch.randn(NOISES, channels, height, width, generator=noise)
        self.chosen = {part: self._choose(part) for part in ("train", "holdout", "test")}

    def scores(self, model: DiffusionModel, part: str, most: int | None = None) -> Scores:
        """(patients,) scores of a part of the cohort, or of its first `most` patients; high = member-like."""
        rows, patient = self.chosen[part]
        if most is not None:
            rows, patient = rows[patient < most], patient[patient < most]
        side = getattr(self.evidence, part)
        return _mean_by(self._score_images(model, side.images[rows], side.labels[rows]), patient)

    def overfitted(self, level: float) -> Control | None:
        """A copy of the model, over-fitted on a few test patients, must be caught with them as members."""
        rows, patient = self.chosen["test"]
        some = rows[patient < min(OVERFIT_PATIENTS, (patient.max() + 1) // 2)]
        if self.evidence.fine_tune is None or self.evidence.model is None or len(some) < 8:
            return None
        images, labels = self.evidence.test.images[some], self.evidence.test.labels[some]
        model = self.evidence.fine_tune(
            self.evidence.model, images, labels, steps=OVERFIT_STEPS, seed=self.settings.seed
        )
        fitted = _mean_by(self._score_images(model, images, labels), patient[: len(some)])
        others = self.scores(model, "holdout", OVERFIT_OTHERS)
        p_value = float(stats.mannwhitneyu(fitted, others, alternative="greater").pvalue)
        what = (
            f"a copy of the model over-fitted on {len(fitted)} test patients (AUC {auc(fitted, others):.2f})"
        )
        return Control(passed=p_value <= level, description=what, p_value=p_value)

    def _choose(self, part: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        patients = getattr(self.evidence, part).patients
        names = pd.unique(patients)  # in the order of the images: the ids are keyed and sort by chance
        names = self.generator.permutation(names)[: PATIENTS[part]]
        number = {name: index for index, name in enumerate(names)}
        seen = np.zeros(len(names), np.int64)
        rows = []
        for row in self.generator.permutation(len(patients)):
            index = number.get(patients[row])
            if index is not None and seen[index] < IMAGES_PER_PATIENT:
                seen[index] += 1
                rows.append((index, row))
        ordered = np.array(sorted(rows), dtype=np.int64)
        return ordered[:, 1], ordered[:, 0]

    @torch.inference_mode()
    def _score_images(self, model: DiffusionModel, images: Images, labels: NDArray[np.int64]) -> Scores:
        scores = np.zeros(len(images))
        with self.evidence.progress.stage("score images by their loss", len(images)) as advance:
            for start in range(0, len(images), _BATCH):
                batch = slice(start, start + _BATCH)
                scores[batch] = -self._log_loss(
                    model, to_float(images[batch]), torch.from_numpy(labels[batch])
                )
                advance(len(images[batch]))
        return scores

    def _log_loss(self, model: DiffusionModel, images: torch.Tensor, labels: torch.Tensor) -> Scores:
        total = np.zeros(len(images))
        for timestep in self.timesteps:
            at = torch.full((len(images),), timestep)
            losses = [model.loss(images, labels, at, noise.expand_as(images)) for noise in self.noises]
            total += np.log(torch.stack(losses).mean(0).double().numpy() + 1e-12)
        return total / len(self.timesteps)


def _auc(members: Scores, holdout: Scores, settings: Settings, known: dict[str, object]) -> Finding:
    smallest = smallest_auc(len(members), len(holdout), settings.alpha / 2)
    fpr, tpr = roc(members, holdout)
    return _finding(
        "auc",
        value=auc(members, holdout),
        interval=auc_interval(members, holdout, 1 - settings.alpha),
        baseline=0.5,
        power=Power(
            smallest_leak=smallest,
            description=f"an AUC of {smallest:.3f} is told from chance in 80 % of trials",
        ),
        details={"roc": {"fpr": fpr.tolist(), "tpr": tpr.tolist()}},
        **known,
    )


def _tpr(members: Scores, holdout: Scores, settings: Settings, known: dict[str, object]) -> Finding:
    point = tpr_at_fpr(members, holdout, FPR, 1 - settings.alpha)
    if point is None:
        need = f"{len(holdout)} holdout patients cannot measure a 1 % FPR: {round(10 / FPR)} would do"
        return _finding("tpr-at-1%-fpr", **{**known, "conclusive": False, "reason": need})
    smallest = smallest_rate(len(members), FPR, settings.alpha / 2)
    low, high = point.fpr_interval
    text = (
        f"a TPR of {smallest:.1%} is told from {FPR:.0%} in 80 % of trials; "
        f"the achieved FPR is {point.fpr:.2%}, interval {low:.2%} to {high:.2%}"
    )
    return _finding(
        "tpr-at-1%-fpr",
        value=point.tpr,
        interval=point.tpr_interval,
        baseline=FPR,
        power=Power(smallest_leak=smallest, description=text),
        **known,
    )


def _never_trained(test: Scores, holdout: Scores, level: float) -> Control:
    p_value = float(stats.mannwhitneyu(test, holdout, alternative="two-sided").pvalue)
    what = f"{len(test)} test patients in place of the members (AUC {auc(test, holdout):.2f})"
    return Control(passed=p_value > level, description=what, p_value=p_value)


def _mean_by(scores: Scores, patient: NDArray[np.int64]) -> Scores:
    counts = np.bincount(patient)
    means: Scores = np.bincount(patient, weights=scores) / np.maximum(counts, 1)
    return means


def _sizes(members: Scores, holdout: Scores, test: Scores) -> dict[str, int]:
    return {"train_patients": len(members), "holdout_patients": len(holdout), "test_patients": len(test)}


def _finding(statistic: str, **known: object) -> Finding:
    return Finding.model_validate(
        {"audit": NAME, "version": VERSION, "threat": "model", "statistic": statistic, **known}
    )
