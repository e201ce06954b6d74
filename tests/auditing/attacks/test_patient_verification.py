"""The verification AUC against a naive count and against simulation."""

from __future__ import annotations

import numpy as np
import pytest

from privsyn.auditing.attacks.patient_verification import PatientVerification, verify, with_two_images


def test_it_counts_what_it_says() -> None:
    """Every patient's share of won comparisons, counted one by one in nested loops."""
    generator = np.random.default_rng(0)
    patients = np.array([5, 5, 5, 2, 2, 7, 7, 9])
    labels = np.array([0, 0, 1, 0, 0, 1, 0, 0])
    rows = generator.normal(size=(8, 3)).astype(np.float32)
    shares: dict[int, list[float]] = {5: [], 2: [], 7: []}
    for i in shares:
        for j in set(shares) - {i}:
            won = [
                np.linalg.norm(rows[a] - rows[c]) > np.linalg.norm(rows[a] - rows[b])
                for a in np.flatnonzero(patients == i)
                for b in np.flatnonzero(patients == i)
                for c in np.flatnonzero(patients == j)
                if a != b and labels[b] == labels[c]
            ]
            if won:
                shares[i].append(float(np.mean(won)))
    assert verify([rows], patients, labels).value == pytest.approx(
        np.mean([np.mean(s) for s in shares.values()])
    )
    assert with_two_images(patients) == 3


def test_the_interval_covers() -> None:
    """For Gaussian patients a 95 % interval misses the mean of many draws in about 5 % of 200."""
    generator = np.random.default_rng(1)

    def draw(count: int = 40) -> PatientVerification:
        centres = generator.normal(size=(count, 4)).repeat(3, axis=0)
        rows = (centres + generator.normal(size=centres.shape)).astype(np.float32)
        return verify([rows], np.arange(count).repeat(3), np.zeros(3 * count, np.int64))

    drawn = [draw() for _ in range(200)]
    truth = np.mean([each.value for each in drawn])
    missed = [not low <= truth <= high for low, high in (each.interval(0.95) for each in drawn)]
    assert 0.5 < truth < 0.9
    assert np.mean(missed) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_nobody_to_compare_tells_nothing() -> None:
    """Without two patients who have two images there is no AUC, and its interval is everything."""
    verification = verify([np.eye(3, dtype=np.float32)], np.array([0, 0, 1]), np.zeros(3, np.int64))
    assert np.isnan(verification.value)
    assert verification.interval(0.95) == (0.0, 1.0)
