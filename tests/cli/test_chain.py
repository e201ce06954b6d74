"""The chain as a user runs it: every verb on a real, small study, with its exit codes and its manners."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Run

ARTEFACTS = (
    "study.toml", "recipe.toml", "policy.toml",
    "cohort/cohort.json", "cohort/records.parquet", "cohort/images.npy",
    "model/checkpoints", "model/privacy.json", "model/train.jsonl", "model/recipe.json",
    "synthetic/README.md", "synthetic/croissant.json", "synthetic/data/train-00000-of-00001.parquet",
    "audit/findings.json", "audit/verdict.json", "audit/internal-report.html", "audit/public-report.html",
    "release/release.intoto.jsonl", "release/README.md",
)  # fmt: skip
STAGES = ("init", "prepare", "train", "sample", "audit", "report", "release draft")


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_demo_runs_the_whole_chain(run: Run, tmp_path: Path, quick: list[str]) -> None:
    """Every artefact exists; stages and the final table are told; as JSON, stdout is one document."""
    folder = tmp_path / "demo"
    ran = run("demo", "--out", folder, *quick, "--json")
    assert ran.code == 0, ran.err
    assert [name for name in ARTEFACTS if not (folder / name).exists()] == []
    assert [path for path in folder.rglob("*") if path.name.startswith(".partial")] == []
    for number, name in enumerate(STAGES, 1):
        assert f"{number}/7 {name}: " in ran.err
    for word in ("claim", "epsilon", "audit nearest-neighbour", "verdict"):
        assert word in ran.err
    assert (folder / "audit" / "internal-report.html").as_uri() in ran.err
    assert ran.document["claim"]["kind"] == "dp"
    assert ran.document["verdict"]["verdict"] in ("pass", "fail", "inconclusive")
    refused = run("demo", "--out", folder)
    assert (refused.code, "--force" in refused.err) == (2, True)


def test_the_demo_never_removes_what_is_not_a_study(run: Run, tmp_path: Path) -> None:
    """--force replaces a demo, not any other folder."""
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    assert run("demo", "--out", tmp_path, "--force").code == 2
    assert (tmp_path / "mine.txt").exists()


def test_the_single_commands_make_the_same_chain(
    run: Run, tmp_path: Path, quick: list[str], source: Path, policy: Path
) -> None:
    """Verb by verb, each with --json: one document on stdout, everything else on stderr."""
    study = tmp_path / "study"
    at = ["--study", study, "--json"]
    assert run("init", study, "--recipe", "digits", "--policy", policy, *quick, "--json").code == 0
    assert run("prepare", source, *at).document["counts"]["train"]["images"] == 160
    claim = run("train", "--no-dp", *at)
    assert (claim.code, claim.document["kind"]) == (0, "none")
    assert "train" in claim.err
    drawn = run("sample", "--count", 50, *at).document
    assert (drawn["count"], drawn["provenance"]["generator"]) == (50, "privsyn")
    verdict = run("audit", *at)
    assert verdict.code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict.document["verdict"]]
    assert Path(run("report", *at).document["internal"]).exists()
    release = run("release", "draft", *at).document["release"]
    checked = run("verify", release, "--json")
    assert (checked.code, checked.document["outcome"]) == (3, "inconclusive")
    assert run("status", *at).document["next"] is None


def test_the_study_may_be_the_current_folder_or_named_by_the_environment(
    run: Run, study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cd study; privsyn status` and `PRIVSYN_STUDY=study privsyn status` say the same as `--study`."""
    told = run("status", "--study", study).out
    monkeypatch.chdir(study)
    assert run("status").out == told
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("PRIVSYN_STUDY", str(study))
    assert run("status").out == told


@pytest.mark.parametrize(
    "words",
    [["prepare", "digits"], ["train", "--dp"], ["sample"], ["audit"], ["release", "draft"]],
    ids=lambda w: w[0],
)
def test_nothing_finished_is_replaced_without_force(
    run: Run, study: Path, source: Path, words: list[str]
) -> None:
    """Exit 2, a hint at --force, and every byte as before; with --force it is made again."""
    words = [str(source) if word == "SOURCE" else word for word in words]
    before = _contents(study)
    refused = run(*words, "--study", study)
    assert (refused.code, refused.out) == (2, "")
    assert "--force" in refused.err
    assert _contents(study) == before
    assert run(*words, "--study", study, "--force").code in (0, 1, 3)


