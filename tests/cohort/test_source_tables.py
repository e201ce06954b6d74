"""Tables, metadata files, Parquet and tars as sources."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from source_entries import AB, Noise, data_for, listed, picture_of, pixels_of

from privsyn.cohort.labels import label_index
from privsyn.cohort.pseudonyms import entry_hash
from privsyn.errors import CohortError
from privsyn.exchange.pictures import write_imagefolder, write_webdataset
from privsyn.synthetic.dataset import read_synthetic, write_synthetic


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
    entries = listed(class_folders, table=table, columns=columns)
    assert [entry.label for entry in entries] == ["b", "1"]
    assert [entry.patient or None for entry in entries] == ["17", None]
    assert pixels_of(entries[1]).shape == (8, 8, 1)


def test_the_patient_column_is_optional_unless_named(class_folders: Path, tmp_path: Path) -> None:
    """Without it no image has a patient; a name that the table lacks is an error that lists what there is."""
    table = tmp_path / "table.csv"
    table.write_text("\ufefffile,label\na/scan-0.png,a\n", encoding="utf-8")  # as Excel saves it
    assert listed(class_folders, table=table)[0].patient is None
    with pytest.raises(CohortError, match=r"no column 'who' \(it has: 'file', 'label'\).*--column patient="):
        listed(class_folders, table=table, columns={"patient": "who"})
    with pytest.raises(CohortError, match=r"no role 'lable': did you mean 'label'"):
        listed(class_folders, table=table, columns={"lable": "x"})


def test_text_that_looks_like_nothing_stays_text(class_folders: Path, tmp_path: Path) -> None:
    """Classes called NA, None or nan, markup and formulas are read as they stand."""
    names = ("NA", "None", "nan", "<b>x</b>", "=1+1", 'quo"te', "com,ma", " space ")
    table = tmp_path / "table.csv"
    pd.DataFrame({"file": ["a/scan-0.png"] * 8, "label": names}).to_csv(table, index=False)
    labels = [label_index(entry.label, names) for entry in listed(class_folders, names, table=table)]
    assert labels == list(range(8))


def test_files_of_a_table_must_stay_inside_the_folder(class_folders: Path, tmp_path: Path) -> None:
    """By `..`, by an absolute path and by a link; an invalid name is refused as well."""
    outside = tmp_path / "outside.png"
    Image.new("L", (8, 8)).save(outside)
    os.symlink(outside, class_folders / "link.png")
    table = tmp_path / "table.csv"
    for file in ("../outside.png", str(outside), "link.png", "a/../../outside.png"):
        table.write_text(f"file,label\n{file},a\n")
        with pytest.raises(CohortError, match="leads out of the source folder"):
            pixels_of(listed(class_folders, table=table)[0])
    table.write_text("file,label\na\0b.png,a\n")
    with pytest.raises(CohortError, match="not a usable file name"):
        pixels_of(listed(class_folders, table=table)[0])
    table.write_text("file,label\na/../a/scan-0.png,a\n")
    assert pixels_of(listed(class_folders, table=table)[0]).shape == (8, 8, 1)


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
            listed(class_folders, table=tmp_path / name)


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
    entries = listed(tmp_path / "s")
    assert [entry.label for entry in entries] == ["b", "a", "b", "a"]
    assert [entry.patient for entry in entries] == ["p", "", "7", "q"]
    np.testing.assert_array_equal(np.stack([pixels_of(entry) for entry in entries])[..., 0], images)
    assert len({entry.stamp for entry in entries}) == 4
    named = listed(tmp_path / "s", columns={"patient": "who"})
    assert [entry.patient for entry in named] == ["w", "x", "y", "z"]
    with pytest.raises(CohortError, match=r"no column 'none' \(it has: 'image', 'label', 'patient', 'who'\)"):
        listed(tmp_path / "s", columns={"label": "none"})


def test_a_single_parquet_file_of_bytes_and_names(tmp_path: Path, noise: Noise) -> None:
    """Plain bytes in a column, labels as text or as numbers; a number that no name has is refused."""
    path = tmp_path / "a.parquet"
    cells = [_png(noise(8, 8)), None]
    for labels in (["a", "b"], [0, 1]):
        pq.write_table(pa.table({"bytes": cells, "label": labels}), path)
        entries = listed(path)
        assert [label_index(entry.label, AB) for entry in entries] == [0, 1]
        assert pixels_of(entries[0]).shape == (8, 8, 1)
        with pytest.raises(CohortError, match="has no image"):
            pixels_of(entries[1])
    pq.write_table(pa.table({"bytes": cells}), path)
    assert [entry.label for entry in listed(path, ("a",))] == [None, None]
    with pytest.raises(CohortError, match=r"no column 'label'.*--column label="):
        listed(path)
    pq.write_table(pa.table({"image": ["x.png"], "label": [0]}), path)
    with pytest.raises(CohortError, match="is string, not bytes"):
        listed(path)


def test_what_sample_and_export_write_can_be_read_back(tmp_path: Path, noise: Noise) -> None:
    """Shards, ImageFolder and WebDataset, with classes in another order than the recipe's."""
    images, labels = noise(6, 8, 8, 1), np.array([0, 1, 0, 1, 1, 1])
    write_synthetic(tmp_path / "set", images, labels, ("b", "a"), name="x", claim=None, provenance=None)
    made = read_synthetic(tmp_path / "set", size=8, channels=1, classes=("b", "a"))
    for name, write in (("folder", write_imagefolder), ("tars", write_webdataset)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, made)
    for name in ("set", "folder", "tars"):
        entries = listed(tmp_path / name)
        assert [label_index(entry.label, AB) for entry in entries] == (1 - labels).tolist(), name
        np.testing.assert_array_equal(np.stack([pixels_of(entry) for entry in entries]), images)


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
    entries = listed(class_folders)
    assert [(entry.label, entry.patient) for entry in entries] == [("b", "p"), ("a", "q")]
    assert pixels_of(entries[0]).shape == (8, 8, 1)
    save(rows.drop(columns="label"))
    assert [(entry.label, entry.patient) for entry in listed(class_folders)] == [("a", "p"), ("b", "q")]
    save(rows.rename(columns={"file_name": "file"}))
    assert len(listed(class_folders)) == 12


