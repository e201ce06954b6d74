"""The recipient's check: whatever differs is named, and nothing hostile makes it stumble."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.manifest import STATEMENT, STATEMENT_DIGEST, digest_line
from privsyn.release.verify import verify

Make = Callable[..., Path]


def test_an_intact_draft_is_inconclusive(make_release: Make) -> None:
    """Exit code 3: the bytes are whole, and nobody's approval was checked."""
    found = verify(make_release())
    assert (found.outcome, found.exit_code) == ("inconclusive", 3)
    assert found.changed == found.missing == found.extra == found.problems == ()
    assert found.statement is not None
    assert json.loads(json_text(found.to_dict()))["statement"]["predicate"]["status"] == "draft"


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
    """Changed, missing and extra files are told apart, all in one run."""
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
    """A link to the very same bytes, a link to a folder, a pipe that nobody writes to."""
    folder = make_release()
    (folder / "README.md").rename(tmp_path / "aside")
    (folder / "README.md").symlink_to(tmp_path / "aside")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    found = verify(folder)
    assert found.changed == ("README.md",)
    assert found.extra == ("loop", "pipe")
    assert [problem.split()[0] for problem in found.problems] == ["README.md", "loop", "pipe"]


@pytest.mark.parametrize("name", [STATEMENT, STATEMENT_DIGEST])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "gone"])
def test_the_statement_itself_must_be_a_file(
    make_release: Make, tmp_path: Path, name: str, kind: str
) -> None:
    """The statement and its digest as link, pipe or folder, or one of them gone, never pass."""
    folder = make_release()
    (folder / name).rename(tmp_path / "aside")
    if kind == "link":
        (folder / name).symlink_to(tmp_path / "aside")
    elif kind == "pipe":
        os.mkfifo(folder / name)
    elif kind == "folder":
        (folder / name).mkdir()
    if (name, kind) == (STATEMENT, "gone"):
        with pytest.raises(PrivsynError):
            verify(folder)
        return
    found = verify(folder)
    assert found.exit_code == 1
    assert any(name in problem for problem in found.problems)


def test_a_statement_that_is_not_its_digests_is_refused(make_release: Make) -> None:
    """A statement rewritten to match changed files still differs from the digest beside it."""
    folder, other = make_release(), make_release("other", release={"name": "other"})
    shutil.copy(other / STATEMENT, folder / STATEMENT)
    found = verify(folder)
    assert found.problems == (f"{STATEMENT} is not the one that {STATEMENT_DIGEST} names",)
    assert found.exit_code == 1


def test_rewriting_everything_is_still_not_approval(make_release: Make) -> None:
    """Without signatures a consistent forgery is as good as a draft, so it gets no better answer."""
    folder = make_release(status="released", approvals=[{"by": "everybody"}])
    assert verify(folder).exit_code == 3
    statement = json.loads((folder / STATEMENT).read_bytes())
    statement["predicate"]["status"] = "released"
    raw = json_text(statement).encode()
    (folder / STATEMENT).write_bytes(raw)
    (folder / STATEMENT_DIGEST).write_bytes(digest_line(raw))
    assert verify(folder).exit_code == 3


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 100_000, b'{"_type": 1}', b"\xff", b"1" * 10_000, b'{"a":1,"a":1}']
)
def test_hostile_statements_are_refused_in_words(make_release: Make, raw: bytes) -> None:
    """Also with a digest that fits; the answer is a document, not a traceback."""
    folder = make_release()
    (folder / STATEMENT).write_bytes(raw)
    (folder / STATEMENT_DIGEST).write_bytes(f"{hashlib.sha256(raw).hexdigest()}  {STATEMENT}\n".encode())
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


def flip(path: Path, random: Random) -> None:
    data = bytearray(path.read_bytes())
    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    path.write_bytes(bytes(data))


def swap(path: Path, random: Random) -> None:
    others = [file for file in path.parent.iterdir() if file.is_file() and file.name[:9] != "statement"]
    other = random.choice(sorted({*others, path.with_name("new")} - {path}))
    aside = path.rename(path.with_name("aside"))
    if other.exists():
        other.rename(path)
    aside.rename(other)


MUTATIONS: dict[str, Callable[[Path, Random], object]] = {
    "flip a bit": flip,
    "cut the end": lambda path, _: path.write_bytes(path.read_bytes()[:-1]),
    "append": lambda path, _: path.write_bytes(path.read_bytes() + b"\n"),
    "empty": lambda path, _: path.write_bytes(b""),
    "remove": lambda path, _: path.unlink(),
    "rename": lambda path, _: path.rename(path.with_name(f"{path.name}.bak")),
    "change case": lambda path, _: path.rename(path.with_name(path.name.swapcase())),
    "swap with another": swap,
    "add beside": lambda path, _: path.with_name(f"new-{path.name}").touch(),
    "hide beside": lambda path, _: path.with_name(f".{path.name}").touch(),
    "copy deeper": lambda path, _: (
        (path.parent / "x").mkdir() or shutil.copy(path, path.parent / "x" / path.name)
    ),
    "replace by a link": lambda path, _: path.unlink() or path.symlink_to("/dev/null"),
    "replace by a folder": lambda path, _: path.unlink() or path.mkdir(),
}


def test_every_mutation_is_refused_and_named(make_release: Make, tmp_path: Path) -> None:
    """390 seeded mutations of single files: each fails, and the answer names the file."""
    random, original = Random(0), make_release()
    files = sorted(path.relative_to(original) for path in original.rglob("*") if path.is_file())
    for number in range(30 * len(MUTATIONS)):
        what = sorted(MUTATIONS)[number % len(MUTATIONS)]
        target = random.choice(files)
        folder = Path(shutil.copytree(original, tmp_path / str(number)))
        MUTATIONS[what](folder / target, random)
        if not os.path.lexists(folder / STATEMENT):
            with pytest.raises(PrivsynError, match=STATEMENT):
                verify(folder)
            continue
        found = verify(folder)
        assert found.exit_code == 1, (what, target)
        named = " ".join([*found.changed, *found.missing, *found.extra, *found.problems])
        assert target.name in named, (what, target, named)
        shutil.rmtree(folder)


def test_importing_the_check_loads_nothing_but_the_standard_library() -> None:
    """A recipient needs neither numpy nor pydantic, torch or typer to check a release."""
    script = (
        "import sys; before = set(sys.modules); import privsyn.release.verify\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(new - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['privsyn']"
