"""Does the model fit its training patients better than patients it never saw?

Threat: model access. Six attacks from the literature, on one grid of noise levels and noises
(`privsyn.auditing.attacks.denoising`), with one score per patient. What is judged is the margin of the score
above the threshold for never-trained patients of the same appearance
(`privsyn.auditing.attacks.calibration`). On the one over-trained model where both were measured, the margin
beat the score in five of six attacks (docs/measurements/privacy-audits.md); judging both would double the
number of attacks for little. The strongest of the six is reported, corrected for all.
"""

from __future__ import annotations

from functools import cache

from privsyn.auditing.attacks.calibration import PatientAppearance, margins
from privsyn.auditing.attacks.denoising import ATTACKS
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
    Scores,
    patient_scores,
)
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Finding, Settings

AUDIT = AuditId("membership-model", "2", "model")
OVERFIT_NONMEMBERS = 1_000  # a TPR at 1 % FPR needs as many


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR of the strongest attack, train against holdout."""
    if evidence.model is None:
        return not_applicable(AUDIT, "the set comes without its model")
    context = ModelAttackContext(evidence, evidence.model, settings)
    planted = cache(lambda: overfitted(context))
    test = len(context.patients["test"])
    finding_context = FindingContext(
        audit=AUDIT,
        n=context.sizes(),
        positive=lambda *_: planted(),
        negative=ControlTrial(
            _against_holdout(context, "test"), f"{test} test patients in place of the members"
        ),
        blind=NullHypothesis(evidence).control(settings.control_level),
    )
    return findings(_against_holdout(context, "train"), finding_context, settings)


def family(
    members: dict[str, Scores], nonmembers: dict[str, Scores], appearance: PatientAppearance
) -> Attacks:
    """Every attack, by the margin of each patient over its threshold."""
    return {name: margins(AttackScores(members[name], nonmembers[name]), appearance) for name in ATTACKS}


def overfitted(context: ModelAttackContext) -> ControlTrial | None:
    """A copy of the model, over-fitted on a few test patients: they are its members, holdout are not."""
    evidence, test, holdout = context.evidence, context.patients["test"], context.patients["holdout"]
    some = test.first(min(OVERFIT_PATIENTS, len(test) // 2))
    others = holdout.first(OVERFIT_NONMEMBERS)
    if evidence.fine_tune is None or len(some) < MIN_OVERFIT_PATIENTS:
        return None

    def scores() -> dict[str, Scores]:
        assert evidence.fine_tune is not None
        model = evidence.fine_tune(
            context.model, some.images, some.labels, steps=OVERFIT_STEPS, seed=context.seed
        )
        return patient_scores(evidence, model, some.concatenated_with(others), context.grid, ATTACKS)

    found = evidence.kept(f"denoising attacks, seed {context.seed}, over-fitted copy", scores)
    k = len(some)
    attacks = family(
        {name: each[:k] for name, each in found.items()},
        {name: each[k:] for name, each in found.items()},
        PatientAppearance(context.appearance["test"][:k], context.appearance["holdout"][: len(others)]),
    )
    return ControlTrial(attacks, f"a copy of the model over-fitted on {k} test patients")


def _against_holdout(context: ModelAttackContext, part: str) -> Attacks:
    appearance = PatientAppearance(context.appearance[part], context.appearance["holdout"])
    return family(context.scores(part), context.scores("holdout"), appearance)
