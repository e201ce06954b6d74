"""Training with canaries: coins are committed to first, never tossed again, and scores change no weight."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from canary_study import small_study
from digits_study import KillAt, Killed, copied, weights

from privsyn import ledger
from privsyn.auditing.run import audit
from privsyn.cohort.cohort import load_cohort
from privsyn.dp.dirac_canaries import DiracCanaryScores
from privsyn.errors import CheckpointError, StudyError
from privsyn.files import read_json
from privsyn.status import status
from privsyn.study import Study
from privsyn.synthetic.sampling import sample
from privsyn.training.canaries import PLANTED, SEED, planted
from privsyn.training.checkpoint import State, load_state, newest
from privsyn.training.loop import train
from privsyn.training.plan import Cost, _training_seconds, plan

KEYED = ("privacy.insecure_seed=7",)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return small_study(tmp_path_factory.mktemp("template"))


def state_of(study: Study) -> State:
    return load_state(newest(study.checkpoints))


def begun(study: Study, canaries: int, step: int = 1) -> None:
    with pytest.raises(Killed):
        train(study, canaries=canaries, progress=KillAt(step))


def with_the_same_seed(study: Study, like: Study) -> None:
    """Give a study that has begun the canaries of another, as if it had drawn the same seed."""
    for name in (PLANTED, SEED):
        (study.model / name).write_bytes((like.model / name).read_bytes())
    commitment = read_json(like.model / PLANTED)["commitment"]
    for state in study.checkpoints.glob("*/state.json"):
        text = state.read_text().replace(str(read_json(state)["canaries_sha256"]), commitment)
        state.write_text(text)


def test_the_commitment_is_on_disk_before_the_first_step(template: Study, tmp_path: Path) -> None:
    """A run that is killed at once has it; what is resumed keeps seed, coins and commitment."""
    study = copied(template, tmp_path)
    begun(study, 40)
    first = read_json(study.model / PLANTED), read_json(study.model / SEED)
    assert state_of(study).step == 0
    claim = train(study, resume=True).to_document()
    assert (read_json(study.model / PLANTED), read_json(study.model / SEED)) == first
    assert claim["canaries"]["planted"] == 40
    assert claim["canaries"]["commitment"] == first[0]["commitment"]
    assert len(state_of(study).canary_scores) == 40


def test_a_killed_run_resumes_to_the_same_scores(template: Study, tmp_path: Path) -> None:
    """With noise that repeats, the scores and weights are those of an unbroken run with the same coins."""
    broken, whole = (copied(template, tmp_path / name, *KEYED) for name in ("broken", "whole"))
    begun(broken, 40, step=15)
    begun(whole, 40)
    with_the_same_seed(whole, broken)
    for study in (broken, whole):
        train(study, resume=True)
    assert state_of(broken).canary_scores == state_of(whole).canary_scores
    assert weights(broken) == weights(whole)


def test_scoring_leaves_the_weights_alone(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit-identical, optimiser included, with scores and without."""
    scored, unscored = (copied(template, tmp_path / name, *KEYED) for name in ("scored", "unscored"))
    begun(scored, 40)
    begun(unscored, 40)
    with_the_same_seed(unscored, scored)
    train(scored, resume=True)
    monkeypatch.setattr(DiracCanaryScores, "__call__", lambda self, noised: None)  # noqa: ARG005
    train(unscored, resume=True)
    assert set(state_of(unscored).canary_scores) == {0.0}
    assert weights(unscored) == weights(scored)


def test_another_number_or_another_seed_is_not_resumed(template: Study, tmp_path: Path) -> None:
    """Options must be those of the run, and the coins those that were committed to."""
    study, other = copied(template, tmp_path / "study"), copied(template, tmp_path / "other")
    begun(study, 40)
    begun(other, 40)
    with pytest.raises(CheckpointError, match=r"another train\.canaries"):
        train(study, canaries=41, resume=True)
    for name in (PLANTED, SEED):
        (study.model / name).write_bytes((other.model / name).read_bytes())
    with pytest.raises(CheckpointError, match="other canaries"):
        train(study, resume=True)


