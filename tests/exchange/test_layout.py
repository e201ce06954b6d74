"""The synthetic set in other tools' layouts: they load it, nothing else is in it, and it stays one thing."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tomlkit
from claims import dp_claim
from digits_study import prepared
from highdicom import _standard_utils as standard
from homes import new_home
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from synthetic_sets import ODD_NAMES, PROVENANCE, parquet, png, recipient

from privsyn.bit_depth import DTYPES
from privsyn.cli import main
from privsyn.errors import PrivsynError, StudyError, SyntheticError
from privsyn.exchange.dicom import MODALITIES, image_comments, series_description
from privsyn.exchange.diffusers import export
from privsyn.exchange.layout import LAYOUTS, export_set
from privsyn.exchange.pictures import shard_rows
from privsyn.files import relative_files, tree_digests, write_text
from privsyn.study import Study
from privsyn.synthetic.dataset import write_synthetic

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
HOSTILE = [*ODD_NAMES, "\x00", "\x1b[31mred", "../../up", "CON", "\u202egnp.exe", "é" * 300, "x" * 20_000]

LOAD = """
import numpy
from datasets import load_dataset
kind = sys.argv[1].rsplit("/", 1)[1]
train = load_dataset(kind, data_dir=sys.argv[1], split="train", cache_dir=sys.argv[2])
image = {"imagefolder": "image", "webdataset": "png"}[kind]
told = list(train.select_columns(["label", "label_name"]) if kind == "imagefolder" else train["json"])
print(json.dumps({
    "mode": train[0][image].mode,
    "labels": [row["label"] for row in told], "names": [row["label_name"] for row in told],
    "pixels": [numpy.asarray(train[row][image]).ravel().tolist() for row in (0, len(train) - 1)],
}))
"""


def make(
    folder: Path, *, n: int = 60, channels: int = 1, bits: int = 8, size: int = 9, classes: Any = HOSTILE
) -> np.ndarray:
    """A set in our layout; odd sizes make odd numbers of bytes, which DICOM pads."""
    images = np.random.default_rng(n).integers(0, 2**bits, (n, size, size, channels), dtype=DTYPES[bits])
    labels = np.arange(n) % len(classes)
    write_synthetic(folder, images, labels, classes, name="St Mary", claim=dp_claim(), provenance=PROVENANCE)
    return images


def exported(source: Path, out: Path, kind: str, **options: Any) -> Path:
    export_set("no study", format=kind, out=out, source=source, **options)
    return out


def labels_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text("ascii").splitlines()]


@pytest.mark.parametrize("kind", ["imagefolder", "webdataset"])
@pytest.mark.parametrize(("channels", "bits", "mode"), [(1, 8, "L"), (3, 8, "RGB"), (1, 16, "I;16")])
def test_datasets_loads_pictures_and_labels_without_network(
    tmp_path: Path, kind: str, channels: int, bits: int, mode: str
) -> None:
    """Pixels, numbers and names of labels arrive as they are, in order, whatever the classes are called."""
    images = make(tmp_path / "set", channels=channels, bits=bits)
    folder = exported(tmp_path / "set", tmp_path / "test" / kind, kind)
    loaded = recipient(LOAD, folder, tmp_path / "cache")
    assert loaded["mode"] == mode
    assert loaded["labels"] == [row % len(HOSTILE) for row in range(60)]
    assert loaded["names"] == [HOSTILE[label] for label in loaded["labels"]]
    assert loaded["pixels"] == [images[0].ravel().tolist(), images[-1].ravel().tolist()]


@pytest.mark.parametrize("bits", [8, 16])
def test_an_imagefolder_is_numbers_pixels_and_labels(tmp_path: Path, bits: int) -> None:
    """File names carry no class, and PNGs no chunk but those of pixels."""
    images = make(tmp_path / "set", n=3, bits=bits, classes=["a", "b"])
    folder = exported(tmp_path / "set", tmp_path / "out", "imagefolder")
    pictures = [f"images/{row:06d}.png" for row in range(3)]
    assert relative_files(folder) == ["README.md", *pictures, "metadata.jsonl"]
    assert labels_of(folder)[1] == {"file_name": "images/000001.png", "label": 1, "label_name": "b"}
    for name, image in zip(pictures, images, strict=True):
        assert chunks((folder / name).read_bytes()) == ["IHDR", "IDAT", "IEND"]
        with Image.open(folder / name) as picture:
            read = np.array(picture)
        assert read.dtype == DTYPES[bits]
        assert np.array_equal(read, image[..., 0])
    assert f"grey, {bits} bits per channel" in (folder / "README.md").read_text(encoding="utf-8")


def chunks(data: bytes) -> list[str]:
    """The chunk types of a PNG."""
    kinds, at = [], 8
    while at < len(data):
        kinds.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big") + 12
    return kinds


def test_tar_shards_tell_nothing_of_who_made_them(tmp_path: Path) -> None:
    """Plain ustar members: sorted, two of each stem, no time, no owner, one mode, no extended header."""
    make(tmp_path / "set", n=12)
    folder = exported(tmp_path / "set", tmp_path / "out", "webdataset")
    with tarfile.open(folder / "train-00000-of-00001.tar") as tar:
        members = tar.getmembers()
        assert json.load(tar.extractfile("000007.json")) == {"label": 7, "label_name": HOSTILE[7]}
        assert chunks(tar.extractfile("000007.png").read()) == ["IHDR", "IDAT", "IEND"]
    names = [member.name for member in members]
    assert names == sorted(f"{row:06d}.{suffix}" for row in range(12) for suffix in ("json", "png"))
    told = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members}
    assert told == {(0, 0, 0, "", "", 0o644, tarfile.REGTYPE)}
    assert not any(member.pax_headers for member in members)


def test_shards_are_bounded_and_complete() -> None:
    """At most 10,000 images and 256 MiB of pixels each; an image that is larger has a shard to itself."""
    assert shard_rows(3, 64) == [range(3)]
    assert shard_rows(20_001, 64) == [range(10_000), range(10_000, 20_000), range(20_000, 20_001)]
    assert {len(rows) for rows in shard_rows(170, 3 * 2**20)} == {85}
    assert shard_rows(2, 2**30) == [range(1), range(1, 2)]


def test_several_shards_load_as_one_split(tmp_path: Path) -> None:
    """10,001 images make two tar files, which load in order."""
    images = make(tmp_path / "set", n=10_001, size=8, classes=["a", "b"])
    folder = exported(tmp_path / "set", tmp_path / "webdataset", "webdataset")
    assert len(list(folder.glob("train-*-of-00002.tar"))) == 2
    loaded = recipient(LOAD, folder, tmp_path / "cache")
    assert len(loaded["labels"]) == 10_001
    assert loaded["pixels"][-1] == images[-1].ravel().tolist()


@pytest.mark.parametrize(
    ("channels", "bits", "modality"),
    [(1, 8, "OT"), (3, 8, "OT"), (1, 8, "CR"), (1, 8, "GM"), (3, 8, "GM"), (1, 16, "OT"), (1, 16, "CR")],
)
def test_dicom_files_hold_the_pixels_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, bits: int, modality: str
) -> None:
    """pydicom reads back what was drawn, finds every value valid, and the file says that it is synthetic."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    images = make(tmp_path / "set", channels=channels, bits=bits)
    folder = exported(tmp_path / "set", tmp_path / "out", "dicom", modality=modality)
    uids = set()
    for row, told in enumerate(labels_of(folder)):
        file = pydicom.dcmread(folder / told["file_name"])
        assert np.array_equal(file.pixel_array.reshape(images[row].shape), images[row])
        assert (file.BitsAllocated, file.BitsStored, file.HighBit) == (bits, bits, bits - 1)
        assert file.PixelRepresentation == 0
        assert file.PhotometricInterpretation == {1: "MONOCHROME2", 3: "RGB"}[channels]
        assert (file.SyntheticData, file.PatientIdentityRemoved, file.BurnedInAnnotation) == (
            "YES",
            "YES",
            "NO",
        )
        assert file.DeidentificationMethod.startswith("Synthetic")
        assert list(file.ImageType) == ["DERIVED", "SECONDARY"]
        assert not any(file[name].value for name in file.dir("Patient") if name != "PatientIdentityRemoved")
        assert not any(file[name].value for name in [*file.dir("Date"), *file.dir("Time")])
        assert file.Modality == modality
        assert told["label_name"] == HOSTILE[told["label"]]
        uids |= {file.SOPInstanceUID, file.SeriesInstanceUID, file.StudyInstanceUID}
        for element in file:  # decodes every value, and with it checks it
            assert element.value is not None
    assert len(uids) == len(images) + len(HOSTILE) + 1
    assert all(pydicom.uid.UID(uid).is_valid for uid in uids)


