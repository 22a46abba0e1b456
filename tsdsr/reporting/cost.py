"""Quality against cost (time, multiply-adds, parameters): methods that a paper prints, and those scored here.

A row of panels has one origin: figures of two papers, of a paper and ours, or on two machines, are not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from tsdsr.reporting import scores as score_files
from tsdsr.reporting.curves import PALETTE, STYLE
from tsdsr.reporting.published import COLUMNS, PublishedTable
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Column, Provenance

COSTS = tuple(COLUMNS[key] for key in ("time_s", "macs_g", "params_m"))
LABEL_SIZE = (0.4, 0.07)  # of a panel's width and height
PRINTED_ON = "DRealSR"  # the data set of the scores for the printed costs


@dataclass(frozen=True)
class CostPoint:
    """One method: its quality, and its known costs by the keys of `COSTS`."""

    label: str
    quality: float
    costs: Mapping[str, float]


@dataclass(frozen=True)
class Panels:
    """The methods of one origin under one metric."""

    title: str
    metric: Column
    points: Sequence[CostPoint]


def printed(tables: Mapping[str, PublishedTable], metric: str) -> list[Panels]:
    """A row for each publication and machine with printed costs, with its own scores.

    Args:
        tables: of `published.load`.
    """
    quality = {}
    for table in tables.values():
        for row in table.rows:
            if row.dataset == PRINTED_ON and metric in row.values:
                quality[_publication(row.provenance), *_method(row.method)] = float(row.values[metric])
    groups: dict[str, list[CostPoint]] = {}
    for row in tables["table3"].rows:
        name, _ = _method(row.method)
        found = quality.get((_publication(row.provenance), name, row.values["steps"]))
        if found is not None:
            costs = {cost.key: float(row.values[cost.key]) for cost in COSTS if cost.key in row.values}
            groups.setdefault(row.group, []).append(CostPoint(row.method, found, costs))
    return [Panels(group, COLUMNS[metric], points) for group, points in groups.items()]


def measured(runs: Iterable[MethodScores], metric: str) -> list[Panels]:
    """A row for each data set: the methods scored here with a known cost."""
    groups: dict[str, list[CostPoint]] = {}
    for run in runs:
        score = run.metrics.get(metric)
        if run.cost and score is not None and score.mean is not None:
            point = CostPoint(score_files.method_label(run.method), score.mean, run.cost)
            groups.setdefault(f"measured here, {run.dataset}", []).append(point)
    return [Panels(group, COLUMNS[metric], points) for group, points in groups.items()]


def draw(rows: Sequence[Panels]) -> Figure:
    """A row of panels per origin, a column per cost; costs on a logarithmic axis."""
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(10.2, 2.9 * len(rows)), layout="constrained")
        grid = figure.subplots(len(rows), len(COSTS), squeeze=False)
        for row, line in zip(rows, grid, strict=True):
            line[0].set_title(row.title)
            for axes, cost in zip(line, COSTS, strict=True):
                _panel(axes, [point for point in row.points if point.costs.get(cost.key)], cost, row.metric)
    return figure


def _panel(axes: Axes, points: Sequence[CostPoint], cost: Column, metric: Column) -> None:
    if not points:
        axes.set_axis_off()
        return
    axes.set_xscale("log", subs=[])
    values = [point.costs[cost.key] for point in points]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(values) < 30 * min(values) else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(xlabel=cost.heading, ylabel=metric.heading)
    axes.plot(values, [point.quality for point in points], "o", color=PALETTE[0])
    axes.margins(0.2)
    axes.autoscale_view()
    places = [(point.costs[cost.key], point.quality) for point in points]
    for point, place, above in zip(points, places, _crowded(axes, places), strict=True):
        offset = (3, -9) if above else (3, 3)
        axes.annotate(point.label, place, offset, textcoords="offset points", fontsize=7)


def _crowded(axes: Axes, places: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether another place is close above, where the label of this one would be."""
    inside = (axes.transData - axes.transAxes).transform(places)  # in units of the panel's width and height
    right, up = (inside[None] - inside[:, None]).transpose(2, 0, 1)  # [i, j]: from place i to place j
    close = (abs(right) < LABEL_SIZE[0]) & (up > 0) & (up < LABEL_SIZE[1])
    return [bool(found) for found in close.any(1)]


def _publication(origin: Provenance) -> str:
    return dict(origin.details)["publication"]


def _method(name: str) -> tuple[str, str]:
    """The name and the number of steps in `SeeSR-50s` or `AddSR (4 steps)`."""
    match = re.fullmatch(r"(.+)-(\d+)s", name)
    return (match[1], match[2]) if match else (re.sub(r" \(.*\)$", "", name), "1")
