"""Identifying metadata of PNG, JPEG, TIFF and WebP files: which there is, by name.

None of it reaches a cohort; `prepare` reports that it is there.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping

from PIL import ExifTags
from PIL.ImageFile import ImageFile

from privsyn.cohort.entries import MARK_LENGTH

_NO_MARKS: Mapping[str, str] = {}
_MOST_MARKS = 100  # of a file, which may hold millions
_EXIF_KEYS = ("exif", "Raw profile type exif")
_XMP_KEYS = ("xmp", "XML:com.adobe.xmp")
_OTHERS = {
    "icc_profile": "ICC profile",
    "comment": "{format} comment",
    "photoshop": "{format} Photoshop",
    "flashpix": "{format} FlashPix",
}
# Layout and encoding of the pixels, which are the same in many files and identify nobody.
_LAYOUT = frozenset(
    {
        *range(254, 269),  # size, bits, compression, photometric ...
        *(273, 274, 277, 278, 279, 282, 283, 284, 296, 297),  # strips, orientation, resolution
        *(317, 318, 319, 320, 322, 323, 324, 325, 330, 338, 339, 347),  # predictor, palette, tiles, samples
        *(513, 514, 529, 530, 531, 532),  # JPEG in TIFF
        *(34665, 34675, 34853, 40965),  # pointers to other tags; the ICC profile, reported by itself
        *(36864, 37121, 37122, 40960, 40961, 40962, 40963),  # versions, components, size again
    }
)


def may_lie_on_its_side(image: ImageFile) -> bool:
    """Whether the file may hold an orientation; Pillow turns a TIFF upright by itself."""
    return bool(image.info) and any(key in image.info for key in (*_EXIF_KEYS, *_XMP_KEYS))


def picture_marks(image: ImageFile) -> Mapping[str, str]:
    """The marks (see `SourceImage`) of a file that Pillow has loaded, in the order of the file."""
    if not image.info and image.format != "TIFF" and not getattr(image, "private_chunks", None):
        return _NO_MARKS
    found: dict[str, str] = {}
    for name, value in _marks(image):
        if len(found) == _MOST_MARKS:
            break
        found.setdefault(name, _text(value))
    return found


def _marks(image: ImageFile) -> Iterator[tuple[str, object]]:
    info, kind = image.info, str(image.format)
    if kind == "TIFF" or any(key in info for key in _EXIF_KEYS):
        yield from _exif(image, "TIFF" if kind == "TIFF" else "EXIF")
    for key in _XMP_KEYS:
        if key in info:
            yield "XMP", info[key]
    for key, name in _OTHERS.items():
        if key in info:
            yield name.format(format=kind), info[key] if key != "icc_profile" else ""
    texts: Mapping[str, object] = getattr(image, "text", {}) if kind == "PNG" else {}
    for key, value in texts.items():
        if key not in _EXIF_KEYS and key not in _XMP_KEYS:
            yield f"PNG text {_text(key)}", value
    for chunk in getattr(image, "private_chunks", ()):
        yield f"PNG chunk {_text(chunk[0])}", ""


def _exif(image: ImageFile, kind: str) -> Iterator[tuple[str, object]]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of a broken entry; the others are still reported
            exif = image.getexif()
            folders = [(kind, dict(exif)), ("EXIF", exif.get_ifd(ExifTags.IFD.Exif))]
            place = exif.get_ifd(ExifTags.IFD.GPSInfo)
    except Exception:  # what cannot be read may still identify somebody
        yield "EXIF", "cannot be read"
        return
    if place:
        yield "EXIF GPSInfo", place
    for prefix, entries in folders:
        for tag, value in entries.items():
            if tag not in _LAYOUT:
                yield f"{prefix} {ExifTags.TAGS.get(tag, f'tag {tag}')}", value


def _text(value: object) -> str:
    if isinstance(value, bytes):
        value = value[: 4 * MARK_LENGTH].decode(errors="replace").strip("\0")
    text = str(value)[: 4 * MARK_LENGTH]
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:MARK_LENGTH]
