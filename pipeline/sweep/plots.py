"""A sweep's three plots: parallel coordinates, a slice a parameter, and the parameters' importance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.sweep.ledger import FINISHED, TrialRecord
from pipeline.sweep.space import shown_value
from tsdsr import files, metrics
from tsdsr.reporting.curves import FAINT, INK, STYLE

COLORS = colormaps["viridis"]
WIDTH = 10.0


def parallel(
    records: Sequence[TrialRecord], keys: Sequence[str], logarithmic: set[str], label: str, mode: str, out: Path
) -> Path:
    """One axis a parameter and the score at the right; one line a trial, dashed where it was stopped early."""
    scores = [record.score or 0.0 for record in records]
    norm = Normalize(min(scores), max(scores) if max(scores) > min(scores) else min(scores) + 1e-9)
    axes_of = [_Axis.of([record.values.get(key) for record in records], key in logarithmic) for key in keys]
    axes_of.append(_Axis.of(scores, False))
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
        axes = figure.subplots()
        order = sorted(range(len(records)), key=lambda index: scores[index], reverse=mode == "min")
        for place in order:
            record = records[place]
            heights = [axis.place(record.values.get(key)) for axis, key in zip(axes_of, keys)]
            color = COLORS(norm(scores[place]))
            _draw_line(axes, [*heights, axes_of[-1].place(scores[place])], color, record.end == FINISHED)
        _draw_axes(axes, axes_of, [*(_short(key) for key in keys), label])
        bar = figure.colorbar(ScalarMappable(norm, COLORS), ax=axes, label=label, pad=0.02, fraction=0.03)
        bar.formatter.set_useOffset(False)
        axes.set_title("Trials: solid = trained to the end, dashed = stopped early (its score is from fewer steps)")
        return _save(figure, out)


def slices(records: Sequence[TrialRecord], keys: Sequence[str], logarithmic: set[str], label: str, out: Path) -> Path:
    """Score against each parameter, with 95 % intervals over the images; for choices also the mean of each."""
    columns = min(3, len(keys))
    rows = math.ceil(len(keys) / columns)
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(WIDTH, 3.0 * rows), layout="constrained")
        grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
        for axes, key in zip(grid, keys):
            axis = _Axis.of([record.values.get(key) for record in records], key in logarithmic)
            for record in records:
                _draw_point(axes, axis, record, record.values.get(key))
            if axis.categories:
                _draw_group_means(axes, axis, records, key)
                axes.set_xticks([axis.place(value) for value in axis.categories], map(shown_value, axis.categories))
            elif axis.logarithmic:
                _logarithmic(axes)
            axes.set_xlabel(_short(key))
        for axes in grid[len(keys) :]:
            axes.set_visible(False)
        grid[0].set_ylabel(label)
        figure.suptitle(
            "Filled: trained to the end. Hollow: stopped early. Diamonds: means of the filled. Bars: 95 % intervals",
            fontsize=9.5,
            x=0.01,
            ha="left",
        )
        return _save(figure, out)


def _logarithmic(axes: Axes) -> None:
    """1, 2 and 5 of each decade where few are seen, else the powers of ten; written out."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 100 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def importance(shares: Mapping[str, float], label: str, out: Path) -> Path:
    """Share of the score's variance that each parameter explains."""
    names = sorted(shares, key=lambda key: shares[key])
    with matplotlib.rc_context({**STYLE, "axes.grid.axis": "x"}):
        figure = Figure(figsize=(WIDTH * 0.7, 0.8 + 0.4 * len(names)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(
            [_short(name) for name in names], [shares[name] for name in names], color="#3b78c9", height=0.6
        )
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.set_xlim(0, 1.05)
        axes.set_title(f"Share of the variance of {label} (functional ANOVA)")
        return _save(figure, out)


class _Axis:
    """Places values of a parameter on [0, 1]: numbers by size, anything else by category."""

    def __init__(self, low: float, high: float, logarithmic: bool, categories: list[Any]) -> None:
        self.low, self.high, self.logarithmic, self.categories = low, high, logarithmic, categories

    @classmethod
    def of(cls, values: Sequence[Any], logarithmic: bool) -> _Axis:
        distinct = list(dict.fromkeys(value for value in values if value is not None))
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in distinct)
        if not numeric or all(isinstance(value, int) for value in distinct):
            return cls(0, 1, False, sorted(distinct) if numeric else sorted(distinct, key=str))
        low, high = min(distinct), max(distinct)
        return cls(low, high if high > low else low + 1e-9, logarithmic, [])

    def place(self, value: Any) -> float:
        if self.categories:
            return (self.categories.index(value) + 0.5) / len(self.categories)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        if self.categories:
            return [(self.place(value), shown_value(value)) for value in self.categories]
        steps = [0.0, 0.25, 0.5, 0.75, 1.0]
        if self.logarithmic:
            return [(step, f"{self.low * (self.high / self.low) ** step:.2g}") for step in steps]
        decimals = max(0, 2 - math.floor(math.log10(self.high - self.low)))
        return [(step, f"{self.low + step * (self.high - self.low):.{decimals}f}") for step in steps]


def _draw_line(axes: Axes, heights: Sequence[float], color: Any, finished: bool) -> None:
    """A smooth line through one height an axis, level where it crosses each."""
    points, codes = [(0.0, heights[0])], [Curve.MOVETO]
    for place, (before, after) in enumerate(itertools.pairwise(heights)):
        points += [(place + 0.4, before), (place + 0.6, after), (place + 1.0, after)]
        codes += [Curve.CURVE4] * 3
    style = "solid" if finished else (0, (3, 2))
    axes.add_patch(PathPatch(Curve(points, codes), fill=False, edgecolor=color, lw=1.6, ls=style, alpha=0.9))


def _draw_axes(axes: Axes, axes_of: Sequence[_Axis], names: Sequence[str]) -> None:
    axes.set_xlim(-0.15, len(names) - 0.75)
    axes.set_ylim(-0.04, 1.04)
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    for place, axis in enumerate(axes_of):
        axes.axvline(place, color=FAINT, lw=1, zorder=0)
        for height, text in axis.ticks():
            axes.text(place + 0.03, height, text, fontsize=7.5, color=INK, va="center", zorder=3, bbox=_HALO)


_HALO = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}


