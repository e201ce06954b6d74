"""What each kind of source yields, and how a source that cannot be read is named."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file

from privsyn.bit_depth import Images
from privsyn.cohort.entries import NotAnImage, SourceEntry, SourceImage
from privsyn.cohort.labels import label_index
from privsyn.cohort.pseudonyms import entry_hash
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError
from privsyn.exchange.pictures import write_imagefolder, write_webdataset
from privsyn.recipe import Data
from privsyn.synthetic.dataset import read_synthetic, write_synthetic

Noise = Callable[..., NDArray[np.uint8]]
AB = ("a", "b")


def _data(classes: tuple[str, ...] = AB, **keys: object) -> Data:
    return Data.model_validate({"size": 8, "classes": classes, **keys})


def _list(
    source: Path | str, classes: tuple[str, ...] = AB, data: Data | None = None, **options: object
) -> list[SourceEntry]:
    return list(open_source(source, data or _data(classes), **options))  # type: ignore[arg-type]


def _picture(entry: SourceEntry) -> SourceImage:
    """The one picture of an entry that was sent to another process."""
    (picture,) = pickle.loads(pickle.dumps(entry)).read()
    return picture  # type: ignore[no-any-return]


def _pixels(entry: SourceEntry) -> Images:
    return _picture(entry).pixels


def test_digits_are_the_embedded_ones() -> None:
    """1,797 images of 8x8 px, scaled from 0..16 to 0..255, labelled by name, without patients."""
    entries = _list("digits")
    assert len(entries) == 1797
    assert _pixels(entries[0]).shape == (8, 8, 1)
    assert max(_pixels(entry).max() for entry in entries) == 255
    assert {entry.label for entry in entries} == set("0123456789")
    assert {entry.patient for entry in entries} == {None}


def test_class_folders_name_the_class_at_any_depth(class_folders: Path) -> None:
    """The first folder is the class; hidden files, the system's litter and a README beside are no images."""
    (class_folders / "a" / "visit").mkdir()
    (class_folders / "a" / "scan-0.png").rename(class_folders / "a" / "visit" / "scan-0.png")
    for litter in ("a/.DS_Store", "b/Thumbs.db", "README.txt", ".git/config"):
        (class_folders / litter).parent.mkdir(exist_ok=True)
        (class_folders / litter).touch()
    entries = _list(class_folders)
    assert [entry.label for entry in entries] == ["a"] * 6 + ["b"] * 6
    assert "a/visit/scan-0.png" in {entry.where for entry in entries}


