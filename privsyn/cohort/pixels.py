"""Decode image files, and fit their pixels to the recipe.

Nothing is repaired silently: a file that would lose information (colour, transparency, bits, a second frame)
is refused with a reason, and only `data.resize` may change the size.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from PIL import Image, ImageOps
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import jpeg_factory
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from privsyn.bit_depth import Images
from privsyn.cohort.entries import SourceImage
from privsyn.cohort.metadata import may_lie_on_its_side, picture_marks
from privsyn.errors import CohortError
from privsyn.recipe import Data

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
HEAD = 34  # bytes that tell the format
HELD = 64 * 2**20  # bytes of the largest file that is read at once; larger ones are read piece by piece

P = TypeVar("P", bound=NDArray[Any])  # of `Images`: the type comes out as it went in

_NONBLOCKING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
# Opened directly: `PIL.Image.open` would try them in turn, and only warn of an image beyond its limit.
_OPENERS: dict[str, Callable[[IO[bytes]], ImageFile]] = {
    "PNG": PngImageFile,
    "JPEG": jpeg_factory,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "WEBP": WebPImageFile,
}
_TIFF_STARTS = frozenset({b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"})
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})  # lengths that a BMP states of its own header
_GREY_16 = frozenset({"I;16", "I;16B", "I;16L"})
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # of TIFF


def image_format(head: bytes) -> str | None:
    """The format (one of `IMAGE_FORMATS`) of a file with these first `HEAD` bytes, whatever its name."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] in _TIFF_STARTS:
        return "TIFF"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def open_regular(path: str | Path, size: int | None = None) -> IO[bytes]:
    """Open a regular file, in memory if it is small; never a pipe, a socket or a device.

    Args:
        size: of the file in bytes, if a listing has shown that it is a regular file.

    Raises:
        CohortError: it does not exist, is not a file or may not be read.
    """
    try:
        if size is None:
            size = _regular_size(path)
        handle = os.open(path, os.O_RDONLY | _NONBLOCKING)
        content = os.read(handle, size + 1) if size <= HELD else b""
        if content and len(content) == size:  # the usual way; else large, or changing
            os.close(handle)
            return io.BytesIO(content)
        os.lseek(handle, 0, os.SEEK_SET)
        return open(handle, "rb")
    except OSError as error:
        raise CohortError(f"cannot be opened ({error.strerror or type(error).__name__})") from None
    except ValueError:
        raise CohortError("is not a usable file name") from None


def _regular_size(path: str | Path) -> int:
    try:
        status = os.stat(path)  # before opening: a device may act, a pipe may block forever
    except FileNotFoundError:
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):
        raise CohortError("does not exist, or is not a file")
    return status.st_size


def read_image(path: Path) -> NDArray[Any]:
    """The pixels of a PNG, JPEG, BMP, TIFF or WebP file, upright as its EXIF tag says.

    Returns:
        (H, W, 1) for grey, uint8 or uint16, and (H, W, 3) for RGB, uint8; palettes become RGB, bilevel
        becomes 0 and 255.

    Raises:
        CohortError: the file is missing, unreadable, too large, transparent, of a depth that would lose
            something or of more than one frame.
    """
    with open_regular(path) as file:
        return read_picture(file).pixels


def read_picture(file: IO[bytes] | bytes) -> SourceImage:
    """The pixels of one encoded image, as `read_image` returns them, and its identifying metadata.

    Raises:
        CohortError: as `read_image`.
    """
    stream: IO[bytes] = io.BytesIO(file) if isinstance(file, bytes) else file
    try:
        head = stream.read(HEAD)
        stream.seek(0)
        if (kind := image_format(head)) is None:
            raise CohortError("is not a readable PNG, JPEG, BMP, TIFF or WebP image")
        with _quiet(kind):
            image = _OPENERS[kind](stream)
            _check_whole(image)
            inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            image.load()
            return SourceImage(_grey_or_rgb(_upright(image), inverted), marks=picture_marks(image))
    except CohortError:
        raise
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise CohortError(f"cannot be read as an image ({_reason(error)})") from None


def fit_pixels(pixels: P, data: Data) -> P:
    """Fit pixels to the recipe's `[data]`.

    `fit` scales both sides to `data.size`, `crop` scales the shorter side and cuts the centre, `pad` scales
    the longer side and adds black; all three antialias. Images of the right size are never resampled.

    Args:
        pixels: (H, W, 1) or (H, W, 3), uint8 or uint16.

    Returns:
        (size, size, channels) of the same dtype, C-contiguous.

    Raises:
        CohortError: there are no pixels, or the bit depth differs, or the size differs without `data.resize`,
            or there are colours in a grey recipe.
    """
    size = data.size
    height, width, channels = pixels.shape
    if not height or not width:
        raise CohortError(f"has no pixels ({width}x{height} px)")
    check_depth(pixels.dtype, data)
    if height != size or width != size:
        if data.resize is None:
            raise CohortError(
                f"{width}x{height} px, the recipe wants {size}x{size} (set data.resize to fit, crop or pad)"
            )
        # The fewer channels are resized: the others would be equal anyhow.
        pixels = _resize(_match_channels(pixels, min(channels, data.channels)), data)
    if pixels.shape[2] != data.channels:
        pixels = _match_channels(pixels, data.channels)
    return pixels if pixels.flags.c_contiguous else np.ascontiguousarray(pixels)  # type: ignore[return-value]


