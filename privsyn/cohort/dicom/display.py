"""Stored values of a DICOM object to shown values (PS3.3 C.11.1 and C.11.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privsyn.bit_depth import Images
from privsyn.cohort.confidentiality import as_text
from privsyn.cohort.dicom.layout import PixelLayout, StoredValues, whole
from privsyn.errors import CohortError
from privsyn.recipe import Data

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def grey(stored: StoredValues, dataset: Dataset, number: int, layout: PixelLayout, data: Data) -> Images:
    """(H, W) stored values to (H, W, 1) shown ones, quantised once."""
    if stored.dtype.itemsize > 2 or stored.size <= 2**16:
        return _shown(stored, dataset, number, layout, data)[..., np.newaxis]
    # For larger images, compute the shown value of every possible stored value once.
    bounds = np.iinfo(stored.dtype)
    every = np.arange(bounds.min, bounds.max + 1).astype(stored.dtype)
    table = _shown(every, dataset, number, layout, data)
    pixels: Images = table[stored.astype(np.int32) - bounds.min]
    return pixels[..., np.newaxis]


def _shown(stored: StoredValues, dataset: Dataset, number: int, layout: PixelLayout, data: Data) -> Images:
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
        deep: Images = np.rint(shown * 65535).astype(np.uint16)
        return deep
    flat: Images = np.rint(shown * 255).astype(np.uint8)
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
    stored: StoredValues, source: Dataset, dataset: Dataset, layout: PixelLayout
) -> tuple[StoredValues, tuple[float, float]]:
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


def _voi(
    values: StoredValues, extent: tuple[float, float], source: Dataset, dataset: Dataset
) -> StoredValues:
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


def _linear(values: StoredValues, centre: float, width: float) -> StoredValues:
    """The window of C.11.2.1.2: its `width` counts both of its ends, so 0..255 is centre 128, width 256."""
    if width < 1:
        raise CohortError("needs data.window with a width of 1 or more (DICOM PS3.3 C.11.2.1.2)")
    return _ramp(values, centre - 0.5, width - 1)


def _ramp(values: StoredValues, centre: float, width: float) -> StoredValues:
    if not width:
        return (values > centre).astype(np.float64)
    return np.clip((values - centre) / width + 0.5, 0, 1)


def _padding(stored: StoredValues, dataset: Dataset, layout: PixelLayout) -> NDArray[np.bool_]:
    """Which pixels are not part of the image (C.7.5.1.1.2); the value may be given with the wrong sign."""
    if dataset.get("PixelPaddingValue") in (None, ""):
        return np.zeros(stored.shape, dtype=np.bool_)
    span, low = 2**layout.allocated, -(2 ** (layout.allocated - 1)) if layout.signed else 0
    value = (whole(dataset, "PixelPaddingValue") - low) % span + low
    limit = (whole(dataset, "PixelPaddingRangeLimit", value) - low) % span + low
    return np.asarray((stored >= min(value, limit)) & (stored <= max(value, limit)))


def palette(stored: StoredValues, dataset: Dataset) -> Images:
    """(H, W) indices to (H, W, 3) RGB through the object's palette (C.7.6.3.1.5 and 6, C.7.9)."""
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        from pydicom.pixels import apply_color_lut

        colours = apply_color_lut(stored, dataset)[..., :3]
        return eight_bits(colours, 8 * colours.dtype.itemsize)
    channels = []
    for colour in ("Red", "Green", "Blue"):
        name = f"{colour}PaletteColorLookupTable"
        signed = dataset.get("PixelRepresentation") == 1
        table, first, bits = _table(dataset, dataset, name + "Descriptor", name + "Data", signed=signed)
        channels.append((_looked_up(stored, table, first), bits, int(table.max())))
    # Some writers say 16 bits and mean 8.
    bits = 8 if max(top for _, _, top in channels) < 256 else channels[0][1]
    return eight_bits(np.stack([channel for channel, _, _ in channels], axis=-1), bits)


def _table(
    item: Dataset,
    dataset: Dataset,
    descriptor: str = "LUTDescriptor",
    entries: str = "LUTData",
    *,
    signed: bool,
) -> tuple[StoredValues, int, int]:
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


def _looked_up(values: StoredValues, table: StoredValues, first: int) -> StoredValues:
    """The entry of each value; the first or last one beyond the ends."""
    return np.asarray(table[np.clip(values.astype(np.int64) - first, 0, len(table) - 1)])


def eight_bits(values: StoredValues, bits: int) -> Images:
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
