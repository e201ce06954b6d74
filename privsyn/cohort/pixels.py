"""From an image file to the pixels that a recipe declares, or a reason why not.

Nothing is repaired quietly: what would lose information (colour, transparency, 16 bits, a second frame)
is refused, and only `data.resize` may change the size.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from privsyn.errors import CohortError
from privsyn.recipe import Data

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> Pixels:
    """The pixels of an 8-bit PNG, JPEG, BMP, TIFF or WebP file, upright as its EXIF tag says.

    Returns:
        (H, W, 1) for grey and (H, W, 3) for RGB, uint8; palettes become RGB, bilevel becomes 0 and 255.

    Raises:
        CohortError: the file is missing, unreadable, too large, transparent, of more than 8 bits or more
            than one frame.
    """
    if not path.is_file():
        raise CohortError("does not exist, or is not a file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # doubts about metadata; the pixels decide
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                _check_whole(image)
                return _grey_or_rgb(ImageOps.exif_transpose(image))
    except CohortError:
        raise
    except UnidentifiedImageError:
        raise CohortError("is not a readable PNG, JPEG, BMP, TIFF or WebP image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise CohortError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels: crop or shrink it first") from None
    except Exception as error:  # a decoder may raise anything on broken bytes
        raise CohortError(f"cannot be read as an image ({error})") from None


def fit_pixels(pixels: Pixels, data: Data) -> Pixels:
    """Make pixels what the recipe's `[data]` declares, or say what they are instead.

    `fit` scales both sides to `data.size`, `crop` scales the shorter side and cuts the centre, `pad` scales
    the longer side and adds black; all three antialias. Images of the right size are never resampled.

    Args:
        pixels: (H, W, 1) or (H, W, 3) uint8.

    Returns:
        (size, size, channels) uint8, C-contiguous.

    Raises:
        CohortError: no pixels, another size without `data.resize`, or colours in a grey recipe.
    """
    height, width, _ = pixels.shape
    if not height or not width:
        raise CohortError(f"has no pixels ({width}x{height} px)")
    if (height, width) != (data.size, data.size):
        if data.resize is None:
            wanted = f"{data.size}x{data.size}"
            raise CohortError(
                f"{width}x{height} px, the recipe wants {wanted} (set data.resize to fit, crop or pad)"
            )
        pixels = _resize(_match_channels(pixels, data.channels), data)
    return np.ascontiguousarray(_match_channels(pixels, data.channels))


def _check_whole(image: Image.Image) -> None:
    # Pillow opens 16-bit colour as 8-bit `RGB` without a word; only the decoder's raw mode tells.
    raw_modes = " ".join(str(tile[3]) for tile in getattr(image, "tile", []))
    if image.mode[0] in "IF" or ";16" in raw_modes:
        raise CohortError("holds more than 8 bits per channel: convert it to 8 bits, with a window you chose")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # MPO: a camera's JPEG with a preview behind it
        raise CohortError(f"holds {frames} frames: save each as an image of its own")


def _grey_or_rgb(image: Image.Image) -> Pixels:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            raise CohortError("has transparent pixels: flatten it onto a background first")
    if image.mode not in {"1", "L", "LA", "P", "RGB", "RGBA"}:
        raise CohortError(f"has colour mode {image.mode}: save it as grey or RGB")
    grey = image.mode in {"1", "L"}
    pixels = np.array(image.convert("L" if grey else "RGB"), dtype=np.uint8)
    return pixels[..., np.newaxis] if grey else pixels


def _match_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[2] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if (pixels != pixels[..., :1]).any():
        raise CohortError("is in colour, the recipe wants grey (set data.channels to 3, or convert it)")
    return pixels[..., :1]


def _resize(pixels: Pixels, data: Data) -> Pixels:
    image = Image.fromarray(pixels[..., 0] if data.channels == 1 else pixels)
    size, method = (data.size, data.size), Image.Resampling.BICUBIC
    if data.resize == "fit":
        image = image.resize(size, method)
    elif data.resize == "crop":
        image = ImageOps.fit(image, size, method)
    else:
        image = ImageOps.pad(image, size, method)
    return np.array(image, dtype=np.uint8).reshape(data.size, data.size, data.channels)
