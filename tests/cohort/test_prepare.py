"""What `prepare` does beside reading: resume, look, leave out, say, and keep to itself."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from stopping import Stops

from privsyn.cohort.cohort import load_cohort
from privsyn.cohort.document import LeftOutCounts
from privsyn.cohort.prepare import WORKING, SourceSpec, check, prepare
from privsyn.errors import CohortError
from privsyn.files import tree_digests
from privsyn.study import Study

Noise = Callable[..., NDArray[np.uint8]]
MakeStudy = Callable[..., Study]

ALONE = """
import sys
from privsyn.cohort.prepare import SourceSpec, prepare
if __name__ == "__main__":
    prepare(sys.argv[1], SourceSpec(sys.argv[2], processes=int(sys.argv[3])))
"""


@pytest.fixture
def many(tmp_path: Path, noise: Noise) -> Path:
    """1,500 grey PNGs of 8 px in two classes, three to a patient by their names."""
    root = tmp_path / "many"
    for name in "ab":
        (root / name).mkdir(parents=True)
    for number, image in enumerate(noise(1500, 8, 8)):
        Image.fromarray(image).save(root / "ab"[number % 2] / f"p{number // 6}-{number}.png")
    return root


PATTERN = "data.patient_pattern='^(?P<patient>p[0-9]+)-'"


def test_a_run_that_was_stopped_goes_on_where_it_stopped(make_study: MakeStudy, many: Path) -> None:
    """The rest is read and no more, and the cohort is the one of an undisturbed run, byte for byte."""
    whole = make_study(PATTERN, name="whole")
    prepare(whole, many)
    study = make_study(PATTERN, name="study")
    with pytest.raises(KeyboardInterrupt):
        prepare(study, many, progress=Stops(after=700))
    progress = Stops()
    prepare(study, many, progress=progress)
    assert progress.read <= 1500 - 700 + 64
    assert tree_digests(study.cohort) == tree_digests(whole.cohort)
    assert not (study.root / WORKING).exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_is_resumed_and_nothing_of_it_is_lost_or_doubled(
    make_study: MakeStudy, many: Path, tmp_path: Path, processes: int
) -> None:
    """SIGKILL at several moments of one and the same preparation."""
    whole = make_study(PATTERN, name="whole")
    prepare(whole, many)
    study = make_study(PATTERN, name="study")
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, str(tmp_path / "alone.py"), str(study.root), str(many), str(processes)]
    for _ in range(4 // processes):
        before = _noted(study)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as running:
            deadline = time.monotonic() + 60
            while _noted(study) == before and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            os.killpg(running.pid, signal.SIGKILL)
    prepare(study, many)
    assert tree_digests(study.cohort) == tree_digests(whole.cohort)


def _noted(study: Study) -> int:
    notes = study.root / WORKING / "notes"
    return notes.stat().st_size if notes.exists() else 0


def test_a_source_that_changed_meanwhile_is_read_anew(make_study: MakeStudy, many: Path) -> None:
    """Another image under a name, one that is gone, and another recipe: nothing of before is taken."""
    study = make_study(PATTERN)
    changes: list[Callable[[], object]] = [
        lambda: Image.new("L", (8, 8), 7).save(next((many / "a").iterdir())),
        next((many / "b").iterdir()).unlink,
        lambda: None,
    ]
    for change in changes:
        with pytest.raises(KeyboardInterrupt):
            prepare(study, many, progress=Stops(after=1400))
        change()
        progress = Stops()
        with pytest.raises(KeyboardInterrupt):
            prepare(study, many, progress=Stops(after=10), settings=["data.resize=crop"])
    prepare(study, many, progress=progress)
    assert progress.read == 1499
    fresh = make_study(PATTERN, name="fresh")
    prepare(fresh, many)
    assert tree_digests(study.cohort) == tree_digests(fresh.cohort)


def test_what_waits_to_be_resumed_names_nobody(make_study: MakeStudy, many: Path) -> None:
    """Neither ids nor file names, nor plain hashes of ids that could be computed by guessing the ids."""
    study = make_study(PATTERN)
    with pytest.raises(KeyboardInterrupt):
        prepare(study, many, progress=Stops(after=1400))
    written = b"".join(path.read_bytes() for path in (study.root / WORKING).iterdir())
    assert len(written) > 1000 * 81
    for number in range(100, 250):  # shorter names are found in random bytes by chance
        assert f"p{number}-".encode() not in written
        assert hashlib.sha256(f"patient p{number}".encode()).digest() not in written
    assert str(many).encode() not in written


def test_every_number_of_processes_gives_the_same_cohort(make_study: MakeStudy, many: Path) -> None:
    """Who decodes does not show, and neither does the order in which workers answer."""
    digests = []
    for processes in (1, 3):
        study = make_study(PATTERN, name=f"by-{processes}")
        prepare(study, SourceSpec(many, processes=processes))
        digests.append(tree_digests(study.cohort))
    assert digests[0] == digests[1]


def test_a_check_says_what_would_be_and_writes_nothing(make_study: MakeStudy, class_folders: Path) -> None:
    """The same counts and splits as `prepare` then makes; nothing in the study or the home."""
    study, home = make_study(), Path(os.environ["PRIVSYN_HOME"])
    before = tree_digests(study.root), tree_digests(home)
    report = check(study, class_folders)
    assert (tree_digests(study.root), tree_digests(home)) == before
    cohort = prepare(study, class_folders)
    unwritten = replace(cohort.document, records_sha256="", fingerprint="", key_check="")
    assert report.document == unwritten


def test_a_check_lists_all_that_is_wrong(make_study: MakeStudy, class_folders: Path) -> None:
    """By name and reason; what is not an image is passed over, and the refusal is that of `prepare`."""
    (class_folders / "a" / "scan-1.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8), (1, 2, 3)).save(class_folders / "b" / "scan-2.png")
    (class_folders / "b" / "notes.txt").write_text("what the nurse said\n")
    study = make_study()
    report = check(study, class_folders)
    assert report.document is None
    document = json.loads(json.dumps(report.to_dict()))
    assert [each["file"] for each in document["refused"]] == ["a/scan-1.png", "b/scan-2.png"]
    assert "in colour" in document["refused"][1]["reason"]
    assert [each["file"] for each in document["passed_over"]] == ["b/notes.txt"]
    with pytest.raises(CohortError) as caught:
        prepare(study, class_folders)
    assert str(caught.value) == report.refusal


def test_unusable_images_can_be_left_out(make_study: MakeStudy, class_folders: Path) -> None:
    """Their number is on record, their names are not."""
    (class_folders / "a" / "scan-1.png").write_bytes(b"no picture")
    (class_folders / "b" / "notes.txt").write_text("what the nurse said\n")
    study = make_study()
    cohort = prepare(study, SourceSpec(class_folders, skip_unusable=True))
    assert len(cohort.images) == 11
    assert cohort.document.left_out == LeftOutCounts(unusable=1, no_image=1, opted_out=0)
    written = b"".join(path.read_bytes() for path in study.cohort.iterdir())
    assert b"scan-1" not in written
    assert b"notes" not in written


def test_patients_who_opted_out_stay_out(make_study: MakeStudy, many: Path, tmp_path: Path) -> None:
    """Also of the next cohort, without the list; no id is kept."""
    listed = tmp_path / "opt-outs.txt"
    listed.write_text(" p3 \n\np7\n")
    first = prepare(make_study(PATTERN, name="first"), SourceSpec(many, opt_outs=listed))
    assert first.document.left_out.opted_out == 12
    again = make_study(PATTERN, name="again")
    report = check(again, many)
    assert report.ingested.opted_out == 12
    second = prepare(again, many)
    assert len(second.images) == 1500 - 12
    assert second.fingerprint == first.fingerprint
    kept = (Path(os.environ["PRIVSYN_HOME"]) / "opt-outs.txt").read_text().split()
    assert len(kept) == 2
    assert all(len(each) == 64 for each in kept)


def test_a_bad_list_of_opt_outs_is_refused(
    make_study: MakeStudy, class_folders: Path, tmp_path: Path
) -> None:
    """A missing or empty one would let everybody in; a damaged memory too."""
    with pytest.raises(CohortError, match="cannot read the opt-outs"):
        prepare(make_study(), SourceSpec(class_folders, opt_outs=tmp_path / "nowhere.txt"))
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(CohortError, match="lists no patient"):
        prepare(make_study(name="empty"), SourceSpec(class_folders, opt_outs=tmp_path / "empty.txt"))
    prepare(make_study(name="first"), class_folders)
    (Path(os.environ["PRIVSYN_HOME"]) / "opt-outs.txt").write_text("zz\n")
    with pytest.raises(CohortError, match="damaged"):
        prepare(make_study(name="damaged"), class_folders)


def test_sizes_that_are_too_small_for_an_audit_are_told_at_once(make_study: MakeStudy, many: Path) -> None:
    """With the number that would do."""
    notes = prepare(make_study(PATTERN), many).document.too_small
    assert "holdout has 44 patients: TPR at 0.1 % FPR cannot be measured; 10,000 would do" in notes
    assert "holdout has 44 patients: TPR at 1 % FPR cannot be measured; 1,000 would do" in notes
    assert not [note for note in notes if "re-identification" in note or "class" in note]


def test_identifiers_in_files_are_counted_and_left_behind(make_study: MakeStudy, class_folders: Path) -> None:
    """EXIF and comments: names and counts are recorded, values are shown only on request."""
    exif = Image.Exif()
    exif[0x013B] = "Dr. Secretive"  # Artist
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    image.save(class_folders / "a" / "one.jpg", exif=exif, comment=b"of Mrs. Meier")
    study = make_study()
    report = check(study, class_folders, values=True)
    assert report.ingested.marks["EXIF Artist"] == report.ingested.marks["JPEG comment"] == 1
    assert report.ingested.examples["EXIF Artist"] == {"Dr. Secretive"}
    cohort = prepare(study, class_folders)
    assert cohort.document.identifiers.marks["EXIF Artist"] == 1
    written = b"".join(path.read_bytes() for path in study.cohort.iterdir())
    assert b"Secretive" not in written
    assert b"Meier" not in written


def test_16_bits_stay_16_bits(make_study: MakeStudy, tmp_path: Path) -> None:
    """From PNG, TIFF and npz; the cohort holds the very levels."""
    images = np.random.default_rng(0).integers(0, 1 << 16, (12, 8, 8), dtype=np.uint16)
    folder = tmp_path / "images"
    for number, image in enumerate(images):
        kind = folder / "ab"[number % 2]
        kind.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(kind / f"{number}.{'png' if number % 3 else 'tif'}")
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(12) % 2)
    for name, source in (("folder", folder), ("npz", tmp_path / "images.npz")):
        cohort = prepare(make_study("data.bit_depth=16", name=name), source)
        assert cohort.images.dtype == np.uint16
        assert {image.tobytes() for image in cohort.images} == {image.tobytes() for image in images}
        with pytest.raises(CohortError, match="holds 16 bits per pixel, the recipe wants 8"):
            prepare(make_study(name=f"{name}-8"), source)


def test_what_one_study_exports_prepares_in_another(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """The Parquet of a synthetic set is a source like any other: the same pixels under the same labels."""
    from privsyn.synthetic.dataset import write_synthetic

    images, labels = noise(20, 8, 8, 1), np.arange(20) % 2
    write_synthetic(
        tmp_path / "set",
        name="digits",
        images=images,
        labels=labels,
        classes=["a", "b"],
        provenance=None,
        claim=None,
    )
    cohort = prepare(make_study(), tmp_path / "set")
    found = zip(cohort.images, cohort.records["label"], strict=True)
    assert {(image.tobytes(), label) for image, label in found} == {
        (image.tobytes(), label) for image, label in zip(images, labels.tolist(), strict=True)
    }


def test_a_picture_in_a_table_of_parquet_keeps_its_patient(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """As Hugging Face writes images, with a column more."""
    rows = []
    for number, image in enumerate(noise(12, 8, 8)):
        held = io.BytesIO()
        Image.fromarray(image).save(held, "PNG")
        rows.append(
            {
                "image": {"bytes": held.getvalue(), "path": None},
                "label": number % 2,
                "patient": f"p{number // 3}",
            }
        )
    (tmp_path / "set").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    study = make_study()
    prepare(study, tmp_path / "set")
    assert load_cohort(study.cohort).records["patient"].nunique() == 4


def test_a_fault_of_the_source_does_not_undo_what_was_read(make_study: MakeStudy, many: Path) -> None:
    """A wrong path, or a folder that cannot be listed: an interrupted run can still be resumed."""
    study = make_study(PATTERN)
    with pytest.raises(KeyboardInterrupt):
        prepare(study, many, progress=Stops(after=700))
    with pytest.raises(CohortError, match="does not exist"):
        prepare(study, many.with_name("mny"))
    progress = Stops()
    prepare(study, many, progress=progress)
    assert progress.read <= 1500 - 700 + 64
