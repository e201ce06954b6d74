"""Embeddings of images, computed once per image and kept beside the cohort."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from privsyn.auditing.cache import Arrays, Cache
from privsyn.bit_depth import Images
from privsyn.errors import PrivsynError
from privsyn.features.embed import (
    CHEAP,
    EMBEDDINGS,
    Embedding,
    EmbeddingInfo,
    FeatureRows,
    Whitening,
    embedding_info,
)
from privsyn.features.inference import OpenNetwork
from privsyn.progress import SILENT, Progress

MIN_CACHED_IMAGES = 16  # fewer are as quick to whiten as to look up


class Embeddings:
    """The built-in embeddings and those of the policy's networks.

    Args:
        networks: that the policy names.
        cache: where rows are kept.
    """

    def __init__(self, networks: Sequence[OpenNetwork], cache: Cache, progress: Progress = SILENT) -> None:
        self._networks = {network.name: network for network in networks}
        self._cache, self._progress = cache, progress
        self._rows: dict[str, dict[bytes, FeatureRows]] = {}
        self._new: dict[str, set[bytes]] = {}  # images of each embedding that the cache does not have

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of the policy's networks, in its order."""
        return tuple(self._networks)

    def info(self, name: str) -> EmbeddingInfo:
        """What a reader must know to compare numbers in an embedding: network, sha256, size, resizing."""
        self._embedder(name)
        network = self._networks.get(name)
        return embedding_info(name) if network is None else network.embedding_info()

    def rows(self, name: str, images: Images) -> FeatureRows:
        """(n, d) rows of an embedding; images that were embedded before are looked up.

        Raises:
            PrivsynError: no embedding has that name.
        """
        embedder, key = self._embedder(name), self._key(name)
        if name in CHEAP or not len(images):
            return embedder(images, self._progress)
        if key not in self._rows:
            self._rows[key] = _by_digest(self._cache.read(key))
        known = self._rows[key]
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new = {digest: row for row, digest in enumerate(digests) if digest not in known}
        if new:
            rows = embedder(images[list(new.values())], self._progress)
            known.update(zip(new, rows, strict=True))
            self._new.setdefault(key, set()).update(new)
        return np.stack([known[digest] for digest in digests])

    def whitened(self, name: str, reference: Images) -> Callable[[Images], FeatureRows]:
        """The embedding, whitened on reference images; a cheap one (pixels) as it is."""
        if name in CHEAP:
            return partial(self.rows, name)
        key = self._key(name)

        def fit() -> Arrays:
            return vars(Whitening.fit(self.rows(name, reference)))

        def represent(images: Images) -> FeatureRows:
            def compute() -> Arrays:
                return {"rows": whitening(self.rows(name, images))}

            if len(images) <= MIN_CACHED_IMAGES:
                return compute()["rows"]
            return self._cache.kept(f"{key}, whitened", compute, images)["rows"]

        whitening = Whitening(**self._cache.kept(f"whitening of {key}", fit))
        return represent

    def save(self, *parts: Images) -> None:
        """Write the rows of these images to the cache, for every embedding that has new ones."""
        wanted = {hashlib.sha256(image.tobytes()).digest() for images in parts for image in images}
        for key in sorted(key for key, new in self._new.items() if new & wanted):
            known = self._rows[key]
            kept = sorted(wanted & known.keys())
            digests = np.frombuffer(b"".join(kept), np.uint8).reshape(-1, 32)
            self._cache.write(key, {"digests": digests, "rows": np.stack([known[each] for each in kept])})
        self._new.clear()

    def _embedder(self, name: str) -> Embedding:
        known: dict[str, Embedding] = {**EMBEDDINGS, **self._networks}
        if name not in known:
            raise PrivsynError(f"no embedding is called {name!r}: choose from {', '.join(known)}")
        return known[name]

    def _key(self, name: str) -> str:
        """The name in the cache: two networks of one name have different keys."""
        return self._networks[name].network.key if name in self._networks else name


def _by_digest(stored: Arrays | None) -> dict[bytes, FeatureRows]:
    if stored is None:
        return {}
    return {digest.tobytes(): row for digest, row in zip(stored["digests"], stored["rows"], strict=True)}
