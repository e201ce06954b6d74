"""Is it useful: real beside synthetic images, the map, and findings of quality as tables; inside only."""

from __future__ import annotations

from typing import Any

import pytest
from audited_study import CLASSES, HOSTILE, NETWORK, alter, alter_findings
from pages import Outline, pages, shown_images

from privsyn.auditing.findings import Finding
from privsyn.auditing.verdict import RuleOutcome, RuleResult
from privsyn.cohort.cohort import load_cohort
from privsyn.errors import StudyError
from privsyn.files import read_json
from privsyn.report.details import FeaturePlane, read
from privsyn.report.html import report
from privsyn.report.quality import LONG, ScopeBlock, outcomes, tables, verdict_rows
from privsyn.study import Study
from privsyn.synthetic.dataset import read_synthetic


def finding(statistic: str = "gap", **known: Any) -> Finding:
    return Finding.model_validate(
        {"audit": "utility", "version": "1", "threat": "quality", "statistic": statistic, **known}
    )


def rule(judged: Finding, outcome: RuleOutcome, value: float | None, op: str = "<=") -> RuleResult:
    return RuleResult(
        id="teaches",
        severity="block",
        audit=judged.audit,
        statistic=judged.statistic,
        side="value",
        op=op,
        threshold=0.5,
        rationale="Why this limit.",
        outcome=outcome,
        scope=judged.scope,
        value=value,
    )


def scopes(blocks: tuple[ScopeBlock, ...]) -> list[dict[str, str]]:
    return [line.finding.scope for block in blocks for line in block.lines]


def section(page: str, name: str) -> str:
    """The text of one section of a page; "" if it is not there."""
    _, found, rest = page.partition(f'<section id="{name}">')
    return Outline(rest.split("</section>")[0]).text if found else ""


def test_contact_sheet_shows_no_training_image(study: Study) -> None:
    """Eight real images of each class, of holdout or test and of that class, beside eight synthetic ones."""
    alter_findings(study, lambda document: document["findings"][0]["details"].clear())  # no pairs
    cohort = load_cohort(study.cohort)
    synthetic = read_synthetic(study.synthetic, size=8, channels=1, classes=CLASSES)
    shown = [image.tobytes() for image in shown_images(pages(study)[0])]
    assert len(shown) == 160
    train = {image.tobytes() for image in cohort.part("train").images}
    for label in range(10):
        real, drawn = shown[16 * label :][:8], shown[16 * label :][8:16]
        unseen = {
            image.tobytes()
            for part in map(cohort.part, ("holdout", "test"))
            for image in part.images[part.labels == label]
        }
        assert set(real) <= unseen - train
        assert set(drawn) <= {each.tobytes() for each in synthetic.images[synthetic.labels == label]}
        assert len(set(real)) == len(set(drawn)) == 8


def test_contact_sheet_says_which_images_are_real(study: Study) -> None:
    """Each row names its kind, in words and for those who hear the page, under a warning."""
    internal = pages(study)[0]
    text = section(internal, "samples")
    assert text.startswith("Real beside synthetic images Real patients are shown here. Internal only.")
    cohort = load_cohort(study.cohort)
    unseen = sum((cohort.part(part).labels == 0).sum() for part in ("holdout", "test"))
    assert f"0 Real {unseen} unseen Synthetic 20 in the set 1 Real" in text
    alts = [attributes.get("alt") or "" for tag, attributes in Outline(internal).tags if tag == "img"]
    assert f"real image, not trained on, of class {HOSTILE}" in alts
    assert f"synthetic image of class {HOSTILE}" in alts