@pytest.mark.parametrize(
    ("channels", "bits", "modality"),
    [(1, 8, modality) for modality in MODALITIES]
    + [(3, 8, "OT"), (3, 8, "GM"), (1, 16, "OT"), (1, 16, "CR")],
)
def test_dicom_files_conform_to_their_class(tmp_path: Path, channels: int, bits: int, modality: str) -> None:
    """By the standard's own tables, as highdicom carries them: all that is required, and nothing foreign."""
    make(tmp_path / "set", n=1, channels=channels, bits=bits, classes=["a"])
    folder = exported(tmp_path / "set", tmp_path / "out", "dicom", modality=modality)
    file = pydicom.dcmread(folder / "images/000000.dcm")
    iod = standard.get_sop_class_iod_map()[file.SOPClassUID]
    assert iod == {"CR": "computed-radiography-image", "GM": "vl-microscopic-image"}.get(
        modality, "secondary-capture-image"
    )
    modules = {module["key"]: module["usage"] for module in standard.get_iod_module_map()[iod]}
    known = set()
    for module, usage in modules.items():
        attributes = [a for a in standard.get_module_attribute_map()[module] if not a["path"]]
        known |= {attribute["keyword"] for attribute in attributes}
        if usage == "M":
            standard.check_required_attributes(file, module)
            for attribute in attributes:
                if attribute["type"] == "1":
                    assert not file[attribute["keyword"]].is_empty, attribute["keyword"]
    assert {element.keyword for element in file} <= known


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dciodvfy (apt-get install dicom3tools)")
@pytest.mark.parametrize(
    ("channels", "bits", "modality"),
    [(1, 8, "OT"), (3, 8, "OT"), (1, 8, "CT"), (1, 8, "CR"), (3, 8, "GM"), (1, 16, "CT"), (1, 16, "CR")],
)
def test_dciodvfy_finds_no_error(tmp_path: Path, channels: int, bits: int, modality: str) -> None:
    """But for Synthetic Data, which is younger than Debian's version of it."""
    make(tmp_path / "set", channels=channels, bits=bits)
    folder = exported(tmp_path / "set", tmp_path / "out", "dicom", modality=modality)
    for file in sorted((folder / "images").iterdir())[: len(HOSTILE)]:
        ran = subprocess.run(["dciodvfy", "-new", str(file)], capture_output=True, check=False)
        lines = ran.stderr.decode(errors="replace").split("\n")
        assert [line for line in lines if line.startswith("Error") and "(0008,001c)" not in line] == []