def test_a_linked_class_folder_is_read_and_a_deeper_link_is_refused(
    class_folders: Path, tmp_path: Path
) -> None:
    """No link is passed over in silence."""
    (tmp_path / "elsewhere").mkdir()
    (class_folders / "b").rename(tmp_path / "elsewhere" / "b")
    (class_folders / "b").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    assert len(_list(class_folders)) == 12
    (class_folders / "a" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(CohortError, match="links to a folder"):
        _list(class_folders)


def test_an_image_outside_the_class_folders_is_refused(class_folders: Path) -> None:
    """It has no label; the message points to tables."""
    (class_folders / "a" / "scan-0.png").rename(class_folders / "stray.png")
    with pytest.raises(CohortError, match=r"'stray.png' is in no class folder.*--table"):
        _list(class_folders)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_gives_file_label_and_patient(class_folders: Path, tmp_path: Path, kind: str) -> None:
    """Columns may have other names; files are looked up in the folder, gaps in patients are None or empty."""
    frame = pd.DataFrame(
        {
            "path": ["a/scan-0.png", "./b/scan-1.png"],
            "diagnosis": ["b", "1"],
            "who": [17.0, None],
            "age": [3, 4],
        }
    )
    table = tmp_path / f"table.{kind}"
    if kind == "csv":
        frame.astype({"who": "Int64"}).to_csv(table, index=False)
    else:
        frame.to_parquet(table, index=False)
    columns = {"file": "path", "label": "diagnosis", "patient": "who"}
    entries = _list(class_folders, table=table, columns=columns)
    assert [entry.label for entry in entries] == ["b", "1"]
    assert [entry.patient or None for entry in entries] == ["17", None]
    assert _pixels(entries[1]).shape == (8, 8, 1)


def test_the_patient_column_is_optional_unless_named(class_folders: Path, tmp_path: Path) -> None:
    """Without it no image has a patient; a name that the table lacks is an error that lists what there is."""
    table = tmp_path / "table.csv"
    table.write_text("\ufefffile,label\na/scan-0.png,a\n", encoding="utf-8")  # as Excel saves it
    assert _list(class_folders, table=table)[0].patient is None
    with pytest.raises(CohortError, match=r"no column 'who' \(it has: 'file', 'label'\).*--column patient="):
        _list(class_folders, table=table, columns={"patient": "who"})
    with pytest.raises(CohortError, match=r"no use for a column 'lable': did you mean 'label'"):
        _list(class_folders, table=table, columns={"lable": "x"})


def test_text_that_looks_like_nothing_stays_text(class_folders: Path, tmp_path: Path) -> None:
    """Classes called NA, None or nan, markup and formulas are read as they stand."""
    names = ("NA", "None", "nan", "<b>x</b>", "=1+1", 'quo"te', "com,ma", " space ")
    table = tmp_path / "table.csv"
    pd.DataFrame({"file": ["a/scan-0.png"] * 8, "label": names}).to_csv(table, index=False)
    labels = [label_index(entry.label, names) for entry in _list(class_folders, names, table=table)]
    assert labels == list(range(8))


def test_files_of_a_table_must_stay_inside_the_folder(class_folders: Path, tmp_path: Path) -> None:
    """By `..`, by an absolute path and by a link; a name that is no name is refused as well."""
    outside = tmp_path / "outside.png"
    Image.new("L", (8, 8)).save(outside)
    os.symlink(outside, class_folders / "link.png")
    table = tmp_path / "table.csv"
    for file in ("../outside.png", str(outside), "link.png", "a/../../outside.png"):
        table.write_text(f"file,label\n{file},a\n")
        with pytest.raises(CohortError, match="leads out of the source folder"):
            _pixels(_list(class_folders, table=table)[0])
    table.write_text("file,label\na\0b.png,a\n")
    with pytest.raises(CohortError, match="not a usable file name"):
        _pixels(_list(class_folders, table=table)[0])
    table.write_text("file,label\na/../a/scan-0.png,a\n")
    assert _pixels(_list(class_folders, table=table)[0]).shape == (8, 8, 1)


def test_tables_that_cannot_be_read_are_named(class_folders: Path, tmp_path: Path) -> None:
    """Missing, in another encoding, with ragged rows, empty, or not Parquet."""
    bad = {
        "latin.csv": "file,label\na/scan-0.png,é\n".encode("latin-1"),
        "ragged.csv": b"file,label\na/scan-0.png,a,b\n",
        "short.csv": b"file,label\na/scan-0.png\n",
        "empty.csv": b"",
        "broken.parquet": b"PAR1",
    }
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    for name in [*bad, "missing.csv", "missing.parquet"]:
        with pytest.raises(CohortError, match=name):
            _list(class_folders, table=tmp_path / name)


def test_npz_gives_images_labels_and_groups(tmp_path: Path, noise: Noise) -> None:
    """Grey with and without a channel axis, and RGB; groups are the patients."""
    for shape, read in (((8, 8), (8, 8, 1)), ((8, 8, 1), (8, 8, 1)), ((8, 8, 3), (8, 8, 3))):
        images = noise(4, *shape)
        np.savez(tmp_path / "a.npz", images=images, labels=[[0], [1], [1], [0]], groups=[7, 7, 8, 9])
        entries = _list(tmp_path / "a.npz")
        assert [entry.label for entry in entries] == [0, 1, 1, 0]
        assert [entry.patient for entry in entries] == ["7", "7", "8", "9"]
        np.testing.assert_array_equal(_pixels(entries[3]), images[3].reshape(read))


def test_medmnist_parts_are_pooled(tmp_path: Path, noise: Noise) -> None:
    """The three parts of the file are one source; our split is by patient and made anew."""
    parts = {f"{part}_images": noise(3, 8, 8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.zeros((3, 1), dtype=np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "a.npz", **parts, **labels)
    entries = _list(tmp_path / "a.npz")
    assert len(entries) == 9
    assert entries[8].where == "a.npz test_images[2]"
    assert {entry.patient for entry in entries} == {None}


def test_npz_labels_may_be_names_or_indices_of_listed_names(tmp_path: Path, noise: Noise) -> None:
    """A file that lists the recipe's classes in another order cannot mislabel an image."""
    for labels, extra in ((["b", "a"], {}), ([0, 1], {"class_names": ["b", "a"]})):
        np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=labels, **extra)
        assert [label_index(entry.label, AB) for entry in _list(tmp_path / "a.npz")] == [1, 0]


def test_npz_that_cannot_be_read_is_named(tmp_path: Path, noise: Noise) -> None:
    """Not a zip, pickled objects (never loaded), missing or mismatched arrays, other types."""
    path, images, labels = tmp_path / "a.npz", noise(2, 8, 8), np.zeros(2, dtype=int)
    bad = {
        "'images'": {"pictures": images},
        "'labels'": {"images": images},
        r"labels has shape \(3,\)": {"images": images, "labels": np.zeros(3, dtype=int)},
        r"labels has shape \(2, 14\)": {"images": images, "labels": np.zeros((2, 14), dtype=int)},
        "groups has shape": {"images": images, "labels": labels, "groups": [1]},
        "holds 16 bits per pixel, the recipe wants 8": {"images": images.astype("u2"), "labels": labels},
        "bool, not uint8 or uint16": {"images": images > 9, "labels": labels},
        "float64, not integers": {"images": images, "labels": labels / 2},
        r"shape \(2, 8, 8, 2\)": {"images": noise(2, 8, 8, 2), "labels": labels},
        "plain arrays": {"images": images, "labels": np.array([{}, {}], dtype=object)},
    }
    for reason, arrays in bad.items():
        np.savez(path, **arrays)
        with pytest.raises(CohortError, match=reason):
            _list(path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(CohortError, match=r"a\.npz is not a readable \.npz"):
        _list(path)


def test_other_sources_are_refused_with_what_there_is(class_folders: Path, tmp_path: Path) -> None:
    """A missing path, a file of another kind, a table without a folder, columns without a table."""
    (tmp_path / "a.zip").touch()
    with pytest.raises(CohortError, match=r"nowhere does not exist: give a folder.*\.npz.*digits"):
        _list(tmp_path / "nowhere")
    with pytest.raises(CohortError, match="not a source that privsyn reads"):
        _list(tmp_path / "a.zip")
    with pytest.raises(CohortError, match="not a folder"):
        _list("digits", table=tmp_path / "t.csv")
    with pytest.raises(CohortError, match="--table"):
        _list(class_folders, columns={"file": "x"})


def test_a_label_is_a_name_or_else_an_index() -> None:
    """The name wins, and where classes are named like numbers, numbers are names only."""
    assert label_index("b", AB) == label_index("1", AB) == label_index(1, AB) == 1
    assert label_index("1", ("1", "0")) == 0
    for label in ("0", "2"):
        with pytest.raises(CohortError, match=f"label '{label}' is not in data.classes"):
            label_index(label, ("1", "x"))
    for label in ("2", "01", "-1", "1.0", "¹", "9" * 5000, ""):
        with pytest.raises(CohortError, match=r"not in data\.classes"):
            label_index(label, AB)
    for number in (-1, 2):
        with pytest.raises(CohortError, match=r"not an index of data\.classes, which end at 1"):
            label_index(number, AB)
    with pytest.raises(CohortError, match=r"'pnuemonia' is not in data\.classes: did you mean 'pneumonia'"):
        label_index("pnuemonia", ("normal", "pneumonia"))


def test_names_that_could_disturb_a_terminal_are_shown_escaped(class_folders: Path, tmp_path: Path) -> None:
    """Control characters in a file name never reach the screen."""
    table = tmp_path / "table.csv"
    table.write_text('file,label\n"a/\x1b[2J.png",a\n')
    assert _list(class_folders, table=table)[0].where == r"'a/\x1b[2J.png'"


def test_npz_of_16_bits_and_in_any_layout_gives_its_rows(tmp_path: Path, noise: Noise) -> None:
    """Other byte orders, other orders of axes, packed or not, and many more rows than are read at once."""
    deep, data = noise(4, 8, 8).astype(np.uint16) * 257, _data(bit_depth=16)
    for images in (deep, deep.astype(">u2"), np.asfortranarray(deep)):
        np.savez_compressed(tmp_path / "a.npz", images=images, labels=[0, 1, 0, 1])
        read = [_pixels(entry) for entry in _list(tmp_path / "a.npz", data=data)]
        np.testing.assert_array_equal(np.stack(read)[..., 0], deep)
        assert read[0].dtype == np.uint16
    many = np.arange(40_000, dtype=np.uint16).view(np.uint8).reshape(-1, 2, 2).repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "a.npz", images=many, labels=np.zeros(len(many), dtype=int))
    for entry, wanted in zip(open_source(tmp_path / "a.npz", _data()), many, strict=True):
        assert next(iter(entry.read())).pixels.tobytes() == wanted.tobytes()


def test_a_large_npz_is_never_in_memory(tmp_path: Path) -> None:
    """32 MiB of images pass through a few."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in (("labels", np.zeros(2**13, np.uint8)), ("images", None)):
            with archive.open(f"{name}.npy", "w") as member:
                if array is not None:
                    np.lib.format.write_array(member, array)
                    continue
                header = {"descr": "|u1", "fortran_order": False, "shape": (2**13, 64, 64)}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(2**5):
                    member.write(bytes(2**20))
    tracemalloc.start()
    assert sum(1 for _ in open_source(tmp_path / "a.npz", _data())) == 2**13
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


def _shards(folder: Path, images: NDArray[np.uint8], extra: dict[str, list[object]], **split: slice) -> None:
    """Parquet files as `datasets` writes them, without it."""
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["b", "a"]}}
    for name, rows in split.items():
        cells = [{"bytes": _png(image), "path": None} for image in images[rows]]
        columns = {key: values[rows] for key, values in extra.items()}
        table = pa.table({"image": cells, "label": [0, 1, 0, 1][rows], **columns})
        told = json.dumps({"info": {"features": features}})
        folder.mkdir(exist_ok=True, parents=True)
        pq.write_table(table.replace_schema_metadata({"huggingface": told}), folder / f"{name}.parquet")


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("below", ["", "data", "train"])
def test_parquet_folders_pool_their_splits(tmp_path: Path, noise: Noise, below: str) -> None:
    """Labels go by the names in the file; a column patient is read; a cell without bytes is refused."""
    images = noise(4, 8, 8)
    people: dict[str, list[object]] = {"patient": ["p", None, "7", "q"], "who": list("wxyz")}
    _shards(tmp_path / "s" / below, images, people, test=slice(0, 1), train=slice(1, 4))
    entries = _list(tmp_path / "s")
    assert [entry.label for entry in entries] == ["b", "a", "b", "a"]
    assert [entry.patient for entry in entries] == ["p", "", "7", "q"]
    np.testing.assert_array_equal(np.stack([_pixels(entry) for entry in entries])[..., 0], images)
    assert len({entry.stamp for entry in entries}) == 4
    named = _list(tmp_path / "s", columns={"patient": "who"})
    assert [entry.patient for entry in named] == ["w", "x", "y", "z"]
    with pytest.raises(CohortError, match=r"no column 'none' \(it has: 'image', 'label', 'patient', 'who'\)"):
        _list(tmp_path / "s", columns={"label": "none"})


def test_a_single_parquet_file_of_bytes_and_names(tmp_path: Path, noise: Noise) -> None:
    """Plain bytes in a column, labels as text or as numbers; a number that no name has is refused."""
    path = tmp_path / "a.parquet"
    cells = [_png(noise(8, 8)), None]
    for labels in (["a", "b"], [0, 1]):
        pq.write_table(pa.table({"bytes": cells, "label": labels}), path)
        entries = _list(path)
        assert [label_index(entry.label, AB) for entry in entries] == [0, 1]
        assert _pixels(entries[0]).shape == (8, 8, 1)
        with pytest.raises(CohortError, match="has no image"):
            _pixels(entries[1])
    pq.write_table(pa.table({"bytes": cells}), path)
    assert [entry.label for entry in _list(path, ("a",))] == [None, None]
    with pytest.raises(CohortError, match=r"no column 'label'.*--column label="):
        _list(path)
    pq.write_table(pa.table({"image": ["x.png"], "label": [0]}), path)
    with pytest.raises(CohortError, match="is string, not bytes"):
        _list(path)


def test_what_sample_and_export_write_can_be_read_back(tmp_path: Path, noise: Noise) -> None:
    """Shards, ImageFolder and WebDataset, with classes in another order than the recipe's."""
    images, labels = noise(6, 8, 8, 1), np.array([0, 1, 0, 1, 1, 1])
    write_synthetic(tmp_path / "set", images, labels, ("b", "a"), name="x", claim=None, provenance=None)
    made = read_synthetic(tmp_path / "set", size=8, channels=1, classes=("b", "a"))
    for name, write in (("folder", write_imagefolder), ("tars", write_webdataset)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, made)
    for name in ("set", "folder", "tars"):
        entries = _list(tmp_path / name)
        assert [label_index(entry.label, AB) for entry in entries] == (1 - labels).tolist(), name
        np.testing.assert_array_equal(np.stack([_pixels(entry) for entry in entries]), images)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_an_imagefolder_is_read_by_its_metadata(class_folders: Path, kind: str) -> None:
    """Only what is listed; patients if there; labels by a column, or else by class folders."""
    rows = pd.DataFrame(
        {"file_name": ["a/scan-0.png", "b/scan-1.png"], "label": ["b", "a"], "patient": ["p", "q"]}
    )
    path = class_folders / f"metadata.{kind}"

    def save(frame: pd.DataFrame) -> None:
        if kind == "csv":
            frame.to_csv(path, index=False)
        elif kind == "jsonl":
            frame.to_json(path, orient="records", lines=True)
        else:
            frame.to_parquet(path, index=False)

    save(rows)
    entries = _list(class_folders)
    assert [(entry.label, entry.patient) for entry in entries] == [("b", "p"), ("a", "q")]
    assert _pixels(entries[0]).shape == (8, 8, 1)
    save(rows.drop(columns="label"))
    assert [(entry.label, entry.patient) for entry in _list(class_folders)] == [("a", "p"), ("b", "q")]
    save(rows.rename(columns={"file_name": "file"}))
    assert len(_list(class_folders)) == 12


def test_half_a_surrogate_pair_in_a_label_is_spelt_out(class_folders: Path) -> None:
    """JSON can spell what no text file can hold: it is a label like any other, and of no class."""
    line = '{"file_name": "a/scan-0.png", "label": "b\\ud800", "patient": "p\\udc80"}'
    (class_folders / "metadata.jsonl").write_text(line)
    (entry,) = _list(class_folders)
    assert (entry.label, entry.patient) == (r"b\ud800", r"p\udc80")
    with pytest.raises(CohortError, match=r"is not in data\.classes"):
        label_index(entry.label, AB)
    assert entry_hash(entry, b"key") != 0


def test_metadata_of_each_split_lies_in_it(class_folders: Path) -> None:
    """As `datasets` writes them."""
    for old, new in (("a", "train"), ("b", "test")):
        (class_folders / old).rename(class_folders / new)
        (class_folders / new / "metadata.csv").write_text("file_name,label,who\nscan-0.png,a,p\n")
    entries = _list(class_folders, columns={"patient": "who"})
    assert [entry.where for entry in entries] == ["test/scan-0.png", "train/scan-0.png"]
    assert [entry.patient for entry in entries] == ["p", "p"]
    assert _pixels(entries[1]).shape == (8, 8, 1)


def test_class_folders_below_splits_are_pooled(class_folders: Path) -> None:
    """Unless a class has such a name itself."""
    (class_folders / "train").mkdir()
    for name in "ab":
        (class_folders / name).rename(class_folders / "train" / name)
    (class_folders / "val" / "b").mkdir(parents=True)
    (class_folders / "train" / "b" / "scan-0.png").rename(class_folders / "val" / "b" / "scan-9.png")
    entries = _list(class_folders)
    assert [entry.label for entry in entries] == ["a"] * 6 + ["b"] * 6
    assert entries[-1].where == "val/b/scan-9.png"
    assert {entry.label for entry in _list(class_folders, ("train", "val"))} == {"train", "val"}
    Image.new("L", (8, 8)).save(class_folders / "val" / "stray.png")
    with pytest.raises(CohortError, match=r"'stray.png' is in no class folder of .*val"):
        _list(class_folders)


def test_a_folder_without_classes_is_that_of_a_single_class(class_folders: Path) -> None:
    """In a recipe of one class; if a folder has its name, folders are classes as everywhere."""
    assert {entry.label for entry in _list(class_folders, ("x",))} == {"x"}
    assert {entry.label for entry in _list(class_folders, ("a",))} == {"a", "b"}
    assert len(_list(class_folders / "a", ("x",))) == 6


def _ct(path: Path, **tags: str) -> None:
    name = get_testdata_file("CT_small.dcm", download=False)
    assert name is not None
    dataset = dcmread(str(name))
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def test_dicom_is_read_in_class_folders_trees_and_tables(tmp_path: Path) -> None:
    """With the file's own patient, unless a table says who it is; with its own label, if the recipe wants."""
    root = tmp_path / "tree"
    _ct(root / "a" / "1" / "IM1", PatientID="p", BodyPartExamined="CHEST")
    _ct(root / "a" / "2" / "IM1", PatientID="q", BodyPartExamined="HEAD")
    (root / "a" / "README").write_text("text")
    pictures = [_picture(entry) for entry in _list(root) if not entry.where.endswith("README")]
    assert [picture.patient for picture in pictures] == ["p", "q"]
    tagged = _data(("HEAD", "CHEST"), label_tag="BodyPartExamined")
    entries = _list(root, data=tagged)
    assert {entry.label for entry in entries} == {None}
    assert [_picture(entry).label for entry in entries if "IM" in entry.where] == ["CHEST", "HEAD"]
    with pytest.raises(NotAnImage):
        _picture(next(entry for entry in entries if "README" in entry.where))
    table = tmp_path / "table.csv"
    table.write_text("file,label,patient\na/1/IM1,a,z\na/2/IM1,b,\n")
    assert [entry.patient for entry in _list(root, table=table)] == ["z", ""]
    table.write_text("file,label\na/1/IM1,a\n")
    (entry,) = _list(root, table=table)
    assert entry.patient is None
    assert _picture(entry).patient == "p"
    _ct(root / "IM9")
    with pytest.raises(CohortError, match=r"'IM9' is in no class folder.*data\.label_tag"):
        _list(root)


def test_a_pattern_gives_patients_unless_a_table_does(class_folders: Path, tmp_path: Path) -> None:
    """In class folders every name must match; a table's column goes before the names."""
    data = _data(patient_pattern=r"-(?P<patient>\d)")
    assert _picture(_list(class_folders, data=data)[0]).patient == "0"
    table = tmp_path / "table.csv"
    table.write_text("file,label,patient\na/scan-1.png,a,p\n")
    (entry,) = _list(class_folders, data=data, table=table)
    assert entry.patient == "p"
    assert _picture(entry).patient is None
    table.write_text("file,label\na/scan-1.png,a\n")
    assert _picture(_list(class_folders, data=data, table=table)[0]).patient == "1"


def test_links_in_a_circle_are_named_and_never_followed(class_folders: Path) -> None:
    """To a folder above, and to themselves; a link to nowhere is an entry that cannot be read."""
    (class_folders / "a" / "nowhere.png").symlink_to(class_folders / "gone.png")
    (class_folders / "a" / "self.png").symlink_to(class_folders / "a" / "self.png")
    faults = {}
    for entry in _list(class_folders):
        try:
            _pixels(entry)
        except CohortError as fault:
            faults[entry.where] = str(fault)
    assert set(faults) == {"a/nowhere.png", "a/self.png"}
    (class_folders / "c").symlink_to(class_folders)
    with pytest.raises(CohortError, match="links to a folder, which is not followed"):
        _list(class_folders)


def test_a_folder_that_may_not_be_read_is_named(class_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not passed over; root may read all, so the system's answer is played."""
    (class_folders / "a" / "closed").mkdir()
    (class_folders / "a" / "closed").chmod(0)
    if os.access(class_folders / "a" / "closed", os.R_OK):
        real = os.scandir

        def denied(folder: str | Path) -> object:
            if str(folder).endswith("closed"):
                raise PermissionError(13, "Permission denied")
            return real(folder)

        monkeypatch.setattr("privsyn.cohort.sources.folders.os.scandir", denied)
    with pytest.raises(CohortError, match=r"cannot read the folder .*closed \(Permission denied\)"):
        _list(class_folders)


def test_stamps_tell_a_change_and_not_the_working_folder(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an interrupted run can go on, and notices what has changed."""
    before = [entry.stamp for entry in _list(class_folders)]
    monkeypatch.chdir(class_folders)
    assert [entry.stamp for entry in _list(".")] == before
    Image.new("L", (9, 9)).save("a/scan-3.png")
    after = [entry.stamp for entry in _list(class_folders)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [i != 3 for i in range(12)]


def test_a_tree_deeper_than_a_path_may_be_is_named(tmp_path: Path) -> None:
    """In the words of the system."""
    here = os.open(".", os.O_RDONLY)
    (tmp_path / "a").mkdir()
    try:
        os.chdir(tmp_path / "a")
        for _ in range(25):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        with pytest.raises(CohortError, match=r"cannot read the folder .* \(File name too long\)"):
            _list(tmp_path)
    finally:
        os.fchdir(here)
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def test_no_label_is_the_only_class() -> None:
    """With several classes it is a fault."""
    assert label_index(None, ("a",)) == 0
    with pytest.raises(CohortError, match="has no label"):
        label_index(None, AB)


def test_a_pattern_is_never_ignored(tmp_path: Path, noise: Noise) -> None:
    """It reads the names in Parquet and tars; what has no names is refused, unless it has patients."""
    data, path = _data(patient_pattern=r"-(?P<patient>\d)"), tmp_path / "a.parquet"
    cells = [{"bytes": _png(noise(8, 8)), "path": name} for name in ("s-7.png", None)]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), path)
    entries = _list(path, data=data)
    assert _picture(entries[0]).patient == "7"
    with pytest.raises(CohortError, match="its name does not match"):
        _picture(entries[1])
    pq.write_table(pa.table({"image": cells, "label": [0, 1], "patient": ["p", "q"]}), path)
    assert [_picture(entry).patient for entry in _list(path, data=data)] == [None, None]
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        for name, content in (("s-5.png", _png(noise(8, 8))), ("s-5.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (entry,) = _list(tmp_path / "tars", data=data)
    assert (entry.label, _picture(entry).patient) == ("1", "5")
    with pytest.raises(CohortError, match="digits has no file names"):
        _list("digits", data=data)
    np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=[0, 1])
    with pytest.raises(CohortError, match=r"a\.npz has no file names"):
        _list(tmp_path / "a.npz", data=data)
    np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=[0, 1], groups=[3, 4])
    assert [entry.patient for entry in _list(tmp_path / "a.npz", data=data)] == ["3", "4"]
