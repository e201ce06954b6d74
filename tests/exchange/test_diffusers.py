"""A trained study goes to diffusers and back; what diffusers draws from it is what we draw."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from digits_study import copied, in_16_bits, prepared

from privsyn.auditing.run import audit
from privsyn.claim.words import IMPORTED
from privsyn.cohort.cohort import load_cohort
from privsyn.diffusion.samplers import Denoised, clamped, ddpm, respaced
from privsyn.errors import CheckpointError, PrivsynError, RecipeError, StudyError
from privsyn.exchange.diffusers import export, import_model, loop
from privsyn.files import read_json, relative_files, tree_digests
from privsyn.ledger import populations
from privsyn.release.bundle import read_bundle
from privsyn.release.draft import draft
from privsyn.release.manifest import BUNDLE
from privsyn.report.html import report
from privsyn.status import status
from privsyn.study import Study, init, set_in_toml
from privsyn.synthetic.sampling import sample
from privsyn.training.checkpoint import EMA, load_model, newest
from privsyn.training.loop import train

DOCS = Path(__file__).resolve().parents[2] / "docs" / "diffusers.md"
MODELS = {
    "v, cosine": (),
    "learned variance, linear, several heads": (
        "diffusion.target=epsilon",
        "diffusion.schedule=linear",
        "diffusion.learned_variance=true",
        "model.head_channels=4",
    ),
    "padded, sigmoid, scale and shift": (
        "diffusion.target=x0",
        "diffusion.schedule=sigmoid",
        "model.multipliers=[1, 1, 1, 1, 1]",
        "model.scale_shift=true",
    ),
}


def trained_by(folder: Path, *settings: str) -> Study:
    study = prepared(folder, "train.steps=20", *settings)
    train(study)
    return study


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return trained_by(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def empty(tmp_path: Path) -> Study:
    """A study of the toy recipe without a model."""
    return init(tmp_path / "empty", recipe="toy", policy="internal-review")


def changed(study: Study, *settings: str) -> Study:
    """The same study with other settings in its recipe."""
    study.recipe_file.write_text(set_in_toml(study.recipe_file.read_text(), settings))
    return study


def example() -> str:
    """The program that the documentation shows."""
    (block,) = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.M | re.S)
    return str(block)


def theirs(folder: Path, **changes: Any) -> Path:
    """A pipeline that diffusers saved, with the network and process of the toy recipe and random weights."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": 8,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "attention_head_dim": None,
        "num_class_embeds": 10,
    }
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    DDPMPipeline(UNet2DModel(**(settings | changes)), scheduler).save_pretrained(folder)
    return folder


def test_the_program_of_the_documentation_is_the_one_of_the_card() -> None:
    """One loop, shown in both."""
    assert example() == loop("chest-model", 50)


