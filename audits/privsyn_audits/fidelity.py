"""Are the synthetic images like real ones, and as varied?

Fréchet and kernel distance, precision, recall, density and coverage (`privsyn.features.distances`) in the
features of lite0 and of every network that the policy names, and the structural similarity of random pairs.
The reference are `holdout` patients; beside each value stands the floor, what `test` patients show at the
same number of images, for all of these depend on it. Overall and per class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from privsyn.auditing.cache import Arrays
from privsyn.auditing.evidence import Evidence
from privsyn.auditing.findings import Control, Controls, Finding, Power, Settings
from privsyn.auditing.quality.matched_samples import TOO_FEW, Side, Sides, scopes
from privsyn.auditing.quality.measures import (
    CONFIDENCE,
    beside_the_floor,
    quality_finding,
    seen_in_four_of_five,
)
from privsyn.auditing.statistics.resampling import FOUR_OF_FIVE, HALVES, SEEN_AT_001, random_half
from privsyn.features.distances import MEASURES, Part, Reference, principal_axes
from privsyn.features.embed import Floats
from privsyn.features.ssim import ms_ssim

NAME, VERSION = "fidelity", "2"
MOST = 10_000  # images on each side; more say no more, and the pairs would not fit into memory
PAIRS = 500  # of images whose similarity is averaged
LIKENESS = ("precision", "density")  # see images that are like no real one; the others see what is missing
OTHERS = tuple(measure for measure in MEASURES if measure not in LIKENESS)
POSSIBLE = {
    "frechet_distance": (0.0, np.inf),
    "kernel_distance": (-np.inf, np.inf),  # being unbiased it may be below 0
    "density": (0.0, np.inf),
    **dict.fromkeys(("precision", "recall", "coverage"), (0.0, 1.0)),
}
SHOWN = 600  # points of either kind on the map
PLANE = 2


def run(evidence: Evidence, settings: Settings) -> list[Finding]:
    """Every measure in every network, overall and per class, and diversity."""
    found = []
    for scope, sides in scopes(evidence, settings, MOST):
        for network in ("lite0", *evidence.networks):
            found += _Measured(evidence, sides, network, scope, settings).findings()
        found.append(_diversity(evidence, sides, scope, settings))
    return found


class _Measured:
    """One network, one scope."""

    def __init__(
        self, evidence: Evidence, sides: Sides, network: str, scope: dict[str, str], settings: Settings
    ) -> None:
        self.evidence, self.sides, self.settings = evidence, sides, settings
        self.network, self.scope = network, {"network": network, **scope}

    def findings(self) -> list[Finding]:
        if self.sides.too_few:
            return [self._finding(measure, conclusive=False, reason=TOO_FEW) for measure in MEASURES]
        drawn, floor = self._compared("synthetic"), self._compared("floor")
        return [self._measured(measure, drawn[measure], floor[measure]) for measure in MEASURES]

    def _measured(self, measure: str, drawn: NDArray[np.float64], floor: NDArray[np.float64]) -> Finding:
        controls = Controls(positive=self._planted(measure), negative=self._placebo())
        known = beside_the_floor(drawn, floor, controls, *POSSIBLE[measure])
        details = {
            **known.pop("details"),
            "bias": self._bias(measure),
            "class_shares": "of the reference" if self.sides.alike else "of each side",
            **self._map(measure),
        }
        return self._finding(measure, details, **known)

    def _finding(self, measure: str, details: Mapping[str, Any] = {}, **known: Any) -> Finding:
        return quality_finding(
            audit=NAME,
            version=VERSION,
            statistic=measure,
            scope=self.scope,
            n=self.sides.n,
            details={"network": self.evidence.embedding_info(self.network), **details},
            **known,
        )

    def _bias(self, measure: str) -> str:
        if measure == "kernel_distance":
            return "none"
        count, dimensions = self.sides.n["synthetic_images"], self._rows("real").shape[1]
        text = f"depends on the number of images: compare with the floor, at {count} on either side"
        if measure == "frechet_distance" and count <= dimensions:
            text += f"; {count} images leave covariances of {dimensions} dimensions without full rank"
        return text

    def _rows(self, side: str) -> Floats:
        images = getattr(self.sides, side).images
        return self.evidence.embedding(self.network, images)

    def _compared(self, side: str) -> Arrays:
        """(1 + HALVES,) of each measure: of the reference against a side, and of halves of both."""

        def compute() -> Arrays:
            generator = self.evidence.generator(f"{NAME}, halves", self.settings)
            units = self.sides.real.units, getattr(self.sides, side).units
            parts: list[Part] = [
                (random_half(units[0], generator), random_half(units[1], generator)) for _ in range(HALVES)
            ]
            with self.evidence.progress.stage(f"compare features ({self.network})", 1) as advance:
                found = self._reference.compare(self._rows(side), parts)
                advance()
            return found

        name = f"{NAME}, {self.network} of {self.scope}, {side}, seed {self.settings.seed}"
        keep = self.evidence.computed if side == "synthetic" else self.evidence.kept
        return keep(name, compute, getattr(self.sides, side).images, self.sides.real.images)

    def _planted(self, measure: str) -> Control:
        """`test` patients with a fault that this measure must see: rows far outside, or one half lost."""
        generator = self.evidence.generator(f"{NAME}, planted", self.settings)
        rows = self._rows("floor").astype(np.float64)
        floor = self._compared("floor")[measure]
        spread = max(float(np.std(floor[1:], ddof=1)), 1e-12)
        if measure in LIKENESS:
            share = min(1.0, 2 * (SEEN_AT_001 + FOUR_OF_FIVE) * spread / max(float(floor[0]), 1e-9))
            outside = generator.permutation(len(rows))[: max(1, round(share * len(rows)))]
            rows[outside] = rows.mean(axis=0) + 10 * (rows[outside] - rows.mean(axis=0))
            what = f"{len(outside)} of {len(rows)} test images put far outside"
        else:
            rows = rows[np.resize(self._one_half, len(rows))]
            what = "test images of one half of the feature space, twice"
        found = self._spoilt(rows, what, [measure] if measure in LIKENESS else OTHERS)[measure][0]
        worse = 1 if measure.endswith("distance") else -1
        p_value = float(stats.norm.sf(worse * (found - floor[0]) / spread))
        return Control(passed=p_value <= self.settings.control_level, description=what, p_value=p_value)

    @cached_property
    def _one_half(self) -> NDArray[np.int64]:
        """Rows of the `test` images on one side along their first principal component."""
        rows = self._rows("floor")
        along = (rows @ principal_axes(rows, 1))[:, 0]
        return np.flatnonzero(along > np.median(along))

    def _spoilt(self, rows: NDArray[np.float64], what: str, measures: Sequence[str]) -> Arrays:
        name = f"{NAME}, {measures} of {what}, {self.network} of {self.scope}, seed {self.settings.seed}"

        def compute() -> Arrays:
            return self._reference.compare(rows.astype(np.float32), measures=measures)

        return self.evidence.kept(name, compute, self.sides.real.images, self.sides.floor.images)

    @cached_property
    def _reference(self) -> Reference:
        return Reference(self._rows("real"))

    def _placebo(self) -> Control:
        """`test` patients in place of the synthetic images: their unbiased distance is 0 but for chance."""
        floor = self._compared("floor")["kernel_distance"]
        p_value = float(stats.norm.sf(floor[0] / max(float(np.std(floor[1:], ddof=1)), 1e-12)))
        what = f"test patients in place of the synthetic images: kernel distance {floor[0]:.2g}"
        return Control(passed=p_value > self.settings.control_level, description=what, p_value=p_value)

    def _map(self, measure: str) -> dict[str, object]:
        """Some images of either kind on the plane of the reference's first two principal components; once."""
        if measure != MEASURES[0] or "class" in self.scope:
            return {}
        real = self._rows("real").astype(np.float64)
        axes = principal_axes(real, PLANE)
        generator = self.evidence.generator(f"{NAME}, map", self.settings)
        points = {}
        for kind in ("real", "synthetic"):
            shown = np.sort(generator.permutation(len(real))[:SHOWN])
            placed = (self._rows(kind)[shown] - real.mean(axis=0)) @ axes
            points[kind] = np.round(placed, 4).tolist()
            points[f"{kind}_labels"] = getattr(self.sides, kind).labels[shown].tolist()
        return {"map": points}


