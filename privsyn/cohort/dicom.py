"""DICOM objects to the pictures that a radiologist's screen shows.

The way from stored values to a picture is that of DICOM PS3.3 C.7.6.3, C.11.1 and C.11.2: stored bits,
modality LUT or rescale, VOI LUT or window, and white bone whatever the photometric interpretation. Each step
uses what the recipe declares or what the header says, never the smallest and largest value of an image: those
would be a query on private data, and the same tissue would come out differently in every picture.

Messages are the module's own words. The texts of pydicom's and the decoders' exceptions may hold values of
the file, so none is ever passed on. This is the one reader that imports pydicom, and only once there is a
file to read. It is long because the way is: opening, layout, frames and display follow one another below.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.confidentiality import as_text, identifying
from privsyn.cohort.entries import NotAnImage, Picture, Pixels
from privsyn.cohort.parsers import guarded
from privsyn.errors import CohortError
from privsyn.recipe import Data

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import Decoder

Values = NDArray[Any]

SUFFIXES = frozenset({".dcm", ".dicom", ".dic", ".ima"})
_HINT = "is DICOM, which needs pydicom: pip install 'privsyn[dicom]'"
_LOGGERS = ("pydicom", "pylibjpeg", "libjpeg", "openjpeg", "rle")

_DEFERRED = 2**20  # bytes; longer values, such as pixels, stay in the file until they are wanted
_INFLATED = 2**30  # bytes that a deflated data set may grow to

_MAPS = ("Dose", "Segmentation", "Parametric Map")  # made from images; among these they would be masks
_GREY = frozenset({"MONOCHROME1", "MONOCHROME2"})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})
_DECODED = frozenset(
    {"RGB", "YBR_ICT", "YBR_RCT"}
)  # what decoders of JPEG 2000 return is RGB, whatever its name
_FRAME_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})  # JPEG and JPEG-LS markers SOFn


def looks_like_dicom(head: bytes, name: str) -> bool:
    """Whether a file that begins with `head` (132 bytes or more) is DICOM.

    Either it says DICM after 128 bytes, or it is a bare data set, as old archives hold them: elements of the
    first groups in ascending order, with known kinds and lengths. Three such elements are asked for, or all
    that fit in 132 bytes; one is enough if the name ends like those of DICOM files.
    """
    if head[128:132] == b"DICM":
        return True
    wanted = 1 if Path(name).suffix.lower() in SUFFIXES else 3
    return any(
        _has_elements(head[:132], wanted, order, explicit)
        for order, explicit in (("<", True), ("<", False), (">", True))
    )


def read_dicom(path: str | Path, data: Data) -> Iterator[Picture]:
    """The pictures in a DICOM file, one a frame; one frame is in memory at a time.

    Grey objects of more than 8 stored bits are shown through `data.window` (PS3.3 C.11.2.1.2, linear), else
    through the file's first VOI LUT or window, else over all that their bits can hold after rescaling. Grey
    objects of 8 bits or fewer are shown as they are, through the file's own LUTs if it has any. Padding is
    black, and overlays are left out.

    The patient is the PatientID alone. IssuerOfPatientID is left out on purpose: archives fill it in one
    study and not in the next, which would split a patient into two units and void the protection of both,
    while two patients of different issuers who share an id merely count as one.

    Returns:
        Pictures: (H, W, 1) grey, uint16 if `data.bit_depth` is 16, else uint8; or (H, W, 3) RGB uint8. The
        label is the value of `data.label_tag`, if that is set. Marks come with the first picture.

    Raises:
        NotAnImage: the object has no pixels: a report, a plan, a directory.
        CohortError: damaged, unsupported, without the label's tag, larger than Pillow's pixel limit, or
            pydicom is missing. Damage of a later frame shows after the pictures before it.
    """
    return guarded(_pictures(Path(path), data), "DICOM", _LOGGERS)


def _pictures(path: Path, data: Data) -> Iterator[Picture]:
    dataset = _open(path)
    from pydicom.datadict import keyword_for_tag

    _check_has_pixels(dataset)
    layout = _layout(dataset)
    label = None if data.label_tag is None else _label(dataset, data.label_tag)
    patient = as_text(dataset.get("PatientID")) or None
    marks = identifying(dataset, keyword_for_tag)
    for number, stored in enumerate(_frames(path, dataset, layout)):
        if layout.photometric in _GREY:
            pixels = _grey(stored, dataset, number, layout, data)
        elif layout.photometric == "PALETTE COLOR":
            pixels = _palette(stored, dataset)
        else:
            pixels = _eight_bits(stored, layout.stored)
        part = f"frame {number + 1}" if layout.frames > 1 else ""
        yield Picture(pixels, label, patient, part, {} if number else marks)


# Opening: what kind of file, and is it safe to go on.


def _open(path: Path) -> Dataset:
    try:
        from pydicom import dcmread
        from pydicom.filereader import read_dataset, read_preamble
    except ImportError:
        raise CohortError(_HINT) from None
    if not path.is_file():
        raise CohortError("does not exist, or is not a file")
    try:
        with path.open("rb") as handle:
            if not looks_like_dicom(handle.read(132), path.name):
                raise CohortError("is not a DICOM file")
            handle.seek(0)
            read_preamble(handle, force=True)
            meta = read_dataset(handle, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)
            deflated = meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99"
            if deflated:
                _check_inflated(handle)
    except OSError as error:
        raise CohortError(f"cannot be read ({error.strerror})") from None
    # Offsets of deferred values would be wrong in a deflated file, which is in memory as a whole anyway.
    return dcmread(str(path), force=True, defer_size=None if deflated else _DEFERRED)


def _check_inflated(handle: BinaryIO) -> None:
    """Refuse what a few deflated bytes could blow up to fill the memory."""
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while block := (inflate.unconsumed_tail or handle.read(2**20)):
        total += len(inflate.decompress(block, 2**24))
        if total > _INFLATED:
            raise CohortError(f"is larger than {_INFLATED:,} bytes when inflated")
        if inflate.eof:
            return


def _check_has_pixels(dataset: Dataset) -> None:
    kind = _kind(dataset)
    if kind is not None and kind.endswith(_MAPS):
        raise NotAnImage(f"{kind}: no image of its own")
    if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
        raise CohortError(
            "holds floating-point pixels, which are not read: save it with integers and a rescale"
        )
    if "PixelData" in dataset:
        return
    if kind is None or "Rows" in dataset or kind.endswith(" Image"):
        what = f"is a {kind}" if kind else "is a DICOM object of no known kind,"
        raise CohortError(f"{what} without its pixels: damaged, or they are kept elsewhere")
    raise NotAnImage(f"{kind}: no pixels")


def _kind(dataset: Dataset) -> str | None:
    """What the object is, such as `DICOM RT Plan`, by the standard's names; None if it does not say."""
    from pydicom.uid import UID

    uid = UID(dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID") or "")
    if not uid:
        return None
    known = uid.name != str(uid) and "Storage" in uid.name  # others have no name but themselves
    return "DICOM " + (re.sub(r" Storage( - .*)?$", "", uid.name) if known else "object of a private kind")


# The image pixel module: what the header promises, checked before a byte is decoded.


@dataclass(frozen=True)
class _Layout:
    """The image pixel module of PS3.3 C.7.6.3; `stored` bits, the highest at `high`, in `allocated` bits."""

    rows: int
    columns: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool
    planar: int
    photometric: str

    @property
    def frame_bits(self) -> int:
        """Length of one native frame; YBR_FULL_422 shares its two colour samples between two pixels."""
        samples = 2 if self.photometric == "YBR_FULL_422" else self.samples
        return self.rows * self.columns * samples * self.allocated

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and largest number that the stored bits can hold."""
        if self.signed:
            return -(2 ** (self.stored - 1)), 2 ** (self.stored - 1) - 1
        return 0, 2**self.stored - 1


def _layout(dataset: Dataset) -> _Layout:
    allocated = _whole(dataset, "BitsAllocated")
    stored = _whole(dataset, "BitsStored", allocated)
    layout = _Layout(
        rows=_whole(dataset, "Rows"),
        columns=_whole(dataset, "Columns"),
        frames=_whole(dataset, "NumberOfFrames", 1) or 1,
        samples=_whole(dataset, "SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        high=_whole(dataset, "HighBit", stored - 1),
        signed=_whole(dataset, "PixelRepresentation", 0) == 1,
        planar=_whole(dataset, "PlanarConfiguration", 0),
        photometric=as_text(dataset.get("PhotometricInterpretation")).upper(),
    )
    _check_layout(layout)
    return layout


def _check_layout(layout: _Layout) -> None:
    if layout.rows < 1 or layout.columns < 1 or layout.frames < 1:
        raise CohortError(f"has no pixels ({layout.columns}x{layout.rows} px, {layout.frames} frames)")
    if Image.MAX_IMAGE_PIXELS is not None and layout.rows * layout.columns > Image.MAX_IMAGE_PIXELS:
        raise CohortError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels: crop or shrink it first")
    if not layout.photometric:
        raise CohortError(
            "has no PhotometricInterpretation, without which black and white cannot be told apart"
        )
    if layout.photometric not in _GREY | _COLOUR | {"PALETTE COLOR"}:
        raise CohortError("has a colour model (PhotometricInterpretation) that is not read: save it as RGB")
    if layout.samples != (3 if layout.photometric in _COLOUR else 1):
        raise CohortError(f"has {layout.samples} samples per pixel, which is not {layout.photometric}")
    if layout.allocated not in {1, 8, 16, 32} or not 1 <= layout.stored <= layout.allocated:
        raise CohortError(f"has {layout.stored} bits stored in {layout.allocated}, which is not read")
    if not layout.stored - 1 <= layout.high < layout.allocated:
        raise CohortError(f"has its highest of {layout.stored} stored bits at {layout.high}, which cannot be")


def _whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """An attribute that is one whole number."""
    value = dataset.get(keyword)
    if value is None or value == "":
        if default is None:
            raise CohortError(f"has no {keyword}")
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise CohortError(f"has no usable {keyword}") from None


# Pixel data to frames of stored values.


def _frames(path: Path, dataset: Dataset, layout: _Layout) -> Iterator[Values]:
    """(H, W) stored values, their unused bits cleared, or (H, W, 3) RGB; one frame after the other."""
    decoder, syntax = _decoder(dataset)
    element: Any = dataset.get_item("PixelData")
    left = element.is_raw and element.value is None and element.length  # in the file, from `value_tell` on
    with path.open("rb") if left else io.BytesIO(element.value or b"") as handle:
        start, length = (element.value_tell, element.length) if left else (0, 0xFFFFFFFF)
        there = handle.seek(0, io.SEEK_END) - start
        handle.seek(start)
        if decoder.is_native:
            layout = _check_length(layout, there if length == 0xFFFFFFFF else min(there, length))
        else:
            _check_coded_sizes(handle, layout, _offsets(dataset))
            handle.seek(start)
        if decoder.is_native and layout.allocated == 1:
            yield from _packed(handle, layout)
            return
        arrays = decoder.iter_array(handle, **_options(dataset, layout, decoder))
        for number in range(layout.frames):
            try:
                array, properties = next(arrays)
            except StopIteration:
                raise CohortError(
                    f"holds {number} of the {layout.frames} frames that its header promises"
                ) from None
            except Exception:
                where = f"frame {number + 1} " if layout.frames > 1 else ""
                raise CohortError(f"{where}cannot be decoded: damaged {syntax}") from None
            if layout.samples == 3 and properties["photometric_interpretation"] not in _DECODED:
                raise CohortError(
                    "has a colour model (PhotometricInterpretation) that is not read: save it as RGB"
                )
            array = array.astype(array.dtype.newbyteorder("="), copy=False)
            yield _high_bits(array, layout) if _is_shifted(decoder, layout) else array


def _packed(handle: BinaryIO, layout: _Layout) -> Iterator[Values]:
    """Frames of one bit a pixel, which need not begin or end at a byte; pydicom cuts such frames short."""
    size, start = layout.rows * layout.columns, handle.tell()
    for number in range(layout.frames):
        first, past = number * size // 8, -(-(number + 1) * size // 8)
        handle.seek(start + first)
        bits = np.unpackbits(np.frombuffer(handle.read(past - first), np.uint8), bitorder="little")
        skipped = number * size % 8
        yield bits[skipped : skipped + size].reshape(layout.rows, layout.columns)


def _decoder(dataset: Dataset) -> tuple[Decoder, str]:
    """What decodes the file's transfer syntax, and that syntax's name."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    uid = UID(dataset.file_meta.get("TransferSyntaxUID") or "")
    if not uid:  # a bare data set: the bytes told how it is encoded
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        uid = ImplicitVRLittleEndian if implicit else explicit
    name = uid.name if uid.name != str(uid) else "an unknown transfer syntax"
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        raise CohortError(f"is compressed as {name}, which is not read: decompress it first") from None
    if not decoder.is_available:
        raise CohortError(f"is compressed as {name}: pip install 'privsyn[dicom]' brings a decoder")
    return decoder, name


def _options(dataset: Dataset, layout: _Layout, decoder: Decoder) -> dict[str, Any]:
    options: dict[str, Any] = {
        "rows": layout.rows,
        "columns": layout.columns,
        "number_of_frames": layout.frames,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": getattr(dataset.get_item("PixelData"), "VR", None) or "OW",
        "allow_excess_frames": False,
    }
    if layout.samples > 1:
        options["planar_configuration"] = layout.planar
    if not decoder.is_native:
        options["extended_offsets"] = _offsets(dataset)
    if _is_shifted(decoder, layout):
        options["correct_unused_bits"] = False
    return options


def _offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    table, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    return (table, lengths) if table and lengths else None


def _check_length(layout: _Layout, there: int) -> _Layout:
    """Hold native pixel data against the header; what is 4:2:2 in name only is read in full."""
    needed = math.ceil(layout.frame_bits * layout.frames / 8)
    if there < needed:
        raise CohortError(f"holds {there:,} bytes of pixels where its header promises {needed:,}: cut short?")
    if layout.photometric == "YBR_FULL_422" and there >= needed // 2 * 3:
        return _Layout(**{**layout.__dict__, "photometric": "YBR_FULL"})
    return layout


def _is_shifted(decoder: Decoder, layout: _Layout) -> bool:
    """Whether values do not end at bit 0, as in old files with overlays below them."""
    as_stored = decoder.is_native or decoder.UID == "1.2.840.10008.1.2.5"  # RLE keeps all bits where they are
    return as_stored and layout.samples == 1 and layout.high != layout.stored - 1


def _high_bits(array: Values, layout: _Layout) -> Values:
    # Left, then right: a signed type fills up with copies of the sign bit.
    return np.right_shift(
        np.left_shift(array, layout.allocated - 1 - layout.high), layout.allocated - layout.stored
    )


def _check_coded_sizes(handle: BinaryIO, layout: _Layout, offsets: tuple[bytes, bytes] | None) -> None:
    """Refuse a compressed frame that is larger than the header says, before a decoder makes room for it."""
    from pydicom.encaps import generate_frames

    frames = generate_frames(handle, number_of_frames=layout.frames, extended_offsets=offsets)
    declared = (layout.rows, layout.columns, layout.samples)
    while True:
        try:
            frame = next(frames, None)
        except Exception:
            return  # what cannot be taken apart is named where it is decoded
        if frame is None:
            return
        if _is_endless(frame):
            raise CohortError("has a JPEG 2000 frame with an empty box: damaged")
        coded = _coded_size(frame)
        if coded is not None and coded != declared:
            height, width, samples = coded
            raise CohortError(
                f"is {layout.columns}x{layout.rows} px x {layout.samples} in its header and "
                f"{width}x{height} px x {samples} in its compressed pixels: damaged"
            )


def _is_endless(frame: bytes) -> bool:
    """Whether a box before a JP2 codestream has length 0, over which pydicom 3.0 steps for ever."""
    place = 12 if frame.startswith(b"\0\0\0\x0cjP  ") else len(frame)
    while place < len(frame) and frame[place + 4 : place + 8] != b"jp2c":
        length = int.from_bytes(frame[place : place + 4], "big")
        if not length:
            return True
        place += length
    return False


def _coded_size(frame: bytes) -> tuple[int, int, int] | None:
    """Height, width and components that a JPEG, JPEG-LS or JPEG 2000 frame says it has; None for others."""
    if frame[:2] == b"\xff\xd8":
        place = 2
        while place + 10 <= len(frame) and frame[place] == 0xFF:
            if frame[place + 1] in _FRAME_SIZES:
                height, width, components = struct.unpack_from(">HHB", frame, place + 5)
                return (height, width, components) if height and width else None  # 0: said further on
            place += 1 if frame[place + 1] == 0xFF else 2 + struct.unpack_from(">H", frame, place + 2)[0]
        return None
    start = frame.find(b"\xff\x4f\xff\x51")  # a codestream begins with the markers SOC and SIZ
    if start < 0 or len(frame) < start + 42:
        return None
    right, bottom, left, top, *_, components = struct.unpack_from(">8IH", frame, start + 8)
    return bottom - top, right - left, components


# Stored values to what is shown.


def _grey(stored: Values, dataset: Dataset, number: int, layout: _Layout, data: Data) -> Pixels:
    """(H, W) stored values to (H, W, 1) shown ones, quantised once."""
    if stored.dtype.itemsize > 2 or stored.size <= 2**16:
        return _shown(stored, dataset, number, layout, data)[..., np.newaxis]
    # Larger pictures look up what each value that there can be is shown as.
    bounds = np.iinfo(stored.dtype)
    every = np.arange(bounds.min, bounds.max + 1).astype(stored.dtype)
    table = _shown(every, dataset, number, layout, data)
    pixels: Pixels = table[stored.astype(np.int32) - bounds.min]
    return pixels[..., np.newaxis]


def _shown(stored: Values, dataset: Dataset, number: int, layout: _Layout, data: Data) -> Pixels:
    """Stored values of any shape to shown ones: modality, VOI, negative, padding, levels."""
    values, extent = _modality(
        stored, _macro(dataset, number, "PixelValueTransformationSequence"), dataset, layout
    )
    if data.window is not None and layout.stored > 8:
        shown = _linear(values, *data.window)
    else:
        shown = _voi(values, extent, _macro(dataset, number, "FrameVOILUTSequence"), dataset)
    if layout.photometric == "MONOCHROME1":
        shown = 1 - shown
    shown = np.where(_padding(stored, dataset, layout), 0, np.clip(shown, 0, 1))
    if data.bit_depth == 16:
        deep: Pixels = np.rint(shown * 65535).astype(np.uint16)
        return deep
    flat: Pixels = np.rint(shown * 255).astype(np.uint8)
    return flat


def _macro(dataset: Dataset, number: int, keyword: str) -> Dataset:
    """Where an object says something of a frame: the frame's item, the shared one, or the object itself."""
    frames, shared = (
        dataset.get("PerFrameFunctionalGroupsSequence"),
        dataset.get("SharedFunctionalGroupsSequence"),
    )
    for group in ([frames[number]] if frames and number < len(frames) else []) + list(shared or [])[:1]:
        if group.get(keyword):
            item: Dataset = group[keyword].value[0]
            return item
    return dataset


def _modality(
    stored: Values, source: Dataset, dataset: Dataset, layout: _Layout
) -> tuple[Values, tuple[float, float]]:
    """Stored values to those of the modality, such as HU, and the least and most there can be (C.11.1)."""
    low, high = layout.range
    if source.get("ModalityLUTSequence"):
        table, first, bits = _table(source.ModalityLUTSequence[0], dataset, signed=layout.signed)
        return _looked_up(stored, table, first).astype(np.float64), (0, 2**bits - 1)
    slope, intercept = _number(source, "RescaleSlope"), _number(source, "RescaleIntercept")
    slope = 1.0 if slope is None else slope
    if not slope:
        raise CohortError("has a rescale slope of 0, which would leave no picture")
    ends = sorted(end * slope + (intercept or 0.0) for end in (low, high))
    return stored.astype(np.float64) * slope + (intercept or 0.0), (ends[0], ends[1])


def _voi(values: Values, extent: tuple[float, float], source: Dataset, dataset: Dataset) -> Values:
    """Values to 0..1 through the file's first VOI LUT or window, else over their extent (C.11.2)."""
    if source.get("VOILUTSequence"):
        table, first, bits = _table(source.VOILUTSequence[0], dataset, signed=extent[0] < 0)
        return np.asarray(np.minimum(_looked_up(np.rint(values), table, first) / (2**bits - 1), 1))
    centre, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    function = as_text(source.get("VOILUTFunction")).upper() or "LINEAR"
    if centre is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        low, high = extent
        return (values - low) / (high - low)
    if function == "LINEAR":
        return _linear(values, centre, width)
    if function == "LINEAR_EXACT":
        return _ramp(values, centre, width)
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700))))
    raise CohortError("has a VOILUTFunction that is none of LINEAR, LINEAR_EXACT and SIGMOID")


