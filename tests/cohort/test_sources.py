"""Folders as sources: class folders, trees, patients by pattern, and folders that cannot be read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.data import get_testdata_file
from source_entries import AB, data_for, listed, picture_of, pixels_of

from privsyn.cohort.entries import NotAnImage
from privsyn.cohort.labels import label_index
from privsyn.errors import CohortError


def test_class_folders_name_the_class_at_any_depth(class_folders: Path) -> None:
    """The first folder is the class; hidden files, the system's litter and a README beside are no images."""
    (class_folders / "a" / "visit").mkdir()
    (class_folders / "a" / "scan-0.png").rename(class_folders / "a" / "visit" / "scan-0.png")
    for litter in ("a/.DS_Store", "b/Thumbs.db", "README.txt", ".git/config"):
        (class_folders / litter).parent.mkdir(exist_ok=True)
        (class_folders / litter).touch()
    entries = listed(class_folders)
    assert [entry.label for entry in entries] == ["a"] * 6 + ["b"] * 6
    assert "a/visit/scan-0.png" in {entry.where for entry in entries}


def test_a_linked_class_folder_is_read_and_a_deeper_link_is_refused(
    class_folders: Path, tmp_path: Path
) -> None:
    """No link is passed over in silence."""
    (tmp_path / "elsewhere").mkdir()
    (class_folders / "b").rename(tmp_path / "elsewhere" / "b")
    (class_folders / "b").symlink_to(tmp_path / "elsewhere" / "b", target_is_directory=True)
    assert len(listed(class_folders)) == 12
    (class_folders / "a" / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(CohortError, match="links to a folder"):
        listed(class_folders)


def test_an_image_outside_the_class_folders_is_refused(class_folders: Path) -> None:
    """It has no label; the message points to tables."""
    (class_folders / "a" / "scan-0.png").rename(class_folders / "stray.png")
    with pytest.raises(CohortError, match=r"'stray.png' is in no class folder.*--table"):
        listed(class_folders)


def test_other_sources_are_refused_with_what_there_is(class_folders: Path, tmp_path: Path) -> None:
    """A missing path, a file of another kind, a table without a folder, columns without a table."""
    (tmp_path / "a.zip").touch()
    with pytest.raises(CohortError, match=r"nowhere does not exist: give a folder.*\.npz.*digits"):
        listed(tmp_path / "nowhere")
    with pytest.raises(CohortError, match="not a source that privsyn reads"):
        listed(tmp_path / "a.zip")
    with pytest.raises(CohortError, match="not a folder"):
        listed("digits", table=tmp_path / "t.csv")
    with pytest.raises(CohortError, match="--table"):
        listed(class_folders, columns={"file": "x"})


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
    assert listed(class_folders, table=table)[0].where == r"'a/\x1b[2J.png'"


def test_class_folders_below_splits_are_pooled(class_folders: Path) -> None:
    """Unless a class has such a name itself."""
    (class_folders / "train").mkdir()
    for name in "ab":
        (class_folders / name).rename(class_folders / "train" / name)
    (class_folders / "val" / "b").mkdir(parents=True)
    (class_folders / "train" / "b" / "scan-0.png").rename(class_folders / "val" / "b" / "scan-9.png")
    entries = listed(class_folders)
    assert [entry.label for entry in entries] == ["a"] * 6 + ["b"] * 6
    assert entries[-1].where == "val/b/scan-9.png"
    assert {entry.label for entry in listed(class_folders, ("train", "val"))} == {"train", "val"}
    Image.new("L", (8, 8)).save(class_folders / "val" / "stray.png")
    with pytest.raises(CohortError, match=r"'stray.png' is in no class folder of .*val"):
        listed(class_folders)


def test_a_folder_without_classes_is_that_of_a_single_class(class_folders: Path) -> None:
    """In a recipe of one class; if a folder has its name, folders are classes as everywhere."""
    assert {entry.label for entry in listed(class_folders, ("x",))} == {"x"}
    assert {entry.label for entry in listed(class_folders, ("a",))} == {"a", "b"}
    assert len(listed(class_folders / "a", ("x",))) == 6


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
    pictures = [picture_of(entry) for entry in listed(root) if not entry.where.endswith("README")]
    assert [picture.patient for picture in pictures] == ["p", "q"]
    tagged = data_for(("HEAD", "CHEST"), label_tag="BodyPartExamined")
    entries = listed(root, data=tagged)
    assert {entry.label for entry in entries} == {None}
    assert [picture_of(entry).label for entry in entries if "IM" in entry.where] == ["CHEST", "HEAD"]
    with pytest.raises(NotAnImage):
        picture_of(next(entry for entry in entries if "README" in entry.where))
    table = tmp_path / "table.csv"
    table.write_text("file,label,patient\na/1/IM1,a,z\na/2/IM1,b,\n")
    assert [entry.patient for entry in listed(root, table=table)] == ["z", ""]
    table.write_text("file,label\na/1/IM1,a\n")
    (entry,) = listed(root, table=table)
    assert entry.patient is None
    assert picture_of(entry).patient == "p"
    _ct(root / "IM9")
    with pytest.raises(CohortError, match=r"'IM9' is in no class folder.*data\.label_tag"):
        listed(root)


def test_a_pattern_gives_patients_unless_a_table_does(class_folders: Path, tmp_path: Path) -> None:
    """In class folders every name must match; a table's column goes before the names."""
    data = data_for(patient_pattern=r"-(?P<patient>\d)")
    assert picture_of(listed(class_folders, data=data)[0]).patient == "0"
    table = tmp_path / "table.csv"
    table.write_text("file,label,patient\na/scan-1.png,a,p\n")
    (entry,) = listed(class_folders, data=data, table=table)
    assert entry.patient == "p"
    assert picture_of(entry).patient is None
    table.write_text("file,label\na/scan-1.png,a\n")
    assert picture_of(listed(class_folders, data=data, table=table)[0]).patient == "1"


def test_links_in_a_circle_are_named_and_never_followed(class_folders: Path) -> None:
    """To a folder above, and to themselves; a link to nowhere is an entry that cannot be read."""
    (class_folders / "a" / "nowhere.png").symlink_to(class_folders / "gone.png")
    (class_folders / "a" / "self.png").symlink_to(class_folders / "a" / "self.png")
    faults = {}
    for entry in listed(class_folders):
        try:
            pixels_of(entry)
        except CohortError as fault:
            faults[entry.where] = str(fault)
    assert set(faults) == {"a/nowhere.png", "a/self.png"}
    (class_folders / "c").symlink_to(class_folders)
    with pytest.raises(CohortError, match="links to a folder, which is not followed"):
        listed(class_folders)


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
        listed(class_folders)


def test_stamps_tell_a_change_and_not_the_working_folder(
    class_folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that an interrupted run can go on, and notices what has changed."""
    before = [entry.stamp for entry in listed(class_folders)]
    monkeypatch.chdir(class_folders)
    assert [entry.stamp for entry in listed(".")] == before
    Image.new("L", (9, 9)).save("a/scan-3.png")
    after = [entry.stamp for entry in listed(class_folders)]
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
            listed(tmp_path)
    finally:
        os.fchdir(here)
        os.close(here)
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)


def test_no_label_is_the_only_class() -> None:
    """With several classes it is a fault."""
    assert label_index(None, ("a",)) == 0
    with pytest.raises(CohortError, match="has no label"):
        label_index(None, AB)