@given(st.text() | st.text("é\\\x00\U0001f9ec", min_size=40), st.integers(0, 9999))
def test_any_class_name_fits_into_dicom(name: str, label: int) -> None:
    """A long string of 64 bytes and characters without controls and backslashes; a long text as JSON."""
    said = series_description(label, name)
    assert said.isprintable()
    assert "\\" not in said
    assert len(said.encode()) <= 64
    told = image_comments(label, name)
    assert told.isascii()
    assert told.isprintable()
    assert json.loads(told) == {"label": label, "label_name": name}


def test_a_class_name_too_long_for_dicom_leaves_its_number() -> None:
    """10,240 characters is what a long text may have."""
    assert json.loads(image_comments(3, "x" * 20_000)) == {"label": 3}
    assert len(image_comments(3, "x" * 10_200)) <= 10_240


def test_micrographs_of_16_bits_are_refused(tmp_path: Path) -> None:
    """VL Image (PS3.3 C.8.12.1) allows 8 bits alone; the message names another modality."""
    make(tmp_path / "set", n=1, bits=16, classes=["a"])
    with pytest.raises(PrivsynError, match=r"VL Microscopic.* 8 bits .*--modality"):
        exported(tmp_path / "set", tmp_path / "out", "dicom", modality="GM")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", LAYOUTS)
def test_two_exports_are_the_same_bytes(tmp_path: Path, kind: str) -> None:
    """Nothing depends on when, where or how often; another set has other bytes, and other UIDs."""
    make(tmp_path / "set")
    make(tmp_path / "others", n=61)
    one, two, other = (
        exported(tmp_path / source, tmp_path / out, kind)
        for source, out in (("set", "one"), ("set", "sub/two"), ("others", "other"))
    )
    assert tree_digests(one) == tree_digests(two)
    assert tree_digests(one)["README.md"] != tree_digests(other)["README.md"]
    if kind == "dicom":
        radiographs = exported(tmp_path / "set", tmp_path / "cr", kind, modality="CR")
        files = [pydicom.dcmread(folder / "images/000000.dcm") for folder in (one, other, radiographs)]
        assert len({file.SOPInstanceUID for file in files}) == 3
        assert len({file.StudyInstanceUID for file in files}) == 3