def _linear(values: Values, centre: float, width: float) -> Values:
    """The window of C.11.2.1.2: its `width` counts both of its ends, so 0..255 is centre 128, width 256."""
    if width < 1:
        raise CohortError("needs data.window with a width of 1 or more (DICOM PS3.3 C.11.2.1.2)")
    return _ramp(values, centre - 0.5, width - 1)


def _ramp(values: Values, centre: float, width: float) -> Values:
    if not width:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _padding(stored: Values, dataset: Dataset, layout: _Layout) -> NDArray[np.bool_]:
    """Which pixels are not part of the image (C.7.5.1.1.2); the value may be given with the wrong sign."""
    if dataset.get("PixelPaddingValue") in (None, ""):
        return np.zeros(stored.shape, dtype=np.bool_)
    span, low = 2**layout.allocated, -(2 ** (layout.allocated - 1)) if layout.signed else 0
    value = (_whole(dataset, "PixelPaddingValue") - low) % span + low
    limit = (_whole(dataset, "PixelPaddingRangeLimit", value) - low) % span + low
    return np.asarray((stored >= min(value, limit)) & (stored <= max(value, limit)))


def _palette(stored: Values, dataset: Dataset) -> Pixels:
    """(H, W) indices to (H, W, 3) RGB through the object's palette (C.7.6.3.1.5 and 6, C.7.9)."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(stored, dataset)[..., :3]
        return _eight_bits(colours, 8 * colours.dtype.itemsize)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        signed = dataset.get("PixelRepresentation") == 1
        table, first, bits = _table(dataset, dataset, name + "Descriptor", name + "Data", signed=signed)
        channels.append((_looked_up(stored, table, first), bits, int(table.max())))
    # Some writers say 16 bits and mean 8.
    bits = 8 if max(top for _, _, top in channels) < 256 else channels[0][1]
    return _eight_bits(np.stack([channel for channel, _, _ in channels], axis=-1), bits)


def _table(
    item: Dataset,
    dataset: Dataset,
    descriptor: str = "LUTDescriptor",
    entries: str = "LUTData",
    *,
    signed: bool,
) -> tuple[Values, int, int]:
    """A look-up table: its entries, the value that the first one stands for, and its bits (C.11.1.1)."""
    try:
        count, first, bits = (int(part) for part in item[descriptor].value)
        content = item[entries].value
    except (KeyError, TypeError, ValueError):
        raise CohortError(f"has a look-up table without a usable {descriptor} or {entries}") from None
    count = count or 2**16
    if isinstance(content, bytes):
        order = ">" if dataset.original_encoding[1] is False else "<"
        wide = bits > 8 or len(content) >= 2 * count
        table = np.frombuffer(
            content[: len(content) // 2 * 2] if wide else content, f"{order}u2" if wide else "u1"
        )
    else:
        table = np.atleast_1d(np.asarray(content, dtype=np.int64)) & 0xFFFF
        if len(table) < count <= 2 * len(table):  # two entries of 8 bits in each number
            table = table.astype("<u2").view(np.uint8)
    if len(table) < count or not 1 <= bits <= 16:
        raise CohortError(f"has a look-up table with {len(table)} of its {count} entries, of {bits} bits")
    return table[:count].astype(np.int64), first - 2**16 if signed and first >= 2**15 else first, bits


def _looked_up(values: Values, table: Values, first: int) -> Values:
    """The entry of each value; the first or last one beyond the ends."""
    return np.asarray(table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)])


def _eight_bits(values: Values, bits: int) -> Pixels:
    """Colours of any depth as uint8."""
    if bits == 8:
        return np.ascontiguousarray(values.astype(np.uint8))
    scaled: NDArray[np.uint8] = np.rint(np.clip(values / (2**bits - 1), 0, 1) * 255).astype(np.uint8)
    return scaled


def _number(dataset: Dataset, keyword: str) -> float | None:
    """The first value of an attribute as a finite number, None without it."""
    value = dataset.get(keyword)
    if value is not None and not isinstance(value, str | float | int):
        value = next(iter(value), None)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise CohortError(f"has no usable {keyword}")
    return number


# What the tags say, and keeping the parsers quiet.


def _label(dataset: Dataset, keyword: str) -> str:
    from pydicom.datadict import tag_for_keyword

    if tag_for_keyword(keyword) is None:
        raise CohortError(f"cannot have the label data.label_tag = {keyword!r}: that is no DICOM keyword")
    label = as_text(dataset.get(keyword))
    if not label:
        raise CohortError(f"has no {keyword}")
    return label


# Bare data sets.

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # kinds with lengths of 4 bytes
_KINDS = _LONG | frozenset(b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split())


def _has_elements(head: bytes, wanted: int, order: str, explicit: bool) -> bool:
    """Whether `head` is `wanted` data elements, group 2 or 8 first, or fewer that reach beyond it."""
    place, last, count = 0, 0, 0
    while count < wanted and place + 8 <= len(head):
        group, element, length = struct.unpack_from(f"{order}HHI", head, place)
        tag, place = group << 16 | element, place + 8
        if (not last and group not in (0x0002, 0x0008)) or group % 2 or group > 0x0040 or tag <= last:
            return False
        if explicit:
            kind = head[place - 4 : place - 2]
            if kind not in _KINDS:
                return False
            (length,) = struct.unpack_from(f"{order}H", head, place - 2)
            if kind in _LONG:
                if place + 4 > len(head):
                    break
                (length,) = struct.unpack_from(f"{order}I", head, place)
                place += 4
        if length % 2 or (length > 2**16 and length != 0xFFFFFFFF):
            return False
        place, last, count = place + length, tag, count + 1
    return count >= 1 and (count >= wanted or place > len(head) - 8)