def _draw_point(axes: Axes, axis: _Axis, record: TrialRecord, value: Any) -> None:
    mean, low, high = record.scores[record.last_step]
    place = axis.place(value) if axis.categories else value
    errors = None if low is None or high is None else [[mean - low], [high - mean]]
    face = "#3b78c9" if record.end == FINISHED else "white"
    axes.errorbar(
        [place], [mean], yerr=errors, fmt="o", ms=5, mfc=face, mec="#3b78c9", ecolor=FAINT, elinewidth=1, zorder=2
    )


def _draw_group_means(axes: Axes, axis: _Axis, records: Sequence[TrialRecord], key: str) -> None:
    """Mean and interval over the finished trials of each choice, beside their points."""
    for value in axis.categories:
        scores = [
            record.score
            for record in records
            if record.values.get(key) == value and record.end == FINISHED and record.score is not None
        ]
        if len(scores) < 2:
            continue
        interval = metrics.mean_interval(scores)
        place = axis.place(value) + 0.25 / len(axis.categories)
        errors = [[interval.mean - (interval.low or 0)], [(interval.high or 0) - interval.mean]]
        axes.errorbar([place], [interval.mean], yerr=errors, fmt="D", ms=5, color="#d97b29", zorder=3)


def _short(key: str) -> str:
    """The end of a dotted key that still says what it is."""
    parts = key.split(".")
    return ".".join(parts[-2:]) if len(parts) > 2 else parts[-1]


def _save(figure: Figure, out: Path) -> Path:
    with files.atomic_file(out) as aside:
        figure.savefig(aside, dpi=130)
    return out
