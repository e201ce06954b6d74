"""From a source to a cohort on disk and back: what is written, what is not, and what is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from homes import new_home
from numpy.typing import NDArray
from PIL import Image

from privsyn.claim.document import NEIGHBOURING
from privsyn.cohort.cohort import Cohort, load_cohort
from privsyn.cohort.document import DuplicateCounts
from privsyn.cohort.prepare import SourceSpec, prepare
from privsyn.cohort.split import SPLITS
from privsyn.errors import CohortError, RecipeError, StudyError
from privsyn.files import tree_digests
from privsyn.home import patient_key, split_key
from privsyn.ledger import TrainingCharge, reserve, void
from privsyn.progress import Advance
from privsyn.study import Study

FILES = ("records", "pixels", "notes")
FILES_OF_A_STUDY = ["cohort", "policy.toml", "recipe.toml", "study.toml"]
Noise = Callable[..., NDArray[np.uint8]]
MakeStudy = Callable[..., Study]


def _npz(path: Path, images: NDArray[np.uint8], labels: object = None, **extra: object) -> Path:
    labels = np.arange(len(images)) % 2 if labels is None else np.asarray(labels)
    np.savez(path, images=images, labels=labels, **{name: np.asarray(value) for name, value in extra.items()})
    return path


def _rows(cohort: Cohort) -> dict[str, str]:
    """Pixel hash to split."""
    return dict(zip(cohort.records["sha256"], cohort.records["split"], strict=True))


def test_digits_become_a_cohort(make_study: MakeStudy) -> None:
    """All images, split about 60/20/20, each a unit of its own, pixels and records in the same order."""
    cohort = prepare(make_study('data.classes=["0","1","2","3","4","5","6","7","8","9"]'), "digits")
    assert cohort.images.shape == (1797, 8, 8, 1)
    assert cohort.document.patient_ids.startswith("none: every image counts by itself")
    assert cohort.document.unit == "image"
    for split, share in zip(SPLITS, (0.6, 0.2, 0.2), strict=True):
        part, counts = cohort.part(split), cohort.document.counts[split]
        assert abs(counts.images - share * 1797) <= 4 * np.sqrt(share * (1 - share) * 1797)
        assert len(part.images) == len(part.labels) == len(set(part.patients)) == counts.patients
        assert list(np.bincount(part.labels)) == [counts.classes[str(digit)] for digit in range(10)]
        assert not part.images.flags.writeable
        np.testing.assert_array_equal(part.images, cohort.images[part.rows])
    digests = [hashlib.sha256(image.tobytes()).hexdigest() for image in cohort.images]
    assert digests == cohort.records["sha256"].tolist()


def test_the_files_are_what_other_programs_rely_on(make_study: MakeStudy, class_folders: Path) -> None:
    """Names, types and keys of DESIGN section 3."""
    study = make_study()
    cohort = prepare(study.root, class_folders)
    assert sorted(path.name for path in study.cohort.iterdir()) == [
        "cohort.json",
        "images.npy",
        "records.parquet",
    ]
    records = pd.read_parquet(study.cohort / "records.parquet")
    assert list(records) == [
        "index", "label", "label_name", "patient", "split", "sha256", "cluster", "picture", "pinned",
    ]  # fmt: skip
    assert records["index"].tolist() == list(range(12))
    assert np.load(study.cohort / "images.npy").dtype == np.uint8
    document = json.loads((study.cohort / "cohort.json").read_text())
    assert document["schema_version"] == 2
    assert document["unit"] == "image"
    assert "seed" not in document
    assert (document["size"], document["channels"], document["bit_depth"]) == (8, 1, 8)
    assert document["classes"] == ["a", "b"]
    assert document["split"] == {"train": 0.6, "holdout": 0.2, "test": 0.2}
    assert document["duplicates"] == {"exact_images": 0, "groups": 0, "linked_patients": 0}
    assert (cohort.size, cohort.channels, cohort.classes) == (8, 1, ("a", "b"))
    assert len(cohort.fingerprint) == 64


def test_a_table_with_patients_keeps_each_in_one_part(
    make_study: MakeStudy, class_folders: Path, tmp_path: Path
) -> None:
    """Ids are trimmed, stored as keyed HMAC only, and no id, name or path is in any file."""
    files = sorted(path.relative_to(class_folders).as_posix() for path in class_folders.rglob("*.png"))
    ids = [f"{' ' * (number % 2)}Meier-{number // 2}" for number in range(12)]
    pd.DataFrame({"file": files, "label": ["a"] * 6 + ["1"] * 6, "patient": ids}).to_csv(
        tmp_path / "t.csv", index=False
    )
    study = make_study("data.split=[0.4, 0.3, 0.3]")
    cohort = prepare(study, SourceSpec(class_folders, table=tmp_path / "t.csv"))
    assert (cohort.document.patient_ids, cohort.document.unit) == ("given", "patient")
    assert cohort.records["label_name"].value_counts().to_dict() == {"a": 6, "b": 6}
    wanted = {
        hmac.new(patient_key(), f"patient Meier-{number}".encode(), hashlib.sha256).hexdigest()
        for number in range(6)
    }
    assert set(cohort.records["patient"]) == wanted
    assert cohort.records.groupby("patient")["split"].nunique().eq(1).all()
    written = (study.cohort / "cohort.json").read_text() + cohort.records.to_csv()
    for secret in ("Meier", "scan-", "images/", str(tmp_path), "t.csv"):
        assert secret not in written
        assert all(secret.encode() not in path.read_bytes() for path in study.cohort.iterdir())


def test_images_without_an_id_among_others_are_told(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """A gap in the patients makes an image its own patient, and the cohort says how many."""
    source = _npz(
        tmp_path / "a.npz", noise(18, 8, 8), groups=["p", "p", "q", "q", "r", "", " ", "r", *"abcdefghij"]
    )
    document = prepare(make_study(), source).document
    assert document.patient_ids.startswith("partly given: 2 images have none")
    assert document.unit == "image"
    assert sum(document.counts[split].patients for split in SPLITS) == 15


def test_exact_duplicates_are_reported_and_never_straddle(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """With and without ids, and with different labels; duplicates without an id stay distinct patients."""
    images = noise(30, 8, 8)
    images[20:25], images[25] = images[:5], images[0]
    for name, extra in (("plain", {}), ("ids", {"groups": np.arange(30)})):
        cohort = prepare(make_study(name=name), _npz(tmp_path / f"{name}.npz", images, **extra))
        assert cohort.document.duplicates == DuplicateCounts(exact_images=6, groups=5, linked_patients=11)
        assert cohort.records.groupby("sha256")["split"].nunique().eq(1).all()
        assert cohort.records["patient"].nunique() == 30


def test_equal_runs_give_equal_bytes_whatever_the_order_of_the_source(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Rows are ordered by hash; nothing tells where an image stood in the source."""
    images = noise(20, 8, 8)
    images[7] = images[4]
    first, labels = make_study(name="first"), np.arange(20) % 2
    prepare(first, _npz(tmp_path / "a.npz", images, labels))
    order = np.random.default_rng(1).permutation(20)
    second = make_study(name="second")
    prepare(second, _npz(tmp_path / "b.npz", images[order], labels[order]))
    assert tree_digests(first.cohort) == tree_digests(second.cohort)


