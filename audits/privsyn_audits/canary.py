"""How much epsilon did this very training spend, at least? Guess which canaries were in it.

Threat: canary. `privsyn train --canaries M` plants pictures of nobody, each by a fair coin that was committed
to before training. Many right guesses about the coins are a lower bound on epsilon
(`privsyn.auditing.statistics.one_run`), and a bound above the claim shows that the claim is wrong. Two adversaries guess:

`white-box`   saw the noised sum of every step of DP-SGD; the scores were taken while training
`black-box`   has the final model alone: minus the mean log of the denoising loss over timesteps and noises
              fixed beforehand and shared by all, with the canary's own label; by kind, since a noise pattern
              is harder to denoise than a blank picture whether it was trained on or not

A bound below the claim does not confirm it. What a perfectly tight mechanism at the claim would have shown
stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from privsyn.auditing.evidence import CanaryRecord, Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.statistics.one_run import SHARES, Bound, ceiling, lower_bound, most, smallest_epsilon
from privsyn.diffusion.model import DiffusionModel, to_float

NAME, VERSION = "canary", "2"
EPSILON, GAUSSIAN, BEYOND = "epsilon", "epsilon-if-gaussian", "epsilon-beyond-claim"
DELTA = 1e-5  # at which epsilon is bounded where nothing was claimed
REFERENCE = 8.0  # epsilon whose ceiling is printed there
TIMESTEP_SHARES = (0.03, 0.1, 0.2, 0.35)  # of T: neither nearly clean nor nearly noise
NOISES = 4
TWIN_CANARIES, TWIN_STEPS, TWIN_RATE = 64, 600, 3e-3  # on each side; enough to learn them nearly by heart
SHOWN = 0.5  # epsilon that both controls of a leak must exceed; 128 right guesses show about 2.5
RAISED = 8.0  # standard deviations: hardly an overlap is left
_BATCH = 128

Scores = NDArray[np.float64]
Coins = NDArray[np.bool_]


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Lower bounds on epsilon from each adversary's guesses, and by how much they exceed the claim."""
    record, model = evidence.canaries, evidence.model
    if record is None or model is None:
        why = "the set comes without its model"
        if model is not None:
            why = "no canaries were planted (privsyn train --canaries M)"
        return [_finding(name, applicable=False, reason=why) for name in (EPSILON, GAUSSIAN, BEYOND)]
    attack = _BlackBox(evidence, record, settings)
    trials = {"black-box": _Trial(attack.scores(model), record.planted.is_in, attack.twin())}
    if record.white_box is not None:
        raised = _raised(record.white_box, record.planted.is_in)
        what = f"the recorded scores, those of canaries that are in raised by {RAISED:g} standard deviations"
        replay = _Replay(raised, record.planted.is_in, what)
        trials["white-box"] = _Trial(record.white_box, record.planted.is_in, replay)
    question = _Question.of(evidence, settings, len(record.planted.labels), bounds=2 * len(trials))
    return [finding for name in sorted(trials) for finding in question.findings(name, trials[name])]


@dataclass(frozen=True, eq=False)
class _Replay:
    """Scores (k,) of canaries with coins (k,) that are known to leak."""

    scores: Scores
    is_in: Coins
    description: str


@dataclass(frozen=True, eq=False)
class _Trial:
    """An adversary's scores (m,), high = in, the coins (m,), and the leak that the adversary must find."""

    scores: Scores
    is_in: Coins
    leak: _Replay | None


