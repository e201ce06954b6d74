"""Pixel data of a DICOM object to frames of stored values."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from privsyn.cohort.dicom.layout import PixelLayout, StoredValues
from privsyn.errors import CohortError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.pixels.decoders.base import DecodeOptions, Decoder

_DECODED = frozenset(
    {"RGB", "YBR_ICT", "YBR_RCT"}
)  # what decoders of JPEG 2000 return is RGB, whatever its name
_FRAME_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC} | {0xF7})  # JPEG and JPEG-LS markers SOFn


def frames_of(path: Path, dataset: Dataset, layout: PixelLayout) -> Iterator[StoredValues]:
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


def _packed(handle: BinaryIO, layout: PixelLayout) -> Iterator[StoredValues]:
    """Frames of one bit a pixel, which may begin and end within a byte; pydicom truncates such frames."""
    size, start = layout.rows * layout.columns, handle.tell()
    for number in range(layout.frames):
        first, past = number * size // 8, -(-(number + 1) * size // 8)
        handle.seek(start + first)
        bits = np.unpackbits(np.frombuffer(handle.read(past - first), np.uint8), bitorder="little")
        skipped = number * size % 8
        yield bits[skipped : skipped + size].reshape(layout.rows, layout.columns)


def _decoder(dataset: Dataset) -> tuple[Decoder, str]:
    """The decoder of the file's transfer syntax, and the name of that syntax."""
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


def _options(dataset: Dataset, layout: PixelLayout, decoder: Decoder) -> DecodeOptions:
    options: DecodeOptions = {
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
    if not decoder.is_native and (offsets := _offsets(dataset)) is not None:
        options["extended_offsets"] = offsets
    if _is_shifted(decoder, layout):
        options["correct_unused_bits"] = False
    return options


def _offsets(dataset: Dataset) -> tuple[bytes, bytes] | None:
    table, lengths = dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths")
    return (table, lengths) if table and lengths else None


def _check_length(layout: PixelLayout, there: int) -> PixelLayout:
    """Hold native pixel data against the header; what is 4:2:2 in name only is read in full."""
    needed = math.ceil(layout.frame_bits * layout.frames / 8)
    if there < needed:
        raise CohortError(f"holds {there:,} bytes of pixels where its header promises {needed:,}: cut short?")
    if layout.photometric == "YBR_FULL_422" and there >= needed // 2 * 3:
        return replace(layout, photometric="YBR_FULL")
    return layout


def _is_shifted(decoder: Decoder, layout: PixelLayout) -> bool:
    """Whether values do not end at bit 0, as in old files with overlays below them."""
    as_stored = decoder.is_native or decoder.UID == "1.2.840.10008.1.2.5"  # RLE keeps all bits where they are
    return as_stored and layout.samples == 1 and layout.high != layout.stored - 1


def _high_bits(array: StoredValues, layout: PixelLayout) -> StoredValues:
    # Left, then right: a signed type fills up with copies of the sign bit.
    return np.right_shift(
        np.left_shift(array, layout.allocated - 1 - layout.high), layout.allocated - layout.stored
    )


def _check_coded_sizes(handle: BinaryIO, layout: PixelLayout, offsets: tuple[bytes, bytes] | None) -> None:
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
