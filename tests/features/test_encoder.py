"""The encoder that distinguishes patients: its loss, its pairs, its repeatability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from privsyn.features.encoder import EncoderTraining, _batches, nt_xent, train_encoder


def test_the_loss_is_equation_1_of_the_paper() -> None:
    """A naive double loop over all views, as Chen et al. write it, gives the same number."""
    rows = torch.nn.functional.normalize(torch.randn(10, 7, generator=torch.Generator().manual_seed(0)))
    total = 0.0
    for i in range(10):
        j = (i + 5) % 10
        others = sum(np.exp(float(rows[i] @ rows[k]) / 0.5) for k in range(10) if k != i)
        total -= np.log(np.exp(float(rows[i] @ rows[j]) / 0.5) / others)
    assert float(nt_xent(rows, 0.5)) == pytest.approx(total / 10, rel=1e-5)


def test_a_pair_is_two_images_of_one_patient() -> None:
    """Different images where the patient has two, the same one twice where there is one; no patient twice."""
    patients = np.array([0, 1, 1, 2, 2, 2, 3])
    generator = np.random.default_rng(0)
    for first, second in _batches(patients, EncoderTraining(steps=50, patients=3), generator):
        assert (patients[first] == patients[second]).all()
        assert len(np.unique(patients[first])) == 3
        several = np.isin(patients[first], [1, 2])
        assert ((first != second) == several).all()


def test_one_seed_gives_one_encoder(shared_data: Path) -> None:
    """One seed trains the same encoder twice, another seed another; torch's own seed is left alone."""
    with np.load(shared_data / "bccd32.npz") as file:
        images, patients = file["images"][:200], file["groups"][:200].astype(np.int64)
    state = torch.get_rng_state()
    rows = [
        train_encoder(images, patients, np.random.default_rng(seed), EncoderTraining(steps=3))(images)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_allclose(np.linalg.norm(rows[0], axis=1), 1, rtol=1e-5)
