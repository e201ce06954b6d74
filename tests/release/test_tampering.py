"""Whoever changes anything about a sealed release is found out and told where: over 2,000 mutations."""

from __future__ import annotations

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from house import NOW, House, claims

from privsyn.errors import PrivsynError
from privsyn.files import json_text
from privsyn.release.bundle import Bundle, read_bundle
from privsyn.release.envelope import IN_TOTO, Envelope
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify

EACH = 60  # seeds for each kind of mutation


@dataclass(frozen=True)
class Scene:
    """A copy of a release, another that is as good, and the house of both."""

    folder: Path
    other: Bundle
    house: House
    random: Random

    def some_file(self) -> Path:
        return self.random.choice(sorted(path for path in self.folder.rglob("*") if path.is_file()))

    def data(self) -> Path:
        return self.random.choice(
            sorted(p for p in self.folder.rglob("*") if p.is_file() and p.name != BUNDLE)
        )

    @property
    def bundle(self) -> Path:
        return self.folder / BUNDLE

    def lines(self) -> list[bytes]:
        return self.bundle.read_bytes().splitlines(keepends=True)

    def write(self, lines: list[bytes]) -> None:
        self.bundle.write_bytes(b"".join(lines))

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change one line's envelope as JSON, in our spelling."""
        lines = self.lines()
        number = self.random.randrange(len(lines))
        document = json.loads(lines[number])
        change(document)
        lines[number] = json.dumps(document, separators=(",", ":"), sort_keys=True).encode() + b"\n"
        self.write(lines)


Mutation = Callable[[Scene], Any]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    MUTATIONS[function.__name__] = function
    return function


@mutation
def flip_a_bit(scene: Scene) -> None:
    path = scene.some_file()
    data = bytearray(path.read_bytes())
    data[scene.random.randrange(len(data))] ^= 1 << scene.random.randrange(8)
    path.write_bytes(bytes(data))


@mutation
def flip_a_bit_of_the_bundle(scene: Scene) -> None:
    data = bytearray(scene.bundle.read_bytes())
    data[scene.random.randrange(len(data))] ^= 1 << scene.random.randrange(8)
    scene.bundle.write_bytes(bytes(data))


@mutation
def cut_the_end(scene: Scene) -> None:
    path = scene.some_file()
    path.write_bytes(path.read_bytes()[: -scene.random.randint(1, 20)])


@mutation
def append(scene: Scene) -> None:
    path = scene.some_file()
    path.write_bytes(path.read_bytes() + scene.random.choice([b"\n", b"\0", b" "]))


@mutation
def empty(scene: Scene) -> None:
    scene.some_file().write_bytes(b"")


@mutation
def remove(scene: Scene) -> None:
    scene.some_file().unlink()


@mutation
def rename(scene: Scene) -> None:
    path = scene.some_file()
    path.rename(path.with_name(f"{path.name}.bak"))


@mutation
def change_case(scene: Scene) -> None:
    path = scene.some_file()
    path.rename(path.with_name(path.name.swapcase()))


@mutation
def add_one_that_differs_by_case(scene: Scene) -> None:
    path = scene.data()
    shutil.copy(path, path.with_name(path.name.swapcase()))


@mutation
def add_one_that_looks_alike(scene: Scene) -> None:
    path = scene.data()
    shutil.copy(path, path.with_name(path.stem + scene.random.choice("\u0301\u200b\u0430") + path.suffix))


@mutation
def add_a_strange_name(scene: Scene) -> None:
    names = [
        "con",
        "NUL.txt",
        "a ",
        "a.",
        "-rf",
        ".hidden",
        ".gitattributes",
        "a\nb",
        "\x1b[2J",
        "..a",
        "a\\b",
    ]
    (scene.folder / scene.random.choice(names)).touch()


@mutation
def swap_two(scene: Scene) -> None:
    one, other = scene.data(), scene.data()
    while one == other:
        other = scene.data()
    aside = one.rename(scene.folder.parent / "aside")
    other.rename(one)
    aside.rename(other)


@mutation
def copy_deeper(scene: Scene) -> None:
    path = scene.some_file()
    (path.parent / "x").mkdir()
    shutil.copy(path, path.parent / "x" / path.name)


