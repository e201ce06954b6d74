"""Training and the ledger: charged before the first step, settled after the last, refused beyond a grant."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from digits_study import KillAt, Killed, copied, prepared
from homes import new_home
from sklearn.datasets import load_digits

from privsyn import ledger
from privsyn.claim.document import Mechanism
from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.prepare import prepare
from privsyn.dp.accounting import epsilon
from privsyn.errors import CheckpointError, PrivsynError, RecipeError, Refused
from privsyn.files import read_json, tree_digests
from privsyn.study import Study, init
from privsyn.training.budget import planned_query
from privsyn.training.checkpoint import load_state, newest
from privsyn.training.loop import train

SHORT = ("train.steps=12", "train.checkpoint_every=2", "train.warmup_steps=3", "privacy.epsilon=2.0")
DELTA = 1e-5


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return prepared(tmp_path_factory.mktemp("template"), *SHORT)


def only() -> ledger.Population:
    (population,) = ledger.populations()
    return population


def patients(study: Study) -> list[str]:
    return load_cohort(study.cohort).training_patients


def test_a_training_is_charged_before_its_first_step_and_settled_after_its_last(
    template: Study, tmp_path: Path
) -> None:
    """While it runs, the whole plan is reserved; when it is done, the claim names the entry."""
    study = copied(template, tmp_path)
    with pytest.raises(Killed):
        train(study, dp=True, progress=KillAt(1))
    (charge,) = only().entries
    assert (charge.state, charge.mechanisms[0].steps) == ("reserved", 12)
    document = train(study, dp=True, resume=True).to_document()
    (settled,) = only().entries
    assert (settled.state, settled.reference) == ("settled", charge.reference)
    assert settled.mechanisms[0].steps == document["mechanism"]["steps"] == 12
    assert document["ledger"]["population"] == only().id
    assert ledger.check(document["ledger"]["head"])
    assert document["cumulative"]["epsilon"] == document["epsilon"]


def test_trainings_on_the_same_patients_add_up_across_studies(template: Study, tmp_path: Path) -> None:
    """A second model, in another folder and another cohort of some of the patients, costs the same people."""
    one = copied(template, tmp_path / "one")
    other = copied(template, tmp_path / "two", "data.split=[0.5, 0.3, 0.2]")
    for study in (one, other):
        prepare(study, "digits", force=True)
    claims = train(one, dp=True), train(other, dp=True, epsilon=1.0)
    first, second = (claim.to_document() for claim in claims)
    history = [
        Mechanism(*(each["mechanism"][key] for key in ("noise_multiplier", "sample_rate", "steps")))
        for each in (first, second)
    ]
    assert second["cumulative"]["charges"] == 2
    assert second["cumulative"]["epsilon"] == pytest.approx(epsilon(history, DELTA), rel=1e-3)
    assert first["epsilon"] < second["cumulative"]["epsilon"] < first["epsilon"] + second["epsilon"]


def test_a_replaced_model_stays_charged(template: Study, tmp_path: Path) -> None:
    """--force starts again; the privacy that the old model spent stays spent."""
    study = copied(template, tmp_path)
    train(study, dp=True)
    train(study, dp=True, force=True, settings=["train.steps=2"])
    assert [charge.state for charge in only().entries] == ["settled", "settled"]


def test_a_grant_is_kept_and_what_is_refused_leaves_the_old_model(template: Study, tmp_path: Path) -> None:
    """The second training would exceed the grant: no step, no charge, and the first model is untouched."""
    study = copied(template, tmp_path, "privacy.delta=5e-4")
    ledger.grant(ledger.register(patients(study)), unit="image", epsilon=4.6, delta=5e-4)
    train(study, dp=True)
    before = tree_digests(study.model)
    with pytest.raises(Refused, match=r"4\.6 is granted"):
        train(study, dp=True, force=True)
    with pytest.raises(Refused, match="allow-unbounded"):
        train(study, dp=False, force=True)
    assert tree_digests(study.model) == before
    assert len(only().entries) == 1
    train(study, dp=True, force=True, epsilon=0.02)
    assert only().grants[0].spent <= 4.6


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ((), "without differential privacy"),
        (("privacy.dp=true", "privacy.insecure_seed=3"), "noise that can be repeated"),
        (("privacy.public_data=true",), "declared public"),
    ],
)
def test_what_nothing_bounds_leaves_no_finite_figure(
    template: Study, tmp_path: Path, settings: tuple[str, ...], why: str
) -> None:
    """No DP, repeatable noise and public images are recorded with the reason; no total holds after that."""
    document = train(copied(template, tmp_path / "one"), settings=["train.steps=2", *settings]).to_document()
    assert document["cumulative"]["finite"] is False
    assert why in document["cumulative"]["note"]
    later = train(copied(template, tmp_path / "two"), dp=True, settings=["train.steps=2"]).to_document()
    assert later["cumulative"]["epsilon"] is None


def test_an_unbounded_training_under_a_grant_needs_a_word(template: Study, tmp_path: Path) -> None:
    """--allow-unbounded is that word."""
    study = copied(template, tmp_path, "train.steps=2")
    ledger.grant(ledger.register(patients(study)), unit="patient", epsilon=2.5, delta=DELTA)
    with pytest.raises(Refused):
        train(study)
    assert not study.model.exists()
    assert train(study, allow_unbounded=True).to_document()["cumulative"]["finite"] is False


def test_a_training_that_cannot_begin_is_not_charged(
    template: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error between the charge and the first step takes the charge back."""
    study = copied(template, tmp_path)

    replace_file = os.replace

    def full_disk(source: Path, target: Path) -> None:
        if Path(target) == study.model:
            raise OSError("no space left")
        replace_file(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_disk)
        with pytest.raises(OSError, match="no space"):
            train(study, dp=True)
    assert [charge.state for charge in only().entries] == ["voided"]
    assert only().seen == ()
    assert not study.model.exists()


