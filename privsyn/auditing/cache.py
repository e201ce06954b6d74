"""A cache of computed arrays, addressed by content: a second policy on the same set costs seconds.

It is a folder of the cohort, which never leaves the study: embeddings, distances and scores are un-noised
statistics of real patients, as internal as the images, and are deleted with the cohort. Nothing in it depends
on a policy. Whoever can write to it can also write to the cohort.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from privsyn.files import json_digest, whole_file

FOLDER = "audit-cache"  # within a cohort

Arrays = dict[str, NDArray[Any]]


class Cache:
    """Arrays by name, in memory and, where there is a folder that can be written to, on disk.

    Args:
        folder: None keeps them in memory alone.
        about: digests of what every array depends on, such as cohort and model.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, str | None]) -> None:
        self.folder, self.about = folder, dict(about)
        self._arrays: dict[str, Arrays] = {}

    def arrays(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """Arrays of this name, computed if they are not there; they are shared, so do not change them."""
        if name not in self._arrays:
            found = self.read(name)
            if found is None:
                found = compute()
                self.write(name, found)
            self._arrays[name] = dict(sorted(found.items()))  # as they would come from disk
        return self._arrays[name]

    def kept(self, name: str, compute: Callable[[], Arrays], *depends: NDArray[Any]) -> Arrays:
        """The same under a name that also stands for the content of the arrays `depends`."""
        return self.arrays(depending(name, *depends), compute)

    def write(self, name: str, arrays: Arrays) -> None:
        """Keep arrays on disk; if the folder cannot be written to, they are kept in memory alone."""
        if self.folder is None:
            return
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            with whole_file(self._file(name)) as partial:
                save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, partial)
        except OSError:
            self.folder = None

    def read(self, name: str) -> Arrays | None:
        """Arrays on disk; None if there are none or the file cannot be read."""
        if self.folder is None:
            return None
        try:
            return dict(load_file(self._file(name)))
        except (OSError, SafetensorError):
            return None

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        key = json_digest({"name": name, "code": code_digest(), **self.about})
        return self.folder / f"{key}.safetensors"


def depending(name: str, *arrays: NDArray[Any]) -> str:
    """A name that changes with the type, shape or values of the arrays."""
    return f"{name}; {content(*arrays).hex()}" if arrays else name


def content(*arrays: NDArray[Any]) -> bytes:
    """sha256 of the types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()


@cache
def code_digest() -> str:
    """sha256 (hex) of the source of privsyn and of its own audits: other code may compute other numbers."""
    sources = sorted(
        file
        for package in ("privsyn", "privsyn_audits")
        if (spec := find_spec(package)) is not None
        for folder in spec.submodule_search_locations or ()
        for file in Path(folder).rglob("*.py")
    )
    digests = (hashlib.sha256(file.read_bytes()).digest() for file in sources)
    return hashlib.sha256(b"".join(digests)).hexdigest()
