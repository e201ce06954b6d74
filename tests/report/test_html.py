"""Both pages: whole, self-contained, honest about what they show, and the public one without real data."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited_study import CLASSES, HOSTILE, alter, alter_findings
from pages import Outline, pages, shown_images

from privsyn.claim.document import CanaryCommitment, CumulativeCost, LedgerEntry
from privsyn.claim.reader import read_claim
from privsyn.cohort.cohort import load_cohort
from privsyn.errors import StudyError
from privsyn.files import file_digest, read_json, write_json
from privsyn.report.documents import load_claim
from privsyn.report.html import report
from privsyn.report.material import gather
from privsyn.report.public import WITHHELD, public_view
from privsyn.report.words import NOTHING
from privsyn.study import Study
from privsyn.synthetic.dataset import read_synthetic, write_synthetic
from privsyn.training.claiming import INSECURE


def test_report_writes_both_pages_into_the_audit_folder(study: Study) -> None:
    """`report` returns the two files of the study's audit folder, and may be run again."""
    assert report(study) == (study.internal_report, study.public_report)
    assert report(study.root) == (study.internal_report, study.public_report)


def test_equal_input_gives_equal_bytes(study: Study) -> None:
    """Neither page holds a date, a random id or anything else that changes by itself."""
    assert pages(study) == pages(study)


def test_each_page_is_one_file_that_fetches_nothing(study: Study) -> None:
    """All tags close, there is no script, and no address but `data:` images and places in the page."""
    for page in pages(study):
        outline = Outline(page)
        names = {tag for tag, _ in outline.tags}
        assert not names & {"script", "link", "iframe", "object", "embed", "form", "base"}
        policies = [a["content"] for t, a in outline.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
        for _, attributes in outline.tags:
            assert not [name for name in attributes if name.startswith("on")]
            assert (attributes.get("src") or "data:").startswith("data:")
            assert (attributes.get("href") or "#").startswith("#")
        assert "://" not in page
        assert "@import" not in page
        assert re.findall(r"url\((?!#)", page) == []


def test_ids_are_unique_in_a_page(study: Study) -> None:
    """Charts that stand in one page do not use each other's markers."""
    for page in pages(study):
        ids = [attributes["id"] for _, attributes in Outline(page).tags if "id" in attributes]
        assert len(ids) == len(set(ids))


def test_user_strings_are_text_and_never_markup(study: Study) -> None:
    """Class names, scopes, rationales and names with markup or formulas are shown as they are written."""
    alter(study.verdict_file, lambda verdict: verdict.update(verdict="pass"))
    for page in pages(study):
        assert HOSTILE not in page
        text = Outline(page).text
        assert "digits <b>&" in text
        assert f"Nobody may tell who was trained on. {HOSTILE}" in text
        assert all(name in text for name in CLASSES)
        assert "49" not in [word for word in text.split() if word.isdigit()]


def test_internal_page_warns_before_anything_else(study: Study) -> None:
    """The ribbon is the first thing on the page, and the title says it, too."""
    internal, public = map(Outline, pages(study))
    body = internal.text.split("report:", 1)[1]
    assert body.index("INTERNAL: contains images of real patients, must not leave") < body.index("FAIL")
    assert internal.text.startswith("INTERNAL")
    assert "INTERNAL" not in public.text


def test_internal_page_shows_every_finding_with_its_evidence(study: Study) -> None:
    """Value, interval, confidence, n, baseline, power, both controls, and why it is not conclusive."""
    text = Outline(pages(study)[0]).text
    for evidence in (
        "0.5123",
        "[0.4712, 0.5614]",
        "Interval at 99 %",
        "Train patients 1,077",
        "Baseline 0.5",
        "12 perturbed training images planted (p = 3e-09)",
        "Negative control failed called a copier",
        "not conclusive",
        "the negative control was called a copier",
        "Not stated.",
        "not applicable",
        "no canaries were planted",
    ):
        assert evidence in text, evidence


def test_internal_page_shows_every_rule_as_it_was_judged(study: Study) -> None:
    """Outcome, severity, judged value, interval, requirement, rationale and reason stand in one row."""
    text = Outline(pages(study)[0]).text
    assert "membership-model / auc blocks 0.6121 [0.6121, 0.6643] lower bound at most 0.55 Nobody may" in text
    assert "0.6121 is above 0.55" in text
    assert f"canary / epsilon warns {NOTHING} {NOTHING} upper bound at most 10" in text


def test_internal_page_shows_the_pairs_that_the_audit_names(study: Study) -> None:
    """Each pair is the synthetic image, its nearest training image and the held-out control, untouched."""
    cohort = load_cohort(study.cohort)
    synthetic = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES)
    pair = read_json(study.findings_file)["findings"][0]["details"]["pairs"][0]
    shown = list(shown_images(pages(study)[0]))[:3]
    wanted = (
        synthetic.images[pair["synthetic"]],
        cohort.images[pair["train"]],
        cohort.images[pair["holdout"]],
    )
    for image, expected in zip(shown, wanted, strict=True):
        assert np.array_equal(image, expected[..., 0])


