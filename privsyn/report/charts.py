"""Static charts as inline SVG: equal bytes for equal numbers, without dates, scripts or fonts of their own.

The name of a chart is unique in its page and keeps its element ids apart from those of other charts. No chart
contains a string of a user: the page writes, and escapes, the captions.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from html import escape
from typing import Any, TypedDict

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from privsyn.claim.words import detection_limit
from privsyn.report.words import number, percent

INK, MUTED, GRID = "#1b2733", "#526272", "#dfe5ea"
LINE, ALARM, CALM = "#0b5c8c", "#b3261e", "#2f7d4f"
MARKED_FPR = 0.01
MIN_NON_MEMBERS = 10  # a rate that fewer decide is not printed
SMOOTHING = 25  # points in a running median: long enough to see through the noise of a diffusion loss

_STYLE: dict[str, object] = {
    "svg.fonttype": "none",  # text stays text: selectable, small, in the reader's own font
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.unicode_minus": True,
    "text.parse_math": False,
}


class _Marker(TypedDict):
    """How one kind of point is drawn, in the names of matplotlib."""

    marker: str
    ms: float
    mfc: str
    mec: str
    mew: float
    alpha: float
    zorder: float


_RING = _Marker(marker="o", ms=4.5, mfc="none", mec=INK, mew=0.8, alpha=0.55, zorder=3)
_CROSS = _Marker(marker="x", ms=3.6, mfc="none", mec=LINE, mew=1.1, alpha=0.6, zorder=2)


def roc_log_log(
    false_positives: Sequence[float],
    true_positives: Sequence[float],
    *,
    name: str,
    bound: tuple[float, float] | None = None,
) -> str:
    """The ROC of a membership attack on logarithmic axes, where low false-positive rates can be seen.

    Carlini et al. 2022, https://arxiv.org/abs/2112.03570: an attack matters at low false-positive rates,
    which linear axes hide. The diagonal is guessing; TPR at 1 % FPR is marked where the data reach it.

    Args:
        false_positives: rates in [0, 1], ascending.
        true_positives: rates of the same length.
        name: unique in the page.
        bound: (epsilon, delta) of a claim; draws the most that any attack could reach under it.
    """
    fpr, tpr = np.asarray(false_positives, float), np.asarray(true_positives, float)
    floor = _floor(fpr)
    with _style(name):
        figure, axes = _figure(4.9, 4.8)
        axes.plot([floor, 1], [floor, 1], "--", color=MUTED, lw=1.1, label="guessing")
        if bound is not None:
            axes.plot(*_limit(floor, bound), ":", color=CALM, lw=1.6, label="most that the claim allows")
        axes.plot(np.clip(fpr, floor, 1), np.clip(tpr, floor, 1), color=LINE, lw=1.9, label="this attack")
        axes.axvspan(
            floor, _supported(fpr), color=GRID, alpha=0.5, lw=0, zorder=0, label="under 10 non-members"
        )
        _mark(axes, fpr, tpr, floor)
        _percent_axes(axes, floor)
        axes.set_xlabel("false-positive rate: non-members taken for members")
        axes.set_ylabel("true-positive rate: members found")
        figure.legend(frameon=False, loc="outside lower center", ncols=2, handlelength=1.6)
        return _svg(figure, "ROC curve on logarithmic axes")


def interval_strip(
    value: float | None,
    interval: tuple[float, float | None] | None,
    *,
    name: str,
    baseline: float | None,
    requirements: Sequence[tuple[str, float]],
) -> str:
    """One measured value with its interval, its baseline and the limits that rules set.

    Args:
        name: unique in the page.
        requirements: (comparison, threshold) of each rule; the side that breaks a rule is shaded.
    """
    bounds = () if interval is None else tuple(interval)
    points = [each for each in (value, baseline, *bounds) if each is not None]
    low, high = _room([*points, *(threshold for _, threshold in requirements)])
    with _style(name):
        figure, axes = _figure(5.4, 0.95)
        for comparison, threshold in requirements:
            _draw_limit(axes, threshold, high if comparison in ("<", "<=") else low)
        if baseline is not None:
            axes.axvline(baseline, color=MUTED, lw=1.2, ls="--")
        if interval is not None:
            ends = [high if end is None else end for end in interval]
            axes.plot(ends, [0.5, 0.5], color=LINE, lw=3, solid_capstyle="butt", marker="|", ms=11, mew=2)
        if value is not None:
            axes.plot([value], [0.5], "o", color=LINE, ms=7, mec="white", mew=1.2)
        axes.set(xlim=(low, high), ylim=(0, 1))
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(round(float(x), 12))))
        return _svg(figure, "Value and interval against the limits of the policy")


def training_curve(steps: Sequence[float], losses: Sequence[float], *, name: str) -> str:
    """Loss against step: every logged value, pale, and its running median."""
    x, y = np.asarray(steps, float), np.asarray(losses, float)
    with _style(name):
        figure, axes = _figure(7.4, 2.9)
        axes.plot(x, y, color=LINE, lw=0.8, alpha=0.35)
        axes.plot(x, _running_median(y, SMOOTHING), color=LINE, lw=1.9)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: number(float(x))))
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        return _svg(figure, "Training loss against step")


def feature_map(
    real: Sequence[tuple[float, float]],
    synthetic: Sequence[tuple[float, float]],
    *,
    name: str,
    within: Sequence[tuple[float, float]],
) -> str:
    """Real images as rings and synthetic ones as crosses, on the first two principal components of the real.

    Args:
        real, synthetic: points; either may be empty.
        name: unique in the page.
        within: points that the axes must hold, so that the panels of one map can be compared.
    """
    bounds = [_room(each.tolist()) for each in np.asarray(within, float).T]
    half = max(high - low for low, high in bounds) / 2
    xlim, ylim = ((sum(each) / 2 - half, sum(each) / 2 + half) for each in bounds)
    with _style(name):
        figure, axes = _figure(4.9, 5.1)
        for points, kind, marker in ((real, "real", _RING), (synthetic, "synthetic", _CROSS)):
            across, up = np.asarray(points, float).reshape(-1, 2).T
            axes.plot(across, up, linestyle="none", label=f"{kind} ({number(len(points))})", **marker)
        axes.set(xlim=xlim, ylim=ylim, aspect="equal")
        axes.set_xlabel("1st principal component of the real images' features")
        axes.set_ylabel("2nd principal component of the real images' features")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))
            axis.set_major_formatter(FuncFormatter(lambda x, _: number(round(float(x), 12))))
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        figure.legend(frameon=False, loc="outside lower center", ncols=2, handletextpad=0.2)
        return _svg(figure, "Real and synthetic images on the plane of the real images' features")


def rate_at(fpr: NDArray[np.float64], tpr: NDArray[np.float64], limit: float) -> float | None:
    """The largest true-positive rate at a false-positive rate of at most `limit`; `None` if that is too fine.

    Never interpolated, so it is a rate that some threshold reached. Too fine is a limit that fewer than ten
    non-members decide.
    """
    if _supported(fpr) > limit * (1 + 1e-9):
        return None
    return float(tpr[fpr <= limit * (1 + 1e-9)].max())


def _supported(fpr: NDArray[np.float64]) -> float:
    """The false-positive rate of ten non-members, from the smallest step of the curve; 1 if it has none."""
    return float(min(1.0, MIN_NON_MEMBERS * fpr[fpr > 0].min(initial=1.0)))


def _style(name: str) -> AbstractContextManager[None]:
    settings: Any = {**_STYLE, "svg.hashsalt": name}  # matplotlib's stubs list its 300 keys as literals
    return mpl.rc_context(settings)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    return figure, axes


def _floor(fpr: NDArray[np.float64]) -> float:
    positive = fpr[fpr > 0]
    return float(10 ** math.floor(math.log10(max(1e-5, min(positive.min(initial=1.0), MARKED_FPR)))))


def _limit(floor: float, bound: tuple[float, float]) -> tuple[NDArray[np.float64], list[float]]:
    rates = np.geomspace(floor, 1, 60)
    return rates, [max(floor, detection_limit(*bound, float(rate))) for rate in rates]


def _draw_limit(axes: Axes, threshold: float, end: float) -> None:
    """The limit of a rule; values between it and `end` of the axis break the rule."""
    axes.axvspan(*sorted((threshold, end)), color=ALARM, alpha=0.10, lw=0)
    axes.axvline(threshold, color=ALARM, lw=1.6)
    label = f"limit {number(threshold)}"
    axes.text(threshold, 1.04, label, color=ALARM, ha="center", va="bottom", fontsize=8.5)


def _mark(axes: Axes, fpr: NDArray[np.float64], tpr: NDArray[np.float64], floor: float) -> None:
    rate = rate_at(fpr, tpr, MARKED_FPR)
    if rate is None:
        return
    label = f"at 1 %: {percent(rate)} found"
    axes.plot(
        [MARKED_FPR],
        [max(rate, floor)],
        "o",
        color=ALARM,
        ms=7.5,
        mec="white",
        mew=1.2,
        zorder=5,
        label=label,
    )


def _percent_axes(axes: Axes, floor: float) -> None:
    decades = [10.0**power for power in range(round(math.log10(floor)), 1)]
    axes.set(xscale="log", yscale="log", xlim=(floor, 1.05), ylim=(floor, 1.3))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator(decades))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g} %"))
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)


def _room(points: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis that shows all points with some air around them."""
    low, high = (min(points), max(points)) if points else (0.0, 1.0)
    air = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air


def _running_median(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    half = min(width, len(values)) // 2
    return np.array([np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _svg(figure: Figure, label: str) -> str:
    """The figure as an `<svg>` element for a page: no prologue, namespace address, metadata or style rule."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same ids in every figure would clash in one page
    text = text.replace("xlink:href", "href")
    text = re.sub(r"font-family: [^;\"]*", "font-family: sans-serif", text)
    size = re.search(r'width="([\d.]+)pt" height="([\d.]+)pt"', text)
    width, height = (float(part) for part in size.groups()) if size else (0.0, 0.0)
    head = f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width:g} {height:g}">'
    return re.sub(r"<svg[^>]*>", head, text, count=1).strip()
