"""The two reports of an audit, each one file that opens anywhere and fetches nothing.

The internal report shows all there is, images of patients included. The public one is made from a view
that holds nothing measured on real data (`PublicView`), so that no template can let it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

import privsyn
from privsyn.auditing.findings import Finding
from privsyn.bit_depth import bit_depth_of, in_8_bits
from privsyn.cohort.index import pixel_digest
from privsyn.errors import StudyError
from privsyn.files import write_text
from privsyn.progress import SILENT, Progress
from privsyn.report import charts, words
from privsyn.report.details import Curve, Neighbours, Plane, read
from privsyn.report.material import Material, gather
from privsyn.report.pictures import Contact, Picture, Row, contact_sheet, sheet, whole
from privsyn.report.quality import tables, verdict_rows
from privsyn.study import Study, as_study

PUBLIC_RULE_KEYS = (
    "id", "severity", "outcome", "audit", "statistic", "scope", "side", "op", "threshold", "rationale"
)  # fmt: skip
PUBLIC_CLAIM_KEYS = (
    "kind", "imported", "unit", "neighbouring", "epsilon", "delta", "epsilon_rdp", "mechanism", "accountant",
    "public", "not_covered", "valid_for_release", "group",
)  # fmt: skip
PUBLIC_MECHANISM_KEYS = (
    "name", "noise_multiplier", "sample_rate", "steps", "clip_norm", "sampling", "noise_multiplicity",
    "max_images_per_unit", "expected_units", "composed",
)  # fmt: skip
PUBLIC_PROVENANCE_KEYS = (
    "generator", "version", "sampler", "steps", "eta", "churn", "guidance_scale", "guidance_rescale",
    "threshold", "seed", "model_sha256", "near_copies_rejected",
)  # fmt: skip
PUBLIC_INPUT_KEYS = (
    "policy",
    "recipe",
    "synthetic",
)  # not the findings: few numbers can be guessed from a digest
UNSEEN = ("holdout", "test")  # parts that no model was trained on
NO_CLASS = -1
PANELS = 4  # classes that a map shows apart


@dataclass(frozen=True)
class PublicView:
    """Everything that the public page can show; nothing in it was measured on real data."""

    name: str
    verdict: str
    partial: bool
    attempt: int
    policy: dict[str, Any]
    rules: tuple[dict[str, Any], ...]
    inputs: dict[str, str | None]
    provenance: dict[str, Any]
    plugins: tuple[dict[str, Any], ...]
    privsyn_version: str
    claim: dict[str, Any] | None
    images: int
    classes: tuple[str, ...]
    sheet: tuple[Row, ...]


@dataclass(frozen=True)
class Map:
    """The images of either kind on a plane: one chart, or one of each class, with what stands under it."""

    finding: Finding
    charts: tuple[tuple[str, Markup], ...]


@dataclass(frozen=True)
class Pair:
    """A synthetic image beside its nearest training image and, as the control, its nearest held-out one."""

    synthetic: Picture
    train: Picture
    holdout: Picture
    neighbours: Neighbours


def report(
    study: Study | Path | str, *, audit: Path | None = None, progress: Progress = SILENT
) -> tuple[Path, Path]:
    """Write `internal-report.html` and `public-report.html` beside the findings and return their paths.

    Reports are derived, so earlier ones are replaced. Equal inputs give equal bytes.

    Args:
        audit: the folder of another audit of the study's set than its own.

    Raises:
        StudyError: something is missing, or the audit judged another synthetic set, cohort or model.
    """
    study = replace(as_study(study), audited=audit)
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
    """The page for reviewers, with real images on it."""
    rules, classes = material.verdict["rules"], material.synthetic.classes
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


def public_view(material: Material) -> PublicView:
    """The part of the material that may leave: chosen key by key, so that a new key stays inside."""
    verdict, synthetic, claim = material.verdict, material.synthetic, material.claim
    return PublicView(
        name=material.name,
        verdict=verdict["verdict"],
        partial=verdict["partial"],
        attempt=verdict["attempt"],
        policy=_only(("title", "purpose"), verdict["policy"]),
        rules=tuple(_only(PUBLIC_RULE_KEYS, rule) for rule in verdict["rules"]),
        inputs=_only(PUBLIC_INPUT_KEYS, verdict["inputs"]),
        provenance=_only(PUBLIC_PROVENANCE_KEYS, synthetic.provenance or {}),
        plugins=tuple(_only(("name", "version"), plugin) for plugin in verdict["plugins"]),
        privsyn_version=verdict["privsyn_version"],
        claim=None if claim is None else public_claim(claim),
        images=len(synthetic.labels),
        classes=tuple(synthetic.classes),
        sheet=_public_sheet(material),
    )


def public_claim(claim: Mapping[str, Any]) -> dict[str, Any]:
    """What of `model/privacy.json` may leave: not its provenance, nor the ledger's view of other studies."""
    nested = {"mechanism": PUBLIC_MECHANISM_KEYS, "accountant": ("name", "library", "version")}
    inner = {part: _only(keys, claim[part]) for part, keys in nested.items() if part in claim}
    return _only(PUBLIC_CLAIM_KEYS, claim) | inner


