"""The card (README.md) of a synthetic set: front matter that Hugging Face `datasets` loads by, then words.

Class names may be any string. In YAML they are double-quoted and escaped; in the text they appear only
inside a fenced block, one JSON string a line, so no name can close the block, start markup or end the
front matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Context
from typing import Any

import numpy as np
from numpy.typing import NDArray

TAGS = ("synthetic", "medical", "image-classification")
SUMMARY = (
    "Synthetic images drawn from a generative model. They were not recorded from any patient, and they are "
    "not fit for diagnosis or for any decision about a person."
)
SHARDS = "data/train-*.parquet"


def card(
    *,
    name: str,
    classes: Sequence[str],
    images: NDArray[np.uint8],
    shards: Mapping[str, tuple[str, int]],
    claim: str,
) -> str:
    """The text of README.md.

    Args:
        images: (N, H, W, C) uint8.
        shards: relative path to (sha256 hex, size in bytes).
        claim: the privacy claim in words, from `claim_in_words`.
    """
    count, size, _, channels = images.shape
    return _front_matter(name, classes, count, sum(length for _, length in shards.values())) + _BODY.format(
        summary=SUMMARY,
        count=count,
        size=size,
        kind="grey" if channels == 1 else "RGB",
        claim=claim,
        classes="\n".join(f"{label}: {json.dumps(text)}" for label, text in enumerate(classes)),
    )


def claim_in_words(claim: Mapping[str, Any] | None) -> str:
    """One paragraph on what protects the people whose images the model learnt from.

    Args:
        claim: the document `model/privacy.json`; `None` if another generator drew the set.
    """
    if claim is None:
        return "No privacy claim is made: nothing is known about a bound on what this set reveals."
    unit = str(claim.get("unit", "patient"))
    if claim.get("imported"):
        return (
            "No bound is claimed. The model was imported, and how it was trained, or on whose images, is not "
            f"known: nothing limits in advance what the images can reveal about one {unit}."
        )
    if claim.get("kind") != "dp":
        return (
            "No bound is claimed. The model was trained without differential privacy, so nothing limits in "
            f"advance what the images can reveal about one {unit}."
        )
    if claim.get("valid_for_release") is False:
        reason = claim.get("reason", "")
        return f"No valid bound is claimed: {reason}. This set must not be released as if it had one."
    return (
        f"The model was trained with differential privacy for the {unit} ({claim['neighbouring']}): "
        f"epsilon = {_rounded_up(claim['epsilon'])}, delta = {_rounded_up(claim['delta'])}. Whatever anybody "
        f"concludes from these images, adding or removing one {unit} changes the chance of that conclusion "
        "by at most a factor e^epsilon, but for a chance of delta. What was public beforehand, such as the "
        "list of classes, is not protected."
    )


def yaml_string(text: str) -> str:
    """A YAML double-quoted scalar on one line; unlike JSON's, its escapes name whole code points."""
    return '"' + "".join(_yaml_character(character) for character in text) + '"'


def _yaml_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def _front_matter(name: str, classes: Sequence[str], count: int, num_bytes: int) -> str:
    names = [f"          '{label}': {yaml_string(text)}" for label, text in enumerate(classes)]
    lines = [
        "---",
        f"pretty_name: {yaml_string(name)}",
        "tags:",
        *[f"- {tag}" for tag in TAGS],
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        f"    path: {SHARDS}",
        "dataset_info:",
        "  config_name: default",
        "  features:",
        "  - name: image",
        "    dtype: image",
        "  - name: label",
        "    dtype:",
        "      class_label:",
        "        names:",
        *names,
        "  splits:",
        "  - name: train",
        f"    num_bytes: {num_bytes}",
        f"    num_examples: {count}",
        "---",
        "",
    ]
    return "\n".join(lines)


def _rounded_up(value: float) -> str:
    """Four significant digits, never below the value: how a privacy bound may be rounded."""
    return f"{float(Context(prec=4, rounding=ROUND_CEILING).create_decimal(repr(float(value)))):.4g}"


_BODY = """
# Synthetic images

{summary}

{count} images of {size} x {size} pixels, {kind}, 8 bits per channel, each with a label:

```text
{classes}
```

## Privacy

{claim}

Audits attack a set before it is released and can find leaks; they cannot show that there is none. A
release says in `public-report.html` which audits were run and how they ended.

## How to load

```python
from datasets import load_dataset

images = load_dataset("PATH/OF/THIS/FOLDER", split="train")
print(images[0]["image"], images.features["label"].int2str(images[0]["label"]))
```

Each row of `data/*.parquet` is `image` (`bytes`: a PNG without metadata; `path`: its number) and `label`
(int64). `croissant.json` describes the same files in Croissant 1.1, with the SHA-256 of each.

## How to verify

A release holds `statement.json`, which names each of its files with its SHA-256. Check it, offline, with

```text
privsyn verify PATH/OF/THIS/FOLDER
```

Any changed, missing or extra file is named. Whether people approved the release is a separate question,
and until it is answered the command exits with 3, never 0.

## What it is not for

Diagnosis, decisions about a person, or conclusions about how frequent a finding is in any population:
class proportions were chosen, not observed. A model trained on these images must be tested on real ones.
"""