def test_a_ledger_that_cannot_be_used_stops_the_training(template: Study, tmp_path: Path) -> None:
    """It fails closed: no record, no step."""
    study = copied(template, tmp_path)
    train(copied(template, tmp_path / "before"), dp=True, settings=["train.steps=2"])
    database = Path(os.environ["PRIVSYN_HOME"]) / "ledger.sqlite"
    database.write_bytes(b"not a database" * 100)
    with pytest.raises(PrivsynError, match="ledger"):
        train(study, dp=True)
    assert not study.model.exists()


def test_relabelled_images_without_patients_are_the_same_population(tmp_path: Path) -> None:
    """Where pixels stand for patients, labels and order do not identify a patient."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (80, 8, 8), dtype=np.uint8)
    labels = np.arange(80) % 2
    settings = ['data.classes=["a", "b"]', "train.steps=1", "privacy.expected_units=50"]
    for name, order, given in (
        ("one", np.arange(80), labels),
        ("two", generator.permutation(80), 1 - labels),
    ):
        np.savez(tmp_path / f"{name}.npz", images=images[order], labels=given[order])
        study = init(tmp_path / name, recipe="toy", policy="internal-review", settings=settings)
        prepare(study, tmp_path / f"{name}.npz")
        train(study, dp=True)
    assert only().patients == len(set(load_cohort(study.cohort).training_patients)) < 80
    assert len(only().entries) == 2


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A model of other images, the digits upside down, that were declared public."""
    folder = tmp_path_factory.mktemp("public")
    digits = load_digits()
    upright = (digits.images[:300] * 15).astype(np.uint8)
    np.savez(folder / "turned.npz", images=upright[:, ::-1], labels=digits.target[:300])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(folder / "home"))
        settings = [*SHORT, "privacy.public_data=true"]
        study = init(folder / "study", recipe="toy", policy="internal-review", settings=settings)
        prepare(study, folder / "turned.npz")
        train(study)
    return study


def start_from(model: Path) -> str:
    return f"train.init_from={json.dumps(str(model))}"


