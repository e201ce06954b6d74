"""Everything that the reports are made of, read from the study and checked to belong together."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from privsyn.auditing.findings import Finding
from privsyn.auditing.verdict import Verdict
from privsyn.bit_depth import bit_depth_of
from privsyn.claim.document import Claim
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.errors import StudyError
from privsyn.files import file_digest, read_json
from privsyn.report.documents import load_claim, load_verdict
from privsyn.strict_json import JsonObject
from privsyn.study import Study
from privsyn.synthetic.dataset import SyntheticSet, read_synthetic

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Material:
    """Everything that the reports are made of; INTERNAL.

    Attributes:
        name: of the study.
        claim: of the model that drew the set, as it holds for the set; None if no model of the study drew it.
        training: (step, loss) of the training log.
    """

    name: str
    verdict: Verdict
    findings: tuple[Finding, ...]
    claim: Claim | None
    synthetic: SyntheticSet
    cohort: Cohort
    training: tuple[tuple[float, float], ...]

    @property
    def provenance(self) -> JsonObject:
        """How the set was drawn, by name."""
        return {} if self.synthetic.provenance is None else self.synthetic.provenance.to_dict()


def gather(study: Study) -> Material:
    """Read a study's audit, set, cohort and claim.

    Raises:
        StudyError: something is missing, or the audit judged another synthetic set, cohort or model.
    """
    study.need(study.synthetic, "sample")
    study.need(study.cohort, "prepare")
    study.need(study.findings_file, "audit")
    verdict = load_verdict(study.need(study.verdict_file, "audit"))
    cohort = load_cohort(study.cohort)
    synthetic = read_synthetic(
        study.synthetic,
        size=cohort.size,
        channels=cohort.channels,
        bit_depth=bit_depth_of(cohort.images),
        classes=cohort.classes,
    )
    _check_current(study, verdict, synthetic, cohort)
    return Material(
        name=study.name,
        verdict=verdict,
        findings=_findings(study.findings_file),
        claim=_claim(study, synthetic),
        synthetic=synthetic,
        cohort=cohort,
        training=_training(study.training_log),
    )


def _check_current(study: Study, verdict: Verdict, synthetic: SyntheticSet, cohort: Cohort) -> None:
    judged = {
        "synthetic set": (verdict.inputs.synthetic, synthetic.digest),
        "cohort": (verdict.cohort_fingerprint, cohort.fingerprint),
        "findings": (verdict.inputs.findings, file_digest(study.findings_file)),
    }
    for what, (then, now) in judged.items():
        if then != now:
            raise StudyError(
                f"{study.verdict_file} judged another {what} than the study has: run `privsyn audit --force`"
            )


def _claim(study: Study, synthetic: SyntheticSet) -> Claim | None:
    """The claim of the model that drew the set; it says nothing about sets from elsewhere."""
    drawn = synthetic.provenance
    if drawn is None or not study.privacy_file.exists():
        return None
    claim = load_claim(study.privacy_file)
    if claim.provenance.weights_sha256 != drawn.model_sha256:
        raise StudyError(
            f"{study.synthetic} was drawn from an earlier model: run `privsyn sample --force` and audit again"
        )
    return claim.of_set(
        near_copies_rejected=drawn.near_copies_rejected, exact_class_counts=drawn.exact_class_counts
    )


def _findings(path: Path) -> tuple[Finding, ...]:
    document = read_json(path)
    if not isinstance(document, dict) or document.get("schema_version") != SCHEMA_VERSION:
        raise StudyError(f"{path} is not a document of schema version {SCHEMA_VERSION}: make it again")
    try:
        return TypeAdapter(tuple[Finding, ...]).validate_python(document.get("findings"))
    except ValidationError as error:
        raise StudyError(f"{path} does not hold findings ({error.errors()[0]['msg']}): audit again") from None


def _training(path: Path) -> tuple[tuple[float, float], ...]:
    """(step, loss) of every line of the training log that has both; an incomplete line is skipped."""
    if not path.exists():
        return ()
    points = map(_point, path.read_text(encoding="utf-8").splitlines())
    return tuple(point for point in points if point is not None)


def _point(line: str) -> tuple[float, float] | None:
    try:
        entry = json.loads(line)
        point = float(entry["step"]), float(entry["loss"])
    except (ValueError, TypeError, KeyError):
        return None
    return point if all(map(math.isfinite, point)) else None
