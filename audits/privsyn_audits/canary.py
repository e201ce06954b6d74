"""A lower bound on epsilon of this training, from guesses about its canaries.

Threat: canary. `privsyn train --canaries M` inserts M synthetic canaries, each included with probability 1/2
by a coin that was committed to before training. Many right guesses about the coins give a lower bound on
epsilon (`privsyn.auditing.statistics.one_run`); a bound above the claim shows that the claim is wrong. Two
adversaries guess:

`white-box`   sees the noised sum of every step of DP-SGD; the scores are recorded during training
`black-box`   has the final model alone: minus the mean log of the denoising loss over fixed timesteps and
              noises, the same for all canaries, with the canary's own label; compared within a kind of
              canary, because a noise pattern is harder to denoise than a blank image in any case

A bound below the claim does not confirm the claim. The bound that a perfectly tight mechanism at the claim
would show is reported beside it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import AuditId, Control, Controls, Finding, Power, Settings
from privsyn.auditing.model_under_audit import CanaryRecord
from privsyn.auditing.statistics.one_run import (
    SHARES,
    EpsilonLowerBound,
    ceiling,
    lower_bound,
    most,
    smallest_epsilon,
)
from privsyn.diffusion.model import DiffusionModel, to_float

NAME = "canary"
AUDIT = AuditId(NAME, "2", "canary")
EPSILON, GAUSSIAN, BEYOND = "epsilon", "epsilon-if-gaussian", "epsilon-beyond-claim"
DELTA = 1e-5  # at which epsilon is bounded where nothing was claimed
REFERENCE = 8.0  # epsilon whose ceiling is printed there
TIMESTEP_SHARES = (0.03, 0.1, 0.2, 0.35)  # of T: neither nearly clean nor nearly noise
CANARY_NOISES = 4
TWIN_CANARIES, TWIN_STEPS, TWIN_RATE = 64, 600, 3e-3  # in and out each; enough steps to nearly memorise them
CONTROL_EPSILON = 0.5  # epsilon that both controls of a leak must exceed; 128 right guesses show about 2.5
RAISED = 8.0  # standard deviations: the distributions hardly overlap
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
        return [Finding.not_applicable(AUDIT, name, why) for name in (EPSILON, GAUSSIAN, BEYOND)]
    attack = _BlackBox(evidence, record, settings)
    adversaries = {"black-box": _Adversary(attack.scores(model), record.planted.is_in, attack.twin())}
    if record.white_box is not None:
        raised = _raised(record.white_box, record.planted.is_in)
        what = f"the recorded scores, those of canaries that are in raised by {RAISED:g} standard deviations"
        leak = _KnownLeak(raised, record.planted.is_in, what)
        adversaries["white-box"] = _Adversary(record.white_box, record.planted.is_in, leak)
    test = _EpsilonTest.of(evidence, settings, len(record.planted.labels), bounds=2 * len(adversaries))
    return [finding for name in sorted(adversaries) for finding in test.findings(name, adversaries[name])]


@dataclass(frozen=True, eq=False)
class _KnownLeak:
    """Scores (k,) of canaries with coins (k,) that are known to leak."""

    scores: Scores
    is_in: Coins
    description: str


@dataclass(frozen=True, eq=False)
class _Adversary:
    """An adversary's scores (m,), high = in, the coins (m,), and the leak that it must find."""

    scores: Scores
    is_in: Coins
    leak: _KnownLeak | None


