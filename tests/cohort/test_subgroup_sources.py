"""Which sources have subgroups, and where they say so."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.prepare import SourceSpec, prepare
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError
from privsyn.recipe import Data
from privsyn.study import Study

Noise = Callable[..., NDArray[np.uint8]]
MakeStudy = Callable[..., Study]
Row = Mapping[str, object]

SEX = {"subgroup": "sex"}


def _write(rows: Sequence[Row], path: Path) -> None:
    frame = pd.DataFrame(rows)
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path, index=False)


def _said(source: Path, **options: object) -> list[str | None]:
    data = Data(size=8, classes=("a", "b"))
    return [entry.subgroup for entry in open_source(source, data, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_tables_and_metadata_say_it_in_a_column_that_is_named(class_folders: Path, kind: str) -> None:
    """Gaps are the empty text, numbers are text; without the name it is None."""
    rows = [{"file": f"a/scan-{n}.png", "label": "a", "age": (70, 80, None)[n]} for n in range(3)]
    table = class_folders.parent / f"table.{kind}"
    _write([{**row, "age": None if row["age"] is None else str(row["age"])} for row in rows], table)
    assert _said(class_folders, table=table, columns={"subgroup": "age"}) == ["70", "80", ""]
    assert _said(class_folders, table=table) == [None, None, None]
    _write([{"file_name": row["file"], "subgroup": "x"} for row in rows], class_folders / f"metadata.{kind}")
    assert _said(class_folders) == [None, None, None]
    assert _said(class_folders, columns={"subgroup": "subgroup"}) == ["x", "x", "x"]
    for where in ({"table": table}, {}):
        with pytest.raises(CohortError, match=r"no column 'sex' \(it has: 'file.*--column subgroup="):
            _said(class_folders, columns=SEX, **where)


def _cell(image: NDArray[np.uint8]) -> dict[str, object]:
    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    return {"bytes": held.getvalue(), "path": None}


def test_parquet_sources_say_it_too(tmp_path: Path, noise: Noise) -> None:
    """Text, numbers with gaps, and the names of a ClassLabel; any column may say two things."""
    cells, labels = [_cell(image) for image in noise(3, 8, 8)], ["a", "b", "a"]
    columns = {"image": cells, "label": labels, "sex": [1, 0, None], "age": [70.0, None, 8.5]}
    table = pa.table({**columns, "subgroup": ["x", "y", "z"]})
    features = {"sex": {"_type": "ClassLabel", "names": ["women", "men"]}}
    told = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": told}), tmp_path / "a.parquet")
    for source in (tmp_path / "a.parquet", tmp_path):
        assert _said(source) == [None, None, None]
        assert _said(source, columns=SEX) == ["men", "women", ""]
        assert _said(source, columns={"subgroup": "age"}) == ["70", "", "8.5"]
        assert _said(source, columns={"subgroup": "label"}) == labels
        with pytest.raises(CohortError, match=r"no column 'site' \(it has: 'image'.*--column"):
            _said(source, columns={"subgroup": "site"})


def test_a_parquet_source_becomes_a_cohort_with_subgroups(
    make_study: MakeStudy, tmp_path: Path, noise: Noise
) -> None:
    """Each image with its own."""
    pixels = noise(30, 8, 8)
    names = [f"site {number % 4}" for number in range(30)]
    cells = [_cell(image) for image in pixels]
    pq.write_table(pa.table({"image": cells, "label": [0, 1] * 15, "sex": names}), tmp_path / "a.parquet")
    cohort = prepare(make_study(), SourceSpec(tmp_path / "a.parquet", columns=SEX))
    said = dict(zip((hashlib.sha256(image).hexdigest() for image in pixels), names, strict=True))
    assert dict(zip(cohort.records["sha256"], cohort.records["subgroup"], strict=True)) == said


def test_sources_without_a_table_cannot_say_it(class_folders: Path, tmp_path: Path, noise: Noise) -> None:
    """Refused, as any other name of a column is: folders, trees by tag, tars, arrays, the digits."""
    np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=[0, 1])
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as tar:
        tar.add(class_folders / "a" / "scan-0.png", "scan-0.png")
    for source in (class_folders, tmp_path / "tars", tmp_path / "a.npz", Path("digits")):
        with pytest.raises(CohortError, match="column names need a table: pass --table FILE"):
            _said(source, columns=SEX)
    tagged = Data(size=8, classes=("a", "b"), label_tag="BodyPartExamined")
    with pytest.raises(CohortError, match="column names need a table"):
        open_source(class_folders, tagged, columns=SEX)