@pytest.mark.parametrize(
    ("words", "first"),
    [(["train"], "prepare"), (["sample"], "train"), (["audit"], "sample"), (["report"], "audit"),
     (["release", "draft"], "audit")],
    ids=lambda w: w[0] if isinstance(w, list) else w,
)  # fmt: skip
def test_a_missing_station_names_the_command_to_run_first(
    run: Run, study: Path, words: list[str], first: str
) -> None:
    """Exit 2 and `run privsyn ... first`."""
    for folder in {
        "prepare": ["cohort", "model"],
        "train": ["model"],
        "sample": ["synthetic"],
        "audit": ["audit"],
    }[first]:
        shutil.rmtree(study / folder)
    shutil.rmtree(study / "release")
    if words == ["sample"]:
        shutil.rmtree(study / "synthetic")
    if words == ["audit"]:
        shutil.rmtree(study / "audit")
    ran = run(*words, "--study", study)
    assert ran.code == 2, ran.err
    assert f"privsyn {first}" in ran.err


def test_verify_names_what_differs(run: Run, study: Path) -> None:
    """Whole but unapproved: 3. Changed, missing, extra: 1, and the name of each file."""
    release = study / "release"
    assert run("verify", release).code == 3
    (release / "README.md").write_text("changed", encoding="utf-8")
    (release / "extra.txt").write_text("extra", encoding="utf-8")
    (release / "croissant.json").unlink()
    ran = run("verify", release)
    assert ran.code == 1
    for line in ("changed: README.md", "missing: croissant.json", "extra: extra.txt", "outcome: fail"):
        assert line in ran.out
    assert run("verify", study / "nothing").code in (1, 2)


