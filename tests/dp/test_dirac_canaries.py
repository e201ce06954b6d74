"""A canary's mark goes through DP-SGD with its image, and is read without being touched."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from privsyn.claim.document import Mechanism
from privsyn.dp.dirac_canaries import (
    CANARY_SCALE,
    DiracCanaryScores,
    add_canary_weights,
    with_canary_gradients,
)


def weights_of(number: int) -> torch.nn.Parameter:
    return add_canary_weights(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0), number, torch.device("cpu")
    )


def test_a_mark_is_a_multiple_of_its_images_gradient() -> None:
    """On the canary's own weight, over all parameters together; a patient has none."""
    gradients = [torch.tensor([[3.0, 0.0], [3.0, 0.0]]), torch.tensor([[[0.0], [4.0]], [[0.0], [4.0]]])]
    *same, own = with_canary_gradients(gradients, np.array([-1, 2]), weights_of(4), clip_norm=1.0)
    assert all(a is b for a, b in zip(same, gradients, strict=True))
    torch.testing.assert_close(own, torch.tensor([[0.0] * 4, [0.0, 0.0, 5 * CANARY_SCALE, 0.0]]))


def test_a_flat_loss_does_not_hide_a_canary() -> None:
    """Its mark is as long as the clip norm asks for, so it is clipped whatever the image does."""
    own = with_canary_gradients([torch.zeros(1, 3)], np.array([0]), weights_of(1), clip_norm=0.25)[-1]
    assert own.item() == CANARY_SCALE * 0.25


def test_a_gradient_that_is_not_finite_makes_a_mark_that_is_not() -> None:
    """So that the unit is dropped as a patient's would be."""
    own = with_canary_gradients([torch.tensor([[math.inf]])], np.array([0]), weights_of(1), clip_norm=1.0)[-1]
    assert not own.isfinite()


def test_the_marks_are_the_optimisers_last_parameter() -> None:
    """Weights keep their places in its memory."""
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    canary_weights = add_canary_weights(optimizer, 3, torch.device("cpu"))
    assert optimizer.param_groups[0]["params"][0] is weight
    assert optimizer.param_groups[0]["params"][1] is canary_weights


@pytest.mark.parametrize("rate", [0.1, 1.0])
def test_scores_are_log_likelihood_ratios(rate: float) -> None:
    """Against the densities written out: in is a mixture of sampled or not, out is noise."""
    noise, clip_norm, read = 1.5, 1e-3, np.array([-1.0, 0.2, 3.0])

    def density(centre: float) -> np.ndarray:
        return np.exp(-((read - centre) ** 2) / (2 * noise**2))

    scored = DiracCanaryScores(Mechanism(noise, rate, 7), clip_norm, 3, ())
    noised = [torch.zeros(5), torch.tensor(read * clip_norm)]
    scored(noised)
    signal = CANARY_SCALE / math.sqrt(1 + CANARY_SCALE**2)
    expected = np.log(((1 - rate) * density(0.0) + rate * density(signal)) / density(0.0))
    np.testing.assert_allclose(scored.scores, expected, rtol=1e-5)
    scored(noised)
    np.testing.assert_allclose(scored.scores, 2 * expected, rtol=1e-5)
    assert DiracCanaryScores(Mechanism(noise, rate, 7), clip_norm, 3, scored.scores).scores == scored.scores


def test_sums_without_clipping_do_not_overflow_a_score() -> None:
    """A leak of any size is a high score, not a broken one."""
    scored = DiracCanaryScores(Mechanism(0.5, 0.1, 7), 1e-3, 2, ())
    scored([torch.tensor([1e4, -1e4])])
    assert math.isfinite(scored.scores[0])
    assert scored.scores[0] > 1e6 > abs(scored.scores[1])
