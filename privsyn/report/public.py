"""The part of an audit that may leave: nothing in it was measured on real data.

Every value is chosen field by field, so a field that a later version adds stays inside until somebody adds it
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from privsyn.auditing.verdict import RuleOutcome, RuleResult, Severity, Side, VerdictOutcome
from privsyn.bit_depth import bit_depth_of, in_8_bits
from privsyn.claim.document import Claim, ModelProvenance
from privsyn.cohort.index import pixel_digest
from privsyn.report.material import Material
from privsyn.report.pictures import ClassRow, sheet
from privsyn.strict_json import JsonObject

WITHHELD = ModelProvenance(
    recipe_sha256="", cohort_fingerprint=None, cohort_sha256=None, weights_sha256="", steps_done=0
)


@dataclass(frozen=True)
class PublicRule:
    """A rule and its outcome, without what was measured; the fields are those of `RuleResult`."""

    id: str
    severity: Severity
    outcome: RuleOutcome
    audit: str
    statistic: str
    scope: Mapping[str, str]
    side: Side
    op: str
    threshold: float
    rationale: str


@dataclass(frozen=True)
class PublicPolicy:
    """What the page says of the policy."""

    title: str
    purpose: str


@dataclass(frozen=True)
class PublicInputs:
    """sha256 (hex) of what the verdict rests on.

    Without the findings, because a few numbers can be guessed from their digest.
    """

    policy: str
    recipe: str | None
    synthetic: str


@dataclass(frozen=True)
class PublicPlugin:
    """An audit that was run."""

    name: str
    version: str


@dataclass(frozen=True)
class PublicView:
    """Everything that the public page can show; nothing in it was measured on real data.

    Attributes:
        attempt: number of this audit among all of the cohort, 1 for the first.
        provenance: of the set, by name.
        claim: without its provenance, its ledger entry and what other trainings cost.
        images: in the set.
        sheet: sample images of each class; empty if one of them may show a patient.
    """

    name: str
    outcome: VerdictOutcome
    partial: bool
    attempt: int
    policy: PublicPolicy
    rules: tuple[PublicRule, ...]
    inputs: PublicInputs
    provenance: JsonObject
    plugins: tuple[PublicPlugin, ...]
    privsyn_version: str
    claim: Claim | None
    images: int
    classes: tuple[str, ...]
    sheet: tuple[ClassRow, ...]


def public_view(material: Material) -> PublicView:
    """Choose what of the material may leave."""
    verdict, synthetic = material.verdict, material.synthetic
    return PublicView(
        name=material.name,
        outcome=verdict.outcome,
        partial=verdict.partial,
        attempt=verdict.attempt,
        policy=PublicPolicy(verdict.policy.title, verdict.policy.purpose),
        rules=tuple(map(_public_rule, verdict.rules)),
        inputs=PublicInputs(verdict.inputs.policy, verdict.inputs.recipe, verdict.inputs.synthetic),
        provenance={} if synthetic.provenance is None else synthetic.provenance.public_dict(),
        plugins=tuple(PublicPlugin(plugin.name, plugin.version) for plugin in verdict.plugins),
        privsyn_version=verdict.privsyn_version,
        claim=None if material.claim is None else _public_claim(material.claim),
        images=len(synthetic.labels),
        classes=tuple(synthetic.classes),
        sheet=_public_sheet(material),
    )


def _public_rule(rule: RuleResult) -> PublicRule:
    return PublicRule(
        id=rule.id,
        severity=rule.severity,
        outcome=rule.outcome,
        audit=rule.audit,
        statistic=rule.statistic,
        scope=rule.scope,
        side=rule.side,
        op=rule.op,
        threshold=rule.threshold,
        rationale=rule.rationale,
    )


def _public_claim(claim: Claim) -> Claim:
    return Claim(
        unit=claim.unit,
        statement=claim.statement,
        public=claim.public,
        provenance=WITHHELD,
        bound=claim.bound,
        public_data=claim.public_data,
        imported=claim.imported,
    )


def _public_sheet(material: Material) -> tuple[ClassRow, ...]:
    """The sample sheet, unless it may show patients: the set failed, or an image looks like a real one."""
    synthetic, cohort = material.synthetic, material.cohort
    real = set(cohort.records["sha256"])
    if bit_depth_of(cohort.images) > 8:  # the records hold digests of all 16 bits
        real = {pixel_digest(in_8_bits(image)) for image in cohort.images}
    copied = any(pixel_digest(in_8_bits(image)) in real for image in synthetic.images)
    if copied or material.verdict.outcome == "fail":
        return ()
    return tuple(sheet(synthetic.images, synthetic.labels, synthetic.classes))