def test_half_a_surrogate_pair_in_a_label_is_spelt_out(class_folders: Path) -> None:
    """JSON can spell what no text file can hold: it is a label like any other, and of no class."""
    line = '{"file_name": "a/scan-0.png", "label": "b\\ud800", "patient": "p\\udc80"}'
    (class_folders / "metadata.jsonl").write_text(line)
    (entry,) = listed(class_folders)
    assert (entry.label, entry.patient) == (r"b\ud800", r"p\udc80")
    with pytest.raises(CohortError, match=r"is not in data\.classes"):
        label_index(entry.label, AB)
    assert entry_hash(entry, b"key") != 0


def test_metadata_of_each_split_lies_in_it(class_folders: Path) -> None:
    """As `datasets` writes them."""
    for old, new in (("a", "train"), ("b", "test")):
        (class_folders / old).rename(class_folders / new)
        (class_folders / new / "metadata.csv").write_text("file_name,label,who\nscan-0.png,a,p\n")
    entries = listed(class_folders, columns={"patient": "who"})
    assert [entry.where for entry in entries] == ["test/scan-0.png", "train/scan-0.png"]
    assert [entry.patient for entry in entries] == ["p", "p"]
    assert pixels_of(entries[1]).shape == (8, 8, 1)


def test_a_pattern_is_never_ignored(tmp_path: Path, noise: Noise) -> None:
    """It reads the names in Parquet and tars; what has no names is refused, unless it has patients."""
    data, path = data_for(patient_pattern=r"-(?P<patient>\d)"), tmp_path / "a.parquet"
    cells = [{"bytes": _png(noise(8, 8)), "path": name} for name in ("s-7.png", None)]
    pq.write_table(pa.table({"image": cells, "label": [0, 1]}), path)
    entries = listed(path, data=data)
    assert picture_of(entries[0]).patient == "7"
    with pytest.raises(CohortError, match="its name does not match"):
        picture_of(entries[1])
    pq.write_table(pa.table({"image": cells, "label": [0, 1], "patient": ["p", "q"]}), path)
    assert [picture_of(entry).patient for entry in listed(path, data=data)] == [None, None]
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        for name, content in (("s-5.png", _png(noise(8, 8))), ("s-5.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (entry,) = listed(tmp_path / "tars", data=data)
    assert (entry.label, picture_of(entry).patient) == ("1", "5")
    with pytest.raises(CohortError, match="digits has no file names"):
        listed("digits", data=data)
    np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=[0, 1])
    with pytest.raises(CohortError, match=r"a\.npz has no file names"):
        listed(tmp_path / "a.npz", data=data)
    np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=[0, 1], groups=[3, 4])
    assert [entry.patient for entry in listed(tmp_path / "a.npz", data=data)] == ["3", "4"]
