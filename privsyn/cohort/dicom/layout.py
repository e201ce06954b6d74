"""The image pixel module of a DICOM header, checked before a byte is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from PIL import Image

from privsyn.cohort.confidentiality import as_text
from privsyn.errors import CohortError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

GREY_MODELS = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOUR_MODELS = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})

StoredValues = NDArray[Any]  # of any integer type


@dataclass(frozen=True)
class PixelLayout:
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


def layout_of(dataset: Dataset) -> PixelLayout:
    """Read and check the image pixel module.

    Raises:
        CohortError: an attribute is missing, malformed or contradicts another.
    """
    allocated = whole(dataset, "BitsAllocated")
    stored = whole(dataset, "BitsStored", allocated)
    layout = PixelLayout(
        rows=whole(dataset, "Rows"),
        columns=whole(dataset, "Columns"),
        frames=whole(dataset, "NumberOfFrames", 1) or 1,
        samples=whole(dataset, "SamplesPerPixel", 1),
        allocated=allocated,
        stored=stored,
        high=whole(dataset, "HighBit", stored - 1),
        signed=whole(dataset, "PixelRepresentation", 0) == 1,
        planar=whole(dataset, "PlanarConfiguration", 0),
        photometric=as_text(dataset.get("PhotometricInterpretation")).upper(),
    )
    _check_layout(layout)
    return layout


def _check_layout(layout: PixelLayout) -> None:
    if layout.rows < 1 or layout.columns < 1 or layout.frames < 1:
        raise CohortError(f"has no pixels ({layout.columns}x{layout.rows} px, {layout.frames} frames)")
    if Image.MAX_IMAGE_PIXELS is not None and layout.rows * layout.columns > Image.MAX_IMAGE_PIXELS:
        raise CohortError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels: crop or shrink it first")
    if not layout.photometric:
        raise CohortError(
            "has no PhotometricInterpretation, without which black and white cannot be told apart"
        )
    if layout.photometric not in GREY_MODELS | COLOUR_MODELS | {"PALETTE COLOR"}:
        raise CohortError("has a colour model (PhotometricInterpretation) that is not read: save it as RGB")
    if layout.samples != (3 if layout.photometric in COLOUR_MODELS else 1):
        raise CohortError(f"has {layout.samples} samples per pixel, which is not {layout.photometric}")
    if layout.allocated not in {1, 8, 16, 32} or not 1 <= layout.stored <= layout.allocated:
        raise CohortError(f"has {layout.stored} bits stored in {layout.allocated}, which is not read")
    if not layout.stored - 1 <= layout.high < layout.allocated:
        raise CohortError(f"has its highest of {layout.stored} stored bits at {layout.high}, which cannot be")


def whole(dataset: Dataset, keyword: str, default: int | None = None) -> int:
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
