"""Ten thousand damaged files, and hostile ones: each ends in pictures or in a reason, and soon."""

from __future__ import annotations

import io
import random
import resource
import struct
import tarfile
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin
from pydicom import dcmread
from pydicom.data import get_testdata_file

from privsyn.cohort.pixels import fit_pixels
from privsyn.cohort.reading import read_file
from privsyn.cohort.sources import open_source
from privsyn.errors import CohortError
from privsyn.recipe import Data

CASES, BLOCKS = 10_000, 10
SECRET = "ZEBEDEE"  # stands in every base where a patient's name may; no reason may repeat it
NAME = "Zebedee-1961"  # of every file
SLOWEST = 5.0  # seconds that a file may take
GROWTH = 700 * 2**20  # bytes that the largest of them may need: an image of nearly Pillow's limit
DATA = (
    Data(size=8, channels=1, classes=("a",), resize="fit"),
    Data(size=8, channels=3, classes=("a",), resize="pad", window=(50, 100)),
    Data(size=8, channels=1, classes=("a",), bit_depth=16, resize="crop", window=(40, 400)),
)
# Those whose decoders are Python's, or have stood up to this: a crash of the others is for worker processes.
DICOM = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "SC_rgb_small_odd.dcm",
    "image_dfl.dcm",
    "ExplVR_BigEndNoMeta.dcm",
    "ExplVR_LitEndNoMeta.dcm",
    "liver_1frame.dcm",
    "rtplan.dcm",
)
ENDINGS = ("png", "jpg", "tif", "bmp", "webp", "dcm", "nii", "nii.gz", "txt", "csv", "DS_Store", "")


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@cache
def bases() -> tuple[bytes, ...]:
    """Small files of every kind that is read, with a name in all places that may hold one."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 255, (9, 12), dtype=np.uint8))
    colour = Image.fromarray(rng.integers(0, 255, (9, 12, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65535, (9, 12), dtype=np.uint16))
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010E], exif[0x013B], exif[0x0112] = SECRET, SECRET, 6
    exif.get_ifd(0x8769)[0x9286], exif.get_ifd(0x8825)[0x001D] = SECRET.encode(), SECRET
    text.add_text("Author", SECRET)
    text.add_text("Comment", SECRET, zip=True)
    text.add_itxt("Patient", SECRET)
    profile = SECRET.encode() * 9
    pictures = [
        _encoded(grey, "PNG"),
        _encoded(colour, "PNG", pnginfo=text, exif=exif, icc_profile=profile),
        _encoded(deep, "PNG"),
        _encoded(colour.quantize(8), "PNG", transparency=3),
        _encoded(grey.convert("1"), "PNG"),
        _encoded(grey, "PNG", save_all=True, append_images=[grey.rotate(180)]),
        _encoded(grey, "JPEG", comment=SECRET),
        _encoded(colour, "JPEG", exif=exif, icc_profile=profile, progressive=True),
        _encoded(colour.convert("CMYK"), "JPEG"),
        _encoded(colour, "BMP"),
        _encoded(colour.quantize(4), "BMP"),
        _encoded(colour, "WEBP", exif=exif),
        _encoded(colour, "WEBP", lossless=True, save_all=True, append_images=[colour.rotate(180)]),
        _encoded(colour, "GIF"),
        *(
            _encoded(image, "TIFF", compression=compression, exif=exif)
            for image, compression in (
                (grey, None),
                (deep, None),
                (colour, "tiff_lzw"),
                (deep, "tiff_adobe_deflate"),
                (grey.convert("1"), "group4"),
                (colour, "jpeg"),
                (colour, "packbits"),
            )
        ),
        _encoded(grey, "TIFF", save_all=True, append_images=[grey]),
    ]
    volume = nibabel.Nifti1Image(rng.integers(0, 99, (5, 6, 2), dtype=np.int16), np.eye(4))
    volume.header["descrip"] = SECRET.encode()
    plain = volume.to_bytes()
    others = [
        plain,
        zlib.compress(plain, wbits=31),
        b"%PDF-1.7\n",
        b"file,label\n1.png,a\n",
        b"PK\3\4" + bytes(40),
    ]
    return (*pictures, *pictures, *others, *(_dicom(name) for name in DICOM))


def _dicom(name: str) -> bytes:
    path = get_testdata_file(name, download=False)
    assert path is not None
    dataset = dcmread(str(path), force=True)
    dataset.PatientName = SECRET  # what else it says is not secret, and may be long
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    return buffer.getvalue()


def _truncate(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _flip(content: bytes, draw: random.Random) -> bytes:
    broken = bytearray(content)
    near = len(broken) if draw.random() < 0.5 else min(len(broken), 512)  # headers are at the beginning
    for _ in range(draw.choice((1, 2, 8, 32))):
        broken[draw.randrange(near)] ^= 1 << draw.randrange(8)
    return bytes(broken)


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    broken = bytearray(content)
    for _ in range(draw.choice((1, 2, 4))):
        start = draw.randrange(len(broken))
        value = draw.choice(
            (b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\xea\x60", draw.randbytes(4))
        )
        broken[start : start + 4] = value
    return bytes(broken)


def _splice(content: bytes, draw: random.Random) -> bytes:
    other = draw.choice(bases())
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


def _double(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content) + 1)
    return content[:start] + content[start : start + 200] * draw.choice((2, 50)) + content[start:]


def _other(content: bytes, draw: random.Random) -> bytes:
    """Nothing at all, noise, or the file as it is under a wrong name."""
    return draw.choice(
        (b"", bytes(300), draw.randbytes(draw.randrange(600)), content, content[:4] + bytes(99))
    )


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _truncate,
    _flip,
    _flip,
    _overwrite,
    _overwrite,
    _splice,
    _double,
    _other,
)


def _bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header + bytes(64)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    rows = _chunk(b"IDAT", zlib.compress(bytes(10_000)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + rows + _chunk(b"IEND", b"")


def _tiff(**tags: object) -> bytes:
    """A little-endian TIFF of raw tags: number_TYPE=(count, value)."""
    named = {int(name[1:].partition("_")[0]): (int(name.partition("_")[2]), *v) for name, v in tags.items()}  # type: ignore[misc]
    body = b"".join(struct.pack("<HHII", tag, *named[tag]) for tag in sorted(named))
    return b"II*\0" + struct.pack("<IH", 8, len(named)) + body + bytes(4) + bytes(200)


def _webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = (
        b"WEBPVP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + size
        + b"VP8L"
        + struct.pack("<I", 20)
        + b"\x2f"
        + bytes(19)
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _jpeg(width: int, height: int) -> bytes:
    whole = _encoded(Image.new("L", (16, 16)), "JPEG")
    start = whole.index(b"\xff\xc0") + 5
    return whole[:start] + struct.pack(">HH", height, width) + whole[start + 4 :]


def hostile() -> dict[str, bytes]:
    """Files that small numbers make absurd: bombs, empty images, endless lists."""
    large = zlib.compress(bytes(2**27), 1)  # 128 MiB in less than one
    size = {"t256_4": (1, 60000), "t257_4": (1, 60000)}
    small = {"t256_4": (1, 8), "t257_4": (1, 8), "t258_3": (1, 8), "t262_3": (1, 1), "t273_4": (1, 100)}
    files = {}
    for side in (0, 1, 9000, 13_000, 60_000, 2**31 - 1, 2**32 - 1):
        files[f"png {side}"] = _png(side, side)
        files[f"png16 {side}"] = _png(side, side, depth=16)
        files[f"png rgba {side}"] = _png(side, side, colour=6)
        files[f"png thin {side}"] = _png(side, 1)
        files[f"tiff {side}"] = _tiff(**(small | {"t256_4": (1, side), "t257_4": (1, side)}))
        files[f"tiff lzw {side}"] = _tiff(**(small | size | {"t256_4": (1, side), "t259_3": (1, 5)}))
        if side < 2**31:
            files[f"bmp {side}"], files[f"bmp down {side}"] = _bmp(side, side), _bmp(side, -side)
        if 0 < side < 2**24:
            files[f"webp {side}"] = _webp(side, side)
        if side < 2**16:
            files[f"jpeg {side}"] = _jpeg(side, side)
    files["zTXt bomb"] = _png(8, 8, _chunk(b"zTXt", b"a\0\0" + large))
    files["zTXt bombs"] = _png(8, 8, *[_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**20 - 9)))] * 99)
    files["iTXt bomb"] = _png(8, 8, _chunk(b"iTXt", b"a\0\1\0\0\0" + large))
    files["iCCP bomb"] = _png(8, 8, _chunk(b"iCCP", b"a\0\0" + large))
    files["IDAT bomb"] = _png(8, 8, _chunk(b"IDAT", large))
    files["10,000 chunks"] = _png(8, 8, *[_chunk(b"tEXt", b"a\0b")] * 10_000)
    files["10,000 private chunks"] = _png(8, 8, *[_chunk(b"prVt", b"a")] * 10_000)
    files["APNG of 2^31 frames"] = _png(8, 8, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))
    for tag in (
        254,
        258,
        259,
        262,
        266,
        273,
        274,
        277,
        278,
        279,
        284,
        320,
        322,
        324,
        338,
        339,
        700,
        34377,
        34665,
    ):
        for kind, count, value in (
            (3, 2**31, 8),
            (4, 2**32 - 1, 2**32 - 1),
            (2, 2**32 - 1, 8),
            (12, 0, 0),
            (1, 1, 255),
        ):
            files[f"tiff {tag} {kind} {count}"] = _tiff(**(small | {f"t{tag}_{kind}": (count, value)}))
    frames = 50_000  # each of them after the other; whoever counts them compares each with all before
    files["tiff of 50,000 frames"] = (
        b"II*\0"
        + struct.pack("<I", 8)
        + b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 8, 8 + 18 * (n + 1)) for n in range(frames))
    )
    files["tiff that is its own next frame"] = (
        _tiff(**small)[: 10 + 12 * 5] + struct.pack("<I", 8) + bytes(200)
    )
    files["NIfTI of 2^15 cubed"] = _nifti(32767)
    files["gzip of zeros as NIfTI"] = zlib.compress(bytes(2**27), 1, wbits=31)
    return files


def _nifti(side: int) -> bytes:
    content = bytearray(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)).to_bytes())
    content[40:56] = struct.pack("<8h", 3, side, side, side, 1, 1, 1, 1)
    return bytes(content)


def case(number: int) -> tuple[str, bytes]:
    """The file of one case: its name and what is in it, the same in every run."""
    draw = random.Random(number)
    content = draw.choice(bases())
    for _ in range(draw.choice((1, 1, 2))):
        content = draw.choice(MUTATIONS)(content, draw) or b"\0"
    if draw.random() < 0.01:
        content = b""
    return f"{NAME}.{draw.choice(ENDINGS)}", content


def check(path: Path, data: Data, where: str) -> int:
    """Read one file, hold what comes of it to what any file may do, and count its pictures."""
    start, pictures = time.perf_counter(), 0
    try:
        for picture in read_file(str(path), data):
            pictures += 1
            pixels = fit_pixels(picture.pixels, data)
            assert pixels.shape == (data.size, data.size, data.channels), where
            assert pixels.dtype == (np.uint16 if data.bit_depth == 16 else np.uint8), where
            assert all(len(value) < 1000 for value in picture.marks.values()), where
    except CohortError as reason:
        told = str(reason)
        assert told.count("\n") < 2, where
        assert told.isprintable() or "\n" in told, where
        assert len(told) < 400, where
        assert not any(name in told for name in (SECRET, NAME, str(path.parent))), where
    except Exception as error:
        raise AssertionError(f"{where}: {error!r}") from error
    assert time.perf_counter() - start < SLOWEST, f"{where} took {time.perf_counter() - start:.1f} s"
    return pictures


def _memory() -> int:
    """The most that this process ever had resident, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("block", range(BLOCKS))