def test_the_machine_decides_the_split_and_the_seed_does_not(
    make_study: MakeStudy, tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's seed is public and changes nothing; another key changes patients, split and fingerprint.

    Neither of the two keys is in any file of the cohort.
    """
    source = _npz(tmp_path / "a.npz", noise(40, 8, 8))
    one = prepare(make_study(name="one"), source)
    reseeded = prepare(make_study(name="reseeded"), source, settings=["seed=1"])
    assert tree_digests(reseeded.folder) == tree_digests(one.folder)
    for key in (patient_key(), split_key(patient_key())):
        for path in one.folder.iterdir():
            assert key not in path.read_bytes()
            assert key.hex().encode() not in path.read_bytes()
    monkeypatch.setenv("PRIVSYN_HOME", new_home(tmp_path / "another-machine", key=bytes(range(32))))
    moved = prepare(make_study(name="moved"), source)
    assert _rows(moved) != _rows(one)
    assert set(moved.records["patient"]).isdisjoint(one.records["patient"])


def test_an_opt_out_moves_nobody_else(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """Also after `prepare --force`: no former training patient becomes a holdout patient."""
    ids = np.repeat(np.arange(30), 2)
    source, study = _npz(tmp_path / "a.npz", noise(60, 8, 8), groups=ids), make_study()
    before = _rows(prepare(study, source))
    (tmp_path / "out.txt").write_text("7\n")
    after = prepare(study, SourceSpec(source, opt_outs=tmp_path / "out.txt"), force=True)
    assert len(after.records) == 58
    assert _rows(after).items() <= before.items()


def test_ids_are_compared_in_one_form(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """17, 17.0 and ' 17 ' are one patient, as are two spellings of an umlaut; 017 and 1.5 are others."""
    ids = ["17", "17.0", " 17 ", "017", "1.5", "M\u00fcller", "Mu\u0308ller"] + [f"p{n}" for n in range(20)]
    cohort = prepare(make_study(), _npz(tmp_path / "a.npz", noise(27, 8, 8), groups=ids))
    assert cohort.records["patient"].nunique() == 27 - 3
    assert cohort.document.unit == "patient"


def test_linked_patients_are_one_unit_and_so_are_equal_images(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """For patients the unit is the cluster; for images it is the picture, whoever it belongs to."""
    images = noise(40, 8, 8)
    images[1] = images[0]
    groups = [f"p{number // 2}" for number in range(1, 41)]  # p0 has one image; p1 has image 1 and 2
    cohort = prepare(make_study(), _npz(tmp_path / "a.npz", images, groups=groups))
    part = cohort.of_rows(np.arange(40))
    assert len(set(part.patients)) == 21
    assert len(set(part.units("patient"))) == 20
    assert len(set(part.units("image"))) == 39


def test_who_was_trained_on_stays_in_train(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """Also in another study with smaller shares; the cohort says how many are there for that reason."""
    source = _npz(tmp_path / "a.npz", noise(200, 8, 8), groups=np.arange(200))
    first = prepare(make_study("data.split=[0.6, 0.2, 0.2]", name="first"), source)
    assert first.document.pinned == 0
    reserve("training", first.training_patients, TrainingCharge("patient", NEIGHBOURING, None, (), "no DP"))
    smaller = make_study("data.split=[0.4, 0.4, 0.2]", name="second")
    second = prepare(smaller, source)
    assert set(first.training_patients) <= set(second.training_patients)
    pinned = second.part("train").pinned
    assert second.document.pinned == pinned.sum() > 25
    assert not second.part("holdout").pinned.any()
    void("training")
    assert prepare(smaller, source, force=True).document.pinned == 0


def test_markup_and_formulas_are_class_names_like_any_other(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """They come back exactly as the recipe has them."""
    names = ["<script>alert(1)</script>", "=SUM(A1)", "[bold]x[/bold]", "a\nb"]
    study = make_study(f"data.classes={json.dumps(names)}")
    cohort = prepare(study, _npz(tmp_path / "a.npz", noise(12, 8, 8), np.arange(12) % 4))
    assert cohort.classes == tuple(names)
    assert set(cohort.records["label_name"]) == set(names)


def test_other_sizes_follow_the_declared_resize(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """Images of several sizes become one array."""
    folder = tmp_path / "images" / "a"
    folder.mkdir(parents=True)
    for number in range(12):
        Image.fromarray(noise(8 + number, 20)).save(folder / f"{number}.png")
    cohort = prepare(make_study("data.resize=crop"), folder.parent)
    assert cohort.images.shape == (12, 8, 8, 1)


def _unreadable(folder: Path) -> None:
    (folder / "a" / "scan-3.png").write_bytes(b"no image")


def _wrong_size(folder: Path) -> None:
    for name in ("scan-2.png", "scan-4.png"):
        Image.new("L", (30, 28)).save(folder / "a" / name)


def _unknown_label(folder: Path) -> None:
    (folder / "b").rename(folder / "bb")


def _colour(folder: Path) -> None:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "b" / "scan-0.png")


def _empty(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


def _one_left(folder: Path) -> None:
    for path in list(folder.rglob("*.png"))[1:]:
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_unreadable, r"1 of 12 images cannot be used; first: a/scan-3\.png: is not what its name says"),
        (
            _wrong_size,
            r"2 of 12 images cannot be used; first: a/scan-2\.png: 30x28 px, the recipe wants 8x8 "
            r"\(set data\.resize to fit, crop or pad\)",
        ),
        (
            _unknown_label,
            r"6 of 12 .*first: bb/scan-0\.png: label 'bb' is not in data\.classes: did you mean 'b'",
        ),
        (_colour, r"1 of 12 .*b/scan-0\.png: is in colour"),
        (_empty, r"images holds no images"),
        (_one_left, r"no patient is left for .*: the cohort has 1 patient, and each is assigned by a coin"),
    ],
)
def test_bad_input_is_named_in_one_line_and_leaves_the_cohort_untouched(
    make_study: MakeStudy, class_folders: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """Also with --force: the cohort that was there stays, byte for byte, and nothing is left beside it."""
    study = make_study()
    prepare(study, class_folders)
    before = tree_digests(study.root)
    spoil(class_folders)
    with pytest.raises(CohortError, match=message) as caught:
        prepare(study, class_folders, force=True)
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1
    assert tree_digests(study.root) == before


def test_a_cohort_of_one_patient_is_refused(make_study: MakeStudy, tmp_path: Path, noise: Noise) -> None:
    """However many images the patient has."""
    source = _npz(tmp_path / "a.npz", noise(20, 8, 8), groups=["p"] * 20)
    study = make_study()
    with pytest.raises(CohortError, match="the cohort has 1 patient"):
        prepare(study, source)
    assert not study.cohort.exists()


def test_an_existing_cohort_is_replaced_only_by_force(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Without it the command stops before it reads the source."""
    study = make_study()
    first = prepare(study, _npz(tmp_path / "a.npz", noise(20, 8, 8)))
    before = tree_digests(study.cohort)
    with pytest.raises(StudyError, match="already exists: pass --force"):
        prepare(study, tmp_path / "nowhere")
    assert tree_digests(study.cohort) == before
    second = prepare(study, _npz(tmp_path / "b.npz", noise(20, 8, 8)), force=True)
    assert second.fingerprint != first.fingerprint


def test_an_unknown_recipe_key_stops_before_anything_is_read(make_study: MakeStudy) -> None:
    """Settings are checked like the recipe itself."""
    study = make_study()
    with pytest.raises(RecipeError, match=r"unknown key 'data\.siez': did you mean 'size'"):
        prepare(study, "digits", settings=["data.siez=8"])
    assert not study.cohort.exists()


class _Meddler:
    """Runs something when a stage opens, as a user or another program may."""

    def __init__(self, stage: str, meddle: Callable[[], None]) -> None:
        self.name, self.meddle, self.steps = stage, meddle, 0

    @contextmanager
    def stage(self, name: str, total: int | None) -> Iterator[Advance]:
        if name == self.name:
            self.meddle()

        def advance(amount: int = 1, **facts: str) -> None:
            assert not facts
            self.steps += amount

        yield advance
        assert total is None or self.steps % total == 0


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_leaves_no_cohort_and_the_next_run_goes_on(make_study: MakeStudy, class_folders: Path) -> None:
    """What was read waits in one hidden folder, readable by its owner alone, until the cohort is there."""
    study = make_study()
    with pytest.raises(KeyboardInterrupt):
        prepare(study, class_folders, progress=_Meddler("write images", _interrupt))
    assert not study.cohort.exists()
    working = study.root / ".preparing"
    assert working.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o077 == 0 for path in working.iterdir() if path.name in FILES)
    prepare(study, class_folders)
    assert sorted(path.name for path in study.root.iterdir()) == FILES_OF_A_STUDY


