"""What each kind of source yields, and how a source that cannot be read is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.sources import Entry, label_index, open_source
from privsyn.errors import CohortError

Noise = Callable[..., NDArray[np.uint8]]
AB = ("a", "b")


def _list(source: Path | str, classes: tuple[str, ...] = AB, **options: object) -> list[Entry]:
    return list(open_source(source, classes, **options))  # type: ignore[arg-type]


def test_digits_are_the_embedded_ones() -> None:
    """1,797 images of 8x8 px, scaled from 0..16 to 0..255, labelled by name, without patients."""
    entries = _list("digits")
    assert len(entries) == 1797
    assert entries[0].read().shape == (8, 8, 1)
    assert max(entry.read().max() for entry in entries) == 255
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
    assert entries[1].read().shape == (8, 8, 1)


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
            _list(class_folders, table=table)[0].read()
    table.write_text("file,label\na\0b.png,a\n")
    with pytest.raises(CohortError, match="not a usable file name"):
        _list(class_folders, table=table)[0].read()
    table.write_text("file,label\na/../a/scan-0.png,a\n")
    assert _list(class_folders, table=table)[0].read().shape == (8, 8, 1)


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
        np.testing.assert_array_equal(entries[3].read(), images[3].reshape(read))


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
        "uint16, not uint8": {"images": images.astype(np.uint16), "labels": labels},
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