@dataclass(frozen=True)
class _Question:
    """What is asked of each adversary.

    Attributes:
        level: of each bound; those of both adversaries hold together at the audit's alpha.
        claimed: epsilon of the claim, `None` without one.
    """

    evidence: Evidence
    settings: Settings
    canaries: int
    level: float
    delta: float
    claimed: float | None

    @classmethod
    def of(cls, evidence: Evidence, settings: Settings, canaries: int, bounds: int) -> _Question:
        bound = None if evidence.claim is None else evidence.claim.bound
        delta, claimed = (DELTA, None) if bound is None else (bound.delta, bound.epsilon)
        return cls(evidence, settings, canaries, settings.alpha / bounds, delta, claimed)

    def findings(self, adversary: str, trial: _Trial) -> list[Finding]:
        """The three statistics of one adversary."""
        bound = lower_bound(trial.scores, trial.is_in, self.delta, self.level)
        known: dict[str, object] = {
            "scope": {"scores": adversary},
            "confidence": 1 - self.settings.alpha,
            "n": {"canaries": self.canaries, "canaries_in": int(trial.is_in.sum())},
            "controls": Controls(positive=self._positive(trial.leak), negative=self._negative(trial)),
            "details": self._details(bound),
        }
        known |= _conclusive(known["controls"])
        found = [
            _finding(name, **_from(value), baseline=self.claimed, power=self._power(0.0), **known)
            for name, value in ((EPSILON, bound.epsilon), (GAUSSIAN, bound.epsilon_gdp))
        ]
        return [*found, self._beyond(bound.epsilon, known)]

    def _beyond(self, epsilon: float, known: Mapping[str, object]) -> Finding:
        if self.claimed is None:
            reason = "no epsilon is claimed, so none can be exceeded"
            return _finding(BEYOND, scope=known["scope"], applicable=False, reason=reason)
        power = self._power(self.claimed)
        if power.smallest_leak is None:
            enough = math.ceil(math.exp(self.claimed) * math.log(len(SHARES) / self.level))
            reason = (
                f"{self.canaries} canaries can show an epsilon of {self._most():.2f} at most, and "
                f"{self.claimed:g} is claimed: about {enough} could show more"
            )
            known = {**known, "conclusive": False, "reason": reason}  # also the cause of a missed control
        return _finding(BEYOND, **_from(epsilon - self.claimed), baseline=0.0, power=power, **known)

    def _positive(self, leak: _Replay | None) -> Control | None:
        if leak is None:
            return None
        shown = lower_bound(leak.scores, leak.is_in, self.delta, self.settings.control_level).epsilon
        what = f"{leak.description}: epsilon {shown:.2f}, to exceed {SHOWN:g}"
        return Control(passed=shown > SHOWN, description=what)

    def _negative(self, trial: _Trial) -> Control:
        coins = self.evidence.generator(f"{NAME} coins", self.settings).random(self.canaries) < 0.5
        shown = lower_bound(trial.scores, coins, self.delta, self.settings.control_level).epsilon
        what = f"the same scores with coins that were never used: epsilon {shown:.2f}, to be 0"
        return Control(passed=shown == 0, description=what)

    def _power(self, beyond: float) -> Power:
        smallest = smallest_epsilon(beyond, self.delta, self.canaries, self.level)
        epsilon = REFERENCE if self.claimed is None else self.claimed
        tight = ceiling(epsilon, self.delta, self.canaries, self.level)
        whose = "at the claim" if self.claimed is not None else f"at epsilon {REFERENCE:g}"
        text = (
            f"ceiling {tight:.2f}: what {self.canaries} canaries would show of a perfectly tight Gaussian "
            f"mechanism {whose}; right guesses alone would show {self._most():.2f}"
        )
        if smallest is None:
            return Power(
                smallest_leak=None, description=f"{text}; no leak could be shown to exceed {beyond:g}"
            )
        text += f"; a tight mechanism at epsilon {smallest:.2f} is shown to exceed {beyond:g} in 80 % of runs"
        return Power(smallest_leak=smallest - beyond, description=text)

    def _most(self) -> float:
        return most(self.canaries, self.delta, self.level)

    def _details(self, bound: Bound) -> dict[str, object]:
        return {
            "guesses": [{"made": each.made, "correct": each.correct} for each in bound.guesses],
            "level": self.level,
            "delta": self.delta,
        }