def check_depth(dtype: DTypeLike, data: Data) -> None:
    """Check that pixels of this type have as many bits as the recipe declares.

    Raises:
        CohortError: they do not; the message says what to do.
    """
    bits = 8 * np.dtype(dtype).itemsize
    if bits == data.bit_depth:
        return
    remedy = "set data.bit_depth = 16, or convert it with a window you chose"
    if data.bit_depth == 16:
        remedy = "set data.bit_depth = 8, or take the source before it was reduced to 8 bits"
    raise CohortError(f"holds {bits} bits per pixel, the recipe wants {data.bit_depth}: {remedy}")


def _quiet(kind: str) -> AbstractContextManager[Any]:
    """Suppress warnings about metadata. Not for PNG: it has few, and suppressing takes as long as all
    checks."""
    return nullcontext() if kind == "PNG" else warnings.catch_warnings(action="ignore")


def _reason(error: Exception) -> str:
    """The message of a decoder's exception, in a line; only of types that do not quote the file."""
    text = str(error) if isinstance(error, OSError | SyntaxError) else ""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text[:100].strip() or type(error).__name__


def _check_whole(image: ImageFile) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise CohortError(f"has more than {limit} pixels: crop or shrink it first")
    _check_bits(image)
    if _has_more_frames(image):
        raise CohortError("holds more than one frame: save each as an image of its own")


def _check_bits(image: ImageFile) -> None:
    # Pillow opens 16-bit colour as 8-bit `RGB` without a word; only the decoder's raw mode tells.
    raws = {args if isinstance(args := tile[3], str) else str(args and args[0]) for tile in image.tile}
    if image.mode not in _GREY_16 and any(";16" in raw for raw in raws):
        raise CohortError(
            "holds more than 8 bits per channel in colour, with transparency or with a sign: convert it to 8 "
            "bits, or to 16 in grey"
        )
    if image.mode in {"I", "F"} or "I;12" in raws:
        bits = 12 if "I;12" in raws else 32
        raise CohortError(f"holds {bits} bits per pixel: convert it to 8 or 16, with a window you chose")


def _has_more_frames(image: ImageFile) -> bool:
    if isinstance(image, TiffImageFile):  # `n_frames` would visit them all
        return bool(image.is_animated)
    # MPO: a camera's JPEG with a preview behind it
    return bool(getattr(image, "n_frames", 1) > 1 and image.format != "MPO")


def _upright(image: ImageFile) -> Image.Image:
    return ImageOps.exif_transpose(image) if may_lie_on_its_side(image) else image


def _grey_or_rgb(image: Image.Image, inverted: bool) -> Images:
    mode = image.mode
    if mode in _GREY_16:
        return _grey_16(image, inverted)
    if mode in {"LA", "RGBA", "PA"} or (image.info and image.has_transparency_data):
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise CohortError("has transparent pixels: flatten it onto a background first")
    if mode not in {"1", "L", "LA", "P", "PA", "RGB", "RGBA"}:
        raise CohortError(f"has colour mode {mode}: save it as grey or RGB")
    wanted = "L" if mode in {"1", "L"} else "RGB"
    image = image if image.mode == wanted else image.convert(wanted)
    shape = (image.height, image.width, 1 if wanted == "L" else 3)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)  # twice as fast as `np.asarray`


def _grey_16(image: Image.Image, inverted: bool) -> NDArray[np.uint16]:
    pixels = np.asarray(image).astype(np.uint16, copy=False)[..., np.newaxis]  # in this machine's byte order
    clear = image.info.get("transparency")
    if clear is not None and (pixels == clear).any():
        raise CohortError("has transparent pixels: flatten it onto a background first")
    return np.iinfo(np.uint16).max - pixels if inverted else pixels


def _match_channels(pixels: P, channels: int) -> P:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)  # type: ignore[return-value]
    if (pixels != pixels[..., :1]).any():
        raise CohortError("is in colour, the recipe wants grey (set data.channels to 3, or convert it)")
    return pixels[..., :1]  # type: ignore[return-value]


def _resize(pixels: P, data: Data) -> P:
    plane = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    # 16 bits go as float32, which holds them exactly; Pillow takes less care of its 16-bit images.
    image = Image.fromarray(plane if pixels.dtype == np.uint8 else plane.astype(np.float32))
    size, method = (data.size, data.size), Image.Resampling.BICUBIC
    if data.resize == "fit":
        image = image.resize(size, method)
    elif data.resize == "crop":
        image = ImageOps.fit(image, size, method)
    else:
        image = ImageOps.pad(image, size, method)
    resized = np.asarray(image)
    if pixels.dtype != np.uint8:
        resized = np.rint(resized).clip(0, np.iinfo(pixels.dtype).max).astype(pixels.dtype)
    return resized.reshape(data.size, data.size, pixels.shape[2])  # type: ignore[return-value]
