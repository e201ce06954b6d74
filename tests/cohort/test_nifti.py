"""NIfTI volumes come out slice by slice, one way up, in the window that the recipe declares."""

from __future__ import annotations

import gzip
import itertools
import struct
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from privsyn.cohort.entries import SourceImage
from privsyn.cohort.nifti import looks_like_nifti, read_nifti
from privsyn.errors import CohortError
from privsyn.recipe import Data

nibabel = pytest.importorskip("nibabel")

SAMPLES = Path(nibabel.__file__).parent / "tests" / "data"
RIGHT, FRONT, TOP = (3, 2, 2), (2, 3, 2), (2, 2, 3)  # voxels of a 5x5x5 head, one step from its centre in RAS


def _pictures(path: Path, **settings: Any) -> list[SourceImage]:
    return list(read_nifti(path, Data(size=64, channels=1, classes=("a",), **settings)))


def _shown(path: Path, **settings: Any) -> NDArray[Any]:
    return np.stack([picture.pixels[..., 0] for picture in _pictures(path, **settings)])


def _refusal(path: Path, **settings: Any) -> str:
    with pytest.raises(CohortError) as caught:
        _pictures(path, **settings)
    return str(caught.value)


def _written(
    folder: Path,
    voxels: NDArray[Any],
    affine: NDArray[Any] | None = None,
    name: str = "volume.nii",
    **header: Any,
) -> Path:
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine)
    for field, value in header.items():
        image.header[field] = value
    nibabel.save(image, folder / name)
    return folder / name


def _scaled(path: Path, slope: float, intercept: float) -> Path:
    """Set scl_slope and scl_inter in the file itself, where nibabel would choose new ones."""
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", slope, intercept)
    path.write_bytes(content)
    return path


def test_names_tell() -> None:
    """The two endings, whatever their case; not the pairs of files of old."""
    assert all(looks_like_nifti(name) for name in ("a.nii", "a.nii.gz", "A.NII.GZ", "x/b.Nii"))
    assert not any(looks_like_nifti(name) for name in ("a.hdr", "a.img", "a.gz", "nii", "a.nii.txt"))


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_every_stored_order_is_shown_alike(
    tmp_path: Path, axes: tuple[int, int, int], flips: tuple[int, int, int]
) -> None:
    """All 48 orders of one tilted head: the patient's right on the left, front up, from the feet on."""
    head = np.zeros((5, 5, 5), np.uint8)
    head[RIGHT], head[FRONT], head[TOP] = 50, 100, 200
    plain = nibabel.Nifti1Image(
        head, np.array([[2, 0.3, 0, 0], [-0.3, 2, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1.0]])
    )
    order = np.array([[axis, flip] for axis, flip in zip(axes, flips, strict=True)])
    nibabel.save(plain.as_reoriented(order), tmp_path / "head.nii")
    shown = _shown(tmp_path / "head.nii")
    assert {value: tuple(map(int, np.argwhere(shown == value)[0])) for value in (50, 100, 200)} == {
        50: (2, 2, 1),  # slice, row, column: one column left of the centre
        100: (2, 1, 2),  # one row above it
        200: (3, 2, 2),  # one slice further on
    }