def test_damaged_files_end_in_pictures_or_a_reason(tmp_path: Path, block: int) -> None:
    """Cut short, bits flipped, numbers replaced, spliced, repeated, under wrong names."""
    before, whole = _memory(), 0
    for number in range(block, CASES, BLOCKS):
        name, content = case(number)
        path = tmp_path / name
        path.write_bytes(content)
        whole += check(path, DATA[number % len(DATA)], f"case {number} ({name})") > 0
        path.unlink()
    assert _memory() - before < GROWTH
    assert 0.1 < whole / (CASES / BLOCKS) < 0.9, "the cases are too broken, or too whole, to find anything"


def test_hostile_files_end_in_pictures_or_a_reason(tmp_path: Path) -> None:
    """Sides of 0 and of 2^32, bombs in text and profile, tags with absurd counts, endless lists of frames."""
    bases()
    before = _memory()
    for number, (name, content) in enumerate(hostile().items()):
        path = tmp_path / f"{NAME}{'.nii.gz' if 'gzip' in name else '.nii' if 'NIfTI' in name else ''}"
        path.write_bytes(content)
        check(path, DATA[number % len(DATA)], name)
        path.unlink()
    assert _memory() - before < GROWTH


@cache
def sources() -> dict[str, bytes]:
    """One small file of each kind that is a source in itself, or names the files of one."""
    arrays, packed, tar = io.BytesIO(), io.BytesIO(), io.BytesIO()
    images = np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)
    np.savez_compressed(
        arrays, images=images, labels=np.arange(6) % 2, groups=np.arange(6), class_names=["a", "b"]
    )
    cells = [{"bytes": _encoded(Image.fromarray(image), "PNG"), "path": None} for image in images]
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "label": pa.int64()})
    pq.write_table(pa.table({"image": cells, "label": [0, 1] * 3}, schema), packed)
    with tarfile.open(fileobj=tar, mode="w") as writer:
        for number, cell in enumerate(cells):
            for name, content in ((f"{number}.json", b'{"label": 1}'), (f"{number}.png", cell["bytes"])):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                writer.addfile(member, io.BytesIO(content))
    rows = b"".join(b'{"file_name": "%d.png", "label": "a"}\n' % number for number in range(6))
    table = b"file_name,label,patient\n" + b"".join(b'%d.png,a,"p"\n' % number for number in range(6))
    return {
        "a.npz": arrays.getvalue(),
        "a.parquet": packed.getvalue(),
        "train.tar": tar.getvalue(),
        "metadata.jsonl": rows,
        "metadata.csv": table,
    }


@pytest.mark.parametrize("name", ["a.npz", "a.parquet", "train.tar", "metadata.jsonl", "metadata.csv"])
def test_damaged_sources_end_in_entries_or_a_reason(tmp_path: Path, name: str) -> None:
    """As single files are; here the source as a whole may be refused as well."""
    before, data = _memory(), Data(size=8, channels=1, classes=("a", "b"))
    path = tmp_path / name
    for number in range(200):
        draw, content = random.Random(number), sources()[name]
        for _ in range(draw.choice((1, 2))):
            content = draw.choice(MUTATIONS)(content, draw) or b"\0"
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            for entry in open_source(path if name in {"a.npz", "a.parquet"} else tmp_path, data):
                with suppress(CohortError):
                    list(entry.read())
        except CohortError as reason:
            told = str(reason)
            assert told.count("\n") < 2, f"{name} {number}"
        except Exception as error:
            raise AssertionError(f"{name} {number}: {error!r}") from error
        assert time.perf_counter() - start < SLOWEST, f"{name} {number}"
    assert _memory() - before < GROWTH
