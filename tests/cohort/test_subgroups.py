"""Subgroups reach the cohort as the source says, and nothing that leaves it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from digits_study import weights
from numpy.typing import NDArray
from PIL import Image
from stopping import Stops

from privsyn.cohort.cohort import Cohort, Part, load_cohort
from privsyn.cohort.prepare import WORKING, SourceSpec, check, prepare
from privsyn.cohort.split import SPLITS
from privsyn.errors import CohortError
from privsyn.files import tree_digests
from privsyn.study import Study

Noise = Callable[..., NDArray[np.uint8]]
MakeStudy = Callable[..., Study]
Row = Mapping[str, object]


SEX = {"subgroup": "sex"}


GROUPS = ("women", "men", "")


ALONE = """
import sys
from pathlib import Path
from privsyn.cohort.prepare import SourceSpec, prepare
if __name__ == "__main__":
    table, processes = Path(sys.argv[3]), int(sys.argv[4])
    spec = SourceSpec(sys.argv[2], table=table, columns={"subgroup": "sex"}, processes=processes)
    prepare(sys.argv[1], spec)
"""


@pytest.fixture
def rows(tmp_path: Path, noise: Noise) -> list[dict[str, object]]:
    """600 grey PNGs of 8 px below `images`, three to a patient; every third has no subgroup."""
    root, rows = tmp_path / "images", []
    root.mkdir()
    for number, image in enumerate(noise(600, 8, 8)):
        Image.fromarray(image).save(root / f"{number}.png")
        rows.append(
            {
                "file": f"{number}.png",
                "label": "ab"[number // 3 % 2],
                "patient": f"p{number // 3}",
                "sex": GROUPS[number % 3],
            }
        )
    return rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return tmp_path / "images"


def _table(path: Path, rows: Sequence[Row]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def _by_pixels(images: Path, rows: Sequence[Row]) -> dict[bytes, object]:
    """Pixels to the subgroup that the table says."""
    pixels = [np.asarray(Image.open(images / str(row["file"]))).tobytes() for row in rows]
    return dict(zip(pixels, (row["sex"] for row in rows), strict=True))


def _subgroups(part: Part) -> list[str]:
    assert part.subgroups is not None
    return [str(name) for name in part.subgroups]


@pytest.mark.parametrize("processes", [1, 2])
def test_each_image_of_a_part_has_its_own_subgroup(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]], processes: int
) -> None:
    """As the table says it, whoever decodes; counts of each and part are in `cohort.json`."""
    table = _table(images.parent / "t.csv", rows)
    cohort = prepare(make_study(), SourceSpec(images, table=table, columns=SEX, processes=processes))
    wanted = _by_pixels(images, rows)
    for split in SPLITS:
        part = cohort.part(split)
        assert _subgroups(part) == [wanted[image.tobytes()] for image in part.images]
        counts = {name: found[split] for name, found in cohort.document.subgroups.items()}
        assert counts == {name: _subgroups(part).count(name) for name in ("", "men", "women")}
    assert list(cohort.records)[-1] == "subgroup"
    assert cohort.records["subgroup"].value_counts().to_dict() == dict.fromkeys(GROUPS, 200)


def test_without_being_asked_nothing_is_read(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """Also of a column that is called subgroup: the cohort is, byte for byte, that of a table without it."""
    cohorts = []
    for name in ("sex", "subgroup", "nothing"):
        table = pd.DataFrame(rows).rename(columns={"sex": name})
        table = table.drop(columns="nothing", errors="ignore")
        table.to_csv(images.parent / f"{name}.csv", index=False)
        cohorts.append(
            prepare(make_study(name=name), SourceSpec(images, table=images.parent / f"{name}.csv"))
        )
    assert (
        tree_digests(cohorts[0].folder) == tree_digests(cohorts[1].folder) == tree_digests(cohorts[2].folder)
    )
    assert cohorts[1].part("test").subgroups is None
    assert list(pd.read_parquet(cohorts[1].folder / "records.parquet")) == [
        "index", "label", "label_name", "patient", "split", "sha256", "cluster", "picture", "pinned",
    ]  # fmt: skip
    assert cohorts[1].document.subgroups is None
    assert b"subgroups" not in (cohorts[1].folder / "cohort.json").read_bytes()
    written = b"".join(path.read_bytes() for path in cohorts[1].folder.iterdir())
    assert b"women" not in written


def test_the_same_images_are_the_same_population_with_and_without(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """The fingerprint and the split stay, and the digest of the records tells that there is more in them."""
    table = _table(images.parent / "t.csv", rows)
    plain = prepare(make_study(name="plain"), SourceSpec(images, table=table))
    grouped = prepare(make_study(name="grouped"), SourceSpec(images, table=table, columns=SEX))
    assert grouped.fingerprint == plain.fingerprint
    assert grouped.digest != plain.digest
    pd.testing.assert_frame_equal(grouped.records.drop(columns="subgroup"), plain.records)
    assert grouped.document.subgroups
    assert replace(grouped.document, subgroups=None, records_sha256=plain.digest) == plain.document


@pytest.mark.parametrize("processes", [1, 2])
def test_a_column_that_singles_patients_out_is_refused(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]], processes: int
) -> None:
    """32 different texts are coarse groups, 33 are none; nothing of them stays, however late it shows."""
    study = make_study()
    sorted_ages = [{**row, "sex": f"{number // 19} years"} for number, row in enumerate(rows)]
    assert len({row["sex"] for row in sorted_ages}) == 32
    table = _table(images.parent / "t.csv", sorted_ages)
    report = check(study, SourceSpec(images, table=table, columns=SEX))
    assert report.document is not None
    assert len(report.document.subgroups) == 32
    table = _table(images.parent / "t.csv", [*sorted_ages[:-1], {**sorted_ages[-1], "sex": "99 years"}])
    for look in (check, prepare):
        with pytest.raises(
            CohortError, match=r"more than 32 different subgroups: .* such as an age band"
        ) as e:
            look(study, SourceSpec(images, table=table, columns=SEX, processes=processes))
        assert "single patients out" in str(e.value)
        assert "years" not in str(e.value)
    assert not study.cohort.exists()
    assert not (study.root / WORKING).exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("x" * 65, r"7\.png: its subgroup has more than 64 characters"), ("a\x1bb", "that are not text")],
)
def test_a_subgroup_is_a_short_text(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]], text: str, message: str
) -> None:
    """The message names the file and does not repeat the text."""
    rows[7]["sex"] = text
    table = _table(images.parent / "t.csv", rows)
    with pytest.raises(CohortError, match=message) as caught:
        prepare(make_study(), SourceSpec(images, table=table, columns=SEX))
    assert text not in str(caught.value)


def test_spellings_of_one_text_are_one_subgroup(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """NFC, without blanks around it; 64 characters are not too many."""
    for row, text in zip(
        rows, ["Zu\u0308rich", " Z\u00fcrich\t", "Z\u00fcrich", "y" * 64] * 150, strict=True
    ):
        row["sex"] = text
    table = _table(images.parent / "t.csv", rows)
    cohort = prepare(make_study(), SourceSpec(images, table=table, columns=SEX))
    assert cohort.records["subgroup"].value_counts().to_dict() == {"Z\u00fcrich": 450, "y" * 64: 150}


def test_neither_the_order_of_the_table_nor_the_workers_show(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """Also where equal images of one patient, or without a patient, are in different subgroups."""
    for number in range(0, 60, 2):
        (images / f"{number}.png").write_bytes((images / "1.png").read_bytes())
    for row in rows[:30]:
        row["patient"] = ""
    orders = [rows, rows[::-1], [rows[place] for place in np.random.default_rng(0).permutation(600)]]
    digests = []
    for name, (order, processes) in enumerate(zip(orders, (1, 1, 3), strict=True)):
        table, study = _table(images.parent / "t.csv", order), make_study(name=str(name))
        prepare(study, SourceSpec(images, table=table, columns=SEX, processes=processes))
        digests.append(tree_digests(study.cohort))
    assert digests[0] == digests[1] == digests[2]


def test_a_run_that_is_resumed_knows_them_still(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """The rest is read and no more, and the cohort is that of an undisturbed run, byte for byte."""
    for number, row in enumerate(rows):
        row["sex"] = f"site {number // 30}"  # some are met before the stop, some after it
    table, whole, study = _table(images.parent / "t.csv", rows), make_study(name="whole"), make_study()
    prepare(whole, SourceSpec(images, table=table, columns=SEX))
    for after in (100, 200):
        with pytest.raises(KeyboardInterrupt):
            prepare(study, SourceSpec(images, table=table, columns=SEX), progress=Stops(after))
    progress = Stops()
    prepare(study, SourceSpec(images, table=table, columns=SEX), progress=progress)
    assert progress.read < 300
    assert tree_digests(study.cohort) == tree_digests(whole.cohort)


def test_another_table_or_another_wish_is_not_answered_from_before(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """A stopped run with subgroups, then one with a corrected table, then one without."""
    table, study = _table(images.parent / "t.csv", rows), make_study()
    with pytest.raises(KeyboardInterrupt):
        prepare(study, SourceSpec(images, table=table, columns=SEX), progress=Stops(400))
    rows[0]["sex"] = "men"
    table = _table(images.parent / "t.csv", rows)
    with pytest.raises(KeyboardInterrupt):
        prepare(study, SourceSpec(images, table=table, columns=SEX), progress=Stops(600))
    wanted = _by_pixels(images, rows)
    cohort = prepare(study, SourceSpec(images, table=table, columns=SEX))
    for split in SPLITS:
        part = cohort.part(split)
        assert _subgroups(part) == [wanted[image.tobytes()] for image in part.images]
    with pytest.raises(KeyboardInterrupt):
        prepare(study, SourceSpec(images, table=table, columns=SEX), progress=Stops(400), force=True)
    assert prepare(study, SourceSpec(images, table=table), force=True).part("test").subgroups is None


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_keeps_them(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]], processes: int
) -> None:
    """SIGKILL in the midst of one preparation, also twice."""
    table, whole, study = _table(images.parent / "t.csv", rows), make_study(name="whole"), make_study()
    prepare(whole, SourceSpec(images, table=table, columns=SEX))
    program = images.parent / "alone.py"
    program.write_text(ALONE)
    command = [sys.executable, str(program), str(study.root), str(images), str(table), str(processes)]
    for _ in range(2 // processes):
        before = _noted(study)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as running:
            deadline = time.monotonic() + 60
            while _noted(study) == before and running.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            os.killpg(running.pid, signal.SIGKILL)
    prepare(study, SourceSpec(images, table=table, columns=SEX), force=True)
    assert tree_digests(study.cohort) == tree_digests(whole.cohort)


def _noted(study: Study) -> int:
    notes = study.root / WORKING / "notes"
    return notes.stat().st_size if notes.exists() else 0


def test_only_subgroups_of_images_in_the_cohort_are_named(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """Those of unusable images and of patients who opted out leave no trace."""
    (images / "3.png").write_bytes(b"no picture")
    rows[3]["sex"] = "only of the unusable"
    for row in rows[6:9]:
        row["sex"] = "only of who opted out"
    listed = images.parent / "opt-outs.txt"
    listed.write_text("p2\n")
    table, study = _table(images.parent / "t.csv", rows), make_study()
    cohort = prepare(study, SourceSpec(images, table=table, columns=SEX, opt_outs=listed, skip_unusable=True))
    assert list(cohort.document.subgroups) == ["", "men", "women"]
    written = b"".join(path.read_bytes() for path in study.cohort.iterdir())
    assert b"only of" not in written


def test_more_classes_than_a_record_can_count_are_refused(make_study: MakeStudy) -> None:
    """65,536 are counted."""
    names = json.dumps([f"c{number}" for number in range(65_537)])
    with pytest.raises(CohortError, match="names 65,537 classes: at most 65,536"):
        check(make_study(), "digits", settings=[f"data.classes={names}"])


def test_neither_model_nor_synthetic_set_nor_report_knows_of_them(
    make_study: MakeStudy, images: Path, rows: list[dict[str, object]]
) -> None:
    """The weights are those of a cohort without, and no file outside the cohort names one."""
    from privsyn.auditing.run import audit
    from privsyn.report.html import report
    from privsyn.synthetic.sampling import sample
    from privsyn.training.loop import train

    table, made = _table(images.parent / "t.csv", rows[:60]), {}
    quick = ("train.steps=2", "train.warmup_steps=1", "sample.count=8", "sample.steps=2")
    for name, columns in (("with", SEX), ("without", None)):
        study = make_study(*quick, name=name)
        prepare(study, SourceSpec(images, table=table, columns=columns))
        train(study)
        sample(study)
        made[name] = study
    assert weights(made["with"]) == weights(made["without"])
    audit(made["with"], policy="internal-review", only=["exact-copies"])
    report(made["with"])
    outside = [path for path in made["with"].root.rglob("*") if made["with"].cohort not in path.parents]
    files = [path for path in outside if path.is_file()]
    assert {"public-report.html", "findings.json", "README.md"} <= {path.name for path in files}
    for path in files:
        assert b"women" not in path.read_bytes(), path


def test_a_cohort_that_was_written_before_has_none(make_study: MakeStudy, class_folders: Path) -> None:
    """It loads as it is."""
    study = make_study()
    prepare(study, class_folders)
    cohort: Cohort = load_cohort(study.cohort)
    assert [cohort.part(split).subgroups for split in SPLITS] == [None, None, None]