def test_numbers_are_scaled_and_windowed_by_the_formula(tmp_path: Path) -> None:
    """Value by value, to 8 and 16 bits, whatever the range of the volume; a negative slope turns it round."""
    voxels = np.random.default_rng(0).integers(-1000, 1000, (3, 4, 2)).astype(np.int16)
    for slope, intercept in ((1.0, 0.0), (0.5, -100.0), (-2.0, 30.0)):
        path = _scaled(_written(tmp_path, voxels), slope, intercept)
        shown = {depth: _shown(path, window=(40, 400), bit_depth=depth) for depth in (8, 16)}
        for (x, y, z), stored in np.ndenumerate(voxels):
            unit = min(max((float(stored) * slope + intercept - 40) / 400 + 0.5, 0.0), 1.0)
            assert abs(int(shown[8][z, 3 - y, 2 - x]) - unit * 255) <= 0.501
            assert abs(int(shown[16][z, 3 - y, 2 - x]) - unit * 65535) <= 0.501
    assert shown[16].dtype == np.uint16


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
def test_a_window_has_to_be_declared(tmp_path: Path, dtype: str) -> None:
    """A volume's own minimum and maximum are private; bytes are shown as they are, whatever the window."""
    path = _written(tmp_path, np.arange(8).reshape(2, 2, 2).astype(dtype))
    assert "set data.window = [centre, width]" in _refusal(path)
    shown = sorted(_shown(path, window=(3.5, 7)).ravel().tolist())
    assert shown == [0, 36, 73, 109, 146, 182, 219, 255]


def test_bytes_are_shown_as_they_are(tmp_path: Path) -> None:
    """With and without a window; times 257 in 16 bits."""
    voxels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    path = _written(tmp_path, voxels)
    expected = voxels[::-1, ::-1, 0].T
    assert (_shown(path)[0] == expected).all()
    assert (_shown(path, window=(40, 400))[0] == expected).all()
    assert (_shown(path, bit_depth=16)[0] == 257 * expected.astype(int)).all()


def test_what_is_no_number_is_black(tmp_path: Path) -> None:
    """NaN outside the brain; infinities are the ends of the window."""
    path = _written(tmp_path, np.array([np.nan, np.inf, -np.inf, 0.5], np.float32).reshape(2, 2, 1))
    assert sorted(_shown(path, window=(0.5, 1)).ravel().tolist()) == [0, 0, 128, 255]


def test_series_of_volumes_and_flat_images(tmp_path: Path) -> None:
    """Each slice says which it is; neither patient nor label is known."""
    series = _pictures(_written(tmp_path, np.zeros((2, 3, 2, 2), np.uint8)))
    assert [picture.part for picture in series] == [
        "volume 1, slice 1",
        "volume 1, slice 2",
        "volume 2, slice 1",
        "volume 2, slice 2",
    ]
    assert {picture.pixels.shape for picture in series} == {(3, 2, 1)}
    assert {(picture.patient, picture.label) for picture in series} == {(None, None)}
    assert [picture.part for picture in _pictures(_written(tmp_path, np.zeros((2, 3), np.uint8)))] == [
        "slice 1"
    ]
    assert "are not slices" in _refusal(_written(tmp_path, np.zeros((2, 2, 2, 1, 3), np.uint8)))
    assert "are not slices" in _refusal(_written(tmp_path, np.zeros(7, np.uint8)))


def test_colours(tmp_path: Path) -> None:
    """RGB, and RGBA that hides nothing; anything else is refused in words."""
    rgb = np.array([(1, 2, 3), (4, 5, 6)], [("R", "u1"), ("G", "u1"), ("B", "u1")]).reshape(2, 1, 1)
    (picture,) = _pictures(_written(tmp_path, rgb))
    assert picture.pixels.tolist() == [[[4, 5, 6], [1, 2, 3]]]
    rgba = np.array([(1, 2, 3, 255), (4, 5, 6, 255)], [(name, "u1") for name in "RGBA"]).reshape(2, 1, 1)
    assert _pictures(_written(tmp_path, rgba))[0].pixels.tolist() == picture.pixels.tolist()
    rgba["A"][0] = 7
    assert "transparent" in _refusal(_written(tmp_path, rgba))
    assert "complex64" in _refusal(_written(tmp_path, np.zeros((2, 2, 2), np.complex64)), window=(0, 1))


