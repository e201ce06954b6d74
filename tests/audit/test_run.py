"""Audits are discovered like anybody's plug-ins, and a set of another generator can be audited by itself."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import numpy as np
import pytest

from privsyn.audit.contract import Evidence, Finding, Settings
from privsyn.audit.run import audit, installed
from privsyn.cohort.cohort import Cohort
from privsyn.errors import PrivsynError, StudyError
from privsyn.synthetic import SyntheticSet

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
) -> dict:
    return audit(synthetic=a_set, cohort=cohort.folder, policy=policy, out=out, only=only, **changes)


def test_a_set_of_another_generator_is_audited_without_a_study(
    tmp_path: Path, a_set: Path, digits_cohort: Cohort
) -> None:
    """Findings and verdict are written; `only` marks the verdict partial and judges those rules alone."""
    verdict = run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    assert json.loads((tmp_path / "out" / "verdict.json").read_text()) == verdict
    assert verdict["partial"]
    assert {row["audit"] for row in verdict["rules"]} == set(QUICK)
    assert {plugin["name"] for plugin in verdict["plugins"]} == set(QUICK)
    assert verdict["inputs"]["recipe"] is None
    findings = json.loads((tmp_path / "out" / "findings.json").read_text())
    assert findings["schema_version"] == 1
    assert [Finding.model_validate(entry).audit for entry in findings["findings"]] == QUICK


def test_a_demanded_claim_that_cannot_exist_fails(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """Public release wants a DP claim; a set without a model has none."""
    verdict = run(a_set, digits_cohort, tmp_path / "out", "privacy-claim")
    assert verdict["verdict"] == "fail"
    assert "not applicable" in verdict["rules"][0]["reason"]


def test_every_attempt_is_counted(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """Neither another output folder nor --force starts the count again."""
    attempts = [run(a_set, digits_cohort, tmp_path / "1", *QUICK)["attempt"]]
    attempts.append(run(a_set, digits_cohort, tmp_path / "1", *QUICK, force=True)["attempt"])
    attempts.append(run(a_set, digits_cohort, tmp_path / "2", *QUICK)["attempt"])
    assert attempts == [1, 2, 3]


def test_an_audit_is_not_overwritten_unasked(tmp_path: Path, a_set: Path, digits_cohort: Cohort) -> None:
    """A second audit into the same folder is refused, and what was there stays."""
    run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    before = (tmp_path / "out" / "verdict.json").read_bytes()
    with pytest.raises(StudyError, match="--force"):
        run(a_set, digits_cohort, tmp_path / "out", *QUICK)
    assert (tmp_path / "out" / "verdict.json").read_bytes() == before


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