def test_canaries_are_no_patients(template: Study, tmp_path: Path) -> None:
    """The ledger charges the patients alone, epsilon is the same, and the sample rate is not touched."""
    plain, with_them = copied(template, tmp_path / "plain"), copied(template, tmp_path / "with")
    claims = [train(plain).to_document(), train(with_them, canaries=40).to_document()]
    assert "canaries" not in claims[0]
    assert claims[0]["mechanism"] == claims[1]["mechanism"]
    assert claims[0]["epsilon"] == claims[1]["epsilon"]
    patients = set(load_cohort(with_them.cohort).records["patient"])
    assert claims[0]["ledger"]["population"] == claims[1]["ledger"]["population"]
    assert ledger.ids_of(sorted(patients)) == {claims[1]["ledger"]["population"]}


def test_without_privacy_there_are_coins_and_no_scores(template: Study, tmp_path: Path) -> None:
    """A killed run resumes to the same bits; only the final model can be asked."""
    broken, whole = (copied(template, tmp_path / name, "privacy.dp=false") for name in ("broken", "whole"))
    begun(broken, 40, step=15)
    begun(whole, 40)
    with_the_same_seed(whole, broken)
    for study in (broken, whole):
        train(study, resume=True)
    assert weights(broken) == weights(whole)
    assert state_of(whole).canary_scores == ()
    assert read_json(whole.privacy_file)["canaries"]["planted"] == 40


def test_nothing_that_leaves_holds_the_seed(template: Study, tmp_path: Path) -> None:
    """Neither the claim nor the synthetic set; and the study's other commands go on."""
    study = copied(template, tmp_path)
    train(study, canaries=40)
    sample(study, count=4)
    seed = str(read_json(study.model / SEED)["seed"])
    leaving = [study.privacy_file, *(path for path in study.synthetic.rglob("*") if path.is_file())]
    for form in (seed.encode(), bytes.fromhex(seed)):
        assert not any(form in path.read_bytes() for path in leaving)
    (model,) = (station for station in status(study) if station.name == "model")
    assert model.state == "done"


def test_a_plan_with_canaries_is_that_of_a_longer_training(template: Study, tmp_path: Path) -> None:
    """With 100 beside 100 expected patients half as much work is added; the budget is the patients' alone."""
    study = copied(template, tmp_path, "train.canaries=100")
    assert plan(study).epsilon == plan(template).epsilon
    cost = Cost("cpu", draws=1, per_unit={1: 2.0}, per_step=1.0, plain=1.0, peak_bytes=0)
    seconds = [_training_seconds(each.recipe(), cost, images=1) for each in (template, study)]
    assert seconds == [20 * (1 + 20 * 2), 20 * (1 + 30 * 2)]


def test_an_audit_refuses_canaries_that_the_claim_does_not_commit_to(template: Study, tmp_path: Path) -> None:
    """A model folder put together from two is named, before any audit runs."""
    study, other = copied(template, tmp_path / "study"), copied(template, tmp_path / "other")
    train(study, canaries=40)
    begun(other, 40)
    sample(study, count=4)
    for name in (PLANTED, SEED):
        (study.model / name).write_bytes((other.model / name).read_bytes())
    with pytest.raises(StudyError, match="commits to"):
        audit(study, only=["exact-copies"])


def test_the_coins_decide_who_is_trained_on(template: Study, tmp_path: Path) -> None:
    """The scores of canaries that are in are higher on the whole, at an epsilon that hides little."""
    study = copied(template, tmp_path)
    train(study, canaries=60, epsilon=20.0)
    found = planted(study.model, state_of(study).recipe.data)
    assert found is not None
    scores = np.array(state_of(study).canary_scores)
    assert scores[found.is_in].mean() > scores[~found.is_in].mean()
