"""The declaration of a network in a policy: its file, and how images are given to it.

This module reads the declaration and the file's bytes; `privsyn.features.inference` runs them. They are apart
so that reading a policy does not import torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from privsyn.errors import PrivsynError
from privsyn.recipe import Section, Slug

BUILT_IN = ("pixels", "lite0-mid", "lite0")  # names that are taken
FORMATS = {".pt": "TorchScript", ".ts": "TorchScript", ".onnx": "ONNX"}  # by the end of the file's name

PerChannel = tuple[float, ...]


class Network(Section):
    """A network whose output on an image, (d,) or averaged from (d, h, w), is an embedding.

    It is given float32 (n, channels, size, size), `(x - mean) / std` of pixels x in [0, 1].
    """

    name: Slug = Field(description="what audits call it")
    file: Path = Field(description="TorchScript (.pt, .ts) or ONNX (.onnx); relative to the policy")
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="of the file")
    size: int = Field(ge=8, le=1024, description="height and width that images are resized to, pixels")
    channels: Literal[1, 3] = Field(3, description="1 grey, 3 RGB; a network of 3 sees grey images repeated")
    mean: PerChannel | None = Field(None, description="per channel on [0, 1], taken off; 0 when absent")
    std: PerChannel | None = Field(None, description="per channel on [0, 1], divided by; 1 when absent")

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.name in BUILT_IN:
            raise ValueError(f"name: {self.name!r} is the name of a built-in embedding: choose another")
        if self.file.suffix not in FORMATS:
            raise ValueError(
                f"file: {self.file.name!r} is neither TorchScript (.pt, .ts) nor ONNX (.onnx): export it"
            )
        for field, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None and len(numbers) != self.channels:
                raise ValueError(f"{field}: needs one number for each channel, {self.channels}")
        if min(self.per_channel[1]) <= 0:
            raise ValueError("std: must be above 0")
        return self

    @property
    def per_channel(self) -> tuple[PerChannel, PerChannel]:
        """Mean and standard deviation, each (channels,)."""
        return self.mean or (0.0,) * self.channels, self.std or (1.0,) * self.channels

    @property
    def key(self) -> str:
        """The cache key of its rows: it differs wherever an image could get another row."""
        return f"network {self.model_dump_json(exclude={'file'})}"

    def read(self, folder: Path) -> bytes:
        """The file's bytes, after their digest was checked.

        Args:
            folder: of the policy, which a relative `file` starts from.

        Raises:
            PrivsynError: the file cannot be read, or is another one.
        """
        path = folder / self.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PrivsynError(
                f"network {self.name!r}: {path}: {error.strerror}; put it there, or correct `file`"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
        if digest != self.sha256:
            raise PrivsynError(
                f"network {self.name!r}: {path} is not the file that the policy names: its sha256 is "
                f"{digest[:12]}..., not {self.sha256[:12]}...; restore it, or correct `sha256`"
            )
        return content
