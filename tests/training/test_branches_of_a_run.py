"""Several sets of weights from one run cost what they are: steps that are taken again are charged again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from digits_study import KillAt, Killed, copied, prepared

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.claim.recompute import recompute
from privsyn.cli import main
from privsyn.cohort.cohort import load_cohort
from privsyn.dp.accounting import epsilon
from privsyn.errors import PrivsynError, Refused
from privsyn.files import read_json, tree_digests
from privsyn.progress import Advance
from privsyn.strict_json import JsonObject
from privsyn.study import Study
from privsyn.training.checkpoint import newest
from privsyn.training.loop import train

SHORT = (
    "train.steps=8",
    "train.checkpoint_every=2",
    "privacy.dp=true",
    "privacy.epsilon=2.0",
    "privacy.noise_multiplicity=1",
)
WARM = ("warmup.images=2", "warmup.noise_multiplier=9.0", "warmup.steps=2")
DELTA = 1e-5


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *SHORT)


def killed(study: Study, step: float, *, resume: bool = False) -> None:
    with pytest.raises(Killed):
        train(study, resume=resume, progress=KillAt(step))


def charged() -> ledger.Charge:
    """The only training that the ledger knows."""
    (population,) = ledger.populations()
    (charge,) = population.entries
    return charge


def queries(document: JsonObject) -> list[tuple[str, Mechanism]]:
    """Those of a claim, in order."""
    told = [*document["mechanism"]["composed"], document["mechanism"]]
    keys = ("noise_multiplier", "sample_rate", "steps")
    return [(each["name"], Mechanism(*(each[key] for key in keys))) for each in told]


def test_an_interrupted_run_is_charged_once(template: Study, tmp_path: Path) -> None:
    """Killed in the middle of steps and resumed from the newest checkpoint, as ever."""
    study = copied(template, tmp_path)
    killed(study, 3)
    killed(study, 5, resume=True)
    document = train(study, resume=True).to_document()
    ((name, ran),) = queries(document)
    assert (name, ran.steps, charged().repeated) == ("dp-sgd", 8, ())
    assert document["epsilon"] == epsilon([ran], DELTA) <= 2.0


def test_weights_of_a_branch_are_charged_and_claimed(template: Study, tmp_path: Path) -> None:
    """Twice the newest checkpoint is deleted and the run resumed: three sets of weights, 12 steps."""
    study, seen = copied(template, tmp_path), []
    killed(study, 4)
    for _ in range(2):
        seen.append((newest(study.checkpoints) / "ema.safetensors").read_bytes())
        shutil.rmtree(newest(study.checkpoints))
        killed(study, 4, resume=True)
    assert len({*seen, (newest(study.checkpoints) / "ema.safetensors").read_bytes()}) == 3
    document = train(study, resume=True).to_document()
    (again, repeated), (name, ran) = queries(document)
    assert (again, name) == ("dp-sgd-repeated", "dp-sgd")
    assert (repeated.steps, ran.steps, charged().repeated) == (4, 8, (repeated,))
    independent = epsilon([Mechanism(ran.noise_multiplier, ran.sample_rate, 12)], DELTA)
    assert document["epsilon"] == pytest.approx(independent, rel=1e-6)
    assert document["epsilon"] > 2.0
    assert document["cumulative"]["epsilon"] == pytest.approx(independent, rel=1e-6)
    assert recompute(document, epsilon).outcome == "confirmed"
    assert ledger.check(document["ledger"]["head"])


def test_moments_that_are_measured_again_are_charged_again(
    template: Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file of the warm-up answers queries like any checkpoint; the terminal says what epsilon counts."""
    study = copied(template, tmp_path, *WARM)
    killed(study, 1)
    assert charged().taken == (2, 0)
    killed(study, 1, resume=True)
    assert charged().repeated == ()
    study.class_means.unlink()
    assert main(["train", "--resume", "--study", str(study.root)]) == 0
    assert "epsilon counts 2 steps that were taken again" in " ".join(capsys.readouterr().out.split())
    document = read_json(study.privacy_file)
    assert [name for name, _ in queries(document)] == ["central-images", "central-images-repeated", "dp-sgd"]
    assert document["epsilon"] == epsilon([part for _, part in queries(document)], DELTA) > 2.0


def test_later_the_moments_are_no_longer_asked_for(template: Study, tmp_path: Path) -> None:
    """Once a checkpoint holds what was learnt from them, deleting them asks nothing again."""
    study = copied(template, tmp_path, *WARM)
    killed(study, 3)
    study.class_means.unlink()
    train(study, resume=True)
    assert charged().repeated == ()


def test_steps_are_charged_before_they_can_be_seen(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends while it writes a checkpoint has left parts of it, so its steps count twice."""
    study = copied(template, tmp_path)
    killed(study, 2)
    with monkeypatch.context() as patch:
        patch.setattr("privsyn.training.loop.save_checkpoint", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(study, resume=True)
    assert charged().taken == (4,)
    train(study, resume=True)
    assert [part.steps for part in charged().repeated] == [2]


def test_a_copy_of_the_study_pays_for_its_own_steps(template: Study, tmp_path: Path) -> None:
    """Copied in mid-run: the second to go on is charged for what it repeats, the first then has no claim."""
    study = copied(template, tmp_path)
    killed(study, 2)
    twin = copied(study, tmp_path / "twin")
    killed(study, 6, resume=True)
    document = train(twin, resume=True).to_document()
    assert [(name, part.steps) for name, part in queries(document)] == [("dp-sgd-repeated", 4), ("dp-sgd", 8)]
    with pytest.raises(PrivsynError, match="settled"):
        train(study, resume=True)
    assert not study.privacy_file.exists()


def test_two_copies_at_once_do_not_share_steps(template: Study, tmp_path: Path) -> None:
    """While one runs the other goes on: the one that is behind writes nothing of what nobody paid for."""
    study = copied(template, tmp_path)
    killed(study, 2)
    twin = copied(study, tmp_path / "twin")

    class TwinGoesOn:
        """A listener that lets the twin take and write two steps before the study writes its own."""

        @contextmanager
        def stage(self, name: str, total: int) -> Iterator[Advance]:  # noqa: ARG002 - one length fits all
            if name == "train":
                killed(twin, 4, resume=True)
            yield lambda *_, **__: None

    with pytest.raises(PrivsynError, match="gone on elsewhere"):
        train(study, resume=True, progress=TwinGoesOn())
    assert newest(study.checkpoints).name == "step-000002"
    assert newest(twin.checkpoints).name == "step-000004"


def test_a_grant_has_the_last_word(template: Study, tmp_path: Path) -> None:
    """Without room for the steps that would be taken again the run is refused, and nothing happens."""
    study = copied(template, tmp_path)
    known = ledger.register(load_cohort(study.cohort).training_patients)
    ledger.grant(known, unit="image", epsilon=8.0, delta=DELTA)
    killed(study, 4)
    (population,) = ledger.populations()
    ledger.grant(known, unit="image", epsilon=population.grants[0].spent, delta=DELTA)
    lost = tmp_path / "lost"
    shutil.move(newest(study.checkpoints), lost)
    before = tree_digests(study.root), ledger.overview()
    with pytest.raises(Refused, match="put the files back from a backup"):
        train(study, resume=True)
    assert (tree_digests(study.root), ledger.overview()) == before
    shutil.move(lost, study.checkpoints / "step-000004")
    assert train(study, resume=True).to_document()["epsilon"] <= 2.0
