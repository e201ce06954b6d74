"""The nearest patient to each synthetic image in an embedding, and how much the image exposes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.cache import content
from privsyn.auditing.evidence import Evidence
from privsyn.bit_depth import Images
from privsyn.features.embed import FeatureRows
from privsyn.features.neighbours import nearest

NEIGHBOURS = 50

Scores = NDArray[np.float64]
Embed = Callable[[Images], FeatureRows]

_FIELDS = ("exposure", "cluster", "image", "mirrored")


@dataclass(frozen=True, eq=False)
class Matches:
    """The nearest cluster of the population to each queried image, in every index of a space.

    Attributes:
        exposure: (m, indexes) log ratio of distances, high = suspicious.
        cluster: (m, indexes) the nearest cluster.
        image: (m, indexes) the nearest image of the population.
        mirrored: (m, indexes) whether the mirror image of the query was nearer.
    """

    exposure: Scores
    cluster: NDArray[np.int64]
    image: NDArray[np.int64]
    mirrored: NDArray[np.bool_]

    def of(self, rows: NDArray[np.int64]) -> Matches:
        """The matches of some queries."""
        return Matches(self.exposure[rows], self.cluster[rows], self.image[rows], self.mirrored[rows])

    def with_planted(self, planted: Matches, places: NDArray[np.int64]) -> Matches:
        """These matches, some of them replaced by those of planted images."""
        columns = []
        for field in _FIELDS:
            column = getattr(self, field).copy()
            column[places] = getattr(planted, field)
            columns.append(column)
        return Matches(*columns)

    def per_cluster(self, clusters: int) -> Scores:
        """(clusters,) the highest exposure of each cluster; -inf where no image is nearest to it."""
        scores = np.full(clusters, -np.inf)
        np.maximum.at(scores, self.cluster, self.exposure)
        return scores


@dataclass(frozen=True, eq=False)
class Index:
    """Images of the population in one embedding, searched for nearest neighbours.

    Attributes:
        images: (k,) which images of the population are in the index.
        clusters: (k,) the cluster of each.
        rows: (k, d) their embeddings.
        embed: embeds queries in the same way.
    """

    images: NDArray[np.int64]
    clusters: NDArray[np.int64]
    rows: FeatureRows
    embed: Embed

    @cached_property
    def content(self) -> NDArray[np.uint8]:
        """(32,) digest of images, clusters and rows."""
        return np.frombuffer(content(self.images, self.clusters, self.rows), np.uint8)

    def match(self, images: Images) -> Matches:
        """The nearest cluster to each image (m, H, W, C) or its mirror image, in one column."""
        straight = nearest(self.embed(images), self.rows, NEIGHBOURS)
        turned = nearest(self.embed(images[:, :, ::-1]), self.rows, NEIGHBOURS)
        mirrored = turned.distances[:, 0] < straight.distances[:, 0]
        distances = np.where(mirrored[:, None], turned.distances, straight.distances)
        indices = np.where(mirrored[:, None], turned.indices, straight.indices)
        clusters = self.clusters[indices]
        # other images of the same patient are as near as the first and would hide it
        others = np.where(clusters == clusters[:, :1], np.nan, distances)
        others[np.isnan(others).all(axis=1)] = distances[:, -1:][np.isnan(others).all(axis=1)]
        exposure = np.log(np.nanmedian(others, axis=1) / np.maximum(distances[:, 0], 1e-9) + 1e-12)
        first = self.images[indices[:, 0]]
        return Matches(exposure[:, None], clusters[:, :1], first[:, None], mirrored[:, None])


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """One representation of the population: one index of all images, or one per cross-fitted part."""

    name: str
    indexes: tuple[Index, ...]

    @classmethod
    def of(cls, name: str, evidence: Evidence) -> EmbeddingSpace:
        """One index of train and holdout together, embedded by `Evidence.representation`."""
        population, embed = evidence.population, evidence.representation(name)
        every_image = np.arange(len(population.images))
        return cls(name, (Index(every_image, population.cluster, embed(population.images), embed),))

    def match(self, images: Images) -> Matches:
        """The nearest cluster to each image (m, H, W, C) in every index, one column each."""
        found = [index.match(images) for index in self.indexes]
        return Matches(*(np.hstack([getattr(each, field) for each in found]) for field in _FIELDS))