def test_progress_counts_every_image_twice(make_study: MakeStudy, class_folders: Path) -> None:
    """Once when it is read and once when it is written."""
    progress = _Meddler("", _interrupt)
    prepare(make_study(), class_folders, progress=progress)
    assert progress.steps == 24


def _edit_json(folder: Path, **changes: object) -> None:
    document = json.loads((folder / "cohort.json").read_text()) | changes
    (folder / "cohort.json").write_text(json.dumps(document))


def _resplit(folder: Path) -> None:
    records = pd.read_parquet(folder / "records.parquet")
    records["split"] = records["split"].to_numpy()[::-1]
    records.to_parquet(folder / "records.parquet", index=False)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "images.npy").unlink(), r"images\.npy"),
        (lambda folder: (folder / "records.parquet").unlink(), r"records\.parquet"),
        (lambda folder: (folder / "cohort.json").unlink(), r"cohort\.json does not exist"),
        (lambda folder: _cut(folder / "images.npy"), "cannot be used"),
        (lambda folder: _cut(folder / "records.parquet"), "cannot be used"),
        (lambda folder: _cut(folder / "cohort.json"), "not valid JSON"),
        (lambda folder: np.save(folder / "images.npy", np.zeros((3, 8, 8, 1), np.uint8)), r"is uint8 \(3, 8"),
        (lambda folder: np.save(folder / "images.npy", np.zeros((12, 8, 8, 1))), "is float64"),
        (lambda folder: _edit_json(folder, schema_version=1), "version 2"),
        (lambda folder: _edit_json(folder, size=9), "say uint8"),
        (lambda folder: _edit_json(folder, classes=["a"]), "labels beyond the classes"),
        (lambda folder: _edit_json(folder, classes=7), "cannot be used"),
        (_resplit, r"not the one that cohort\.json was written with"),
    ],
)
def test_a_damaged_cohort_is_refused(
    make_study: MakeStudy, class_folders: Path, spoil: Callable[[Path], None], message: str
) -> None:
    """The message names the file and how to go on."""
    study = make_study()
    prepare(study, class_folders)
    spoil(study.cohort)
    with pytest.raises(CohortError, match=message) as caught:
        load_cohort(study.cohort)
    assert "prepare it again" in str(caught.value)


