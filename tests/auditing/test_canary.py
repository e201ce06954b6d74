"""The one-run audit on real trainings: right DP-SGD is not accused, broken DP-SGD is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from canary_study import BROKEN, bound_of, noise_times, small_study
from digits_study import copied
from homes import new_home

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Finding, Settings
from privsyn.auditing.plugins import installed
from privsyn.auditing.run import audit
from privsyn.auditing.verdict import Verdict
from privsyn.cohort.cohort import load_cohort
from privsyn.files import read_json
from privsyn.study import Study
from privsyn.synthetic.dataset import SyntheticSet
from privsyn.synthetic.sampling import sample
from privsyn.training.loop import train

CANARIES = 400
POLICY = """
title = "Canaries"
purpose = "Hold the claim against what canaries show"

[[rules]]
id = "claim-not-falsified"
audit = "canary"
statistic = "epsilon-beyond-claim"
side = "lower"
op = "<="
threshold = 0
rationale = "A lower bound above the claim shows that the claim is wrong (Steinke et al. 2023)."
not_applicable = "accept"
"""
Audited = tuple[Verdict, dict[tuple[str, str], Finding]]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("template"))


def audited(template: Study, folder: Path, *settings: str, canaries: int = CANARIES) -> Audited:
    """Train, sample and audit; the verdict, and the findings by statistic and scores."""
    study = copied(template, folder, "model.channels=8", *settings)
    train(study, canaries=canaries)
    sample(study, count=4)
    policy = folder / "policy.toml"
    policy.write_text(POLICY)
    verdict = audit(study, policy=policy)
    found = [Finding.model_validate(each) for each in read_json(study.findings_file)["findings"]]
    return verdict, {(each.statistic, each.scope.get("scores", "")): each for each in found}


@pytest.fixture(scope="module")
def private(template: Study, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    folder = tmp_path_factory.mktemp("private")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        return audited(template, folder)


def test_a_right_claim_is_not_falsified(private: Audited) -> None:
    """Both adversaries stay below it with their controls in order, and the ceiling stands beside it."""
    verdict, findings = private
    assert verdict.outcome == "pass"
    for scores in ("white-box", "black-box"):
        epsilon, beyond = (findings[name, scores] for name in ("epsilon", "epsilon-beyond-claim"))
        assert epsilon.conclusive, epsilon.reason
        assert epsilon.value is not None
        assert epsilon.interval == (epsilon.value, None)
        assert epsilon.baseline is not None
        assert epsilon.value < epsilon.baseline <= 2
        assert beyond.value == pytest.approx(epsilon.value - epsilon.baseline)
        assert epsilon.power is not None
        assert "ceiling 0.2" in epsilon.power.description
        assert beyond.power is not None
        assert beyond.power.smallest_leak is not None
        assert epsilon.controls.positive is not None
        assert epsilon.controls.negative is not None


def test_a_verdict_without_an_upper_bound_is_whole(private: Audited) -> None:
    """The row has the lower end, and no number for an end that there is not."""
    rows = {row.scope["scores"]: row for row in private[0].rules}
    assert rows["white-box"].interval is not None
    assert rows["white-box"].interval[1] is None
    assert rows["white-box"].value == rows["white-box"].interval[0] < 0


def test_a_wrong_claim_is_falsified(template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that was left out makes the verdict fail, whatever else the policy would say."""
    noise_times(0.0)(monkeypatch)
    verdict, findings = audited(template, tmp_path)
    assert verdict.outcome == "fail"
    assert findings["epsilon", "white-box"].value > 2


def test_few_canaries_cannot_acquit(template: Study, tmp_path: Path) -> None:
    """40 right guesses could not exceed the claim, so the rule is inconclusive and says how many could."""
    verdict, findings = audited(template, tmp_path, canaries=40)
    assert verdict.outcome == "inconclusive"
    beyond = findings["epsilon-beyond-claim", "white-box"]
    assert "canaries can show" in beyond.reason
    assert beyond.power is not None
    assert beyond.power.smallest_leak is None


def test_without_a_claim_nothing_is_contradicted(template: Study, tmp_path: Path) -> None:
    """A training without DP has a bound from its final model, and no claim that it could exceed."""
    verdict, findings = audited(template, tmp_path, "privacy.dp=false", canaries=64)
    assert {scores for _, scores in findings} == {"black-box"}
    assert not findings["epsilon-beyond-claim", "black-box"].applicable
    assert findings["epsilon", "black-box"].value is not None
    assert {row.outcome for row in verdict.rules} == {"accepted"}


def test_without_canaries_it_is_not_applicable(template: Study) -> None:
    """And the reason names the option that plants them."""
    cohort = load_cohort(template.cohort)
    one = cohort.part("test").images[:1]
    evidence = Evidence(cohort, SyntheticSet(one, np.zeros(1, np.int64), cohort.classes, None, "0" * 64))
    findings = installed()["canary"].load()(evidence, Settings())
    assert [finding.applicable for finding in findings] == [False] * 3


# DP-SGD, right and broken


def test_right_training_is_not_accused(template: Study, tmp_path: Path) -> None:
    """A few runs; the slow test below takes twenty."""
    for run in range(2):
        bound, claim = bound_of(template, tmp_path / str(run), CANARIES)
        assert claim["epsilon"] <= 2
        assert bound.epsilon <= claim["epsilon"]


@pytest.mark.parametrize("fault", ["clipping off", "noise off", "noise divided by the batch"])
def test_broken_training_is_accused(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """One run of each shows more than the claim of 2."""
    BROKEN[fault](monkeypatch)
    bound, claim = bound_of(template, tmp_path, CANARIES)
    assert bound.epsilon > claim["epsilon"]


@pytest.mark.slow
def test_right_training_is_accused_in_at_most_five_per_cent_of_runs(template: Study, tmp_path: Path) -> None:
    """Of 20 runs, at most one."""
    found = [bound_of(template, tmp_path / str(run), CANARIES) for run in range(20)]
    assert sum(bound.epsilon > claim["epsilon"] for bound, claim in found) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_training_is_accused_every_time(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Three runs of each fault; samples larger than accounted for take more canaries than 400."""
    BROKEN[fault](monkeypatch)
    found = [bound_of(template, tmp_path / str(run), 1000) for run in range(3)]
    assert all(bound.epsilon > claim["epsilon"] for bound, claim in found)