def test_public_page_holds_no_real_image(study: Study) -> None:
    """Every image of the public page is an image of the synthetic set, and none is one of a patient."""
    alter(study.verdict_file, lambda verdict: verdict.update(verdict="inconclusive"))
    synthetic = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES)
    generated = {image.tobytes() for image in synthetic.images}
    real = {image.tobytes() for image in load_cohort(study.cohort).images}
    shown = [image.tobytes() for image in shown_images(pages(study)[1])]
    assert len(shown) == 100
    assert set(shown) <= generated
    assert not set(shown) & real


def test_failed_set_is_not_shown_in_public(study: Study) -> None:
    """Images that failed an audit may be copies of patients, so the public page leaves them out."""
    internal, public = pages(study)
    assert list(shown_images(internal))
    assert not list(shown_images(public))
    assert "Left out." in Outline(public).text


def test_copied_patient_is_not_shown_in_public(study: Study) -> None:
    """One synthetic image that equals a real one empties the public sheet, whatever the policy asked."""
    alter(study.verdict_file, lambda verdict: verdict.update(verdict="pass"))
    material = gather(study)
    assert public_view(material).sheet
    images = material.synthetic.images.copy()
    images[-1] = material.cohort.images[5]
    copied = replace(material, synthetic=replace(material.synthetic, images=images))
    assert not public_view(copied).sheet


def test_what_looks_like_a_copied_patient_is_not_shown_in_public(study: Study) -> None:
    """In 16 bits, too, where a difference of a level or two is another image but not visible."""
    alter(study.verdict_file, lambda verdict: verdict.update(verdict="pass"))
    material = gather(study)
    of_patients, drawn = (
        each.images.astype(np.uint16) * 257 for each in (material.cohort, material.synthetic)
    )
    wide = replace(
        material,
        cohort=replace(material.cohort, images=of_patients),
        synthetic=replace(material.synthetic, images=drawn),
    )
    assert public_view(wide).sheet
    drawn[-1] = of_patients[5] ^ 1
    assert not public_view(wide).sheet


def test_public_page_holds_nothing_measured_on_patients(study: Study) -> None:
    """No value, interval, reason, count of patients, fingerprint, patient or path is in the public page."""
    public = pages(study)[1]
    text, cohort = Outline(public).text, load_cohort(study.cohort)
    for finding in read_json(study.findings_file)["findings"]:
        for measured in [finding["value"], *(finding["interval"] or ())] if "value" in finding else []:
            assert f"{measured:.4g}" not in text or measured == 0.5
    for count in (
        number for part in cohort.document.counts.values() for number in (part.images, part.patients)
    ):
        assert f"{count:,}" not in text
        assert str(count) not in text.split()
    assert "1,077" not in text
    assert "1,079" not in text
    assert "negative control" not in text
    assert cohort.fingerprint not in public
    assert not [digest for digest in cohort.records["sha256"] if digest in public]
    assert not [patient for patient in cohort.records["patient"] if patient in public]
    assert str(study.root.parent) not in public


def test_new_keys_stay_inside(study: Study) -> None:
    """What a later version adds to a document does not appear in public until it is permitted explicitly."""

    def add(part: Any) -> None:
        if isinstance(part, dict):
            for key, value in part.items():
                if key != "scope":  # its keys are an audit's own
                    add(value)
            part["added"] = "LATER-ADDITION"
        elif isinstance(part, list):
            for value in part:
                add(value)

    alter(study.privacy_file, add)
    alter(study.verdict_file, lambda verdict: (add(verdict), verdict["inputs"].pop("added")))
    assert "LATER-ADDITION" not in pages(study)[1]
    assert "LATER-ADDITION" not in repr(public_view(gather(study)))