def test_another_generators_set_is_audited_without_a_study(
    run: Run, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four flags stand for a study; --only marks the verdict partial."""
    monkeypatch.chdir(tmp_path)
    ran = run(
        "audit", "--synthetic", study / "synthetic", "--cohort", study / "cohort",
        "--policy", "internal-review", "--only", "exact-copies",
        "--out", tmp_path / "out", "--json",
    )  # fmt: skip
    assert ran.document["partial"] is True
    assert {rule["audit"] for rule in ran.document["rules"]} == {"exact-copies"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["findings.json", "verdict.json"]


@pytest.mark.parametrize("stage", ["train", "sample"])
def test_an_interrupted_command_leaves_nothing_half_written(study: Path, stage: str) -> None:
    """Ctrl-C in the middle: exit 130, one line, no partial file, and the earlier result untouched."""
    slow = {"train": ["--set", "train.steps=100000"], "sample": ["--count", "100000"]}[stage]
    before = _contents(study)
    process = subprocess.Popen(
        [sys.executable, "-m", "privsyn", stage, "--study", str(study), "--force", *slow],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # as a terminal has it
    )  # fmt: skip
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(stage):
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert err.endswith("interrupted; nothing is left half-written\n")
    assert "Traceback" not in err
    assert [path for path in study.rglob("*") if path.name.startswith(".partial")] == []
    if stage == "sample":
        assert _contents(study) == before


def test_hostile_class_names_pass_through_the_chain(run: Run, tmp_path: Path) -> None:
    """Markup, formulas and escape sequences are names like any other: shown as text, never interpreted."""
    names = ["[bold]=1+1[/]", "<script>alert(1)</script>", "\x1b[31mred"]
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "x.npz",
        images=rng.integers(0, 256, (300, 8, 8), dtype=np.uint8),
        labels=np.arange(300) % 3,
    )
    study = tmp_path / "study"
    classes = f"data.classes={json.dumps(names)}"
    made = run("init", study, "--recipe", "toy", "--policy", "internal-review", "--set", classes)
    assert made.code == 0, made.err
    prepared = run("prepare", tmp_path / "x.npz", "--study", study)
    assert prepared.code == 0, prepared.err
    for name in ("[bold]=1+1[/]", "<script>alert(1)</script>", "\\x1b[31mred"):
        assert name in prepared.out


def test_the_exit_code_of_an_audit_is_its_verdict(run: Run, study: Path, source: Path, policy: Path) -> None:
    """0 pass, 1 fail, 3 inconclusive; and `status` says what can be done about the last two."""
    at = ["--study", study, "--force"]
    assert (run("audit", *at).code, run("status", "--study", study, "--json").document["advice"]) == (0, [])
    leaked = run("audit", "--synthetic", source, *at, "--json")
    assert (leaked.code, leaked.document["verdict"]) == (1, "fail")
    unmeasurable = policy.read_text(encoding="utf-8").replace("exact-copies", "membership-model")
    unmeasurable = unmeasurable.replace('"copies"', '"tpr-at-1%-fpr"\nside = "lower"')
    (study / "policy.toml").write_text(unmeasurable, encoding="utf-8")
    assert run("audit", *at).code == 3
    told = run("status", "--study", study)
    assert told.code == 0
    assert "inconclusive audit has too little data to see a leak" in told.out


@pytest.mark.slow  # the controls fine-tune a model
def test_shadow_models_are_trained_on_request(run: Run, study: Path, policy: Path) -> None:
    """`--shadows 6` forecasts, trains, judges the rule that asked for them, and leaves none behind."""
    rules = policy.read_text(encoding="utf-8").replace("exact-copies", "membership-shadow")
    rules = rules.replace('"copies"', '"auc"\nside = "lower"').replace("threshold = 0", "threshold = 0.5")
    (study / "policy.toml").write_text(rules, encoding="utf-8")
    before = {name for name in _contents(study) if not name.startswith(("audit/", "cohort/audit-cache/"))}
    ran = run("audit", "--study", study, "--force", "--shadows", "6", "--json")
    assert "6 shadow models will be trained, about" in ran.err
    (rule,) = ran.document["rules"]
    assert (rule["audit"], ran.code) == (
        "membership-shadow",
        {"pass": 0, "fail": 1, "inconclusive": 3}[rule["outcome"]],
    )
    findings = json.loads((study / "audit" / "findings.json").read_text(encoding="utf-8"))["findings"]
    assert findings[0]["applicable"]
    assert findings[0]["n"]["shadow_models"] == 6
    after = {name for name in _contents(study) if not name.startswith(("audit/", "cohort/audit-cache/"))}
    assert after == before


@pytest.mark.slow  # every audit once more; tests/test_readme.py runs them by default, on digits
def test_the_chain_runs_on_a_slice_of_real_x_rays(run: Run, tmp_path: Path, shared_data: Path) -> None:
    """PneumoniaMNIST in small, with every audit that ships: init to verify, as the README has it."""
    with np.load(shared_data / "pneumoniamnist.npz") as whole:
        images, labels = whole["train_images"][:150], whole["train_labels"][:150]
    np.savez(tmp_path / "slice.npz", images=images, labels=labels.ravel())
    at = ["--study", tmp_path / "study"]
    small = (
        "train.steps=20",
        "train.batch_size=16",
        "model.channels=8",
        "model.groups=4",
        "model.multipliers=[1, 1, 1]",
    )
    made = run(
        "init",
        at[1],
        "--recipe",
        "chest-xray-28",
        "--policy",
        "internal-review",
        *(f"--set={setting}" for setting in small),
    )
    assert made.code == 0, made.err
    assert run("prepare", tmp_path / "slice.npz", *at).code == 0
    assert run("train", *at).code == 0
    assert run("sample", "--count", "40", "--set", "sample.steps=5", *at).code == 0
    assert run("audit", *at).code in (0, 1, 3)
    assert run("report", *at).code == 0
    assert run("release", "draft", *at).code == 0
    assert run("verify", tmp_path / "study" / "release").code == 3


def test_a_second_audit_gets_reports_of_its_own(run: Run, study: Path, policy: Path, tmp_path: Path) -> None:
    """`audit --out` and `report --audit` leave the study's own audit as it is."""
    before = _contents(study / "audit")
    other = tmp_path / "other"
    assert run("audit", "--study", study, "--policy", policy, "--out", other).code == 0
    ran = run("report", "--study", study, "--audit", other, "--json")
    assert ran.code == 0, ran.err
    assert Path(ran.document["internal"]) == other / "internal-report.html"
    assert (other / "public-report.html").exists()
    assert _contents(study / "audit") == before
    missing = run("report", "--study", study, "--audit", tmp_path / "none")
    assert missing.code == 2
    assert "none" in missing.err
    assert "Traceback" not in missing.err
