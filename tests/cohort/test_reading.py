"""What a file is, by its first bytes; what is passed over, what is refused, what is never opened."""

from __future__ import annotations

import gzip
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file

from privsyn.cohort.entries import NotAnImage, SourceImage
from privsyn.cohort.reading import read_file, seems_a_picture
from privsyn.errors import CohortError
from privsyn.recipe import Data

Noise = Callable[..., NDArray[np.uint8]]
GREY = Data(size=8, channels=1, classes=("a",))


def _read(path: Path, data: Data = GREY) -> list[SourceImage]:
    return list(read_file(str(path), data))


def _ct() -> Path:
    path = get_testdata_file("CT_small.dcm", download=False)
    assert path is not None
    return Path(str(path))


def test_the_first_bytes_decide_and_not_the_name(tmp_path: Path, noise: Noise) -> None:
    """A PNG called .jpg, a DICOM file without an ending, a DICOM file called .png."""
    Image.fromarray(noise(8, 8)).save(tmp_path / "a.jpg", format="PNG")
    assert _read(tmp_path / "a.jpg")[0].pixels.shape == (8, 8, 1)
    for name in ("IM0001", "a.png"):
        (tmp_path / name).write_bytes(_ct().read_bytes())
        (picture,) = _read(tmp_path / name)
        assert picture.pixels.shape == (128, 128, 1)
        assert picture.patient == "1CT1"
        assert seems_a_picture(str(tmp_path / name))


def test_nifti_volumes_are_read_compressed_or_not(tmp_path: Path) -> None:
    """Each slice is a picture."""
    volume = nibabel.Nifti1Image(np.arange(8 * 8 * 3, dtype=np.int16).reshape(8, 8, 3), np.eye(4))
    (tmp_path / "a.nii").write_bytes(volume.to_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(volume.to_bytes()))
    data = GREY.model_copy(update={"window": (96, 192)})
    assert len(_read(tmp_path / "a.nii", data)) == len(_read(tmp_path / "a.nii.gz", data)) == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README", b"These are images."),
        ("labels.csv", b"file,label\n1.png,a\n"),
        ("report.pdf", b"%PDF-1.7\n"),
        ("all.zip", b"PK\x03\x04" + bytes(200)),
        ("meta.json", b"{}"),
        (".DS_Store", b""),
        ("BM letter.txt", b"BMW is a make of cars, and this is no bitmap of one."),
        ("noise", bytes(range(256))),
    ],
)
def test_what_is_clearly_something_else_is_no_image(tmp_path: Path, name: str, content: bytes) -> None:
    """It may be passed over, and is distinguished from an image that cannot be read."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(NotAnImage, match="is not an image"):
        _read(tmp_path / name)
    assert not seems_a_picture(str(tmp_path / name))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.png", b"not an image", "not what its name says"),
        ("a.dcm", b"", "empty file"),
        ("a.nii.gz", b"", "."),
        ("a", b"GIF89a" + bytes(20), "is a GIF image: convert it to PNG"),
        ("a", b"\0\0\0\x0cjP  \r\n\x87\n", "is a JPEG 2000 image"),
        ("a", b"\0\0\0\x18ftypheic", "is a HEIC or AVIF image"),
        ("a", b"P5\n8 8\n255\n" + bytes(64), "is a PNM image"),
    ],
)
def test_images_that_cannot_be_read_are_refused(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    """Whoever is called an image, or is one of another format, is not passed over."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CohortError, match=reason) as fault:
        _read(tmp_path / name)
    assert not isinstance(fault.value, NotAnImage)


def test_pipes_sockets_devices_and_folders_are_never_opened(tmp_path: Path) -> None:
    """Reading a pipe would wait for ever; a device may act when opened."""
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "device.png")
    server = socket.socket(socket.AF_UNIX)
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(tmp_path)  # the path of a socket must be short
        server.bind("socket.png")
    finally:
        os.fchdir(here)
        os.close(here)
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe", "device", "socket", "folder", "missing"):
        with pytest.raises(CohortError, match="does not exist, or is not a file"):
            _read(tmp_path / f"{name}.png")
    server.close()


def test_a_pipe_in_place_of_a_listed_file_does_not_block(tmp_path: Path) -> None:
    """Between listing and reading a file may become anything."""
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(CohortError):
        list(read_file(str(tmp_path / "a.png"), GREY, 100))


def test_links_in_a_circle_and_unusable_names_are_refused(tmp_path: Path) -> None:
    """With the system's words for it, and without the path."""
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(CohortError, match=r"cannot be opened \(Too many levels of symbolic links\)"):
        _read(tmp_path / "loop.png")
    with pytest.raises(CohortError, match="not a usable file name"):
        list(read_file("a\0b.png", GREY))
    with pytest.raises(CohortError, match=r"cannot be opened \(File name too long\)"):
        _read(tmp_path / ("x" * 999))


def test_files_that_may_not_be_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their permissions; for root, who may read all, by what the system would say."""
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0
    if os.access(tmp_path / "a.png", os.R_OK):

        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied", str(tmp_path))

        monkeypatch.setattr("privsyn.cohort.pixels.os.open", denied)
    with pytest.raises(CohortError, match=r"^cannot be opened \(Permission denied\)$"):
        _read(tmp_path / "a.png")


def test_a_pattern_reads_the_patient_from_the_name(tmp_path: Path, noise: Noise) -> None:
    """Of the file, not of its folders; it goes before a DICOM file's own; who does not match is refused."""
    data = GREY.model_copy(update={"patient_pattern": r"-(?P<patient>[0-9]+)-[0-9]+"})
    folder = tmp_path / "X-7-1"
    folder.mkdir()
    Image.fromarray(noise(8, 8)).save(folder / "CNV-1016042-12.jpeg")
    (folder / "CT-22-1").write_bytes(_ct().read_bytes())
    assert [_read(folder / name, data)[0].patient for name in sorted(os.listdir(folder))] == ["1016042", "22"]
    assert _read(folder / "CNV-1016042-12.jpeg")[0].patient is None
    Image.fromarray(noise(8, 8)).save(folder / "CNV.png")
    with pytest.raises(CohortError, match=r"^its name does not match data\.patient_pattern$"):
        _read(folder / "CNV.png", data)
    (folder / "README").write_text("text")
    with pytest.raises(NotAnImage):
        _read(folder / "README", data)


def test_files_too_large_to_hold_are_read_in_pieces(
    tmp_path: Path, noise: Noise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same pixels, whichever way."""
    pixels = noise(40, 30)
    for name in ("a.png", "a.tif", "a.webp", "a.bmp"):
        Image.fromarray(pixels).save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    Image.fromarray(pixels).save(tmp_path / "b.tif", compression="tiff_lzw")
    held = {path.name: _read(path)[0].pixels for path in tmp_path.iterdir()}
    monkeypatch.setattr("privsyn.cohort.pixels.HELD", 10)
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(_read(path)[0].pixels, held[path.name])
        np.testing.assert_array_equal(held[path.name][..., 0], pixels)
