"""Every DICOM sample of three packages goes through one `prepare`, and no patient's name is in its output."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from privsyn.cohort.prepare import SourceSpec, check
from privsyn.recipe import Data
from privsyn.study import Study, init

pydicom = pytest.importorskip("pydicom", reason="needs privsyn[dicom]")
data_store = pytest.importorskip("data_store", reason="needs pydicom-data")
deid_data = pytest.importorskip("deid_data", reason="needs deid-data")

WORDY = ("DA", "TM", "DT", "PN", "LO", "SH", "LT", "ST", "UT", "UI")
TEXT = {
    "GREYSCALE_IMAGE", "RGB_IMAGE", "US1_UNCR", "gdcm-US-ALOKA-16", "OBXXXX1A", "JPGLosslessP14SV1_1s_1f_8b",
}  # fmt: skip
NO_TEXT = {"cat", "CT_small", "MR_small", "RG1_UNCR"}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All samples in one tree, as they lie in their packages."""
    root = tmp_path_factory.mktemp("hospital") / "archive of Dr. Meier"
    for package, part in ((pydicom, "data/test_files"), (data_store, "data"), (deid_data, "data")):
        shutil.copytree(Path(package.__file__).parent / part, root / package.__name__ / "ward")
    (root / "notes.txt").write_text("Mrs. Secretive called again\n")
    return root


def _study(folder: Path, *settings: str) -> Study:
    wanted = ('data.classes=["image"]', "data.channels=3", "data.size=32", "data.resize=pad", *settings)
    return init(folder, recipe="toy", policy="internal-review", settings=wanted)


@pytest.fixture(scope="module")
def prepared(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Everything that one `privsyn prepare` wrote or printed to a pipe, and its two outputs."""
    place = tmp_path_factory.mktemp("place")
    study = _study(place / "study", "data.text_scan=0")
    environment = {**os.environ, "PRIVSYN_HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
    (place / "tmp").mkdir()
    command = [sys.executable, "-m", "privsyn", "prepare", str(tree), "--skip-unusable", "--json"]
    ran = subprocess.run(command, cwd=study.root, env=environment, capture_output=True, text=True, check=True)
    return place, {"stdout": ran.stdout, "stderr": ran.stderr}


def test_each_sample_is_ingested_or_named_with_a_reason(
    tree: Path, prepared: tuple[Path, dict[str, str]]
) -> None:
    """One call: the files that are read, refused and passed over are all there are."""
    document = json.loads(prepared[1]["stdout"])
    study = _study(prepared[0] / "again", "data.text_scan=0")
    report = check(study, SourceSpec(tree, skip_unusable=True)).to_dict()
    files = sum(path.is_file() for path in tree.rglob("*"))
    assert report["files"] == document["identifiers"]["files"]
    named = [*report["refused"], *report["passed_over"]]
    read = files - len(named)
    assert read > 150
    assert all(each["file"] and each["reason"] and "\n" not in each["reason"] for each in named)
    assert document["left_out"]["unusable"] == len(report["refused"])
    assert document["left_out"]["no_image"] == len(report["passed_over"])
    assert document["identifiers"]["marks"]["DICOM PatientName"] > 100


def _secrets(tree: Path) -> set[str]:
    """Every value of an attribute that is text, a date or a UID, and every path, if it is distinctive."""
    found = {str(path.relative_to(tree)) for path in tree.rglob("*")} | {str(tree), "Meier", "Secretive"}
    for path in tree.rglob("*"):
        if not path.is_file():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
                for element in dataset.iterall():
                    if element.VR in WORDY and element.value:
                        found.add(str(element.value))
            except Exception:  # samples are broken on purpose, in every way
                continue
    distinctive = {each for each in found if len(each) >= 7 and len(set(each)) > 2 and re.search(r"\d", each)}
    return distinctive | {"Meier", "Secretive"}


def test_no_identifier_of_any_sample_comes_out(tree: Path, prepared: tuple[Path, dict[str, str]]) -> None:
    """Neither in the cohort, nor in the home, temporary files or the JSON; on stderr only names of files."""
    place, printed = prepared
    secrets = _secrets(tree)
    assert len(secrets) > 900
    written = {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    assert {"study/cohort/records.parquet", "home/patient.key"} <= written.keys()
    written["stdout"] = printed["stdout"].encode()
    found = [
        (where, secret)
        for where, content in written.items()
        for secret in secrets
        if secret.encode(errors="replace") in content
    ]
    assert not found, found[:5]
    names = {part for path in tree.rglob("*") for part in path.relative_to(tree).parts}
    said = {secret for secret in secrets if secret in printed["stderr"]}
    assert all(any(part in secret or secret in part for part in names) for secret in said), said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_text_is_found_where_it_is_and_nowhere_else(tree: Path, tmp_path: Path) -> None:
    """Through `prepare --check`, whatever the header says of BurnedInAnnotation; masking is on record."""
    pytest.importorskip("rapidocr", reason="needs privsyn[ocr]")
    some = tmp_path / "some"
    some.mkdir()
    for name in TEXT | NO_TEXT:
        shutil.copy(next(tree.rglob(f"{name}.dcm")), some)
    study = _study(tmp_path / "study", "data.text_scan=all", "data.text=mask")
    report = check(study, some)
    flagged = {where.split(".dcm")[0] for where in report.text.where}
    assert flagged == TEXT
    assert report.document is not None
    text = report.document.identifiers.text
    assert (text.policy, text.looked_at, text.of) == ("mask", text.of, text.looked_at)
    assert text.flagged == len(report.text.where)


def test_a_real_chest_x_ray_looks_like_one(tree: Path, tmp_path: Path) -> None:
    """RG1_UNCR is MONOCHROME1: bone is white and air black. The picture is left in the test's folder."""
    from privsyn.cohort.pixels import fit_pixels
    from privsyn.cohort.reading import read_file

    data = Data(size=512, channels=1, classes=("image",), resize="fit")
    (picture,) = read_file(str(next(tree.rglob("RG1_UNCR.dcm"))), data)
    pixels = fit_pixels(picture.pixels, data)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "RG1_UNCR.png")
    spine = np.median(pixels[200:420, 246:266])
    lungs = [np.median(pixels[150:300, 100:180]), np.median(pixels[150:300, 340:420])]
    assert spine > 1.2 * max(lungs)
