"""The synthetic set on disk: what recipients load, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from claims import dp_claim, no_claim
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from synthetic_sets import ODD_NAMES, PROVENANCE, parquet, png, recipient

from privsyn.bit_depth import DTYPES
from privsyn.errors import PrivsynError, SyntheticError
from privsyn.files import file_digest, json_digest, tree_digest, tree_digests
from privsyn.synthetic.dataset import SyntheticSet, read_provenance, read_synthetic, write_synthetic
from privsyn.synthetic.shards import encode_png

SECTIONS = (  # of the Hugging Face dataset card, and what a synthetic set of patients adds to it
    "Privacy", "Uses", "How to load", "How it was made", "Personal and sensitive information",
    "Bias, risks and limits", "Scorecard", "How to verify", "Contact",
)  # fmt: skip


def make(
    folder: Path, *, n: int = 12, channels: int = 1, bits: int = 8, classes: Any = ("a", "b"), **options: Any
) -> np.ndarray:
    images = np.random.default_rng(n).integers(0, 2**bits, (n, 8, 8, channels), dtype=DTYPES[bits])
    given = {"name": "a set", "claim": None, "provenance": PROVENANCE, **options}
    write_synthetic(folder, images, np.arange(n) % len(classes), classes, **given)
    return images


def read(
    path: Path, *, size: int = 8, channels: int = 1, bits: int = 8, classes: Any = ("a", "b")
) -> SyntheticSet:
    return read_synthetic(path, size=size, channels=channels, bit_depth=bits, classes=classes)


LOAD_WITH_DATASETS = """
import numpy
from datasets import load_dataset
images = load_dataset(sys.argv[1], cache_dir=sys.argv[2])
train = images["train"]
print(json.dumps({
    "splits": list(images), "rows": len(train), "names": train.features["label"].names,
    "types": {name: type(feature).__name__ for name, feature in train.features.items()},
    "mode": train[0]["image"].mode, "labels": train[:12]["label"],
    "pixels": [numpy.asarray(train[row]["image"]).ravel().tolist() for row in (0, len(train) - 1)],
}))
"""

LOAD_WITH_CROISSANT = """
import mlcroissant, numpy
data = mlcroissant.Dataset(jsonld=sys.argv[1] + "/croissant.json")
records = list(data.records("images"))
print(json.dumps({
    "errors": sorted(data.metadata.ctx.issues.errors), "rows": len(records),
    "labels": [int(record["images/label"]) for record in records[:12]],
    "pixels": [numpy.asarray(records[row]["images/image"]).ravel().tolist() for row in (0, -1)],
    "names": [record["labels/name"] for record in data.records("labels")],
}))
"""

FAIL_WITH_CROISSANT = """
import mlcroissant
try:
    list(mlcroissant.Dataset(jsonld=sys.argv[1] + "/croissant.json").records("images"))
except mlcroissant.GenerationError as error:
    print(json.dumps(str(error.__cause__)))
