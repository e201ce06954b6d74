"""Writes a synthetic set as an image folder, WebDataset or DICOM files, with a card."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from privsyn import __version__
from privsyn.bit_depth import bit_depth_of
from privsyn.errors import PrivsynError
from privsyn.exchange.pictures import write_imagefolder, write_webdataset
from privsyn.exchange.source import CARD, Source, read_source
from privsyn.files import relative_files, whole_folder, write_text
from privsyn.recipe import nearest
from privsyn.study import Study, as_study
from privsyn.synthetic.card import SUMMARY
from privsyn.synthetic.dataset import SyntheticSet

MODEL_FORMAT = "diffusers"  # written by `privsyn.export`


@dataclass(frozen=True)
class Layout:
    """One layout.

    Attributes:
        title: the first line of its card, by which an export is known.
        files: regular expression of the paths that it consists of, beside the card.
        load: a Python program that loads it.
        write: fills a folder; its second argument is the DICOM modality, if one was asked for.
    """

    title: str
    files: str
    load: str
    write: Callable[[Path, Source, str | None], None]


def export_set(
    study: Study | Path | str,
    *,
    format: str,  # noqa: A002 - the name of the option
    out: Path | str,
    source: Path | str | None = None,
    modality: str | None = None,
    force: bool = False,
) -> SyntheticSet:
    """Write a synthetic set as a folder for other tools: the same bytes for the same set.

    Args:
        study: its synthetic set is written, unless `source` names another; then no study is needed.
        format: a key of `LAYOUTS`.
        out: the folder to write, whole or not at all.
        source: a release, or a set in the layout of `privsyn sample`.
        modality: format "dicom": what the images look like, as `privsyn.exchange.dicom.MODALITIES` names it.
        force: replace an export of the same format that is there.

    Returns:
        The set that was written.

    Raises:
        StudyError: there is no study, or no synthetic set in it.
        SyntheticError: the set cannot be read.
        PrivsynError: the format or modality is unknown or does not fit, pydicom is missing, or `out` may not
            be written.
    """
    if format not in LAYOUTS:
        raise PrivsynError(f"no export format {format!r}{nearest(format, (MODEL_FORMAT, *LAYOUTS))}")
    if modality is not None and format != "dicom":
        raise PrivsynError("only --format dicom has a --modality")
    layout, folder, out = LAYOUTS[format], _folder(study, source), Path(out)
    if out.resolve().is_relative_to(folder.resolve()):
        raise PrivsynError(f"{out} lies in the set {folder}, which must stay as it is: choose another place")
    if out.exists() and force and not _is_export(out, layout):
        raise PrivsynError(f"{out} is not a {format} export, so it is not replaced: choose another place")
    with whole_folder(out, replace=force) as partial:
        read = read_source(folder)
        layout.write(partial, read, modality)
        write_text(partial / CARD, _card(layout, read))
    return read.synthetic


def _folder(study: Study | Path | str, source: Path | str | None) -> Path:
    if source is not None:
        return Path(source)
    study = as_study(study)
    return study.need(study.synthetic, "sample")


def _is_export(folder: Path, layout: Layout) -> bool:
    """Whether it is an export of this layout, and holds nothing besides that would be lost."""
    try:
        with (folder / CARD).open(encoding="utf-8") as card:
            titled = card.readline(len(layout.title) + 1) == f"{layout.title}\n"
    except (OSError, UnicodeDecodeError):
        return False
    return titled and all(
        name == CARD or re.fullmatch(layout.files, name, re.ASCII) for name in relative_files(folder)
    )


def _write_dicom(folder: Path, source: Source, modality: str | None) -> None:
    from privsyn.exchange.dicom import write_dicom  # pydicom comes with an extra

    write_dicom(folder, source, modality or "OT")


def _card(layout: Layout, source: Source) -> str:
    count, size, _, channels = source.synthetic.images.shape
    return _CARD.format(
        title=layout.title,
        summary=SUMMARY,
        count=count,
        size=size,
        kind="grey" if channels == 1 else "RGB",
        bits=bit_depth_of(source.synthetic.images),
        classes="\n".join(
            f"{label}: {json.dumps(name)}" for label, name in enumerate(source.synthetic.classes)
        ),
        claim=source.claim,
        load=layout.load,
        version=__version__,
        shards=source.shards,
    )


LAYOUTS = {
    "dicom": Layout(
        title="# Synthetic images as DICOM files",
        files=r"metadata\.jsonl|images/\d+\.dcm",
        load="""\
import json, pathlib, pydicom

folder = pathlib.Path("PATH/OF/THIS/FOLDER")
first = json.loads((folder / "metadata.jsonl").read_text().splitlines()[0])
image = pydicom.dcmread(folder / first["file_name"])
print(image.pixel_array.shape, image.SyntheticData, first["label"], first["label_name"])
""",
        write=_write_dicom,
    ),
    "imagefolder": Layout(
        title="# Synthetic images as an ImageFolder",
        files=r"metadata\.jsonl|images/\d+\.png",
        load="""\
from datasets import load_dataset

images = load_dataset("imagefolder", data_dir="PATH/OF/THIS/FOLDER", split="train")
print(images[0]["image"], images[0]["label"], images[0]["label_name"])
""",
        write=lambda folder, source, _: write_imagefolder(folder, source.synthetic),
    ),
    "webdataset": Layout(
        title="# Synthetic images as a WebDataset",
        files=r"train-\d+-of-\d+\.tar",
        load="""\
from datasets import load_dataset

images = load_dataset("webdataset", data_dir="PATH/OF/THIS/FOLDER", split="train")
print(images[0]["png"], images[0]["json"]["label"], images[0]["json"]["label_name"])
""",
        write=lambda folder, source, _: write_webdataset(folder, source.synthetic),
    ),
}
_CARD = """\
{title}

{summary}

{count} images of {size} x {size} pixels, {kind}, {bits} bits per channel, each with a label:

```text
{classes}
```

## Privacy

The card of the set that this was made from says:

> {claim}

This is a copy in another layout and not itself a release: `privsyn verify` checks the folder that was
released, and whatever people approved is that folder.

## How to load

```python
{load}```

## Where it comes from

privsyn {version} made it from the set for which `sha256sum data/*.parquet | sha256sum` prints

```text
{shards}
```
"""