def test_public_view_has_no_place_for_measurements(study: Study) -> None:
    """The templates of the public page are never handed a value, an interval, a reason or a fingerprint."""
    total = CumulativeCost("patient", "add-or-remove-one", 9.5, 10.0, 1e-5, 3, finite=True, note="")
    claim = replace(
        load_claim(study.privacy_file),
        ledger=LedgerEntry("a population", 1, "ab" * 32),
        cumulative=total,
        canaries=CanaryCommitment(100, "cd" * 32, "a statement"),
    )
    write_json(study.privacy_file, claim.to_document())
    material = gather(study)
    assert material.claim == claim
    view = public_view(material)
    assert view.claim is not None
    assert not {"value", "interval", "reason"} & {key for rule in view.rules for key in vars(rule)}
    assert view.claim.provenance == WITHHELD
    assert view.claim.ledger is view.claim.cumulative is view.claim.canaries is None
    assert "findings" not in vars(view.inputs)


def test_public_page_says_what_was_required_and_how_to_verify(study: Study) -> None:
    """Outcome, threshold and rationale of every rule, the claim, and the command for recipients."""
    text = Outline(pages(study)[1]).text
    assert "membership-model / auc blocks lower bound at most 0.55 Nobody may tell" in text
    assert "epsilon = 7.995, delta = 0.0005012" in text
    assert "what is true of patients in general" in text
    assert "privsyn verify RELEASE" in text
    assert "nearest-neighbour 0.1.7" in text


@pytest.mark.parametrize(
    ("verdict", "meaning"),
    [("pass", "Not falsified."), ("fail", "At least one blocking rule"), ("inconclusive", "No decision")],
)
def test_banner_says_what_the_verdict_means(study: Study, verdict: str, meaning: str) -> None:
    """Both pages lead with the verdict in one word and what it means in a sentence, which is never `safe`."""
    alter(study.verdict_file, lambda document: document.update(verdict=verdict))
    for page in pages(study):
        text = Outline(page).text
        assert f"{verdict.upper()} {meaning}" in text
        assert " safe" not in text.lower()


def test_partial_verdict_is_called_partial(study: Study) -> None:
    """A verdict over some of the audits says so in the banner of both pages."""
    alter(study.verdict_file, lambda document: document.update(verdict="pass", partial=True, rules=[]))
    for page in pages(study):
        assert "PASS (partial) PARTIAL: only some" in Outline(page).text


def test_model_without_dp_has_no_bound(study: Study) -> None:
    """A claim of kind none is spelt out and draws no bound in the ROC."""
    write_json(study.privacy_file, replace(load_claim(study.privacy_file), bound=None).to_document())
    internal, public = pages(study)
    assert "There is no bound." in Outline(internal).text
    assert "There is no bound." in Outline(public).text
    assert "most that the claim allows" not in internal


REPEATABLE, COPIES = "can repeat the noise", "near copies were rejected"


def _with_repeatable_noise(study: Study) -> None:
    alter(study.privacy_file, lambda claim: claim.update(valid_for_release=False, reason=INSECURE))


def _without_near_copies(study: Study) -> None:
    """Draw the same set again, by a sampling that compared it with the training images."""
    drawn = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES)
    assert drawn.provenance is not None
    write_synthetic(
        study.synthetic,
        drawn.images,
        drawn.labels,
        CLASSES,
        name=study.name,
        claim=read_claim(read_json(study.privacy_file)),
        provenance=replace(drawn.provenance, near_copies_rejected=True),
        force=True,
    )
    digest = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES).digest
    alter(study.verdict_file, lambda verdict: verdict["inputs"].update(synthetic=digest))


