"""The recipient's check: whatever differs is named, and nothing hostile makes it stumble."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify

Make = Callable[..., Path]


def test_an_intact_draft_is_inconclusive(make_release: Make) -> None:
    """Exit code 3: the bytes are intact, and no approval was checked."""
    found = verify(make_release())
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert found.changed == found.missing == found.extra == found.problems == ()
    assert found.statement is not None
    assert json.loads(json_text(found.to_dict()))["statement"]["predicate"]["release"]


def test_where_it_lies_does_not_matter(make_release: Make, tmp_path: Path) -> None:
    """Moved, renamed, given as text or through a link to the folder: still intact."""
    moved = make_release().rename(tmp_path / "else where")
    (tmp_path / "link").symlink_to(moved)
    assert verify(str(moved)).exit_code == verify(tmp_path / "link").exit_code == 3


def test_what_is_no_release_is_bad_input(tmp_path: Path) -> None:
    """A missing folder, a file, a folder without statement: exit code 2 and what to do."""
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "file", "empty"):
        with pytest.raises(PrivsynError) as caught:
            verify(tmp_path / name)
        assert caught.value.exit_code == 2


def test_each_kind_of_difference_has_its_list(make_release: Make) -> None:
    """Changed, missing and extra files are distinguished, all in one run."""
    folder = make_release()
    (folder / "README.md").write_text("other", encoding="utf-8")
    (folder / "croissant.json").unlink()
    (folder / "data/b.parquet").touch()
    (folder / ".gitattributes").touch()
    (folder / "empty/inner").mkdir(parents=True)
    found = verify(folder)
    assert found.changed == ("README.md",)
    assert found.missing == ("croissant.json",)
    assert found.extra == (".gitattributes", "data/b.parquet", "empty/inner/")
    assert (found.outcome, found.exit_code) == ("fail", 1)


def test_links_and_special_files_are_named_and_not_opened(make_release: Make, tmp_path: Path) -> None:
    """A link to the very same bytes, a link to a folder, a pipe without a writer."""
    folder = make_release()
    (folder / "README.md").rename(tmp_path / "aside")
    (folder / "README.md").symlink_to(tmp_path / "aside")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    found = verify(folder)
    assert found.changed == ("README.md",)
    assert found.extra == ("loop", "pipe")
    assert [problem.split()[0] for problem in found.problems] == ["README.md", "loop", "pipe"]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "gone"])
def test_the_bundle_itself_must_be_a_file(make_release: Make, tmp_path: Path, kind: str) -> None:
    """As link, pipe or folder it never passes; gone, there is no release."""
    folder = make_release()
    (folder / BUNDLE).rename(tmp_path / "aside")
    if kind == "link":
        (folder / BUNDLE).symlink_to(tmp_path / "aside")
    elif kind == "pipe":
        os.mkfifo(folder / BUNDLE)
    elif kind == "folder":
        (folder / BUNDLE).mkdir()
    else:
        with pytest.raises(PrivsynError):
            verify(folder)
        return
    found = verify(folder)
    assert found.exit_code == 1
    assert any(BUNDLE in problem for problem in found.problems)


def test_what_a_draft_says_of_itself_is_not_approval(make_release: Make) -> None:
    """Without signatures a consistent forgery is as good as a draft, so it gets no better answer."""
    assert verify(make_release(status="released", approvals=[{"by": "everybody"}])).exit_code == 3


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b'{"_type": 1}', b"\xff", b"1" * 10_000, b'{"a":1,"a":1}']
)
def test_hostile_statements_are_refused_in_words(make_release: Make, raw: bytes) -> None:
    """The answer is a document, not a traceback."""
    folder = make_release()
    (folder / BUNDLE).write_bytes(raw)
    found = verify(folder)
    assert (found.exit_code, found.statement) == (1, None)
    assert all(problem.isprintable() for problem in found.problems)
    json_text(found.to_dict())


def test_names_from_a_hostile_folder_can_be_printed(make_release: Make) -> None:
    """Terminal codes, line breaks and bytes that are no text come out escaped."""
    folder = make_release()
    for name in (b"\x1b[2J", b"a\nmissing: b", b"\xff\xfe", "\u202egnp".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).touch()
    found = verify(folder)
    assert len(found.extra) == 4
    assert all(name.isprintable() for name in found.extra)
    json_text(found.to_dict()).encode()


@pytest.mark.parametrize(("name", "depth"), [("d", 1100), ("d" * 200, 30)])
def test_a_tree_deeper_than_the_stack_is_refused(make_release: Make, name: str, depth: int) -> None:
    """More nested folders than Python can recurse into, or than a path can hold: a failure and no crash."""
    folder, here = make_release(), os.getcwd()
    try:
        os.chdir(folder)
        for _ in range(depth):
            os.mkdir(name)
            os.chdir(name)
    finally:
        os.chdir(here)
    assert verify(folder).exit_code == 1
    subprocess.run(["rm", "-r", str(folder / name)], check=True)  # shutil.rmtree cannot


def test_importing_the_check_loads_nothing_but_the_standard_library() -> None:
    """A recipient needs neither numpy nor pydantic, torch or typer; cryptography only if it is there."""
    script = (
        "import sys; before = set(sys.modules); import privsyn.release.verify\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout.replace("'", '"'))) <= {
        "privsyn", "securesystemslib", "cryptography", "_cffi_backend", "_openssl",
        "google",  # where it is: an empty namespace, in which securesystemslib looks for a cloud's keys
    }  # fmt: skip