@pytest.mark.parametrize("kind", LAYOUTS)
def test_the_card_says_what_protects_whom(tmp_path: Path, kind: str) -> None:
    """The claim in the words of the set's card, that this copy is not approved, and how to load it."""
    make(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "out", kind)
    card = (folder / "README.md").read_text(encoding="utf-8")
    words = (
        (tmp_path / "set/README.md").read_text(encoding="utf-8").split("## Privacy\n\n")[1].split("\n\n")[0]
    )
    assert f"> {words}\n" in card
    assert "epsilon = 8.001, delta = 1e-05" in words
    assert "not itself a release" in card
    assert "not fit for diagnosis" in card
    printed = subprocess.run(
        "sha256sum data/*.parquet | sha256sum",
        shell=True, cwd=tmp_path / "set", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert printed.split()[0] in card
    program = re.search(r"^```python\n(.*?)^```", card, re.M | re.S)[1]
    ran = program.replace("PATH/OF/THIS/FOLDER", str(folder)) + "\nprint(1)"
    assert recipient(ran, folder, tmp_path / "cache") == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of digits with a release draft, audited for exact copies alone, which is quick."""
    study = prepared(
        tmp_path_factory.mktemp("secret-place"), "train.steps=2", "sample.count=30", "sample.steps=2"
    )
    policy = tomlkit.parse(study.policy_file.read_text(encoding="utf-8"))
    policy["rules"] = [rule for rule in policy["rules"] if rule["audit"] == "exact-copies"]
    write_text(study.policy_file, tomlkit.dumps(policy))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PRIVSYN_HOME", new_home(study.root.parent / "home"))
        for verb in ("train", "sample", "audit", "report", "release draft"):
            assert main([*verb.split(), "--study", str(study.root)]) in (0, 1, 3), verb
    return study


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_recipient_exports_what_the_study_would(tmp_path: Path, finished: Study, kind: str) -> None:
    """From study, set and release come the same bytes, and none tells the study's name or place."""
    ours = export(finished, format=kind, out=tmp_path / "ours")
    theirs = exported(finished.release, tmp_path / "theirs", kind)
    alone = exported(finished.synthetic, tmp_path / "alone", kind)
    assert tree_digests(ours) == tree_digests(theirs) == tree_digests(alone)
    for name in relative_files(ours):
        data = (ours / name).read_bytes()
        for private in ("secret-place", "study", str(tmp_path), "privacy.json", "recipe"):
            assert private.encode() not in data.lower(), name


def test_the_documented_commands_run(
    tmp_path: Path, finished: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of docs/formats.md that starts with `privsyn`, in the folder of a study."""
    shutil.copytree(finished.root, tmp_path / "study")
    monkeypatch.chdir(tmp_path / "study")
    lines = re.findall(r"^privsyn (.*)$", DOCS.read_text(encoding="utf-8"), re.M)
    assert {shlex.split(line)[shlex.split(line).index("--format") + 1] for line in lines} == set(LAYOUTS)
    for line in lines:
        assert main(shlex.split(line)) == 0, line
    assert "exported 30 images to" in capsys.readouterr().out
    assert main([*shlex.split(lines[-1]), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 30


def test_the_set_is_exported_without_torch(tmp_path: Path) -> None:
    """A recipient waits for no network library to load."""
    make(tmp_path / "set")
    words = ["export", "--format", "dicom", "--from", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    program = f"import sys; from privsyn.cli import main; main({words}); print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "False"


def test_missing_pydicom_is_named(tmp_path: Path) -> None:
    """What to install, in one line, and nothing is left behind."""
    make(tmp_path / "set")
    words = ["export", "--format", "dicom", "--from", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    program = (
        f"import sys; sys.modules['pydicom'] = None; from privsyn.cli import main; sys.exit(main({words}))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "error: --format dicom needs pydicom: pip install 'privsyn[dicom]'\n"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_force_replaces_an_export_of_its_kind_alone(tmp_path: Path, kind: str) -> None:
    """Not without force; not another format, another folder, nor an export with an added file."""
    make(tmp_path / "set")
    folder = exported(tmp_path / "set", tmp_path / "out", kind)
    before = tree_digests(folder)
    with pytest.raises(PrivsynError, match="--force"):
        exported(tmp_path / "set", folder, kind)
    assert exported(tmp_path / "set", folder, kind, force=True) == folder
    for other in LAYOUTS.keys() - {kind}:
        with pytest.raises(PrivsynError, match=f"is not a {other} export"):
            exported(tmp_path / "set", folder, other, force=True)
    (tmp_path / "mine/images").mkdir(parents=True)
    (tmp_path / "mine/images/000000.png").write_bytes(png(8, 8, 1))
    (folder / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for mine in (folder, tmp_path / "mine", tmp_path / "file", tmp_path / "set"):
        with pytest.raises(PrivsynError):
            exported(tmp_path / "set", mine, kind, force=True)
    (folder / "notes.txt").unlink()
    assert tree_digests(folder) == before


def test_what_is_asked_wrongly_is_answered_in_words(tmp_path: Path, finished: Study) -> None:
    """Unknown formats and modalities, colour as a radiograph, a place inside the set; nothing is written."""
    make(tmp_path / "set", channels=3, classes=["a"])
    wrong: Sequence[tuple[dict[str, Any], str]] = [
        ({"kind": "imagefolders"}, "did you mean 'imagefolder'"),
        ({"kind": "tiff"}, "choose from diffusers, dicom, imagefolder, webdataset"),
        ({"kind": "dicom", "modality": "XR"}, "no modality 'XR'"),
        ({"kind": "dicom", "modality": "CR"}, "is grey and this set is RGB"),
        ({"kind": "webdataset", "modality": "CR"}, "only --format dicom"),
        ({"kind": "webdataset", "out": tmp_path / "set/out"}, "lies in the set"),
    ]
    for options, message in wrong:
        given_ = {"out": tmp_path / "out", **options}
        with pytest.raises(PrivsynError, match=message):
            exported(tmp_path / "set", **given_)
    with pytest.raises(StudyError, match="is not a study"):
        export_set(tmp_path, format="dicom", out=tmp_path / "out")
    assert main(["export", "--out", str(tmp_path / "out"), "--from", str(finished.release)]) == 2
    assert (
        main(["export", "--out", str(tmp_path / "out"), "--study", str(finished.root), "--modality", "CR"])
        == 2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    """No shards, no card, no claim in it, no or impossible class names, no or odd images; nothing is left."""
    kept = "# A set\n\n## Privacy\n\nNothing is claimed.\n"
    make(tmp_path / "set", n=2, classes=["a", "b"])
    bad = {
        "nothing": "holds no data",
        "nameless": "does not name its classes",
        "twice": "names a class twice",
        "surrogate": "is not valid text",
        "empty": "holds no images",
        "alpha": "is RGBA, wanted L or RGB",
        "broken": "cannot be read",
        "cardless": "says nothing under `## Privacy`",
        "claimless": "says nothing under `## Privacy`",
    }
    parquet(tmp_path / "nameless", [png(8, 8, 1)], [0])
    write_named(tmp_path / "twice", ["a", "a"], [png(8, 8, 1)])
    write_named(tmp_path / "surrogate", ["\ud800"], [png(8, 8, 1)])
    write_named(tmp_path / "empty", ["a"], [])
    write_named(tmp_path / "alpha", ["a"], [png(8, 8, 4)])
    write_named(tmp_path / "broken", ["a"], [b"not a png"])
    for name in bad:
        (tmp_path / name).mkdir(exist_ok=True)
        write_text(tmp_path / name / "README.md", kept)
    for name in ("cardless", "claimless"):
        shutil.copytree(tmp_path / "set", tmp_path / name, dirs_exist_ok=True)
    (tmp_path / "cardless/README.md").unlink()
    write_text(tmp_path / "claimless/README.md", "# A set\n\n## Privacy\n\n")
    there = sorted(path.name for path in tmp_path.iterdir())
    for name, message in bad.items():
        with pytest.raises(SyntheticError, match=message):
            exported(tmp_path / name, tmp_path / "out", "imagefolder")
    assert sorted(path.name for path in tmp_path.iterdir()) == there


def write_named(folder: Path, names: list[str], encoded: list[bytes | None]) -> None:
    """A shard with class names in its metadata, whatever they are."""
    import pyarrow.parquet as pq

    shard = next((parquet(folder, encoded, [0] * len(encoded)) / "data").iterdir())
    features = {"info": {"features": {"label": {"names": names}}}}
    pq.write_table(pq.read_table(shard).replace_schema_metadata({"huggingface": json.dumps(features)}), shard)
