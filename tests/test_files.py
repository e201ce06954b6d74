"""Files that are whole or absent, and digests that name what is in them."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privsyn.errors import PrivsynError
from privsyn.files import (
    check_relative,
    json_digest,
    read_json,
    relative_files,
    tree_digest,
    tree_digests,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def _interrupted_in(path: Path) -> None:
    path.write_text("half", encoding="utf-8")
    raise KeyboardInterrupt


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    """Ctrl-C in the middle of writing: the old text stands, and no partial file is left."""
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(target) as partial:
        _interrupted_in(partial)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path: Path) -> None:
    """The same for a folder that was to be replaced."""
    target = tmp_path / "folder"
    with whole_folder(target) as partial:
        write_text(partial / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), whole_folder(target, replace=True) as partial:
        _interrupted_in(partial / "a.txt")
    assert (target / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    """Replacing drops what the old folder held and the new one does not."""
    target = tmp_path / "folder"
    with whole_folder(target) as partial:
        write_text(partial / "old.txt", "old")
    with pytest.raises(PrivsynError, match="--force"), whole_folder(target):
        pass
    with whole_folder(target, replace=True) as partial:
        write_text(partial / "new.txt", "new")
    assert relative_files(target) == ["new.txt"]
    assert list(tmp_path.iterdir()) == [target]


def test_new_files_and_folders_follow_the_umask(tmp_path: Path) -> None:
    """What others may read is the user's choice, not that of the temporary file."""
    before = os.umask(0o027)
    try:
        with whole_folder(tmp_path / "folder") as partial:
            write_text(partial / "a.txt", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "folder" / "a.txt").stat().st_mode & 0o777 == 0o640


def test_tree_digest_is_the_digest_of_sha256sum_lines(tmp_path: Path) -> None:
    """Anybody can check it: `find . -type f | sort | xargs sha256sum | sha256sum`."""
    for name in ("b.txt", "a/c.txt", "a.txt"):
        write_text(tmp_path / name, name)
    names = relative_files(tmp_path)
    assert names == sorted(["b.txt", "a/c.txt", "a.txt"])
    lines = subprocess.run(["sha256sum", *names], cwd=tmp_path, capture_output=True, check=True).stdout
    assert tree_digest(tree_digests(tmp_path)) == hashlib.sha256(lines).hexdigest()


def test_a_link_in_a_tree_is_refused(tmp_path: Path) -> None:
    """A link could point at what must not leave."""
    (tmp_path / "link").symlink_to("/etc/hostname")
    with pytest.raises(PrivsynError, match=r"'link'.*not a regular file"):
        relative_files(tmp_path)


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a\\b", "a//b", "./a", "a/", "a\nb", "a\x7f"])
def test_unsafe_names_are_refused(name: str) -> None:
    """Only a plain relative path has exactly one meaning."""
    with pytest.raises(PrivsynError, match="unsafe file name"):
        check_relative(name)


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_json_digest_ignores_the_order_of_keys(document: dict[str, int | str]) -> None:
    """The same document has one spelling."""
    assert json_digest(document) == json_digest(dict(reversed(document.items())))


def test_json_is_read_back_and_broken_json_is_named(tmp_path: Path) -> None:
    """A broken document says which file; NaN is refused before anything is written."""
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ü": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "b.json", {"a": float("nan")})
    assert not (tmp_path / "b.json").exists()
    write_text(tmp_path / "c.json", '{"a":')
    for name in ("b.json", "c.json"):
        with pytest.raises(PrivsynError, match=name):
            read_json(tmp_path / name)
