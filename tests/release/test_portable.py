"""The one-file verifier: it runs where nothing is installed, and answers as the program does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from house import House, claims, dp

from privsyn.errors import PrivsynError
from privsyn.release.manifest import BUNDLE
from privsyn.release.portable import needed_modules, write_portable
from privsyn.release.verify import verify


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("verifier") / "privsyn-verify.pyz"
    write_portable(file)
    return file


def run(pyz: Path, *words: object, home: Path) -> tuple[int, str, str]:
    """In an interpreter without site-packages: no cryptography, no dp-accounting, no privsyn."""
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(pyz), *map(str, words)],
        capture_output=True, text=True, check=False, cwd=home, env={"PRIVSYN_HOME": str(home / "home")},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_it_answers_as_the_program_does(house: House, pyz: Path, tmp_path: Path) -> None:
    """0 with the trust file, 3 without, 1 when a byte changed, 2 where there is nothing; in JSON as well."""
    house.release(tmp_path / "release")
    trust, folder = house.write_trust(tmp_path / "trust.json"), tmp_path / "release"
    whole = run(pyz, folder, "--trust", trust, "--json", home=tmp_path)
    assert whole[0] == verify(folder, trust=trust).exit_code == 0, whole
    assert json.loads(whole[1])["outcome"] == verify(folder, trust=trust).outcome
    assert run(pyz, folder, home=tmp_path)[0] == 3
    (folder / "README.md").write_text("other", encoding="utf-8")
    changed = run(pyz, folder, "--trust", trust, home=tmp_path)
    assert (changed[0], "changed: README.md" in changed[1]) == (1, True)
    missing = run(pyz, tmp_path / "nothing", home=tmp_path)
    assert (missing[0], missing[2].count("\n")) == (2, 1)


def test_signatures_are_checked_without_cryptography(house: House, pyz: Path, tmp_path: Path) -> None:
    """In pure Python a signature with one flipped bit is refused as well."""
    bundle = house.release(tmp_path / "release")
    trust = house.write_trust(tmp_path / "trust.json")
    assert bundle.certificate is not None
    (keyid, signature), *_ = bundle.certificate.signatures
    flipped = bytes([signature[0] ^ 1]) + signature[1:]
    line = bundle.certificate.__class__(
        bundle.certificate.payload, bundle.certificate.payload_type, ((keyid, flipped),)
    ).line
    raw = bundle.to_bytes().replace(bundle.certificate.line, line)
    (tmp_path / "release" / BUNDLE).write_bytes(raw)
    done = run(pyz, tmp_path / "release", "--trust", trust, home=tmp_path)
    assert (done[0], "does not fit what was signed" in done[1]) == (1, True), done


@pytest.mark.parametrize(
    ("epsilon", "code", "said"),
    [
        (22.0, 0, "its parameters give at most"),
        (21.0, 0, "at most"),
        (2.0, 3, "far below what can be shown here"),
    ],
)
def test_the_claim_is_bounded_without_dp_accounting(
    house: House, pyz: Path, tmp_path: Path, epsilon: float, code: int, said: str
) -> None:
    """The answer says that it is a bound; a claim far below it stays open, exit code 3."""
    house.release(tmp_path / "release", claims(privacyClaim=dp(epsilon=epsilon)))
    done = run(pyz, tmp_path / "release", "--trust", house.write_trust(tmp_path / "t.json"), home=tmp_path)
    assert (done[0], said in done[1]) == (code, True), done


def test_its_modules_follow_from_its_imports() -> None:
    """What the check imports goes in, and what only the sender needs does not; no list is kept by hand."""
    found = set(needed_modules())
    assert {"privsyn", "privsyn.strict_json", "privsyn.claim.recompute", "privsyn.release.verify"} <= found
    assert not found & {"privsyn.release.draft", "privsyn.dp.accounting", "privsyn.study"}


def test_an_import_that_recipients_lack_is_named() -> None:
    """The draft needs pydantic and more: as a verifier it would not start anywhere else."""
    with pytest.raises(PrivsynError, match="which a recipient of"):
        needed_modules("privsyn.release.draft")


def test_one_set_of_modules_gives_one_file(pyz: Path, tmp_path: Path) -> None:
    """Byte for byte, so that its digest can be published; nothing is replaced without being told to."""
    first = write_portable(tmp_path / "a.pyz")
    assert (tmp_path / "a.pyz").read_bytes() == pyz.read_bytes()
    with pytest.raises(PrivsynError, match="--force"):
        write_portable(tmp_path / "a.pyz")
    assert write_portable(tmp_path / "a.pyz", force=True) == first