"""


@pytest.mark.parametrize(("channels", "bits"), [(1, 8), (3, 8), (1, 16)])
def test_what_was_written_is_read_back(tmp_path: Path, channels: int, bits: int) -> None:
    """Images, labels, classes and provenance survive; the digest covers the whole folder."""
    images = make(tmp_path / "set", channels=channels, bits=bits)
    found = read(tmp_path / "set", channels=channels, bits=bits)
    assert found.images.dtype == DTYPES[bits]
    assert np.array_equal(found.images, images)
    assert found.labels.tolist() == [0, 1] * 6
    assert found.classes == ("a", "b")
    assert found.provenance == read_provenance(tmp_path / "set") == PROVENANCE
    assert found.digest == tree_digest(tree_digests(tmp_path / "set"))
    assert not found.images.flags.writeable


@pytest.mark.parametrize("bits", [8, 16])
def test_equal_input_gives_equal_bytes(tmp_path: Path, bits: int) -> None:
    """Two sets of the same images have the same bytes, file by file."""
    make(tmp_path / "one", bits=bits)
    make(tmp_path / "two", bits=bits)
    assert tree_digests(tmp_path / "one") == tree_digests(tmp_path / "two")
    assert sorted(tree_digests(tmp_path / "one")) == [
        "README.md",
        "croissant.json",
        "data/train-00000-of-00001.parquet",
    ]


@pytest.mark.parametrize(("channels", "size", "bits"), [(1, 8, 8), (3, 300, 8), (1, 300, 16)])
def test_pngs_carry_pixels_only(channels: int, size: int, bits: int) -> None:
    """IHDR, IDAT and IEND, and no other chunk, also for images of several IDAT chunks."""
    image = np.random.default_rng(0).integers(0, 2**bits, (size, size, channels), dtype=DTYPES[bits])
    data, chunks, at = encode_png(image), [], 8
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append(kind.decode())
        at += length + 12
    assert set(chunks) == {"IHDR", "IDAT", "IEND"}


def test_datasets_loads_every_class_name_without_network(tmp_path: Path) -> None:
    """`datasets.load_dataset(folder)` gives Image and ClassLabel, whatever the classes are called."""
    images = make(
        tmp_path / "set", n=30, channels=3, classes=ODD_NAMES, name="---\nname: 'x'", claim=dp_claim()
    )
    loaded = recipient(LOAD_WITH_DATASETS, tmp_path / "set", tmp_path / "cache")
    assert loaded["types"] == {"image": "Image", "label": "ClassLabel"}
    assert loaded["names"] == ODD_NAMES
    assert (loaded["splits"], loaded["rows"], loaded["mode"]) == (["train"], 30, "RGB")
    assert loaded["labels"] == list(range(12))
    assert loaded["pixels"] == [images[0].ravel().tolist(), images[-1].ravel().tolist()]


def test_both_libraries_load_16_bits(tmp_path: Path) -> None:
    """Every level arrives, in Pillow's mode I;16; the card says so, and how to keep them."""
    images = make(tmp_path / "set", bits=16)
    by_datasets = recipient(LOAD_WITH_DATASETS, tmp_path / "set", tmp_path / "cache")
    by_croissant = recipient(LOAD_WITH_CROISSANT, tmp_path / "set", tmp_path / "cache")
    assert by_datasets["mode"] == "I;16"
    assert by_croissant["errors"] == []
    expected = [images[row].ravel().tolist() for row in (0, -1)]
    assert by_datasets["pixels"] == by_croissant["pixels"] == expected
    card = (tmp_path / "set/README.md").read_text(encoding="utf-8")
    assert "grey, 16 bits per channel" in card
    assert "mode `I;16`" in card
    make(tmp_path / "other")
    card = (tmp_path / "other/README.md").read_text(encoding="utf-8")
    assert "grey, 8 bits per channel" in card
    assert "I;16" not in card


def test_croissant_is_valid_and_readable_without_network(tmp_path: Path) -> None:
    """mlcroissant finds no error, reads images and labels, and names every class."""
    images = make(tmp_path / "set", n=30, classes=ODD_NAMES, name="---\nname: 'x'", claim=dp_claim())
    loaded = recipient(LOAD_WITH_CROISSANT, tmp_path / "set", tmp_path / "cache")
    assert loaded["errors"] == []
    assert (loaded["rows"], loaded["names"]) == (30, ODD_NAMES)
    assert loaded["labels"] == list(range(12))
    assert loaded["pixels"] == [images[row].ravel().tolist() for row in (0, -1)]