def test_free_texts_and_extensions_are_marked(tmp_path: Path) -> None:
    """Once a file; printable, and cut to 64 characters."""
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["descrip"], image.header["db_name"] = "Doe^Jane \x1b[2J 19500101 " * 3, "ward 7"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"born 1950"))
    nibabel.save(image, tmp_path / "told.nii")
    first, second = _pictures(tmp_path / "told.nii")
    assert first.marks["NIfTI descrip"].startswith("Doe^Jane ?[2J 19500101 Doe^Jane")
    assert len(first.marks["NIfTI descrip"]) == 64
    assert first.marks["NIfTI db_name"] == "ward 7"
    assert first.marks["NIfTI extension"].startswith("code 6, ")
    assert "NIfTI aux_file" not in first.marks
    assert not second.marks
    assert not _pictures(_written(tmp_path, np.zeros((2, 2, 2), np.uint8)))[0].marks


def test_the_samples_of_nibabel(capfd: pytest.CaptureFixture[str]) -> None:
    """NIfTI-1 and 2, either byte order, compressed or not; CIFTI, which is not a volume, is refused."""
    if not SAMPLES.is_dir():
        pytest.skip("nibabel was installed without its test data")
    for path in sorted(SAMPLES.iterdir()):
        if path.name.endswith("conn.nii"):
            assert "not a NIfTI volume" in _refusal(path)
        elif looks_like_nifti(path.name):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                volume = nibabel.as_closest_canonical(nibabel.load(path))
                values = volume.get_fdata()
            if volume.get_data_dtype() == np.uint8:
                assert len(_pictures(path)) == volume.shape[2]
                continue
            shown = _shown(path, window=(100, 300), bit_depth=16)
            unit = np.nan_to_num(np.clip((values - 100) / 300 + 0.5, 0, 1))
            expected = unit.reshape(*unit.shape[:3], -1)[::-1, ::-1].transpose(3, 2, 1, 0)
            assert np.abs(shown - expected.reshape(shown.shape) * 65535).max() <= 0.51, path.name
    assert capfd.readouterr() == ("", "")


def test_damaged_and_hostile_files_are_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before room is made for what their headers promise."""
    path = _written(tmp_path, np.zeros((4, 4, 4), np.int16))
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert "holds 118 bytes of voxels where its header promises 128" in _refusal(path, window=(0, 1))
    path.write_bytes(whole[:100])
    assert "damaged" in _refusal(path, window=(0, 1))
    path.write_bytes(b"no volume at all" * 100)
    assert "damaged" in _refusal(path, window=(0, 1))
    huge = whole[:42] + struct.pack("<3h", 32767, 32767, 32767) + whole[48:]
    path.write_bytes(huge)
    assert "cut short?" in _refusal(path, window=(0, 1))
    (tmp_path / "huge.nii.gz").write_bytes(gzip.compress(huge))
    assert "when decompressed" in _refusal(tmp_path / "huge.nii.gz", window=(0, 1))
    (tmp_path / "cut.nii.gz").write_bytes(gzip.compress(whole)[:-40])
    assert "damaged" in _refusal(tmp_path / "cut.nii.gz", window=(0, 1))
    path.write_bytes(whole)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 15)
    assert "more than 15 pixels" in _refusal(path, window=(0, 1))
    assert "does not exist" in _refusal(tmp_path / "none.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    assert "pip install 'privsyn[nifti]'" in _refusal(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_large_volume_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Of 1 GiB in a file with a hole one slice at a time is in memory."""
    path = _written(tmp_path, np.zeros((1024, 1024, 1), np.int16))
    content = path.read_bytes()
    path.write_bytes(content[:46] + struct.pack("<h", 512) + content[48:])
    with path.open("r+b") as handle:
        handle.truncate(352 + 2**30)
    program = (
        "import re, sys\nfrom itertools import islice\nfrom pathlib import Path\nimport nibabel\n"
        "from privsyn.cohort.nifti import read_nifti\nfrom privsyn.recipe import Data\n"
        "def own(): return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "before = own()\ndata = Data(size=8, classes=('a',), window=(0, 10))\n"
        "print(max(own() for _ in islice(read_nifti(sys.argv[1], data), 20)) - before)"
    )
    out = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 100 * 1024  # KiB