def test_a_public_model_starts_another(template: Study, public: Study, tmp_path: Path) -> None:
    """Its weights are taken over, named in the claim, and spoken of in what it does not cover."""
    source = read_json(public.privacy_file)
    assert "declared public" in source["statement"]
    study = copied(template, tmp_path, start_from(public.model))
    with pytest.raises(Killed):
        train(study, dp=True, progress=KillAt(0))
    weights = [newest(each.checkpoints) / "ema.safetensors" for each in (study, public)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    document = train(study, dp=True, resume=True).to_document()
    digest = source["provenance"]["weights_sha256"]
    assert document["public"]["init_from"] == {"weights_sha256": digest, "declaration": "public"}
    assert any("started from" in line for line in document["not_covered"])
    assert str(public.root) not in study.privacy_file.read_text()


def test_a_place_is_looked_for_from_the_study(template: Study, public: Study, tmp_path: Path) -> None:
    """A relative train.init_from means the same wherever the command is run."""
    study = copied(template, tmp_path)
    shutil.copytree(public.model, tmp_path / "public")
    document = train(study, dp=True, settings=['train.init_from="../public"', "train.steps=1"]).to_document()
    digest = read_json(public.privacy_file)["provenance"]["weights_sha256"]
    assert document["public"]["init_from"]["weights_sha256"] == digest


def test_patients_cannot_be_declared_public_to_start_from_them(template: Study, tmp_path: Path) -> None:
    """Weights that saw this cohort without noise are refused, whatever they declare."""
    first = copied(template, tmp_path / "first", "privacy.public_data=true")
    train(first, settings=["train.steps=1"])
    study = copied(template, tmp_path / "second")
    with pytest.raises(RecipeError, match="patients of this cohort"):
        train(study, dp=True, settings=[start_from(first.model)])
    assert not study.model.exists()


def test_a_finished_training_cannot_go_on_from_an_older_checkpoint(template: Study, tmp_path: Path) -> None:
    """Its charge is settled: the same steps with other noise would be a second model on one charge."""
    study = copied(template, tmp_path)
    document = train(study, dp=True).to_document()
    shutil.rmtree(newest(study.checkpoints))
    with pytest.raises(CheckpointError, match="train again with --force"):
        train(study, dp=True, resume=True)
    assert read_json(study.privacy_file) == document


def test_two_copies_of_a_study_do_not_share_a_charge(template: Study, tmp_path: Path) -> None:
    """Copied in mid-run and both resumed, the second gets no claim."""
    study = copied(template, tmp_path)
    with pytest.raises(Killed):
        train(study, dp=True, progress=KillAt(4))
    twin = copied(study, tmp_path / "twin")
    train(study, dp=True, resume=True)
    with pytest.raises(PrivsynError, match="--force"):
        train(twin, dp=True, resume=True)
    assert not twin.privacy_file.exists()


def test_a_model_that_is_not_public_starts_nothing(template: Study, tmp_path: Path) -> None:
    """Nor one that is missing, or of another shape; each message names the setting or the place."""
    private = copied(template, tmp_path / "private")
    train(private, settings=["train.steps=1"])
    other = copied(template, tmp_path / "other", "privacy.public_data=true", "model.channels=12")
    train(other, settings=["train.steps=1"])
    study = copied(template, tmp_path / "study")

    def start(folder: Path) -> None:
        train(study, dp=True, settings=[start_from(folder)])

    with pytest.raises(RecipeError, match="not declared public"):
        start(private.model)
    with pytest.raises(RecipeError, match="another network"):
        start(other.model)
    with pytest.raises(RecipeError, match=r"train\.init_from .* holds no checkpoint"):
        start(tmp_path)
    assert not study.model.exists()


def test_public_data_are_not_trained_on_with_privacy(template: Study, tmp_path: Path) -> None:
    """One of the two declarations is wrong."""
    with pytest.raises(RecipeError, match="protects no patient"):
        train(copied(template, tmp_path, "privacy.public_data=true"), dp=True)


PROGRAM = """
import sys
from pathlib import Path
from privsyn.training.loop import train
from privsyn.training.budget import planned_query
print("ready", flush=True)
sys.stdin.readline()
train(Path(sys.argv[1]), dp=True, resume=True)
"""


def killed(study: Study, seconds: float, *, beyond: int) -> int:
    """Resume a training in a process of its own and kill it; returns the steps of its newest checkpoint.

    The moment is so many seconds after its checkpoints have gone beyond so many steps, wherever that is:
    while it loads, measures, steps, writes or tidies up.
    """
    command = [sys.executable, "-c", PROGRAM, str(study.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("\n")
        process.stdin.flush()
        until = time.monotonic() + 120
        while reached(study) < beyond and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
    return reached(study)


def reached(study: Study) -> int:
    return int(newest(study.checkpoints).name.removeprefix("step-"))


@pytest.mark.parametrize(("kills", "length"), [(3, 150), pytest.param(20, 400, marks=pytest.mark.slow)])
def test_a_run_killed_again_and_again_ends_with_the_same_accounting(
    template: Study, tmp_path: Path, kills: int, length: int
) -> None:
    """SIGKILL at random moments, resumed each time: one charge, all steps counted, the chain intact.

    The accounting is that of an unbroken run, which the recipe fixes, and never less. Only a kill while a
    checkpoint is being written adds the steps that it would have had, for a part of it is on the disk.
    """
    study = copied(template, tmp_path, f"train.steps={length}", "train.checkpoint_every=10")
    unbroken = replace(planned_query(study.recipe(["privacy.dp=true"])).mechanism, steps=length)
    with pytest.raises(Killed):
        train(study, dp=True, progress=KillAt(1))
    moments, steps, again = random.Random(0), [0], 0
    for number in range(kills):
        beyond = steps[-1] + number % 2  # in turn: at once, and after a further checkpoint
        steps.append(killed(study, moments.uniform(0.0, 1.0), beyond=beyond))
        assert ledger.check()
        assert load_state(newest(study.checkpoints)).step == steps[-1]
        (charge,) = only().entries
        assert charge.taken[0] - steps[-1] in (0, 10)
        again = sum(part.steps for part in charge.repeated) + charge.taken[0] - steps[-1]
        assert again <= 10 * (number + 1)
    assert steps == sorted(steps)
    assert 0 < steps[-1] < length
    document = train(study, dp=True, resume=True).to_document()
    ran = Mechanism(*(document["mechanism"][key] for key in ("noise_multiplier", "sample_rate", "steps")))
    assert ran == unbroken
    assert document["provenance"]["steps_done"] == length
    assert document["epsilon"] == epsilon([replace(unbroken, steps=length + again)], DELTA)
    (charge,) = only().entries
    assert (charge.state, charge.mechanisms) == ("settled", (unbroken,))
    assert sum(part.steps for part in charge.repeated) == again
    assert ledger.check(document["ledger"]["head"])