def test_croissant_names_the_bytes_of_each_shard(tmp_path: Path) -> None:
    """The digest is that of the shard, and mlcroissant refuses a set of one shard with a flipped byte."""
    make(tmp_path / "set")
    shard = tmp_path / "set/data/train-00000-of-00001.parquet"
    document = json.loads((tmp_path / "set/croissant.json").read_text(encoding="utf-8"))
    assert document["distribution"][0]["sha256"] == hashlib.sha256(shard.read_bytes()).hexdigest()
    flipped = bytearray(shard.read_bytes())
    flipped[len(flipped) // 3] ^= 1
    shard.write_bytes(bytes(flipped))
    assert "hash" in recipient(FAIL_WITH_CROISSANT, tmp_path / "set", tmp_path / "cache").lower()


def test_large_sets_are_sharded_for_both_libraries(tmp_path: Path) -> None:
    """10,001 images make two shards, which load as one split and one record set, in order."""
    images = make(tmp_path / "set", n=10_001)
    assert sorted(path.name for path in (tmp_path / "set/data").iterdir()) == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]
    assert np.array_equal(read(tmp_path / "set").images, images)
    by_datasets = recipient(LOAD_WITH_DATASETS, tmp_path / "set", tmp_path / "cache")
    by_croissant = recipient(LOAD_WITH_CROISSANT, tmp_path / "set", tmp_path / "cache")
    assert by_datasets["rows"] == by_croissant["rows"] == 10_001
    assert by_datasets["pixels"][-1] == by_croissant["pixels"][-1] == images[-1].ravel().tolist()


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    """Synthetic, not for diagnosis, the claim with epsilon never rounded down, how to load and verify."""
    make(tmp_path / "set", claim=dp_claim())
    card = (tmp_path / "set/README.md").read_text(encoding="utf-8")
    assert "not recorded from any patient" in card
    assert "**Not for** diagnosis" in card
    assert all(f"\n## {section}\n" in card for section in SECTIONS)
    assert "epsilon = 8.001, delta = 1e-05" in card
    assert "load_dataset(" in card
    assert "privsyn verify" in card
    make(tmp_path / "none", claim=no_claim())
    assert "without differential privacy" in (tmp_path / "none/README.md").read_text(encoding="utf-8")
    make(tmp_path / "repeatable", claim=dp_claim(invalid="its noise can be repeated"))
    assert "No valid bound" in (tmp_path / "repeatable/README.md").read_text(encoding="utf-8")


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    """A set that is there stays as it is, unless it is to be replaced."""
    make(tmp_path / "set")
    before = tree_digests(tmp_path / "set")
    with pytest.raises(PrivsynError, match="--force"):
        make(tmp_path / "set", n=4)
    assert tree_digests(tmp_path / "set") == before
    make(tmp_path / "set", n=4, force=True)
    assert len(read(tmp_path / "set").images) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 8, 8, 1)), [0, 1]),
        (np.zeros((2, 8, 9, 1), np.uint8), [0, 1]),
        (np.zeros((2, 8, 8, 2), np.uint8), [0, 1]),
        (np.zeros((2, 8, 8), np.uint8), [0, 1]),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 2]),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, -1]),
        (np.zeros((2, 8, 8, 1), np.uint8), [0]),
        (np.zeros((2, 8, 8, 1), np.uint8), [0.0, 1.0]),
        (np.zeros((0, 8, 8, 1), np.uint8), []),
    ],
)
def test_what_is_no_set_is_not_written(tmp_path: Path, images: np.ndarray, labels: list[float]) -> None:
    """Wrong type, shape, number or label: one clear error, and no folder."""
    with pytest.raises(SyntheticError):
        write_synthetic(
            tmp_path / "set", images, np.array(labels), ["a", "b"], name="", claim=None, provenance=None
        )
    assert not list(tmp_path.iterdir())


def test_classes_are_matched_by_name(tmp_path: Path) -> None:
    """A set whose classes come in another order, or are fewer, means the same; an unknown one is refused."""
    make(tmp_path / "set", classes=["b", "c"])
    assert read(tmp_path / "set", classes=["a", "c", "b"]).labels.tolist() == [2, 1] * 6
    with pytest.raises(SyntheticError, match="'c' that the cohort does not have"):
        read(tmp_path / "set")


def test_class_folders_are_read(tmp_path: Path) -> None:
    """A folder of images per class, as other generators write it, in several formats."""
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8)
    for name, image in zip(["b/0.png", "a/1.bmp", "a/0.tiff"], images, strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / name)
    found = read(tmp_path / "set")
    assert found.labels.tolist() == [0, 0, 1]
    assert np.array_equal(found.images[..., 0], images[::-1])
    assert found.provenance is None
    assert found.digest == tree_digest(tree_digests(tmp_path / "set"))


@pytest.mark.parametrize("labels", [np.array([1, 0]), np.array([[1], [0]], np.uint8), np.array(["b", "a"])])
def test_npz_is_read(tmp_path: Path, labels: np.ndarray) -> None:
    """Arrays `images` and `labels`, indices or names, with or without a channel axis."""
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    found = read(tmp_path / "set.npz")
    assert np.array_equal(found.images, images[..., None])
    assert found.labels.tolist() == [1, 0]
    assert found.digest == file_digest(tmp_path / "set.npz")


@pytest.mark.parametrize("bits", [8, 16])
def test_another_bit_depth_is_refused_in_words(tmp_path: Path, bits: int) -> None:
    """In shards, class folders and arrays; nothing is widened or cut without being asked for."""
    other = 24 - bits
    images = make(tmp_path / "set", n=2, bits=other)
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/0.png").write_bytes(encode_png(images[0]))
    np.savez(tmp_path / "set.npz", images=images, labels=[0, 1])
    depth = {8: "wanted 8x8 L", 16: r"wanted 8x8 I;16 \(16 bits\)"}[bits]
    with pytest.raises(SyntheticError, match=depth):
        read(tmp_path / "set", bits=bits)
    with pytest.raises(SyntheticError, match=f"uint{other}, wanted .* uint{bits}"):
        read(tmp_path / "set.npz", bits=bits)
    with pytest.raises(SyntheticError, match=f"{bits}|{other}"):
        read(tmp_path / "tree", bits=bits)


