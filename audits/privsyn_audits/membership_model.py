"""Does the model fit its training patients better than patients it never saw?

Threat: model access. Six attacks from the literature, on one grid of noise levels and noises
(`privsyn.auditing.attacks.denoising`); one score per patient. What is judged is the margin of the score above
what never-trained patients of the same looks have (`privsyn.auditing.attacks.calibration`): on the one
over-trained toy where both were measured it beat the score itself in five attacks of six (docs/measurements/privacy-audits.md), and judging both
would double the family for little. The strongest of the six is reported, corrected for all.
"""

from __future__ import annotations

from functools import cache

from privsyn.auditing.attacks.calibration import Looks, margins
from privsyn.auditing.attacks.denoising import ATTACKS
from privsyn.auditing.attacks.membership import Attacks, Question, Sides, Trial, findings, not_applicable
from privsyn.auditing.attacks.sampled_patients import (
    FEWEST_OVERFIT,
    OVERFIT_PATIENTS,
    OVERFIT_STEPS,
    Inquiry,
    Scores,
    person_scores,
)
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings

NAME, VERSION = "membership-model", "2"
OVERFIT_OTHERS = 1_000  # whom a TPR at 1 % FPR needs


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """AUC and TPR of the strongest attack, train against holdout."""
    if evidence.model is None:
        return not_applicable(NAME, VERSION, "model", "the set comes without its model")
    inquiry = Inquiry(evidence, evidence.model, settings)
    planted = cache(lambda: overfitted(inquiry))
    test = len(inquiry.people["test"])
    question = Question(
        audit=NAME,
        version=VERSION,
        threat="model",
        n=inquiry.sizes(),
        positive=lambda *_: planted(),
        negative=Trial(_against_holdout(inquiry, "test"), f"{test} test patients in place of the members"),
        blind=evidence.alike(settings.control_level),
    )
    return findings(_against_holdout(inquiry, "train"), question, settings)


def family(members: dict[str, Scores], nonmembers: dict[str, Scores], looks: Looks) -> Attacks:
    """Every attack, by the margin over the threshold of each person."""
    return {name: margins(Sides(members[name], nonmembers[name]), looks) for name in ATTACKS}


def overfitted(inquiry: Inquiry) -> Trial | None:
    """A copy of the model, over-fitted on a few test patients: they are its members, holdout is not."""
    evidence, test, holdout = inquiry.evidence, inquiry.people["test"], inquiry.people["holdout"]
    some = test.first(min(OVERFIT_PATIENTS, len(test) // 2))
    others = holdout.first(OVERFIT_OTHERS)
    if evidence.fine_tune is None or len(some) < FEWEST_OVERFIT:
        return None

    def scores() -> dict[str, Scores]:
        assert evidence.fine_tune is not None
        model = evidence.fine_tune(
            inquiry.model, some.images, some.labels, steps=OVERFIT_STEPS, seed=inquiry.seed
        )
        return person_scores(evidence, model, some.beside(others), inquiry.grid, ATTACKS)

    found = evidence.kept(f"denoising attacks, seed {inquiry.seed}, over-fitted copy", scores)
    k = len(some)
    attacks = family(
        {name: each[:k] for name, each in found.items()},
        {name: each[k:] for name, each in found.items()},
        Looks(inquiry.looks["test"][:k], inquiry.looks["holdout"][: len(others)]),
    )
    return Trial(attacks, f"a copy of the model over-fitted on {k} test patients")


def _against_holdout(inquiry: Inquiry, part: str) -> Attacks:
    looks = Looks(inquiry.looks[part], inquiry.looks["holdout"])
    return family(inquiry.scores(part), inquiry.scores("holdout"), looks)