def test_nothing_of_it_is_in_public(study: Study, useful: Study) -> None:
    """No real image, map, table or number of quality is on the public page, only the rules' outcomes."""
    alter(useful.verdict_file, lambda verdict: verdict.update(verdict="inconclusive"))
    public = pages(useful)[1]
    real = {image.tobytes() for image in load_cohort(study.cohort).images}
    shown = [image.tobytes() for image in shown_images(public)]
    assert len(shown) == 100
    assert not set(shown) & real
    for inside in ("useful?", "principal component", "0.1077", "0.95", "lite0:", "579344248a93", "unseen"):
        assert inside not in public, inside
    assert "<details" not in public
    assert ".quality" not in public


def test_without_quality_there_is_no_such_section(study: Study) -> None:
    """A policy that asks nothing about quality gets no empty section, table or map."""
    internal = pages(study)[0]
    assert not section(internal, "useful")
    assert "<details" not in internal
    assert "principal component" not in internal


def test_quality_alone_has_no_cards(useful: Study) -> None:
    """If there is no other finding there is no section of cards, and no claim that nothing was found."""

    def only_quality(document: dict[str, Any]) -> None:
        document["findings"] = [each for each in document["findings"] if each["threat"] == "quality"]

    alter_findings(useful, only_quality)
    internal = pages(useful)[0]
    assert not section(internal, "findings")
    assert "No audit returned a finding." not in internal


def test_pages_with_quality_are_sound(useful: Study) -> None:
    """Equal bytes each time, tags that close, ids that are unique; class names are text, never markup."""
    internal, public = pages(useful)
    assert pages(useful) == (internal, public)
    outline = Outline(internal)
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert HOSTILE not in internal
    text = section(internal, "useful")
    assert f"coverage {HOSTILE} lite0 0.4 [0.3, 0.5] 0.95 conclusive both passed fail" in text
    assert f"utility_gap {HOSTILE} forest" in text
    assert f"a network {HOSTILE}" in text
    assert r"coverage $\alpha$ {{ 7 * 7 }} lite0" in text


def test_table_shows_all_that_is_known_of_a_finding(useful: Study) -> None:
    """Value, interval and its confidence, baseline, why it is not conclusive, controls, the rule's limit."""
    text = section(pages(useful)[0], "useful")
    for told in (
        "They are not differentially private, and stay inside.",
        "utility_gap forest 0 [-0.0123, 0.0123] 0 conclusive both passed pass upper bound at most 0.05",
        "fail lower bound at least 0.5 (warns)",
        "not conclusive control failed: test patients cover little",
        "negative failed",
        "not applicable no class is rare",
        "Interval at 90 %",
        "share 0.25 [0.2, 0.3] \u2013 conclusive not run",
        "67 findings: 67 conclusive; rules: 7 fail, 4 pass",
        "60 more rows, by class: 60 conclusive; rules: 7 fail, 3 pass",
        "26 more rows, by class and by subgroup: 26 conclusive; rules: 20 fail, 6 pass",
    ):
        assert told in text, told


def test_network_is_named_once(useful: Study) -> None:
    """Network, short digest, input size and resizing stand once under the table, whatever the rows."""
    text = section(pages(useful)[0], "useful")
    assert text.count("1,280 features; sha256 579344248a93") == 1
    assert text.count("images shown to it at 112 \u00d7 112 px (bicubic, antialias).") == 1
    assert str(NETWORK["sha256"]) not in text


def test_findings_of_quality_have_no_cards(useful: Study) -> None:
    """The cards of other findings stay as they are, and no chart is drawn for any of quality."""
    internal = pages(useful)[0]
    cards = section(internal, "findings")
    assert "nearest-neighbour / tail-share" in cards
    assert "utility" not in cards
    assert "coverage" not in cards
    assert internal.count("Value and interval against the limits") == 3


def test_verdict_has_one_row_for_each_rule_on_quality(useful: Study) -> None:
    """The worst scope stands for all of them and says so; rules on other findings keep all rows."""
    text = section(pages(useful)[0], "rules")
    assert text.count("covers fidelity / coverage") == 1
    assert "The worst of 11: 7 fail, 4 pass; all of them coverage 0.2 is out of bounds" in text
    assert text.count("teaches utility / utility_gap") == 1
    assert text.count("near-copies") == 2


