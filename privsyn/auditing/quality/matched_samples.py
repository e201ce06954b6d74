"""Real and synthetic images in equal numbers, for measures that depend on the number of images.

The reference sample comes from `holdout` patients. The baseline sample comes from `test` patients: it shows
which values real images reach in place of the synthetic ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Settings
from privsyn.auditing.statistics.resampling import numbered
from privsyn.bit_depth import Images

MAX_SAMPLE_IMAGES = 10_000  # all pairs of two samples still fit into memory; more images change little
MIN_SAMPLE_SIZE = 30  # images, and patients: halves of fewer are too small to compare
TOO_FEW = f"fewer than {MIN_SAMPLE_SIZE} images or patients in one of the samples"

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ImageSample:
    """Images of one kind, with patients and labels.

    Attributes:
        images: (n, H, W, C).
        patients: (n,) number of the patient; each synthetic image counts as a patient of its own.
        labels: (n,) index of the class.
    """

    images: Images
    patients: Ints
    labels: Ints

    def take(self, rows: Ints) -> ImageSample:
        return ImageSample(self.images[rows], self.patients[rows], self.labels[rows])

    def random_subset(self, count: int, generator: np.random.Generator) -> ImageSample:
        """`count` images drawn without replacement; whole patients would be too few."""
        return self.take(np.sort(_shuffled(np.arange(len(self)), generator)[:count]))

    def stratified_subset(self, counts: Mapping[int, int], generator: np.random.Generator) -> ImageSample:
        """`counts[label]` images of each class, drawn without replacement."""
        rows = [
            _shuffled(np.flatnonzero(self.labels == label), generator)[:count]
            for label, count in counts.items()
        ]
        return self.take(np.sort(np.concatenate(rows)))

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class MatchedSamples:
    """Three samples with equally many images.

    Attributes:
        reference: of `holdout` patients; the other two are compared with it.
        baseline: of `test` patients, in place of the synthetic images.
        synthetic: the images that are measured.
        same_class_shares: all three have the class shares of the reference; otherwise each has its own.
    """

    reference: ImageSample
    baseline: ImageSample
    synthetic: ImageSample
    same_class_shares: bool

    @property
    def n(self) -> dict[str, int]:
        """Sizes for `Finding.n`."""
        return {
            "synthetic_images": len(self.synthetic),
            "holdout_images": len(self.reference),
            "holdout_patients": len(np.unique(self.reference.patients)),
            "test_images": len(self.baseline),
            "test_patients": len(np.unique(self.baseline.patients)),
        }

    @property
    def too_few(self) -> bool:
        return min(self.n.values()) < MIN_SAMPLE_SIZE


def samples_by_scope(
    evidence: Evidence, settings: Settings, max_images: int = MAX_SAMPLE_IMAGES
) -> Iterator[tuple[dict[str, str], MatchedSamples]]:
    """Matched samples of all images (scope `{}`), then of each class if there are several.

    Args:
        max_images: in each of the three samples.
    """
    holdout, test, synthetic = evidence.holdout, evidence.test, evidence.synthetic
    samples = (
        ImageSample(holdout.images, numbered(holdout.patients), holdout.labels),
        ImageSample(test.images, numbered(test.patients), test.labels),
        ImageSample(synthetic.images, np.arange(len(synthetic.labels)), synthetic.labels),
    )
    yield {}, _matched(samples, max_images, evidence.generator("sides", settings))
    classes = evidence.cohort.classes
    for label, name in enumerate(classes) if len(classes) > 1 else ():
        of_class = [sample.take(np.flatnonzero(sample.labels == label)) for sample in samples]
        generator = evidence.generator(f"sides, class {label}", settings)
        yield {"class": name}, _matched(of_class, max_images, generator)


def _matched(
    samples: Sequence[ImageSample], max_images: int, generator: np.random.Generator
) -> MatchedSamples:
    """Matched samples out of the reference, the baseline and the synthetic images."""
    count = min(max_images, *map(len, samples))
    if class_counts := _common_class_counts(samples, count):
        samples = [sample.stratified_subset(class_counts, generator) for sample in samples]
        count = min(map(len, samples))
    reference, baseline, synthetic = (sample.random_subset(count, generator) for sample in samples)
    return MatchedSamples(reference, baseline, synthetic, same_class_shares=bool(class_counts))


def _common_class_counts(samples: Sequence[ImageSample], count: int) -> dict[int, int]:
    """Images of each class, in the class shares of the reference, that every sample can provide.

    A set with other class shares, such as a balanced one, is not worse for that alone, so the shares are made
    equal. If that would leave fewer than half of the images, as for a set that lacks a class, the result is
    empty and each sample keeps its own shares.
    """
    labels, of_class = np.unique(samples[0].labels, return_counts=True)
    shares = dict(zip(labels.tolist(), of_class / of_class.sum(), strict=True))
    limits = [np.sum(sample.labels == label) / share for sample in samples for label, share in shares.items()]
    total = min([count, *map(int, limits)])
    return {label: round(total * share) for label, share in shares.items()} if 2 * total >= count else {}


def _shuffled(rows: Ints, generator: np.random.Generator) -> Ints:
    shuffled: Ints = rows[np.argsort(generator.permutation(len(rows)))]
    return shuffled