@mutation
def replace_by_a_link_to_the_same_bytes(scene: Scene) -> None:
    path = scene.some_file()
    aside = scene.folder.parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)


@mutation
def replace_by_a_hard_link_to_the_same_bytes(scene: Scene) -> None:
    path = scene.some_file()
    os.link(path, scene.folder.parent / "aside")


@mutation
def replace_by_a_folder(scene: Scene) -> None:
    path = scene.some_file()
    path.unlink()
    path.mkdir()


@mutation
def add_a_folder(scene: Scene) -> None:
    (scene.folder / "nothing").mkdir()


@mutation
def drop_a_line(scene: Scene) -> None:
    lines = scene.lines()
    del lines[scene.random.randrange(len(lines))]
    scene.write(lines)


@mutation
def repeat_a_line(scene: Scene) -> None:
    lines = scene.lines()
    lines.insert(scene.random.randrange(len(lines) + 1), scene.random.choice(lines))
    scene.write(lines)


@mutation
def move_a_line(scene: Scene) -> None:
    lines = scene.lines()
    before = list(lines)
    while lines == before:
        lines.insert(scene.random.randrange(len(lines)), lines.pop(scene.random.randrange(len(lines))))
    scene.write(lines)


@mutation
def replay_a_line_of_another_release(scene: Scene) -> None:
    lines, others = scene.lines(), scene.other.to_bytes().splitlines(keepends=True)
    number = scene.random.randrange(len(lines))
    lines[number] = others[number]
    scene.write(lines)


@mutation
def move_a_signature(scene: Scene) -> None:
    signatures = [json.loads(line)["signatures"] for line in scene.lines()]

    def change(document: dict[str, Any]) -> None:
        others = [each for each in signatures if each != document["signatures"]]
        document["signatures"] = scene.random.choice(others)

    scene.edit(change)


@mutation
def change_a_key_id(scene: Scene) -> None:
    others = [signer.public_key.keyid for signer in scene.house.signers.values()]

    def change(document: dict[str, Any]) -> None:
        now = document["signatures"][0]["keyid"]
        choices = [*(key for key in others if key != now), "0" * 64, "", None, 7]
        document["signatures"][0]["keyid"] = scene.random.choice(choices)

    scene.edit(change)


@mutation
def drop_a_key_id(scene: Scene) -> None:
    scene.edit(lambda document: document["signatures"][0].pop("keyid"))


@mutation
def drop_the_signatures(scene: Scene) -> None:
    scene.edit(lambda document: document["signatures"].clear())


@mutation
def sign_twice_under_another_id(scene: Scene) -> None:
    def change(document: dict[str, Any]) -> None:
        document["signatures"].append({**document["signatures"][0], "keyid": "1" * 64})

    scene.edit(change)


@mutation
def change_the_payload_type(scene: Scene) -> None:
    kinds = ["application/vnd.in-toto+jsön", "application/json", "", IN_TOTO.upper(), IN_TOTO + " "]
    scene.edit(lambda document: document.update(payloadType=scene.random.choice(kinds)))


@mutation
def change_a_value_in_a_payload(scene: Scene) -> None:
    """As somebody would who cannot sign: any text or number of any document, spelled as ours are."""

    def change(document: dict[str, Any]) -> None:
        payload = json.loads(base64.b64decode(document["payload"]))
        holder, key = scene.random.choice(list(_leaves(payload)))
        value = holder[key]
        holder[key] = value + "x" if isinstance(value, str) else (value or 0) + 1
        document["payload"] = base64.b64encode(json_text(payload).encode()).decode()

    scene.edit(change)


@mutation
def add_a_field_to_an_envelope(scene: Scene) -> None:
    scene.edit(lambda document: document.update(extra=1))


@mutation
def spell_a_line_otherwise(scene: Scene) -> None:
    lines = scene.lines()
    number = scene.random.randrange(len(lines))
    lines[number] = json.dumps(json.loads(lines[number])).encode() + b"\n"
    scene.write(lines)