@pytest.mark.parametrize(
    ("invalidate", "reasons", "others"),
    [
        ([_with_repeatable_noise], [REPEATABLE], [COPIES]),
        ([_without_near_copies], [COPIES], [REPEATABLE, "insecure_seed"]),
        ([_with_repeatable_noise, _without_near_copies], [REPEATABLE, COPIES], []),
    ],
    ids=["insecure seed", "near copies rejected", "both"],
)
def test_an_invalid_claim_says_why_and_bounds_nothing(
    study: Study, invalidate: list[Callable[[Study], None]], reasons: list[str], others: list[str]
) -> None:
    """Both pages give the reasons that hold for this set and no other, and draw no bound in the ROC."""
    for change in invalidate:
        change(study)
    internal, public = pages(study)
    for page in (internal, public):
        text = Outline(page).text
        void = text.partition("NOT VALID: ")[2].partition(" What follows is void.")[0]
        assert void.endswith(".")
        assert not void.endswith("..")
        assert all(reason in void for reason in reasons)
        assert not any(reason in page for reason in others)
        assert "Privacy claim NOT VALID ε = 7.995 does not hold" in text
    assert "most that the claim allows" not in internal
    assert "dotted line" not in internal


def test_study_without_a_model_has_no_claim(study: Study) -> None:
    """A set that another generator made is reported with no claim and no training curve."""
    study.privacy_file.unlink()
    study.training_log.unlink()
    for page in pages(study):
        text = Outline(page).text
        assert "No claim." in text
        assert "Training loss" not in page


def test_a_models_claim_is_not_lent_to_another_set(study: Study) -> None:
    """A set that another model of the study drew is refused rather than shown with this model's claim."""
    alter(study.privacy_file, lambda document: document["provenance"].update(weights_sha256="ff" * 32))
    with pytest.raises(StudyError, match="drawn from an earlier model"):
        report(study)
    assert not study.internal_report.exists()


@pytest.mark.parametrize("what", ["synthetic", "findings"])
def test_stale_audit_is_refused(study: Study, what: str) -> None:
    """A verdict about another synthetic set or other findings is not reported; nothing is written."""
    alter(study.verdict_file, lambda verdict: verdict["inputs"].update({what: "00" * 32}))
    with pytest.raises(StudyError, match="run `privsyn audit --force`"):
        report(study)
    assert not study.public_report.exists()


def test_audit_of_another_cohort_is_refused(study: Study) -> None:
    """A verdict about another cohort would show pairs of the wrong patients."""
    alter(study.verdict_file, lambda verdict: verdict.update(cohort_fingerprint="00" * 32))
    with pytest.raises(StudyError, match="another cohort"):
        report(study)


def test_documents_of_another_version_are_refused(study: Study) -> None:
    """A claim, a verdict or findings that this version cannot read are bad input, not a traceback."""
    for path in (study.privacy_file, study.findings_file, study.verdict_file):
        alter(path, lambda document: document.update(schema_version=2))
        digest = file_digest(study.findings_file)
        alter(study.verdict_file, lambda verdict, digest=digest: verdict["inputs"].update(findings=digest))
        with pytest.raises(StudyError, match=rf"{path.name} is not a document of schema version 1: make it"):
            report(study)
        alter(path, lambda document: document.update(schema_version=1))
    assert not study.internal_report.exists()


def test_missing_audit_says_which_command_makes_it(study: Study) -> None:
    """Without findings there is nothing to report."""
    study.findings_file.unlink()
    with pytest.raises(StudyError, match="privsyn audit"):
        report(study)


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ({"pairs": [{"synthetic": 0}]}, "Field required"),
        ({"roc": {"fpr": [0.0, 1.0], "tpr": [0.0]}}, "differ in length"),
    ],
)
def test_details_of_another_shape_are_named(study: Study, details: dict[str, Any], message: str) -> None:
    """A plug-in that returns pairs or a curve of another shape gets one clear line."""
    alter_findings(study, lambda document: document["findings"][0].update(details=details))
    with pytest.raises(StudyError, match=message):
        report(study)


def test_pair_outside_the_cohort_is_refused(study: Study) -> None:
    """A pair that names a row that is not there does not end in a traceback, nor in another image."""
    for row in (10_000, -1):
        alter_findings(study, lambda d, row=row: d["findings"][0]["details"]["pairs"][0].update(train=row))
        with pytest.raises(StudyError, match=r"not there|cannot be shown"):
            report(study)


def test_templates_are_found_in_the_installed_package() -> None:
    """The pages' templates lie inside the package."""
    import privsyn.report

    folder = Path(privsyn.report.__file__).parent / "templates"
    assert {"internal.html", "public.html"} <= {path.name for path in folder.iterdir()}