def _only(keys: Sequence[str], document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: document[key] for key in keys if key in document}


def _public_sheet(material: Material) -> tuple[Row, ...]:
    """The sample sheet, unless it may show patients: the set failed, or an image looks like a real one."""
    synthetic, cohort = material.synthetic, material.cohort
    real = set(cohort.records["sha256"])
    if bit_depth_of(cohort.images) > 8:  # the records know them in all their bits
        real = {pixel_digest(in_8_bits(image)) for image in cohort.images}
    copied = any(pixel_digest(in_8_bits(image)) in real for image in synthetic.images)
    if copied or material.verdict["verdict"] == "fail":
        return ()
    return tuple(sheet(synthetic.images, synthetic.labels, synthetic.classes))


def public_page(view: PublicView) -> str:
    """The page for everybody."""
    return _render("public.html", view=view)


def _training_chart(points: Sequence[tuple[float, float]]) -> Markup | None:
    if len(points) < 2:
        return None
    return Markup(
        charts.training_curve([step for step, _ in points], [loss for _, loss in points], name="training")
    )


def _contact_sheet(material: Material) -> list[Contact]:
    """Synthetic images beside real ones that no model was trained on."""
    synthetic, cohort = material.synthetic, material.cohort
    unseen = cohort.records["split"].isin(UNSEEN).to_numpy()
    labels = np.where(unseen, cohort.records["label"].to_numpy(dtype=np.int64), NO_CLASS)
    return contact_sheet((cohort.images, labels), (synthetic.images, synthetic.labels), synthetic.classes)


def _map(finding: Finding, name: str, classes: Sequence[str]) -> Map | None:
    plane = read(finding, "map", Plane)
    if plane is None:
        return None
    if max(*plane.real_labels, *plane.synthetic_labels) >= len(classes):
        raise StudyError(f"the map of {finding.audit} names a class that is not there: audit again")
    within = (*plane.real, *plane.synthetic)
    if not 1 < len(classes) <= PANELS:
        chart = charts.feature_map(plane.real, plane.synthetic, name=name, within=within)
        return Map(finding, (("", Markup(chart)),))
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
    return Map(finding, tuple(panels))


def _pairs(finding: Finding, material: Material) -> list[Pair]:
    found = read(finding, "pairs", list[Neighbours]) or []
    real, fake = material.cohort.images, material.synthetic.images
    try:
        return [
            Pair(
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


def _roc(finding: Finding, name: str, claim: Mapping[str, Any] | None) -> Markup | None:
    curve = read(finding, "roc", Curve)
    if curve is None:
        return None
    valid = claim is not None and claim["kind"] == "dp" and words.is_valid(claim)
    bound = (claim["epsilon"], claim["delta"]) if claim is not None and valid else None
    return Markup(charts.roc_log_log(curve.fpr, curve.tpr, name=name, bound=bound))


def _strip(finding: Finding, name: str, rules: Sequence[Mapping[str, Any]]) -> Markup | None:
    if finding.value is None and finding.interval is None:
        return None
    judged = (finding.audit, finding.statistic, finding.scope)
    requirements = [
        (rule["op"], rule["threshold"])
        for rule in rules
        if (rule["audit"], rule["statistic"], rule["scope"]) == judged
    ]
    return Markup(
        charts.interval_strip(
            finding.value, finding.interval, name=name, baseline=finding.baseline, requirements=requirements
        )
    )


def _render(template: str, **context: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("privsyn", "report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(words=words, version=privsyn.__version__)
    return environment.get_template(template).render(**context)