def test_map_is_one_chart_for_many_classes(useful: Study) -> None:
    """Ten classes share one chart, with its axes explained and the marks named."""
    text = section(pages(useful)[0], "useful")
    assert text.count("1st principal component of the real images' features") == 1
    assert text.count("2nd principal component of the real images' features") == 1
    assert "real (60) synthetic (60)" in text


def test_map_has_a_panel_for_each_of_few_classes(useful: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each panel has the images of its class alone and its name under it; none is lost."""
    monkeypatch.setattr("privsyn.report.html.PANELS", 10)
    text = section(pages(useful)[0], "useful")
    assert text.count("real (6) synthetic (6) Class") == 10
    assert all(f"synthetic (6) Class {name}" in text for name in CLASSES)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([], r"details\['map'\] of fidelity cannot be shown"),
        ({"real": [[0.0, 1.0]]}, "Field required"),
        ({"real": []}, "at least 1 item"),
        ({"real": [[0.0, 1.0, 2.0]]}, "at most 2 items"),
        ({"real": [[0.0, None]]}, "valid number"),
        ({"real_labels": [0]}, "differ in length"),
        ({"synthetic_labels": [10] * 60}, "names a class that is not there"),
        ({"synthetic_labels": [-1] * 60}, "greater than or equal to 0"),
    ],
)
def test_broken_map_is_refused(useful: Study, broken: Any, message: str) -> None:
    """A map of another shape, without places, or with unknown classes gets one clear line, and no page."""

    def spoil(document: dict[str, Any]) -> None:
        details = next(d for each in document["findings"] if "map" in (d := each.get("details", {})))
        whole = {} if message == "Field required" else details["map"]
        details["map"] = {**whole, **broken} if isinstance(broken, dict) else broken

    alter_findings(useful, spoil)
    with pytest.raises(StudyError, match=message):
        report(useful)
    assert not useful.internal_report.exists()


def test_map_without_places_is_refused() -> None:
    """A point that lies nowhere cannot be drawn."""
    plane = {
        "real": [[0.0, float("inf")]],
        "real_labels": [0],
        "synthetic": [[0, 1]],
        "synthetic_labels": [0],
    }
    with pytest.raises(StudyError, match="finite number"):
        read(finding(details={"map": plane}), "map", FeaturePlane)


def test_broken_network_is_refused(useful: Study) -> None:
    """What a plug-in says of its network is checked before it is shown."""
    alter_findings(
        useful, lambda document: document["findings"][5]["details"].update(network={"sha256": "ab"})
    )
    with pytest.raises(StudyError, match=r"details\['network'\] of fidelity cannot be shown: Field required"):
        report(useful)


def test_other_audits_may_use_the_same_words(useful: Study) -> None:
    """A quality audit that counts its `pairs` is not taken for one that names suspicious images."""
    found = read_json(useful.findings_file)["findings"]
    assert [each["details"]["pairs"] for each in found if each["statistic"] == "ms_ssim_diversity"] == [500]
    assert "ms_ssim_diversity" in section(pages(useful)[0], "useful")


def test_rows_follow_scope_rule_statistic_and_class() -> None:
    """Overall, classes in their own order, subgroups; in each what a rule judges comes first."""
    every: list[dict[str, str]] = [{"subgroup": "b"}, {"class": "10"}, {}, {"class": "9"}, {"subgroup": "a"}]
    found = [finding(statistic, scope=scope) for statistic in ("auc", "gap") for scope in every]
    rules = [rule(each, "pass", 0.0) for each in found if each.statistic == "gap"]
    (table,) = tables(found, rules, ("9", "10"))
    assert [block.title for block in table.open] == ["Overall", "By class", "By subgroup"]
    assert table.folded == ()
    assert [(line.finding.statistic, line.finding.scope) for block in table.open for line in block.lines] == [
        (statistic, scope)
        for scopes in ([{}], [{"class": "9"}, {"class": "10"}], [{"subgroup": "a"}, {"subgroup": "b"}])
        for statistic in ("gap", "auc")
        for scope in scopes
    ]


def test_long_tables_fold_all_but_what_holds_overall() -> None:
    """Up to 25 rows are seen at once; of more, those by class and subgroup are unfolded on demand."""
    found = [finding(scope={"class": str(each)}) for each in range(LONG - 1)]
    (short,) = tables([finding(), *found], [], ())
    (long,) = tables([finding(), *found, finding(scope={"subgroup": "a"})], [], ())
    assert (len(scopes(short.open)), len(scopes(short.folded))) == (LONG, 0)
    assert scopes(long.open) == [{}]
    assert [block.title for block in long.folded] == ["By class", "By subgroup"]
    assert long.folded_in_words == f"{LONG} more rows, by class and by subgroup: {LONG} conclusive"


def test_tables_follow_the_policy() -> None:
    """Audits that rules ask for come in the order of the rules, others after them."""
    found = [finding(audit=name) for name in ("extra", "fidelity", "utility")]
    rules = [
        rule(found[2], "pass", 0.0),
        rule(found[1], "pass", 0.0),
        rule(finding(audit="lost"), "fail", None),
    ]
    assert [table.audit for table in tables(found, rules, ())] == ["utility", "fidelity", "extra"]


def test_confidence_of_most_intervals_stands_in_the_head() -> None:
    """Only the intervals at another one say theirs; without intervals there is none."""
    at = [
        finding(str(c) + str(i), interval=(0.0, 1.0), confidence=c) for i, c in enumerate((0.9, 0.95, 0.95))
    ]
    (table,) = tables([*at, finding()], [], ())
    (bare,) = tables([finding()], [], ())
    assert (table.confidence, bare.confidence) == (0.95, None)


@pytest.mark.parametrize(("op", "worst"), [("<=", 0.9), (">=", 0.2)])
def test_worst_row_is_the_furthest_out_of_the_worst_outcome(op: str, worst: float) -> None:
    """A failure stands before what could not be decided, and the largest failure before smaller ones."""
    found = [finding(scope={"class": str(each)}) for each in range(5)]
    told = [("pass", 99.0), ("fail", 0.2), ("fail", 0.9), ("inconclusive", None), ("pass", -99.0)]
    rows = [rule(each, outcome, value, op) for each, (outcome, value) in zip(found, told, strict=True)]
    (shown,) = verdict_rows(rows, found)
    assert shown.rule.value == worst
    assert (shown.among, shown.outcomes) == (5, "2 fail, 1 inconclusive, 2 pass")


def test_rows_about_other_findings_are_kept() -> None:
    """Only rules on the given findings are drawn together; the order of the policy stays."""
    attack, quality = finding(audit="attack"), finding()
    rows = [rule(attack, "pass", 1.0), rule(quality, "pass", 1.0), rule(attack, "fail", 2.0)]
    assert [each.rule for each in verdict_rows(rows, [quality])] == rows
    assert [each.among for each in verdict_rows(rows, [quality])] == [1, 1, 1]


def test_outcomes_are_told_worst_first() -> None:
    """Those that did not occur are left out."""
    assert outcomes(["pass", "fail", "pass"]) == "1 fail, 2 pass"
    assert outcomes([]) == ""


def test_columns_tell_scopes_apart() -> None:
    """Class and subgroup first; a key that no row has is not a column."""
    (table,) = tables([finding(scope={"classifier": "a", "class": "1"}), finding(scope={"arm": "x"})], [], ())
    assert [table.columns([block]) for block in table.open] == [["arm"], ["class", "classifier"]]
    assert table.columns(table.open) == ["class", "arm", "classifier"]