def test_16_bits_of_other_generators_are_read(tmp_path: Path) -> None:
    """Class folders and arrays, with or without a channel axis, come as they are."""
    images = np.random.default_rng(0).integers(0, 65_536, (2, 8, 8), dtype=np.uint16)
    for name, image in zip("ab", images, strict=True):
        (tmp_path / "tree" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "tree" / name / "0.png")
    np.savez(tmp_path / "set.npz", images=images, labels=["a", "b"])
    for path in ("tree", "set.npz"):
        found = read(tmp_path / path, bits=16)
        assert found.images.dtype == np.uint16
        assert np.array_equal(found.images[..., 0], images)


def test_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    """Pillow opens it as RGB of 8 bits and says nothing: half of what it holds would be gone."""
    rows = b"".join(b"\0" + bytes(8 * 6) for _ in range(8))  # filter "none", then 8 pixels of 6 bytes
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    deep = b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
    with Image.open(io.BytesIO(deep)) as image:
        assert image.mode == "RGB"
    with pytest.raises(SyntheticError, match=r"is 8x8 RGB;16 \(16 bits\), wanted 8x8 RGB"):
        read(parquet(tmp_path / "set", [deep], [0]), channels=3)


@pytest.mark.parametrize(
    ("encoded", "labels", "more", "message"),
    [
        ([png(8, 8, 1)[:-30]], [0], {}, "image 0 in .* can be decoded"),
        ([b"not a png"], [0], {}, "image 0 in .* can be decoded"),
        ([png(8, 8, 1), None], [0, 0], {}, "image 1 in"),
        ([png(9, 9, 1)], [0], {}, "is 9x9 L, wanted 8x8 L"),
        ([png(8, 8, 3)], [0], {}, "is 8x8 RGB, wanted 8x8 L"),
        ([png(8, 8, 1)], [2], {}, "label 2 of image 0"),
        ([png(8, 8, 1)], [-1], {}, "label -1 of image 0"),
        ([png(8, 8, 1)], [None], {}, "label None of image 0"),
        ([], [], {}, "holds no images"),
        ([png(8, 8, 1)], [0], {"patient": ["Jane"]}, "patient"),
    ],
)
def test_bad_shards_are_refused(
    tmp_path: Path, encoded: list[bytes | None], labels: list[int | None], more: dict[str, Any], message: str
) -> None:
    """Broken images, wrong sizes, labels outside the classes and columns that no audit reads."""
    with pytest.raises(SyntheticError, match=message):
        read(parquet(tmp_path / "set", encoded, labels, **more))


def test_cut_and_flipped_shards_are_refused(tmp_path: Path) -> None:
    """A shard cut short anywhere is an error in words, and so is one that is not Parquet at all."""
    make(tmp_path / "set")
    shard = next((tmp_path / "set/data").iterdir())
    whole = shard.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:length])
        with pytest.raises(SyntheticError, match="Parquet"):
            read(tmp_path / "set")
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << int(rng.integers(8))
        shard.write_bytes(bytes(damaged))
        with contextlib.suppress(SyntheticError):  # it may hit a pixel, which is no error here
            read(tmp_path / "set")


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    """Nothing there, an empty folder, a stray file in a class folder, an unknown class, a broken npz."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "stray/a").mkdir(parents=True)
    (tmp_path / "stray/a/notes.txt").write_text("not an image")
    (tmp_path / "unknown/A_").mkdir(parents=True)
    (tmp_path / "large/a").mkdir(parents=True)
    (tmp_path / "large/a/0.png").write_bytes(png(9, 9, 1))
    (tmp_path / "broken.npz").write_bytes(b"PK not a zip")
    np.savez(tmp_path / "lacking.npz", images=np.zeros((1, 8, 8), np.uint8))
    np.savez(tmp_path / "objects.npz", images=np.array([{}], object), labels=[0])
    np.savez(tmp_path / "floats.npz", images=np.zeros((1, 8, 8)), labels=[0])
    np.savez(tmp_path / "names.npz", images=np.zeros((1, 8, 8), np.uint8), labels=["c"])
    for path in ["nothing", *sorted(path.name for path in tmp_path.iterdir())]:
        with pytest.raises(SyntheticError):
            read(tmp_path / path)


def test_metadata_in_a_foreign_png_does_not_confuse(tmp_path: Path) -> None:
    """Images of other generators may carry text chunks; their pixels are read."""
    buffer, text = io.BytesIO(), PngInfo()
    text.add_text("Comment", "x")
    Image.fromarray(np.full((8, 8), 3, np.uint8)).save(buffer, "png", pnginfo=text)
    found = read(parquet(tmp_path / "set", [buffer.getvalue()], [0]))
    assert found.images.tolist() == np.full((1, 8, 8, 1), 3).tolist()
    assert json_digest(found.provenance) == json_digest(None)