def test_a_missing_cohort_names_the_command_that_makes_one(tmp_path: Path) -> None:
    """As every other artefact of a study does."""
    with pytest.raises(StudyError, match="privsyn prepare"):
        load_cohort(tmp_path / "cohort")


def test_rows_in_any_order_are_read(make_study: MakeStudy, class_folders: Path) -> None:
    """A cohort that another program laid out need not have its splits in a row."""
    study = make_study()
    cohort = prepare(study, class_folders)
    trained = {image.tobytes() for image in cohort.part("train").images}
    order = np.random.default_rng(0).permutation(12)
    images, records = cohort.images[order], cohort.records.iloc[order].assign(index=range(12))
    (study.cohort / "images.npy").unlink()  # which is still mapped
    np.save(study.cohort / "images.npy", images)
    records.to_parquet(study.cohort / "records.parquet", index=False)
    _edit_json(study.cohort, records_sha256=None)
    part = load_cohort(study.cohort).part("train")
    assert {image.tobytes() for image in part.images} == trained
    assert not part.images.flags.writeable


def test_an_unknown_split_is_refused(make_study: MakeStudy, class_folders: Path) -> None:
    """There are three."""
    with pytest.raises(CohortError, match="no split 'valid': choose from train, holdout, test"):
        prepare(make_study(), class_folders).part("valid")
