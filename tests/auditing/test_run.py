"""Audits are discovered like any plug-in, and a set of another generator can be audited by itself."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from digits_study import in_16_bits as widened
from privsyn_audits import privacy_claim
from real_cohorts import make_cohort
from sklearn.datasets import load_digits

from privsyn.auditing.attacks.planted_leaks import LIGHT
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.policy import load_policy
from privsyn.auditing.run import audit
from privsyn.auditing.verdict import Verdict, read_verdict
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.errors import PrivsynError, StudyError, SyntheticError
from privsyn.recipe import shipped
from privsyn.study import Study
from privsyn.synthetic.dataset import SyntheticSet

QUICK = ["exact-copies", "privacy-claim"]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def a_set(tmp_path: Path, digits_cohort: Cohort) -> Path:
    test = digits_cohort.part("test")
    np.savez(tmp_path / "set.npz", images=test.images[:60], labels=test.labels[:60])
    return tmp_path / "set.npz"


def evidence(cohort: Cohort, images: np.ndarray) -> Evidence:
    labels = np.zeros(len(images), np.int64)
    return Evidence(cohort, SyntheticSet(images, labels, cohort.classes, None, "0" * 64))


def run(
    a_set: Path, cohort: Cohort, out: Path, *only: str, policy: str = "public-release", **changes: bool
) -> Verdict:
    return audit(synthetic=a_set, cohort=cohort.folder, policy=policy, out=out, only=only, **changes)


def test_a_set_of_another_generator_is_audited_without_a_study(
    tmp_path: Path, a_set: Path, digits_cohort: Cohort
) -> None:
    """Findings and verdict are written; `only` marks the verdict partial and judges those rules alone."""
    verdict = run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    assert json.loads((tmp_path / "out" / "verdict.json").read_text()) == verdict.to_document()
    assert verdict.partial
    assert {row.audit for row in verdict.rules} == set(QUICK)
    assert {plugin.name for plugin in verdict.plugins} == set(QUICK)
    assert verdict.inputs.recipe is None
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert findings["schema_version"] == 1
    named = [Finding.model_validate(entry).audit for entry in findings["findings"]]
    assert list(dict.fromkeys(named)) == QUICK


def test_a_demanded_claim_that_cannot_exist_fails(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """Public release wants a DP claim; a set without a model has none."""
    verdict = run(a_set, digits_cohort, tmp_path / "out", "privacy-claim")
    assert verdict.outcome == "fail"
    assert "not applicable" in verdict.rules[0].reason


def test_every_attempt_is_counted(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """Neither another output folder nor --force starts the count again."""
    attempts = [run(a_set, digits_cohort, tmp_path / "1", *QUICK).attempt]
    attempts.append(run(a_set, digits_cohort, tmp_path / "1", *QUICK, force=True).attempt)
    attempts.append(run(a_set, digits_cohort, tmp_path / "2", *QUICK).attempt)
    assert attempts == [1, 2, 3]


def test_an_audit_is_not_overwritten_unasked(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """A second audit into the same folder is refused, and what was there stays."""
    run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    before = (tmp_path / "out" / "verdict.json").read_bytes()
    with pytest.raises(StudyError, match="--force"):
        run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    assert (tmp_path / "out" / "verdict.json").read_bytes() == before


def test_the_verdict_names_the_policy_that_judged(
    tmp_path: Path, a_set: Path, digits_cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy that is edited while audits run neither judges nor is named in the verdict."""
    file = tmp_path / "policy.toml"
    file.write_text(shipped("policies")["public-release"].read_text())
    before = load_policy(file).digest
    judged = privacy_claim.run

    def editing(evidence: Evidence, settings: Settings) -> list[Finding]:
        file.write_text(file.read_text().replace("threshold = ", "threshold = 1"))
        return judged(evidence, settings)

    monkeypatch.setattr(privacy_claim, "run", editing)
    verdict = run(a_set, digits_cohort, tmp_path / "out", "privacy-claim", policy=str(file))
    assert load_policy(file).digest != before
    assert verdict.inputs.policy == before