@dataclass(frozen=True)
class _EpsilonTest:
    """The test of the claimed epsilon, the same for each adversary.

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
    def of(cls, evidence: Evidence, settings: Settings, canaries: int, bounds: int) -> _EpsilonTest:
        claimed = evidence.claim.bound if evidence.claim else None
        delta, epsilon = (DELTA, None) if claimed is None else (claimed.delta, claimed.epsilon)
        return cls(evidence, settings, canaries, settings.alpha / bounds, delta, epsilon)

    def findings(self, name: str, adversary: _Adversary) -> list[Finding]:
        """The three statistics of one adversary."""
        bound = lower_bound(adversary.scores, adversary.is_in, self.delta, self.level)
        controls = Controls(positive=self._positive(adversary.leak), negative=self._negative(adversary))
        n = {"canaries": self.canaries, "canaries_in": int(adversary.is_in.sum())}

        def finding(
            statistic: str, value: float, baseline: float | None, power: Power, doubt: str
        ) -> Finding:
            return Finding.measured(
                AUDIT,
                statistic,
                scope={"scores": name},
                value=value,
                interval=(value, None),  # bounded from below alone
                confidence=1 - self.settings.alpha,
                n=n,
                baseline=baseline,
                controls=controls,
                power=power,
                doubt=doubt,
                details=self._details(bound),
            )

        power, doubt = self._power(0.0), _doubt(controls)
        found = [
            finding(statistic, value, self.claimed, power, doubt)
            for statistic, value in ((EPSILON, bound.epsilon), (GAUSSIAN, bound.epsilon_gdp))
        ]
        if self.claimed is None:
            reason = "no epsilon is claimed, so none can be exceeded"
            return [*found, Finding.not_applicable(AUDIT, BEYOND, reason, scope={"scores": name})]
        power = self._power(self.claimed)
        doubt = self._too_few(power) or doubt  # too few canaries also make a control fail
        return [*found, finding(BEYOND, bound.epsilon - self.claimed, 0.0, power, doubt)]

    def _too_few(self, power: Power) -> str:
        """Why no leak could be shown to exceed the claim; "" if one could."""
        if self.claimed is None or power.smallest_leak is not None:
            return ""
        enough = math.ceil(math.exp(self.claimed) * math.log(len(SHARES) / self.level))
        return (
            f"{self.canaries} canaries can show an epsilon of {self._most():.2f} at most, and "
            f"{self.claimed:g} is claimed: about {enough} could show more"
        )

    def _positive(self, leak: _KnownLeak | None) -> Control | None:
        if leak is None:
            return None
        shown = lower_bound(leak.scores, leak.is_in, self.delta, self.settings.control_level).epsilon
        what = f"{leak.description}: epsilon {shown:.2f}, to exceed {CONTROL_EPSILON:g}"
        return Control(passed=shown > CONTROL_EPSILON, description=what)

    def _negative(self, adversary: _Adversary) -> Control:
        coins = self.evidence.generator(f"{NAME} coins", self.settings).random(self.canaries) < 0.5
        shown = lower_bound(adversary.scores, coins, self.delta, self.settings.control_level).epsilon
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

    def _details(self, bound: EpsilonLowerBound) -> dict[str, JsonValue]:
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
        self.noises = torch.randn(CANARY_NOISES, channels, height, width, generator=noise)

    def scores(self, model: DiffusionModel) -> Scores:
        """(m,) scores, standardised within the kind of canary."""
        raw = -self._log_loss(model, np.arange(len(self.planted.labels)))
        return _by_kind(raw, self.planted.kinds)

    def twin(self) -> _KnownLeak | None:
        """Scores under a copy of the model that was trained without DP on some canaries; as many are out."""
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
        return _KnownLeak(fitted, is_in[chosen], what)

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
    """Scores standardised within their kind by median and median absolute deviation, without the coins."""
    result = np.zeros_like(scores)
    for kind in np.unique(kinds):
        of = kinds == kind
        centred = scores[of] - np.median(scores[of])
        result[of] = centred / max(float(np.median(np.abs(centred))), 1e-12)
    return result


def _raised(scores: Scores, is_in: Coins) -> Scores:
    """The scores as a mechanism without noise would give them."""
    raised: Scores = scores + RAISED * scores.std() * is_in
    return raised


def _doubt(controls: Controls) -> str:
    failed = [each for each in (controls.positive, controls.negative) if each and not each.passed]
    if failed:
        return f"control failed: {failed[0].description}"
    return "too few canaries for a positive control" if controls.positive is None else ""