@mutation
def state_a_name_outside_the_folder(scene: Scene) -> None:
    """Also with a statement that is signed again by the pipeline, as a broken draft would be."""
    names = [
        "../a",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "nul",
        "a\0b",
        "C:a",
        ".a",
        "data/é",
        "a//b",
        "x" * 300,
    ]
    whole = read_bundle(scene.bundle.read_bytes())
    document = whole.statement.to_dict()
    document["subject"][0]["name"] = scene.random.choice(names)
    envelope = Envelope(json_text(document).encode(), IN_TOTO)
    lines = scene.lines()
    lines[0] = scene.house.signed(envelope, "machine").line
    scene.write(lines)


@mutation
def claim_less_than_was_approved(scene: Scene) -> None:
    """The pipeline's key is stolen and signs a better claim; everybody approved the old one."""
    whole = read_bundle(scene.bundle.read_bytes())
    predicate = {**whole.statement.predicate, "privacyClaim": {"kind": "none", "note": scene.random.random()}}
    forged = scene.house.drafted(replace(whole.statement, predicate=predicate))
    scene.bundle.write_bytes(replace(whole, envelope=forged.envelope, gate=forged.gate).to_bytes())


@mutation
def seal_what_was_not_approved(scene: Scene) -> None:
    """Pipeline and sealer conspire: without the approvers there is nothing to seal."""
    whole = read_bundle(scene.bundle.read_bytes())
    some = [each for each in whole.approvals if scene.random.random() < 0.6][: len(whole.approvals) - 1]
    draft = Bundle(whole.envelope, whole.statement, whole.gate)
    scene.bundle.write_bytes(scene.house.sealed(draft, some).to_bytes())


@mutation
def approve_in_the_place_of_somebody(scene: Scene) -> None:
    """The sealer signs the missing approval with a key that is known, but another's."""
    whole = read_bundle(scene.bundle.read_bytes())
    forger = scene.random.choice(["ada", "machine", "rosa", "eve"])
    forged = scene.house.approval(whole.statement, "bob", by=forger)
    draft = Bundle(whole.envelope, whole.statement, whole.gate)
    approvals = [scene.house.approval(whole.statement, person) for person in ("ada", "cyd")]
    scene.bundle.write_bytes(scene.house.sealed(draft, [*approvals, forged]).to_bytes())


def _leaves(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, child in list(items):
        if isinstance(child, dict | list):
            yield from _leaves(child)
        elif isinstance(child, str | int | float) or child is None:
            yield value, key


@pytest.mark.parametrize("what", sorted(MUTATIONS))
def test_every_tampering_is_refused_and_named(what: str, house: House, tmp_path: Path) -> None:
    """Exit code 1, never 0 or 3, whatever the seed; the answer has a reason in printable words."""
    original, trust = tmp_path / "original", house.write_trust(tmp_path / "trust.json")
    house.release(original)
    other = house.release(tmp_path / "other", claims(release={"id": "1" * 32, "name": "other"}))
    assert verify(original, trust=trust, now=NOW).exit_code == 0
    for seed in range(EACH):
        folder = Path(shutil.copytree(original, tmp_path / f"{what}-{seed}" / "release"))
        MUTATIONS[what](Scene(folder, other, house, Random(f"{what} {seed}")))
        if not os.path.lexists(folder / BUNDLE):
            with pytest.raises(PrivsynError, match=BUNDLE):
                verify(folder, trust=trust, now=NOW)
        else:
            _refused(verify(folder, trust=trust, now=NOW).to_dict(), what, seed)
        shutil.rmtree(folder.parent)


def _refused(found: dict[str, Any], what: str, seed: int) -> None:
    assert (found["outcome"], found["exit_code"]) == ("fail", 1), (what, seed, found)
    named = [*found["changed"], *found["missing"], *found["extra"], *found["problems"]]
    named += [check["words"] for check in found["checks"] if check["state"] == "failed"]
    assert named, (what, seed)
    assert all(text.isprintable() for text in named), (what, seed, named)
    json_text(found).encode()


def test_there_are_enough_of_them() -> None:
    """At least 2,000 mutations are tried."""
    assert EACH * len(MUTATIONS) >= 2000
