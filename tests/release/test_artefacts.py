"""Artefacts: one list decides what is copied into a release, what is stated, and what a recipient accepts."""

from __future__ import annotations

import pytest
from drafted import write_audit

from privsyn.errors import StudyError
from privsyn.files import json_digest, tree_digests, write_json
from privsyn.release import artefacts
from privsyn.release.artefacts import Artefact, is_release_file, source_of
from privsyn.release.bundle import read_bundle
from privsyn.release.draft import draft
from privsyn.release.manifest import BUNDLE
from privsyn.release.verify import verify
from privsyn.report.html import report
from privsyn.status import status
from privsyn.study import Study


def test_an_artefact_is_added_in_one_list(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line there: it must be made first, is copied, stated and verified; without it, it is refused."""
    licences = Artefact("legal/*.txt", made_by="sample", source="synthetic/licences")
    monkeypatch.setattr(artefacts, "ARTEFACTS", (*artefacts.ARTEFACTS, licences))
    with pytest.raises(StudyError, match=r"licences.*privsyn sample"):
        draft(study)
    (study.synthetic / "licences").mkdir()
    (study.synthetic / "licences" / "images.txt").write_text("CC0", encoding="utf-8")
    write_audit(study)
    report(study)
    draft(study)
    assert "legal/images.txt" in tree_digests(study.release)
    assert "legal/images.txt" in read_bundle((study.release / BUNDLE).read_bytes()).statement.subjects
    assert verify(study.release).exit_code == 3
    write_json(study.resolved_recipe_file, {"sha256": json_digest("recipe")})
    assert {station.name: station.state for station in status(study)}["release"] == "done"
    monkeypatch.undo()
    assert "not a file that a release may hold" in " ".join(verify(study.release).problems)


def test_artefacts_lie_where_the_study_has_them(study: Study) -> None:
    """The list names folders of the study by itself, because a recipient has no study."""
    for name, path in {
        "README.md": study.synthetic / "README.md",
        "data/train-00000-of-00001.parquet": study.synthetic / "data" / "train-00000-of-00001.parquet",
        "public-report.html": study.public_report,
    }.items():
        assert study.root / str(source_of(name)) == path


@pytest.mark.parametrize(
    "name",
    ["data/weights.pkl", "data/more/a.parquet", "a.parquet", "synthetic/README.md", "readme.md", BUNDLE],
)
def test_what_is_not_in_the_list_is_refused(name: str) -> None:
    """Another type, folder or spelling is another file."""
    assert not is_release_file(name)
