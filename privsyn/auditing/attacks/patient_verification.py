"""Verification AUC: how well an embedding tells patients apart that it was not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from privsyn.features.embed import FeatureRows

IMAGES = 4  # per patient, at most; more would add cost, not patients
PATIENTS = 500


@dataclass(frozen=True, eq=False)
class PatientVerification:
    """How often two images of one patient lie closer than two of different patients.

    Attributes:
        wins: (n, n) for patients i and j: the share of comparisons in which an image of i is closer to
            another image of i than to an image of j with the same label, ties half; nan where there is none.
    """

    wins: NDArray[np.float64]

    @property
    def value(self) -> float:
        """The AUC, with equal weight for every patient; nan without two patients to compare."""
        return float(np.nanmean(self.of_patient)) if np.isfinite(self.wins).any() else float("nan")

    @property
    def of_patient(self) -> NDArray[np.float64]:
        """(n,) the AUC of each patient's own pairs."""
        return _row_means(self.wins)

    def interval(self, confidence: float) -> tuple[float, float]:
        """Interval on the logit scale, from each patient's own pairs and its pairs with other patients.

        The AUC is a two-sample U-statistic over patients; its variance is that of the patients' projections
        (Hoeffding, Annals of Mathematical Statistics 19, 1948, section 7), however the images of a patient
        depend on each other.
        """
        value = self.value
        own, other = self.of_patient, _row_means(self.wins.T)
        parts = (own + other)[np.isfinite(own + other)]
        if len(parts) < 2 or not 0 < value < 1:
            return 0.0, 1.0
        error = parts.std(ddof=1) / np.sqrt(len(parts))
        half = stats.norm.ppf((1 + confidence) / 2) * error / (value * (1 - value))
        centre = np.log(value / (1 - value))
        return float(1 / (1 + np.exp(half - centre))), float(1 / (1 + np.exp(-half - centre)))


def verify(
    embeddings: Sequence[FeatureRows], patients: NDArray[np.int64], labels: NDArray[np.int64]
) -> PatientVerification:
    """Compare images whose rows (n, d) in each embedding are given; several embeddings are averaged.

    Patients with one image are left out. At most 500 patients and 4 images of each are compared, the first in
    the order given, which must be random.
    """
    chosen = _chosen(patients)
    who = pd.factorize(patients[chosen])[0]
    wins = [_wins(rows[chosen].astype(np.float64), who, labels[chosen]) for rows in embeddings]
    return PatientVerification(np.mean(wins, axis=0))


def with_two_images(patients: NDArray[np.int64]) -> int:
    """How many patients have at least two images."""
    return int((np.unique(patients, return_counts=True)[1] >= 2).sum())


def _chosen(patients: NDArray[np.int64]) -> NDArray[np.int64]:
    table = pd.DataFrame({"patient": patients})
    groups = table.groupby("patient", sort=False)["patient"]
    keep = (groups.transform("size") >= 2) & (groups.cumcount() < IMAGES)
    rows = np.flatnonzero(keep)
    first = pd.factorize(patients[rows])[0] < PATIENTS
    chosen: NDArray[np.int64] = rows[first]
    return chosen


def _wins(
    rows: NDArray[np.float64], who: NDArray[np.int64], labels: NDArray[np.int64]
) -> NDArray[np.float64]:
    n = int(who.max(initial=-1)) + 1
    won, asked = np.zeros((n, n)), np.zeros((n, n))
    for image, patient in enumerate(who):
        distance = np.linalg.norm(rows - rows[image], axis=1)
        for pair in np.flatnonzero(who == patient):
            if pair == image:
                continue
            others = (who != patient) & (labels == labels[pair])
            score = (distance > distance[pair]) + 0.5 * (distance == distance[pair])
            won[patient] += np.bincount(who[others], score[others], minlength=n)
            asked[patient] += np.bincount(who[others], minlength=n)
    wins: NDArray[np.float64] = np.divide(won, asked, out=np.full((n, n), np.nan), where=asked > 0)
    return wins


def _row_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.isfinite(table)
    sums, counts = np.where(known, table, 0).sum(axis=1), known.sum(axis=1)
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(table), np.nan), where=counts > 0)
    return means