def _diversity(evidence: Evidence, sides: Sides, scope: dict[str, str], settings: Settings) -> Finding:
    """Mean MS-SSIM of random pairs of different units, beside that of real ones; high means alike."""
    known = {
        "audit": NAME,
        "version": VERSION,
        "statistic": "ms_ssim_diversity",
        "scope": scope,
        "n": sides.n,
    }
    if sides.too_few:
        return quality_finding(**known, conclusive=False, reason=TOO_FEW)
    generator = evidence.generator(f"{NAME}, pairs", settings)
    drawn, real = (_similarity(side, generator) for side in (sides.synthetic, sides.real))
    placebo = _similarity(sides.floor, generator)
    collapsed = np.where(generator.random(len(placebo)) < 0.5, 1.0, placebo)  # every second pair is one image
    p_seen = float(stats.ttest_ind(collapsed, real, equal_var=False, alternative="greater").pvalue)
    p_alike = float(stats.ttest_ind(placebo, real, equal_var=False).pvalue)
    level = settings.control_level
    controls = Controls(
        positive=Control(
            passed=p_seen <= level, description="half of the pairs are one image", p_value=p_seen
        ),
        negative=Control(passed=p_alike > level, description="pairs of test patients", p_value=p_alike),
    )
    error, real_error = (float(np.std(each, ddof=1) / np.sqrt(len(each))) for each in (drawn, real))
    smallest = seen_in_four_of_five(float(np.hypot(error, real_error)))
    width = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(drawn) - 1)) * error
    reason = controls.fault("")
    return quality_finding(
        **known,
        value=float(drawn.mean()),
        interval=(float(drawn.mean()) - width, float(drawn.mean()) + width),
        baseline=float(real.mean()),
        controls=controls,
        power=Power(
            smallest_leak=smallest,
            description=f"a difference of {smallest:.3g} would be seen in 80 % of trials",
        ),
        conclusive=not reason,
        reason=reason,
        details={"compared": len(drawn)},
    )


def _similarity(side: Side, generator: np.random.Generator) -> NDArray[np.float64]:
    """(p,) MS-SSIM of pairs that share no unit, so that they are independent."""
    _, first = np.unique(side.units, return_index=True)
    rows = generator.permutation(np.sort(first))[: 2 * PAIRS]
    half = len(rows) // 2
    found: NDArray[np.float64] = ms_ssim(side.images[rows[:half]], side.images[rows[half : 2 * half]])
    return found