class _BlackBox:
    """Scores from the final model, on a grid of timesteps and noises that was fixed beforehand."""

    def __init__(self, evidence: Evidence, record: CanaryRecord, settings: Settings) -> None:
        self.evidence, self.planted, self.settings = evidence, record.planted, settings
        _, height, width, channels = self.planted.images.shape
        noise = torch.Generator().manual_seed(settings.seed)
        self.noises = torch.randn(NOISES, channels, height, width, generator=noise)

    def scores(self, model: DiffusionModel) -> Scores:
        """(m,) scores, in the spread of their kind above its median."""
        raw = -self._log_loss(model, np.arange(len(self.planted.labels)))
        return _by_kind(raw, self.planted.kinds)

    def twin(self) -> _Replay | None:
        """A copy of the model, trained without DP on some canaries that are in; as many out beside them."""
        is_in, model = self.planted.is_in, self.evidence.model
        some = min(TWIN_CANARIES, int(is_in.sum()), int((~is_in).sum()))
        if self.evidence.fine_tune is None or model is None or some < 8:
            return None
        trained = np.flatnonzero(is_in)[:some]
        chosen = np.concatenate([trained, np.flatnonzero(~is_in)[:some]])
        with self.evidence.progress.stage("train a copy that leaks, as a control", 1) as advance:
            twin = self.evidence.fine_tune(
                model,
                self.planted.images[trained],
                self.planted.labels[trained],
                steps=TWIN_STEPS,
                learning_rate=TWIN_RATE,
                seed=self.settings.seed,
            )
            advance()
        what = f"a copy of the model trained without DP on {some} canaries that are in, beside {some} out"
        fitted = _by_kind(-self._log_loss(twin, chosen), self.planted.kinds[chosen])
        return _Replay(fitted, is_in[chosen], what)

    @torch.inference_mode()
    def _log_loss(self, model: DiffusionModel, rows: NDArray[np.int64]) -> Scores:
        """(len(rows),) mean over timesteps of the log of the mean loss over noises."""
        timesteps, losses = model.process.timesteps, np.zeros(len(rows))
        with self.evidence.progress.stage("score canaries by their loss", len(rows)) as advance:
            for start in range(0, len(rows), _BATCH):
                batch = rows[start : start + _BATCH]
                images = to_float(self.planted.images[batch])
                labels = torch.from_numpy(self.planted.labels[batch])
                for share in TIMESTEP_SHARES:
                    at = torch.full((len(batch),), min(timesteps - 1, round(share * timesteps)))
                    found = [model.loss(images, labels, at, noise.expand_as(images)) for noise in self.noises]
                    mean = torch.stack(found).mean(0).double().numpy()
                    losses[start : start + _BATCH] += np.log(mean + 1e-12) / len(TIMESTEP_SHARES)
                advance(len(batch))
        return losses


def _by_kind(scores: Scores, kinds: NDArray[np.str_]) -> Scores:
    """Scores less the median of their kind, by its median absolute deviation; the coins are not looked at."""
    result = np.zeros_like(scores)
    for kind in np.unique(kinds):
        of = kinds == kind
        centred = scores[of] - np.median(scores[of])
        result[of] = centred / max(float(np.median(np.abs(centred))), 1e-12)
    return result


def _raised(scores: Scores, is_in: Coins) -> Scores:
    """The scores that a mechanism without noise would have given."""
    raised: Scores = scores + RAISED * scores.std() * is_in
    return raised


def _from(bound: float) -> dict[str, object]:
    """A bound from below, as value and as interval without an upper end."""
    return {"value": bound, "interval": (bound, None)}


def _conclusive(controls: object) -> dict[str, object]:
    assert isinstance(controls, Controls)
    failed = [each for each in (controls.positive, controls.negative) if each and not each.passed]
    if failed:
        return {"conclusive": False, "reason": f"control failed: {failed[0].description}"}
    if controls.positive is None:
        return {"conclusive": False, "reason": "too few canaries for a positive control"}
    return {}


def _finding(statistic: str, **known: object) -> Finding:
    return Finding.model_validate(
        {"audit": NAME, "version": VERSION, "threat": "canary", "statistic": statistic, **known}
    )
