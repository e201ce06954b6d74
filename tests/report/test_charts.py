"""Charts: the same bytes for the same numbers, readable and self-contained, also for odd numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import numpy as np
import pytest

from privsyn.report.charts import feature_map, interval_strip, rate_at, roc_log_log, training_curve

REAL, SYNTHETIC = [(-30.0, 2.0), (10.0, 4.5), (3e-3, -1.0)], [(0.5, 0.25), (90.0, 7.0)]
FPR, TPR = [0.0, 0.001, 0.01, 0.1, 1.0], [0.0, 0.004, 0.03, 0.3, 1.0]

CHARTS: list[Callable[[str], str]] = [
    lambda name: roc_log_log(FPR, TPR, name=name),
    lambda name: roc_log_log(FPR, TPR, name=name, bound=(1.0, 1e-5)),
    lambda name: roc_log_log([0.0, 1.0], [1.0, 1.0], name=name, bound=(1e9, 0.0)),
    lambda name: roc_log_log([0.0], [0.0], name=name),
    lambda name: interval_strip(0.6, (0.5, 0.7), name=name, baseline=0.5, requirements=[("<=", 0.55)]),
    lambda name: interval_strip(0.0, None, name=name, baseline=None, requirements=[(">=", 0.0)]),
    lambda name: interval_strip(None, (1e-9, 2e-9), name=name, baseline=None, requirements=[]),
    lambda name: interval_strip(
        4e7, (4e7, 4e7), name=name, baseline=0.0, requirements=[("<", 1e8), (">", 0.0)]
    ),
    lambda name: training_curve(range(300), np.linspace(1, 0.1, 300).tolist(), name=name),
    lambda name: training_curve([0, 1], [1.0, 0.5], name=name),
    lambda name: feature_map(REAL, SYNTHETIC, name=name, within=[*REAL, *SYNTHETIC]),
    lambda name: feature_map(REAL[:1], [], name=name, within=REAL[:1]),
]


@pytest.mark.parametrize("chart", CHARTS)
def test_chart_is_one_self_contained_element(chart: Callable[[str], str]) -> None:
    """Well-formed, with a description, text as text, no size in points, no metadata, no address."""
    svg = chart("a")
    root = ElementTree.fromstring(svg)
    assert (root.tag, root.get("role"), root.get("width")) == ("svg", "img", None)
    assert root.get("aria-label")
    assert [element.text for element in root.iter("text")]
    assert "://" not in svg
    assert not {"metadata", "style", "image", "script"} & {element.tag for element in root.iter()}
    assert set(re.findall(r"font-family: ([^;\"]*)", svg)) <= {"sans-serif"}


@pytest.mark.parametrize("chart", CHARTS)
def test_chart_is_the_same_each_time(chart: Callable[[str], str]) -> None:
    """Equal numbers and names give equal bytes."""
    assert chart("a") == chart("a")


def test_names_keep_ids_apart() -> None:
    """Two charts of one page share no element id."""

    def ids(name: str) -> set[str]:
        return set(re.findall(r'id="([^"]+)"', roc_log_log(FPR, TPR, name=name)))

    assert ids("a")
    assert not ids("a") & ids("b")


def test_roc_marks_the_rate_at_one_percent() -> None:
    """TPR at 1 % FPR is written beside its mark, unless fewer than ten outsiders would decide it."""
    assert "at 1 %: 3 % found" in roc_log_log(FPR, TPR, name="a")
    assert "% found" not in roc_log_log([0.0, 0.002, 0.01, 1.0], [0.0, 0.1, 0.2, 1.0], name="a")


def test_roc_draws_what_a_claim_allows() -> None:
    """The limit of a dp claim is drawn only where there is one."""
    assert "most that the claim allows" in roc_log_log(FPR, TPR, name="a", bound=(1.0, 1e-5))
    assert "most that the claim allows" not in roc_log_log(FPR, TPR, name="a")


def test_rate_is_one_that_a_threshold_reached() -> None:
    """The rate at a limit equals the best of all thresholds that keep within it, found one by one."""
    generator = np.random.default_rng(0)
    members, outsiders = generator.normal(1, 1, 400), generator.normal(0, 1, 500)
    thresholds = np.sort(np.concatenate([members, outsiders]))[::-1]
    fpr = np.array([0.0, *((outsiders >= t).mean() for t in thresholds)])
    tpr = np.array([0.0, *((members >= t).mean() for t in thresholds)])
    for limit in (0.02, 0.05, 0.055, 0.3, 1.0):
        kept = [(members >= t).mean() for t in thresholds if (outsiders >= t).mean() <= limit]
        assert rate_at(fpr, tpr, limit) == max(kept)
    assert rate_at(fpr, tpr, 0.018) is None


def test_strip_shades_the_side_that_breaks_the_rule() -> None:
    """`at most` shades above its limit, `at least` below; without a rule nothing is shaded."""

    def shaded(requirements: list[tuple[str, float]]) -> list[float]:
        svg = interval_strip(0.5, (0.0, 1.0), name="a", baseline=None, requirements=requirements)
        paths = re.findall(r'<path d="([^"]+)"[^>]*fill: #b3261e; opacity', svg)
        return [float(x) for path in paths for x in re.findall(r"[ML] ([\d.]+)", path)]

    above, below = shaded([("<=", 0.5)]), shaded([(">=", 0.5)])
    assert min(above) == pytest.approx(max(below))
    assert shaded([]) == []


def marks(svg: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Shape and places of both kinds of marks of a map, real ones first, without those of the legend."""
    drawn = re.findall(r'<g clip-path="[^"]+">(.*?)</g>', svg, flags=re.DOTALL)
    found = []
    for group in drawn:
        uses = re.findall(r'<use href="#([^"]+)" x="([\d.]+)" y="([\d.]+)"', group)
        shape = re.search(rf'<path id="{uses[0][0]}" d="([^"]+)"', svg) if uses else None
        if shape:
            found.append((shape[1], [(float(x), float(y)) for _, x, y in uses]))
    return sorted(found, key=lambda kind: "C" not in kind[0])  # only rings have curves


def test_map_tells_real_from_synthetic_without_colour() -> None:
    """Real images are rings, synthetic ones crosses, and every point is drawn once."""
    (ring, real), (cross, synthetic) = marks(
        feature_map(REAL, SYNTHETIC, name="a", within=[*REAL, *SYNTHETIC])
    )
    assert "C" in ring
    assert "C" not in cross
    assert (len(real), len(synthetic)) == (3, 2)


def test_map_has_equal_units_on_both_axes() -> None:
    """A square of the plane is a square of the chart."""
    corners = [(0.0, 0.0), (0.0, 10.0), (10.0, 10.0), (10.0, 0.0), (60.0, 0.0)]
    (_, real), *_ = marks(feature_map(corners, [], name="a", within=corners))
    across = sorted({round(x, 2) for x, _ in real})
    up = sorted({round(y, 2) for _, y in real})
    assert across[1] - across[0] == pytest.approx(up[1] - up[0], abs=0.05)


def test_panels_of_a_map_share_their_axes() -> None:
    """The same point lies at the same place, whatever else a panel shows."""
    within = [*REAL, *SYNTHETIC]
    (_, alone), *_ = marks(feature_map(REAL[:1], [], name="a", within=within))
    (_, among), *_ = marks(feature_map(REAL, SYNTHETIC, name="a", within=within))
    assert alone[0] in among