def test_a_rule_result_names_who_may_waive_it(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """The roles are those of the policy, also in the document, so the policy is not read again."""
    policy = shipped("policies")["public-release"]
    verdict = run(a_set, digits_cohort, tmp_path / "out", *QUICK, policy=str(policy))
    rules = {rule.id: rule for rule in load_policy(policy).rules}
    assert all(rule.waivable_by == rules[rule.id].waivable_by for rule in verdict.rules)
    assert read_verdict(json.loads((tmp_path / "out" / "verdict.json").read_text())) == verdict


def test_an_audit_that_no_rule_asks_for_is_refused(
    tmp_path: Path, a_set: Path, digits_cohort: Cohort
) -> None:
    """The message has the nearest match."""
    with pytest.raises(PrivsynError, match="did you mean 'exact-copies'"):
        run(a_set, digits_cohort, tmp_path / "out", "exact-copy")


def test_half_a_question_is_refused(a_set: Path) -> None:
    """Without a study, all four inputs are needed."""
    with pytest.raises(StudyError, match="--cohort"):
        audit(synthetic=a_set)


def test_our_audits_are_plug_ins_like_others() -> None:
    """Each file of privsyn_audits is registered, answers to its own name, and reports its version."""
    files = {path.stem for path in (ROOT / "audits" / "privsyn_audits").glob("*.py")} - {"__init__"}
    assert {name.replace("-", "_") for name in installed()} >= files
    for name in sorted(files):
        plugin = installed()[name.replace("_", "-")]
        assert plugin.version == importlib.metadata.version("privsyn")
        assert callable(plugin.load())


def test_the_audit_of_the_guide_works_as_printed(digits_cohort: Cohort) -> None:
    """The thirty lines in audits/README.md are an audit."""
    text = (ROOT / "audits" / "README.md").read_text()
    source = re.search(r"```python\n(.*?)```", text, re.S)
    assert source is not None
    namespace: dict = {}
    exec(compile(source.group(1), "audits/README.md", "exec"), namespace)
    images = digits_cohort.part("test").images[:20].copy()
    images[0] = 7
    (finding,) = namespace["run"](evidence(digits_cohort, images), Settings())
    assert finding.conclusive
    assert finding.value == pytest.approx(1 / 20)


def test_exact_copies_are_found_flipped_and_turned(digits_cohort: Cohort) -> None:
    """Each of the eight symmetries of one training image is a copy, and test patients are none."""
    image = digits_cohort.part("train").images[3]
    turned = [np.rot90(side, turn) for side in (image, image[:, ::-1]) for turn in range(4)]
    images = np.stack([*turned, *digits_cohort.part("test").images[:10]])
    (found,) = installed()["exact-copies"].load()(evidence(digits_cohort, images), Settings())
    assert found.value == 8
    assert found.details["copies"] == list(range(8))
    assert found.conclusive


def in_16_bits(cohort: Cohort, folder: Path) -> Cohort:
    """The cohort with levels between those of 8 bits."""
    copied = Study(folder)
    shutil.copytree(cohort.folder, copied.cohort)
    copied.recipe_file.write_text("[data]\n")
    return load_cohort(widened(copied).cohort)


def test_in_16_bits_one_level_makes_another_image(digits_cohort: Cohort, tmp_path: Path) -> None:
    """A copy is a copy in all its bits: one pixel changed by 1 of 65,535 is none; 8 bits would not tell."""
    cohort = in_16_bits(digits_cohort, tmp_path)
    assert cohort.images.dtype == np.uint16
    copies = cohort.part("train").images[:6].copy()
    near = copies[3:].copy()
    near[:, 4, 4] = np.where(near[:, 4, 4] > 0, near[:, 4, 4] - 1, 1)
    images = np.concatenate([copies[:3], near, cohort.part("test").images[:10]])
    (found,) = installed()["exact-copies"].load()(evidence(cohort, images), Settings())
    assert found.details["copies"] == [0, 1, 2]
    assert found.conclusive


def test_a_set_of_another_bit_depth_is_not_audited(
    digits_cohort: Cohort, tmp_path: Path, a_set: Path
) -> None:
    """Images of 8 bits cannot be told from copies of images of 16: the error says what is wanted."""
    with pytest.raises(SyntheticError, match=r"uint8, wanted .* uint16"):
        run(a_set, in_16_bits(digits_cohort, tmp_path), tmp_path / "out", *QUICK)


def test_audits_by_distance_find_copies_in_16_bits(tmp_path: Path) -> None:
    """A set of which half are disturbed training images fails; what it was made from does not."""
    digits = load_digits()
    images = np.round(digits.images[:600] * (255 / 16)).astype(np.uint8)
    np.savez(tmp_path / "digits.npz", images=images, labels=digits.target[:600])
    cohort = make_cohort(tmp_path / "study", "digits", tmp_path / "digits.npz", tmp_path / "home")
    cohort = in_16_bits(cohort, tmp_path / "wide")
    train, test = cohort.part("train"), cohort.part("test")
    copies = np.concatenate([LIGHT.plant(train.images[:60]), test.images[60:]])
    assert copies.dtype == np.uint16
    for name, drawn, outcomes in (
        ("copies", copies, {"fail"}),
        ("test", test.images, {"pass", "inconclusive"}),
    ):
        np.savez(tmp_path / f"{name}.npz", images=drawn, labels=test.labels)
        verdict = run(tmp_path / f"{name}.npz", cohort, tmp_path / name, "nearest-neighbour", "attributes")
        assert verdict.outcome in outcomes
