"""The card (README.md) of a synthetic set: YAML front matter for Hugging Face `datasets`, then prose.

Class names may be any string. In YAML they are double-quoted and escaped; in the text they appear only
inside a fenced block, one JSON string a line, so no name can close the block, start markup or end the
front matter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from privsyn.bit_depth import Images, bit_depth_of

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
    images: Images,
    shards: Mapping[str, tuple[str, int]],
    claim: str,
) -> str:
    """The text of README.md.

    Args:
        images: (N, H, W, C).
        shards: relative path to (sha256 hex, size in bytes).
        claim: the privacy claim in words, from `claim.words.paragraph`.
    """
    count, size, _, channels = images.shape
    return _front_matter(name, classes, count, sum(length for _, length in shards.values())) + _BODY.format(
        summary=SUMMARY,
        count=count,
        size=size,
        kind="grey" if channels == 1 else "RGB",
        bits=bit_depth_of(images),
        loaded="" if bit_depth_of(images) == 8 else _LOADED_IN_16_BITS,
        claim=claim,
        classes="\n".join(f"{label}: {json.dumps(text)}" for label, text in enumerate(classes)),
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


_LOADED_IN_16_BITS = """\
Pillow opens images of 16 bits in its mode `I;16`: `numpy.asarray(images[0]["image"])` has values from 0
(black) to 65535 (white). Converted to `L` or `RGB` they lose bits.

"""
_BODY = """
# Synthetic images

{summary}

{count} images of {size} x {size} pixels, {kind}, {bits} bits per channel, each with a label:

```text
{classes}
```

## Privacy

{claim}

Audits attack a set before it is released and can find leaks; they cannot show that there is none. A
release says in `public-report.html` which audits were run and how they ended.

## Uses

**Meant for** developing and testing methods and software, teaching, and training beside real images. Whatever
is trained on this set must be tested on real images before anybody relies on it.

**Not for** diagnosis, decisions about a person, conclusions about how frequent a finding is in any population
(class proportions need not be those of any), or attempts to learn about the people behind the real images.

## How to load

```python
from datasets import load_dataset

images = load_dataset("PATH/OF/THIS/FOLDER", split="train")
print(images[0]["image"], images.features["label"].int2str(images[0]["label"]))
```

{loaded}\
Each row of `data/*.parquet` is `image` (`bytes`: a PNG without metadata; `path`: its number) and `label`
(int64). `croissant.json` describes the same files in Croissant 1.1, with the SHA-256 of each.

## How it was made

**Why.** So that others can work with images of this kind without receiving images of patients.

**Source.** A diffusion model that learnt from real images, which are not part of this set and stay with their
holder. `croissant.json` and the statement of a release name the model and the sampler by digest and settings.

**Labels.** Each image was drawn for the label that it carries. Nobody looked at it and annotated it, and it
may show something else.

## Personal and sensitive information

No patient's image, identifier, file name or metadata is in this set by intention. What may remain of the
people whom the model learnt from is what the section *Privacy* is about.

## Bias, risks and limits

A set like this can carry on every bias of the images that the model learnt from: who was imaged, with which
devices, and who labelled. Rare findings may be missing or wrong, and privacy noise makes both more likely.

## Scorecard

The seven C of synthetic medical data (Zamzmi et al. 2025, https://doi.org/10.1038/s44172-025-00450-1):

| | |
|---|---|
| congruence: are the images like real ones? | not performed |
| coverage: is the variety of real ones there? | not performed |
| constraint: do they keep to what must hold? | size, channels and value range, by construction |
| completeness: is anything missing? | every image has a label, by construction |
| compliance: which rules were kept? | *Privacy*, and the statement and policy of a release |
| comprehension: can a reader know what this is? | this card |
| consistency: does it hold over time and groups? | not performed |

## How to verify

A release holds `release.intoto.jsonl`, which names each of its files with its SHA-256 and carries the
signatures of the people who approved it. Check it, offline, with the trust file that its sender gave you by
another way:

```text
privsyn verify PATH/OF/THIS/FOLDER --trust trust.json
```

Any changed, missing or extra file is named. Without the trust file the command can only say that the bytes
are whole, and exits with 3, never 0. The sender's status list (`--status`) tells what was revoked.

## Contact

Whoever gave you the trust file and the status list answers questions and takes objections.
"""
