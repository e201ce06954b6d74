"""Rejects synthetic images that lie nearer to a training image than images of test patients do.

The filter proves nothing: it looks at the training images without noise (so it voids
a DP claim and is charged to the ledger as a query without a bound), it knows two kinds of nearness, and such
filters were found to miss near copies (Koeken et al. 2025, https://arxiv.org/abs/2510.01793). The audit
decides.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privsyn import ledger
from privsyn.bit_depth import Images
from privsyn.claim.document import NEIGHBOURING
from privsyn.cohort.cohort import Cohort
from privsyn.features.embed import FeatureRows, Whitening, embed
from privsyn.features.neighbours import nearest
from privsyn.progress import SILENT, Progress

TEST_SHARE = 0.01  # of fresh patients' images that lie as near to a training image
WHY = "synthetic images were compared with the training images and near copies rejected"


@dataclass(frozen=True, eq=False)
class NearCopies:
    """Training images in two representations, and how near to one of them is too near.

    Attributes:
        threshold: per representation, the distance that a share `TEST_SHARE` of `test` images do not exceed.
    """

    whitening: Whitening
    train: tuple[FeatureRows, ...]
    threshold: tuple[float, ...]
    progress: Progress

    @classmethod
    def of(cls, cohort: Cohort, progress: Progress = SILENT) -> NearCopies:
        """Calibrated on `test` patients; the holdout stays for the audit."""
        train, fresh = cohort.part("train").images, cohort.part("test").images
        features = embed("lite0-mid", fresh, progress)
        whitening = Whitening.fit(features)
        rows = _rows(train, whitening, progress)
        distances = [
            nearest(some, others, 1).distances[:, 0]
            for some, others in zip((embed("pixels", fresh), whitening(features)), rows, strict=True)
        ]
        return cls(
            whitening,
            rows,
            tuple(float(np.quantile(each, TEST_SHARE)) for each in distances),
            progress,
        )

    def among(self, images: Images) -> NDArray[np.bool_]:
        """Which of the images (n, H, W, C), or their mirror images, are too near; (n,)."""
        found = np.zeros(len(images), np.bool_)
        for side in (images, images[:, :, ::-1]):
            looked = zip(_rows(side, self.whitening, self.progress), self.train, self.threshold, strict=True)
            for rows, train, threshold in looked:
                found |= nearest(rows, train, 1).distances[:, 0] <= threshold
        return found


def _rows(images: Images, whitening: Whitening, progress: Progress) -> tuple[FeatureRows, ...]:
    """Images (n, H, W, C) as pixels and as whitened lite0 features, (n, d) each."""
    return embed("pixels", images), whitening(embed("lite0-mid", images, progress))


def charge_for(cohort: Cohort) -> None:
    """Record in the ledger that the patients were looked at without a bound.

    Raises:
        Refused: the population has a grant.
    """
    reference = secrets.token_hex(16)
    ledger.reserve(
        reference,
        cohort.training_patients,
        ledger.TrainingCharge(cohort.document.unit, NEIGHBOURING, delta=None, why_unbounded=WHY),
    )
    ledger.settle(reference, ())
