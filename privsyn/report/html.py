"""Writes the internal and the public report, each one HTML file that loads nothing from elsewhere.

The internal report shows everything, images of patients included. The public report is rendered from a
`PublicView`, which holds nothing measured on real data, so no template can reveal it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

import privsyn
from privsyn.auditing.findings import Finding
from privsyn.auditing.verdict import RuleResult
from privsyn.claim import words as claim_words
from privsyn.claim.document import Claim
from privsyn.errors import StudyError
from privsyn.files import write_text
from privsyn.progress import SILENT, Progress
from privsyn.report import charts, words
from privsyn.report.details import FeaturePlane, NearestImages, RocCurve, read
from privsyn.report.material import Material, gather
from privsyn.report.pictures import ClassComparison, InlineImage, contact_sheet, whole
from privsyn.report.public import PublicView as PublicView
from privsyn.report.public import public_view as public_view
from privsyn.report.quality import judged_key, tables, verdict_rows
from privsyn.study import Study, as_study

UNSEEN = ("holdout", "test")  # parts that no model was trained on
NO_CLASS = -1
PANELS = 4  # classes that a map shows apart


@dataclass(frozen=True)
class FeatureMap:
    """Real and synthetic images as points of a plane: one captioned chart, or one for each class."""

    finding: Finding
    charts: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class NearestPair:
    """A synthetic image with its nearest training image and, as the control, its nearest held-out image."""

    synthetic: InlineImage
    train: InlineImage
    holdout: InlineImage
    neighbours: NearestImages


def report(
    study: Study | Path | str, *, audit: Path | None = None, progress: Progress = SILENT
) -> tuple[Path, Path]:
    """Write `internal-report.html` and `public-report.html` beside the findings and return their paths.

    Earlier reports are replaced. Equal inputs give equal bytes.

    Args:
        audit: the folder of another audit of the study's set; None for the study's own.

    Raises:
        StudyError: something is missing, or the audit judged another synthetic set, cohort or model.
    """
    study = replace(as_study(study), audited=audit)
    with study.exclusively("report"):
        with progress.stage("report", 3) as advance:
            material = gather(study)
            advance()
            internal = internal_page(material)
            advance()
            public = public_page(public_view(material))
            write_text(study.internal_report, internal)
            write_text(study.public_report, public)
            advance()
        return study.internal_report, study.public_report


def internal_page(material: Material) -> str:
    """The HTML of the internal report, which shows real images."""
    rules, classes = material.verdict.rules, material.synthetic.classes
    quality = [finding for finding in material.findings if finding.threat == "quality"]
    attacks = [finding for finding in material.findings if finding.threat != "quality"]
    return _render(
        "internal.html",
        material=material,
        rows=verdict_rows(rules, quality),
        sheet=_contact_sheet(material),
        maps=[each for i, finding in enumerate(quality) if (each := _map(finding, f"map{i}", classes))],
        tables=tables(quality, rules, classes),
        attacks=attacks,
        pairs=[(finding, pairs) for finding in attacks if (pairs := _pairs(finding, material))],
        curves=[
            (finding, chart)
            for i, finding in enumerate(attacks)
            if (chart := _roc(finding, f"roc{i}", material.claim))
        ],
        strips={finding.key: _strip(finding, f"strip{i}", rules) for i, finding in enumerate(attacks)},
        training=_training_chart(material.training),
    )


def public_page(view: PublicView) -> str:
    """The HTML of the public report."""
    return _render("public.html", view=view)


def _training_chart(points: Sequence[tuple[float, float]]) -> Markup | None:
    if len(points) < 2:
        return None
    return Markup(
        charts.training_curve([step for step, _ in points], [loss for _, loss in points], name="training")
    )


def _contact_sheet(material: Material) -> list[ClassComparison]:
    """Synthetic images beside real ones of holdout and test."""
    synthetic, cohort = material.synthetic, material.cohort
    unseen = cohort.records["split"].isin(UNSEEN).to_numpy()
    labels = np.where(unseen, cohort.records["label"].to_numpy(dtype=np.int64), NO_CLASS)
    return contact_sheet((cohort.images, labels), (synthetic.images, synthetic.labels), synthetic.classes)


def _map(finding: Finding, name: str, classes: Sequence[str]) -> FeatureMap | None:
    plane = read(finding, "map", FeaturePlane)
    if plane is None:
        return None
    if max(*plane.real_labels, *plane.synthetic_labels) >= len(classes):
        raise StudyError(f"the map of {finding.audit} names a class that is not there: audit again")
    within = (*plane.real, *plane.synthetic)
    if not 1 < len(classes) <= PANELS:
        chart = charts.feature_map(plane.real, plane.synthetic, name=name, within=within)
        return FeatureMap(finding, (("", Markup(chart)),))
    panels = []
    for label, title in enumerate(classes):
        real, synthetic = (
            [point for point, its in zip(points, labels, strict=True) if its == label]
            for points, labels in (
                (plane.real, plane.real_labels),
                (plane.synthetic, plane.synthetic_labels),
            )
        )
        chart = charts.feature_map(real, synthetic, name=f"{name}panel{label}", within=within)
        panels.append((title, Markup(chart)))
    return FeatureMap(finding, tuple(panels))


def _pairs(finding: Finding, material: Material) -> list[NearestPair]:
    found = read(finding, "pairs", list[NearestImages]) or []
    real, fake = material.cohort.images, material.synthetic.images
    try:
        return [
            NearestPair(
                whole(fake[each.synthetic]),
                whole(real[each.train]),
                whole(real[each.holdout]),
                each,
            )
            for each in found
        ]
    except IndexError:
        raise StudyError(
            f"a pair that {finding.audit} found names an image that is not there: audit again"
        ) from None


def _roc(finding: Finding, name: str, claim: Claim | None) -> Markup | None:
    curve = read(finding, "roc", RocCurve)
    if curve is None:
        return None
    promised = claim.bound if claim is not None and claim.is_valid else None
    bound = None if promised is None else (promised.epsilon, promised.delta)
    return Markup(charts.roc_log_log(curve.fpr, curve.tpr, name=name, bound=bound))


def _strip(finding: Finding, name: str, rules: Sequence[RuleResult]) -> Markup | None:
    if finding.value is None and finding.interval is None:
        return None
    requirements = [(rule.op, rule.threshold) for rule in rules if judged_key(rule) == finding.key]
    return Markup(
        charts.interval_strip(
            finding.value, finding.interval, name=name, baseline=finding.baseline, requirements=requirements
        )
    )


def _render(template: str, **context: object) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("privsyn", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, claim_words=claim_words, version=privsyn.__version__)
    return environment.get_template(template).render(**context)