@pytest.mark.parametrize("name", MODELS)
def test_diffusers_draws_what_we_draw(name: str, tmp_path: Path) -> None:
    """`from_pretrained` loads the folder, and the documented loop gives our `ddpm`'s images for its noise."""
    study = trained_by(tmp_path, *MODELS[name])
    folder = export(study, out=tmp_path / "out")
    assert isinstance(DiffusionPipeline.from_pretrained(folder), DDPMPipeline)
    space: dict[str, Any] = {}
    exec(example().replace("chest-model", str(folder)), space)

    model, labels = load_model(study.model)[0], torch.tensor([0, 1])
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2, 1, 8, 8, generator=generator)

    def denoise(x: torch.Tensor, times: torch.Tensor) -> Denoised:
        said, share = model.predict(x, times, labels)
        return Denoised(model.process.denoise(said, x, times), share)

    expected = ddpm(
        clamped(denoise),
        model.process,
        start,
        respaced(model.process.timesteps, 50),
        noise=lambda: torch.randn(start.shape, generator=generator),
    )
    torch.testing.assert_close(space["step"].pred_original_sample, expected, atol=1e-4, rtol=0)
    ours = ((expected + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert space["images"].dtype == np.uint8
    assert np.abs(space["images"].astype(int) - ours).max() <= 1


def test_the_program_of_the_card_runs_as_it_stands(trained: Study, tmp_path: Path) -> None:
    """With the folder's name put in, and with a process shorter than 50 steps."""
    study = trained_by(tmp_path, "diffusion.timesteps=20")
    for each, steps in ((trained, 50), (study, 20)):
        folder = export(each, out=tmp_path / f"out-{steps}")
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert loop("PATH/OF/THIS/FOLDER", steps) in card
    space: dict[str, Any] = {}
    exec(loop(str(folder), 20), space)
    assert space["images"].shape == (2, 8, 8, 1)


def test_the_program_of_the_card_draws_16_bits(trained: Study, tmp_path: Path) -> None:
    """From a model of 16-bit images, uint16 from black to white, and not 256 levels of them alone."""
    study = in_16_bits(copied(trained, tmp_path))
    train(study, force=True)
    folder = export(study, out=tmp_path / "out")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "grey, 16 bits per channel" in card
    (program,) = re.findall(r"^```python\n(.*?)^```", card, re.M | re.S)
    space: dict[str, Any] = {}
    exec(program.replace("PATH/OF/THIS/FOLDER", str(folder)), space)
    assert space["images"].dtype == np.uint16
    assert space["images"].max() > 40_000
    assert len(np.unique(space["images"] % 257)) > 20


def test_a_model_that_comes_back_draws_the_same_images(trained: Study, empty: Study, tmp_path: Path) -> None:
    """The averaged weights are the same bytes, and so is the set; the claim is gone."""
    claim = import_model(export(trained, out=tmp_path / "out"), empty).to_document()
    files = [newest(study.checkpoints) / EMA for study in (trained, empty)]
    assert files[0].read_bytes() == files[1].read_bytes()
    drawn = [sample(copied(study, tmp_path / study.root.name), count=20) for study in (trained, empty)]
    np.testing.assert_array_equal(drawn[0].images, drawn[1].images)
    assert (claim["kind"], claim["imported"]) == ("none", True)
    assert claim == read_json(empty.privacy_file)


def test_nothing_of_the_patients_is_in_the_folder(trained: Study, tmp_path: Path) -> None:
    """No path, no patient, no digest of the cohort, no figure of the ledger, in any file."""
    folder = export(trained, out=tmp_path / "out")
    assert relative_files(folder) == [
        "README.md", "model_index.json", "privacy.json", "scheduler/scheduler_config.json",
        "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip
    cohort = load_cohort(trained.cohort)
    secret = [str(trained.root), str(tmp_path), cohort.fingerprint, cohort.digest, *cohort.records["patient"]]
    claim = read_json(trained.privacy_file)
    assert claim["cumulative"] is not None
    assert {"provenance", "ledger", "cumulative"}.isdisjoint(read_json(folder / "privacy.json"))
    for name in relative_files(folder):
        content = (folder / name).read_bytes()
        assert [each for each in secret if each.encode() in content] == []


def test_the_card_says_what_is_claimed(trained: Study, tmp_path: Path) -> None:
    """Without a bound: internal, and why. With one: epsilon, delta, and still no permission. Void: so."""
    card = (export(trained, out=tmp_path / "none") / "README.md").read_text(encoding="utf-8")
    assert "No bound is claimed. Trained without differential privacy" in card
    assert "**This folder is INTERNAL**, as confidential as the images" in card
    assert '3: "3"' in card
    assert '10 stands for "class not told"' in card
    bounded = "Differential privacy for the image (add-or-remove-one): epsilon = "
    void = "No valid bound is claimed: privacy.insecure_seed is set"
    for settings, told in (((), bounded), (("privacy.insecure_seed=1",), void)):
        study = copied(
            trained, tmp_path / str(len(settings)), "train.steps=2", "privacy.noise_multiplicity=1", *settings
        )
        train(study, dp=True, force=True)
        folder = export(study, out=study.root / "out")
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert told in card
        assert ("**This folder is INTERNAL** until" in card) == (settings == ())
        private = {"mechanism", "statement", "epsilon", "not_covered", "unit", "valid_for_release"}
        assert private <= read_json(folder / "privacy.json").keys()


def test_hostile_class_names_cannot_leave_their_block(tmp_path: Path) -> None:
    """Fences, markup and line breaks are names like any other."""
    names = ["```", "a\n```\n# b", "<script>"]
    study = init(
        tmp_path / "study",
        recipe="toy",
        policy="internal-review",
        settings=[f"data.classes={json.dumps(names)}"],
    )
    import_model(theirs(tmp_path / "theirs", num_class_embeds=4), study)
    card = (export(study, out=tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(.*?)^```$", card, re.M | re.S)
    assert [json.loads(line.split(": ", 1)[1]) for line in block.splitlines()] == names


def test_what_cannot_be_exported_is_refused(trained: Study, empty: Study, tmp_path: Path) -> None:
    """An unknown format, no model, another's claim, another network; nothing is written."""
    swin = changed(
        copied(trained, tmp_path / "swin"),
        "model.network=swin-unet",
        "model.heads=[2, 2]",
        "model.windows=[4, 4]",
    )
    train(swin, settings=["train.steps=1"], force=True)
    edm = changed(copied(trained, tmp_path / "edm"), "diffusion.target=edm")
    train(edm, settings=["train.steps=1"], force=True)
    mixed = copied(trained, tmp_path / "mixed")
    claim = read_json(mixed.privacy_file)
    claim["provenance"]["weights_sha256"] = "0" * 64
    mixed.privacy_file.write_text(json.dumps(claim))
    refusals: list[tuple[Study, str, type[PrivsynError], str]] = [
        (trained, "onnx", PrivsynError, "no export format 'onnx': choose from diffusers"),
        (empty, "diffusers", StudyError, "run `privsyn train` first"),
        (swin, "diffusers", RecipeError, 'model.network is "swin-unet"'),
        (edm, "diffusers", RecipeError, 'diffusion.target is "edm"'),
        (mixed, "diffusers", StudyError, "is the claim of other weights"),
    ]
    for study, format_, kind, told in refusals:
        with pytest.raises(kind, match=told):
            export(study, format=format_, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_replaced_by_force_and_only_if_it_is_an_export(trained: Study, tmp_path: Path) -> None:
    """--force does not remove a folder of another kind."""
    folder = export(trained, out=tmp_path / "out")
    with pytest.raises(PrivsynError, match="pass --force"):
        export(trained, out=folder)
    (folder / "README.md").write_text("old")
    assert "# A class" in (export(trained, out=folder, force=True) / "README.md").read_text()
    before = tree_digests(trained.root)
    with pytest.raises(PrivsynError, match="is not an exported model"):
        export(trained, out=trained.root, force=True)
    assert tree_digests(trained.root) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"in_channels": 3, "out_channels": 3}, r"it needs data\.channels = 3$"),
        ({"sample_size": 16}, r"it needs data\.size = 16$"),
        (
            {"norm_num_groups": 2, "block_out_channels": (8, 24)},
            r"multipliers = \[1, 3\], model\.groups = 2$",
        ),
        ({"attention_head_dim": 8}, r"it needs model\.head_channels = 8$"),
        ({"layers_per_block": 2}, r"it needs model\.blocks = \[2, 2\]$"),
        ({"num_class_embeds": 7}, r"7 class embeddings.*data\.classes names 10"),
        ({"num_class_embeds": None}, r"knows no classes.*name one class in data\.classes.*train\.init_from"),
        ({"norm_eps": 1e-6}, r"norm_eps is 1e-06, which needs to be 1e-05"),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_a_network_that_is_not_the_recipes_is_refused(
    empty: Study, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    """The message says what to write into the recipe, and nothing is written."""
    with pytest.raises(RecipeError, match=told):
        import_model(theirs(tmp_path / "theirs", **changes), empty)
    assert not empty.model.exists()


def test_a_recipe_of_another_process_is_told_what_to_be(empty: Study, tmp_path: Path) -> None:
    """Schedule and target come from the scheduler; of a network alone, they are what the recipe says."""
    folder = theirs(tmp_path / "theirs")
    settings = ["diffusion.schedule=linear", "diffusion.target=epsilon", "model.network=swin-unet"]
    changed(empty, *settings, "model.heads=[2, 2]", "model.windows=[4, 4]")
    told = (
        r'model\.network = "unet", no model\.heads, no model\.windows, diffusion\.schedule = "cosine", '
        r'diffusion\.target = "v"$'
    )
    with pytest.raises(RecipeError, match=told):
        import_model(folder, empty)
    study = init(tmp_path / "alone", recipe="toy", policy="internal-review", settings=settings[:2])
    import_model(folder / "unet", study)
    assert load_model(study.model)[0].process.target == "epsilon"


def test_broken_folders_are_refused_and_the_old_model_stays(trained: Study, tmp_path: Path) -> None:
    """Nothing there, no weights, weights cut short, a pickle."""
    study, folder = copied(trained, tmp_path), theirs(tmp_path / "theirs")
    with pytest.raises(StudyError, match=r"already exists: pass --force"):
        import_model(folder, study)
    before, file = tree_digests(study.root), folder / "unet" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(PrivsynError, match=r"neither model_index\.json nor config\.json"):
        import_model(tmp_path, study, force=True)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="is broken"):
        import_model(folder, study, force=True)
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match="is a pickle"):
        import_model(folder, study, force=True)
    assert tree_digests(study.root) == before


def test_a_network_without_classes_is_the_model_of_one_class(tmp_path: Path) -> None:
    """Its labels are then right, whatever it draws."""
    folder = theirs(tmp_path / "theirs", num_class_embeds=None)
    settings = ['data.classes=["any"]']
    study = init(tmp_path / "study", recipe="toy", policy="internal-review", settings=settings)
    import_model(folder, study)
    assert set(sample(study, count=3, settings=["sample.steps=2"]).labels.tolist()) == {0}


POLICY = """
title = "Quick"
purpose = "tests"

[[rules]]
id = "no-exact-copies"
audit = "exact-copies"
statistic = "copies"
op = "<="
threshold = 0
rationale = "quick to audit"

[[rules]]
id = "bounded"
audit = "privacy-claim"
statistic = "epsilon"
op = "<="
threshold = 10
rationale = "there must be a bound"
"""


def test_an_imported_model_goes_through_the_chain_without_a_bound(trained: Study, tmp_path: Path) -> None:
    """Audit, reports, release draft and status say that nothing is known, and nothing is charged."""
    study = copied(trained, tmp_path)
    charged = populations()
    import_model(theirs(tmp_path / "theirs"), study, force=True)
    assert populations() == charged
    with pytest.raises(CheckpointError, match="on another cohort"):
        train(study, resume=True, settings=["privacy.dp=false"])
    sample(study, count=40, settings=["sample.steps=2"], force=True)
    study.policy_file.write_text(POLICY)
    verdict = audit(study)
    outcomes = {rule.id: (rule.outcome, rule.reason) for rule in verdict.rules}
    assert outcomes["no-exact-copies"][0] == "pass"
    assert outcomes["bounded"] == ("inconclusive", f"there is no valid bound: {IMPORTED}")
    internal, public = report(study)
    for page in (internal, public):
        assert (
            "The model was imported, and how it was trained, or on whose images, is not known"
            in page.read_text(encoding="utf-8")
        )
    statement = read_bundle((draft(study) / BUNDLE).read_bytes()).statement
    assert "The model was imported" in statement.predicate["privacyClaim"]["in_words"]
    assert "The model was imported" in (study.synthetic / "README.md").read_text(encoding="utf-8")
    states = {station.name: (station.state, station.detail) for station in status(study)}
    assert states["model"] == ("done", "imported; privacy claim: none")
    assert states["synthetic set"][0] == states["audit"][0] == states["release"][0] == "done"
