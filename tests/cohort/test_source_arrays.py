"""NumPy archives and the embedded digits as sources."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from source_entries import AB, Noise, data_for, listed, pixels_of

from privsyn.cohort.labels import label_index
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError


def test_digits_are_the_embedded_ones() -> None:
    """1,797 images of 8x8 px, scaled from 0..16 to 0..255, labelled by name, without patients."""
    entries = listed("digits")
    assert len(entries) == 1797
    assert pixels_of(entries[0]).shape == (8, 8, 1)
    assert max(pixels_of(entry).max() for entry in entries) == 255
    assert {entry.label for entry in entries} == set("0123456789")
    assert {entry.patient for entry in entries} == {None}


def test_npz_gives_images_labels_and_groups(tmp_path: Path, noise: Noise) -> None:
    """Grey with and without a channel axis, and RGB; groups are the patients."""
    for shape, read in (((8, 8), (8, 8, 1)), ((8, 8, 1), (8, 8, 1)), ((8, 8, 3), (8, 8, 3))):
        images = noise(4, *shape)
        np.savez(tmp_path / "a.npz", images=images, labels=[[0], [1], [1], [0]], groups=[7, 7, 8, 9])
        entries = listed(tmp_path / "a.npz")
        assert [entry.label for entry in entries] == [0, 1, 1, 0]
        assert [entry.patient for entry in entries] == ["7", "7", "8", "9"]
        np.testing.assert_array_equal(pixels_of(entries[3]), images[3].reshape(read))


def test_medmnist_parts_are_pooled(tmp_path: Path, noise: Noise) -> None:
    """The three parts of the file are one source; our own split is by patient."""
    parts = {f"{part}_images": noise(3, 8, 8) for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.zeros((3, 1), dtype=np.uint8) for part in ("train", "val", "test")}
    np.savez(tmp_path / "a.npz", **parts, **labels)
    entries = listed(tmp_path / "a.npz")
    assert len(entries) == 9
    assert entries[8].where == "a.npz test_images[2]"
    assert {entry.patient for entry in entries} == {None}


def test_npz_labels_may_be_names_or_indices_of_listed_names(tmp_path: Path, noise: Noise) -> None:
    """A file that lists the recipe's classes in another order cannot mislabel an image."""
    for labels, extra in ((["b", "a"], {}), ([0, 1], {"class_names": ["b", "a"]})):
        np.savez(tmp_path / "a.npz", images=noise(2, 8, 8), labels=labels, **extra)
        assert [label_index(entry.label, AB) for entry in listed(tmp_path / "a.npz")] == [1, 0]


def test_npz_that_cannot_be_read_is_named(tmp_path: Path, noise: Noise) -> None:
    """Not a zip, pickled objects (never loaded), missing or mismatched arrays, other types."""
    path, images, labels = tmp_path / "a.npz", noise(2, 8, 8), np.zeros(2, dtype=int)
    bad = {
        "'images'": {"pictures": images},
        "'labels'": {"images": images},
        r"labels has shape \(3,\)": {"images": images, "labels": np.zeros(3, dtype=int)},
        r"labels has shape \(2, 14\)": {"images": images, "labels": np.zeros((2, 14), dtype=int)},
        "groups has shape": {"images": images, "labels": labels, "groups": [1]},
        "holds 16 bits per pixel, the recipe wants 8": {"images": images.astype("u2"), "labels": labels},
        "bool, not uint8 or uint16": {"images": images > 9, "labels": labels},
        "float64, not integers": {"images": images, "labels": labels / 2},
        r"shape \(2, 8, 8, 2\)": {"images": noise(2, 8, 8, 2), "labels": labels},
        "plain arrays": {"images": images, "labels": np.array([{}, {}], dtype=object)},
    }
    for reason, arrays in bad.items():
        np.savez(path, **arrays)
        with pytest.raises(CohortError, match=reason):
            listed(path)
    path.write_bytes(b"PK not a zip")
    with pytest.raises(CohortError, match=r"a\.npz is not a readable \.npz"):
        listed(path)


def test_npz_of_16_bits_and_in_any_layout_gives_its_rows(tmp_path: Path, noise: Noise) -> None:
    """Other byte orders, other orders of axes, packed or not, and many more rows than are read at once."""
    deep, data = noise(4, 8, 8).astype(np.uint16) * 257, data_for(bit_depth=16)
    for images in (deep, deep.astype(">u2"), np.asfortranarray(deep)):
        np.savez_compressed(tmp_path / "a.npz", images=images, labels=[0, 1, 0, 1])
        read = [pixels_of(entry) for entry in listed(tmp_path / "a.npz", data=data)]
        np.testing.assert_array_equal(np.stack(read)[..., 0], deep)
        assert read[0].dtype == np.uint16
    many = np.arange(40_000, dtype=np.uint16).view(np.uint8).reshape(-1, 2, 2).repeat(4, 1).repeat(4, 2)
    np.savez(tmp_path / "a.npz", images=many, labels=np.zeros(len(many), dtype=int))
    for entry, wanted in zip(open_source(tmp_path / "a.npz", data_for()), many, strict=True):
        assert next(iter(entry.read())).pixels.tobytes() == wanted.tobytes()


def test_a_large_npz_is_never_in_memory(tmp_path: Path) -> None:
    """32 MiB of images pass through a few."""
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in (("labels", np.zeros(2**13, np.uint8)), ("images", None)):
            with archive.open(f"{name}.npy", "w") as member:
                if array is not None:
                    np.lib.format.write_array(member, array)
                    continue
                header = {"descr": "|u1", "fortran_order": False, "shape": (2**13, 64, 64)}
                np.lib.format.write_array_header_1_0(member, header)
                for _ in range(2**5):
                    member.write(bytes(2**20))
    tracemalloc.start()
    assert sum(1 for _ in open_source(tmp_path / "a.npz", data_for())) == 2**13
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
