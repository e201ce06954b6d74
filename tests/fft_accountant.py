"""A small accountant of the tests' own: privacy loss on a grid, composed by FFT.

Written from the definition alone (Koskela et al. 2020, https://arxiv.org/abs/1906.03049), and shares no code
with `privsyn.dp.accounting`. Losses are rounded to the nearest point of the grid, so the result is no bound;
it is right to a few grid steps times the square root of the number of compositions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from privsyn.claim.document import Mechanism

POINTS = 1 << 20
TAIL = 12.0  # standard deviations of the noise that are integrated over
CELLS = 400_000


def fft_epsilon(mechanisms: Sequence[Mechanism], delta: float, largest: float = 60.0) -> float:
    """epsilon of all mechanisms composed, adding or removing one unit.

    Args:
        largest: losses beyond this count as infinite; must be well above epsilon.
    """
    return max(_one_way(mechanisms, delta, largest, removed) for removed in (True, False))


def _one_way(mechanisms: Sequence[Mechanism], delta: float, largest: float, removed: bool) -> float:
    step = 2 * largest / POINTS
    composed = np.ones(POINTS // 2 + 1, complex)
    for part in mechanisms:
        composed *= np.fft.rfft(np.fft.ifftshift(_losses(part, step, removed))) ** part.steps
    mass = np.fft.fftshift(np.fft.irfft(composed, POINTS)).clip(min=0)
    loss = (np.arange(POINTS) - POINTS // 2) * step
    infinite = max(0.0, 1 - mass.sum())

    def excess(epsilon: float) -> float:
        above = loss > epsilon
        return float(mass[above] @ -np.expm1(epsilon - loss[above])) + infinite - delta

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, largest * 0.99, xtol=1e-9))


def _losses(part: Mechanism, step: float, removed: bool) -> np.ndarray:
    """Probabilities of the privacy loss of one step: log of the likelihood ratio at a random outcome."""
    noise, rate = part.noise_multiplier, part.sample_rate
    edges = np.linspace(-TAIL * noise, TAIL * noise + 1, CELLS + 1)
    middle = (edges[1:] + edges[:-1]) / 2
    without, within = (np.diff(norm.cdf(edges, centre, noise)) for centre in (0, 1))
    log_ratio = np.log1p(-rate) if rate < 1 else -np.inf
    log_ratio = np.logaddexp(log_ratio, np.log(rate) + (2 * middle - 1) / (2 * noise**2))
    mass, loss = ((1 - rate) * without + rate * within, log_ratio) if removed else (without, -log_ratio)
    place = np.clip(np.rint(loss / step).astype(np.int64) + POINTS // 2, 0, POINTS - 1)
    return np.bincount(place, weights=mass, minlength=POINTS)
