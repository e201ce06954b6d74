"""A run that goes back to an earlier checkpoint: what was visible and is taken again is charged again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from digits_study import KillAt, Killed, copied, prepared

from privsyn import ledger
from privsyn.claim.document import Claim, Mechanism
from privsyn.dp.accounting import epsilon
from privsyn.errors import CheckpointError, PrivsynError, Refused
from privsyn.files import read_json, write_json
from privsyn.release.claim_check import check_claim
from privsyn.study import Study
from privsyn.training.loop import train

QUICK = (
    "train.steps=6", "train.checkpoint_every=2", "privacy.noise_multiplicity=1", "train.batch_size=4",
    "privacy.epsilon=4", "warmup.steps=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *QUICK)


def _killed(study: Study, step: float, **options: bool) -> None:
    with pytest.raises(Killed):
        train(study, progress=KillAt(step), **options)


def _newest(study: Study) -> Path:
    return sorted(study.checkpoints.glob("step-*"))[-1]


def _sgd(claim: Claim) -> Mechanism:
    assert claim.bound is not None
    return claim.bound.queries[-1].mechanism


def test_an_interrupted_run_is_charged_once(template: Study, tmp_path: Path) -> None:
    """Killed after step 5 of 6 and continued from step 4: nobody saw step 5, so nothing is repeated."""
    study = copied(template, tmp_path)
    _killed(study, 5, dp=True)
    claim = train(study, resume=True)
    assert claim.bound is not None
    assert [query.name for query in claim.bound.queries] == ["dp-sgd"]
    assert claim.bound.epsilon <= 4
    (population,) = ledger.populations()
    assert population.entries[0].repeated == ()


def test_steps_that_are_taken_again_cost_again(template: Study, tmp_path: Path) -> None:
    """The newest checkpoint is deleted twice: three continuations existed, and all of them are paid for."""
    study = copied(template, tmp_path)
    _killed(study, 4, dp=True)
    for _ in range(2):
        shutil.rmtree(_newest(study))
        _killed(study, 4, resume=True)
    claim = train(study, resume=True)
    assert claim.bound is not None
    one = _sgd(claim)
    again = Mechanism(one.noise_multiplier, one.sample_rate, 4)
    assert [(query.name, query.mechanism) for query in claim.bound.queries] == [
        ("dp-sgd-repeated", again), ("dp-sgd", one),
    ]  # fmt: skip
    assert one.steps == 6
    assert claim.bound.epsilon == epsilon([again, one], claim.bound.delta) > 4
    assert check_claim(claim.public_document()).state == "ok"
    (population,) = ledger.populations()
    assert population.seen[0].epsilon == claim.bound.epsilon
    assert "went back to an earlier checkpoint" in population.seen[0].note


def test_a_warm_up_that_is_asked_again_costs_again(template: Study, tmp_path: Path) -> None:
    """The moments are results too: whoever deletes them and goes on from step 0 gets others."""
    study = copied(template, tmp_path, "warmup.images=2", "warmup.noise_multiplier=20")
    _killed(study, 1, dp=True)
    assert _newest(study).name == "step-000000"
    study.class_means.unlink()
    claim = train(study, resume=True)
    assert claim.bound is not None
    names = [query.name for query in claim.bound.queries]
    assert names == ["central-images-repeated", "central-images", "dp-sgd"]
    assert claim.bound.queries[0].mechanism == claim.bound.queries[1].mechanism


def test_a_grant_can_refuse_to_go_back() -> None:
    """The training fits, and 40 of its steps again do not: refused, and nothing is recorded."""
    asked = ledger.TrainingCharge("image", "add-or-remove-one", 1e-5, (Mechanism(2.0, 0.1, 100),))
    ledger.reserve("first", ["ab" * 32], asked)
    ledger.written("first", (0,), (50,))
    population = ledger.populations()[0].id
    ledger.grant(population, unit="image", epsilon=3.0, delta=1e-5)
    assert ledger.populations()[0].grants[0].spent < 3.0
    with pytest.raises(Refused, match=r"3\.0 is granted"):
        ledger.resumed("first", (10,))
    assert ledger.repeated("first") == ()


def test_two_copies_of_a_run_do_not_share_a_charge(template: Study, tmp_path: Path) -> None:
    """A copy that goes on is charged for what it takes again, and the other then stops."""
    study = copied(template, tmp_path)
    _killed(study, 2, dp=True)
    copy = Study(Path(shutil.copytree(study.root, tmp_path / "second")))
    _killed(study, 4, resume=True)
    _killed(copy, 4, resume=True)
    reference = read_json(_newest(study) / "state.json")["reference"]
    assert [part.steps for part in ledger.repeated(reference)] == [2]
    train(copy, resume=True)
    with pytest.raises(CheckpointError, match="was finished and settled"):
        train(study, resume=True)


def test_results_are_noted_in_order() -> None:
    """A run that does not know the newest results must not add to them; nothing is taken back after one."""
    asked = ledger.TrainingCharge("image", "add-or-remove-one", 1e-5, (Mechanism(2.0, 0.1, 10),))
    ledger.reserve("first", ["ab" * 32], asked)
    ledger.written("first", (0,), (4,))
    with pytest.raises(PrivsynError, match="goes on elsewhere too"):
        ledger.written("first", (0,), (4,))
    with pytest.raises(PrivsynError, match="has taken steps"):
        ledger.void("first")
    with pytest.raises(PrivsynError, match="knows of fewer steps"):
        ledger.resumed("first", (5,))
    assert ledger.resumed("first", (4,)) == ()
    assert ledger.resumed("first", (1,)) == (Mechanism(2.0, 0.1, 3),)
    assert ledger.resumed("first", (1,)) == (Mechanism(2.0, 0.1, 3),)
    ledger.settle("first", (Mechanism(2.0, 0.1, 10),), outcome="model")
    assert ledger.populations()[0].seen[0].epsilon == epsilon([Mechanism(2.0, 0.1, 13)], 1e-5)


def test_a_broken_checkpoint_is_to_be_restored_and_not_deleted(template: Study, tmp_path: Path) -> None:
    """Going back costs privacy, so nothing recommends it."""
    study = copied(template, tmp_path)
    _killed(study, 4, dp=True)
    write_json(_newest(study) / "state.json", {})
    with pytest.raises(CheckpointError, match="restore it from a backup, or train again with `--force`"):
        train(study, resume=True)
