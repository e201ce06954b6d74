"""Does the model fit its training patients better than models of the same recipe without them do?

Threat: shadow models. Each is trained by the recipe of the model under audit on a random half of train and
holdout together, so that both are treated alike. The two standard attacks, LiRA and RMIA
(`privsyn.auditing.attacks.shadows`), compare the model with them, on the loss over the grid of
`membership-model`, with one score per patient.

The positive control is a copy of a shadow model, over-fitted on a few patients that it had not seen. (A
shadow model itself would not do: the members of an honest recipe cannot be told either, so no audit of an
honest model would be conclusive.) In the negative control a shadow model is attacked for train against
holdout among patients that it never saw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.attacks.denoising import loss_grid
from privsyn.auditing.attacks.membership import (
    Attacks,
    AttackScores,
    ControlTrial,
    FindingContext,
    findings,
    not_applicable,
)
from privsyn.auditing.attacks.null_hypothesis import NullHypothesis
from privsyn.auditing.attacks.sampled_patients import (
    MIN_OVERFIT_PATIENTS,
    OVERFIT_PATIENTS,
    OVERFIT_STEPS,
    ModelAttackContext,
    SampledPatients,
    Scores,
    patient_scores,
)
from privsyn.auditing.attacks.shadows import lira, random_halves, rmia
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Finding, Settings
from privsyn.auditing.model_under_audit import Shadows
from privsyn.diffusion.model import DiffusionModel

NAME = "membership-shadow"
AUDIT = AuditId(NAME, "2", "shadow")

Flags = NDArray[np.bool_]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR of the stronger attack, train against holdout."""
    if evidence.model is None:
        return not_applicable(AUDIT, "the set comes without its model")
    if evidence.shadows is None:
        return not_applicable(AUDIT, "training shadow models is expensive; use --shadows N")
    context = ModelAttackContext(evidence, evidence.model, settings)
    shadow_scores = _ShadowScores(context, evidence.shadows, settings)
    finding_context = FindingContext(
        audit=AUDIT,
        n=context.sizes() | {"shadow_models": evidence.shadows.count},
        positive=lambda *_: shadow_scores.overfitted(),
        negative=shadow_scores.never_seen(),
        blind=NullHypothesis(evidence).control(settings.control_level),
    )
    return findings(shadow_scores.attacks(), finding_context, settings)


class _ShadowScores:
    """Scores of the patients of train and holdout under the shadow models, which are not kept.

    Attributes:
        is_member: (k,) whether the patient is in train.
        inside: (N, k) whether the patient was in the training half of each shadow; 1 is the complement of 0.
        fits: (N, k) scores under the shadows; `target` (k,) under the model, `copy` under the over-fitted
            copy, if there is one.
        fitted: (k,) whether the copy of shadow 0 was over-fitted on the patient.
    """

    def __init__(self, context: ModelAttackContext, shadows: Shadows, settings: Settings) -> None:
        evidence, train, holdout = context.evidence, context.patients["train"], context.patients["holdout"]
        self.context, self.shadows = context, shadows
        self.pooled = train.concatenated_with(holdout)
        self.is_member = np.arange(len(self.pooled)) < len(train)
        generator = evidence.generator(NAME, settings)
        self.halves = random_halves(evidence.population.strata, shadows.count, generator)
        self.seeds = generator.integers(2**31, size=shadows.count).tolist()
        self.inside = self.halves[:, self.pooled.cluster]
        outside = np.flatnonzero(~self.inside[0])
        few = generator.permutation(outside)[: min(OVERFIT_PATIENTS, len(outside) // 2)]
        self.fitted = np.isin(np.arange(len(self.pooled)), few)
        found = evidence.kept(f"{shadows.count} shadow models, seed {settings.seed}", self._train_and_score)
        self.fits, self.target, self.copy = found["fits"], found["target"], found.get("copy")

    def attacks(self) -> Attacks:
        """The model, attacked with all shadows."""
        return _sides(self.target, self.fits, self.inside, members=self.is_member, nonmembers=~self.is_member)

    def overfitted(self) -> ControlTrial | None:
        """A copy of shadow 0, over-fitted on a few patients, attacked with the shadows but 0 and 1."""
        if self.copy is None:
            return None
        others = ~self.inside[0] & ~self.fitted
        attacks = _sides(self.copy, self.fits[2:], self.inside[2:], members=self.fitted, nonmembers=others)
        return ControlTrial(attacks, f"a copy of a shadow over-fitted on {self.fitted.sum()} patients")

    def never_seen(self) -> ControlTrial:
        """Shadow 0, attacked in the same way for train against holdout, among patients that it never saw."""
        there = ~self.inside[0]
        attacks = _sides(
            self.fits[0],
            self.fits[2:],
            self.inside[2:],
            members=there & self.is_member,
            nonmembers=there & ~self.is_member,
        )
        what = f"train against holdout among {there.sum()} patients that the attacked shadow never saw"
        return ControlTrial(attacks, what)

    def _train_and_score(self) -> dict[str, Scores]:
        """Train the shadows one after the other and keep the scores of each."""
        evidence, model = self.context.evidence, self.context.model
        population = evidence.population
        found, fits = {"target": self._fit(model, self.pooled)}, []
        with evidence.progress.stage("shadow models", self.shadows.count) as advance:
            for number, (half, seed) in enumerate(zip(self.halves, self.seeds, strict=True)):
                shadow = self.shadows.train(population.rows[half[population.cluster]], seed=seed)
                fits.append(self._fit(shadow, self.pooled))
                if (
                    number == 0
                    and evidence.fine_tune is not None
                    and self.fitted.sum() >= MIN_OVERFIT_PATIENTS
                ):
                    some = self.pooled.select(self.fitted)
                    copy = evidence.fine_tune(
                        shadow, some.images, some.labels, steps=OVERFIT_STEPS, seed=self.context.seed
                    )
                    found["copy"] = self._fit(copy, self.pooled)
                advance()
        return found | {"fits": np.stack(fits)}

    def _fit(self, model: DiffusionModel, patients: SampledPatients) -> Scores:
        attacks = {"loss-grid": loss_grid}
        return patient_scores(self.context.evidence, model, patients, self.context.grid, attacks)["loss-grid"]


def _sides(target: Scores, fits: Scores, inside: Flags, *, members: Flags, nonmembers: Flags) -> Attacks:
    """Both attacks, with scores relative to all patients given."""
    scores = {"lira": lira(target, fits, inside), "rmia": rmia(target, fits)}
    return {name: AttackScores(each[members], each[nonmembers]) for name, each in scores.items()}
