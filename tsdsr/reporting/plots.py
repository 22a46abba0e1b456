"""Plots other than curves over steps: the teacher's flow loss per noise bin, and scores per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tsdsr.reporting import scores as score_files
from tsdsr.reporting.curves import FAINT, PALETTE, STYLE, legend, small_panels
from tsdsr.reporting.scores import METRIC_COLUMNS, MethodScores
from tsdsr.reporting.table import ARROWS

FLOW_PREDICTORS = {"teacher": "the teacher", "gaussian": "a Gaussian of each channel", "mean": "the mean velocity"}


def flow_bins(bins: Mapping[str, Mapping[str, float]]) -> Figure:
    """Bars: the flow-matching loss in each bin of time, of the teacher and of the reference predictors.

    Args:
        bins: `t0200_0400` -> predictor -> loss, from the teacher stage's metrics.
    """
    known = [name for name in FLOW_PREDICTORS if all(name in losses for losses in bins.values())]
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(10.2, 2.9), layout="constrained")
        panel = figure.subplots()
        width = 0.8 / len(known)
        for index, name in enumerate(known):
            places = [place + (index - (len(known) - 1) / 2) * width for place in range(len(bins))]
            color = FAINT if name == "mean" else PALETTE[index]
            heights = [losses[name] for losses in bins.values()]
            panel.bar(places, heights, width * 0.92, color=color, label=FLOW_PREDICTORS[name])
        panel.set_xticks(range(len(bins)), [_bin_label(name) for name in bins])
        panel.set_xlabel("time, of 1000: clean to noise")
        panel.tick_params(length=0)
        figure.legend(loc="outside upper left", ncols=len(known))
    return figure


def _bin_label(name: str) -> str:
    low, _, high = name.removeprefix("t").partition("_")
    return f"{int(low)}–{int(high)}" if low.isdigit() and high.isdigit() else name


def by_image(runs: Sequence[MethodScores]) -> Figure | None:
    """Dots: the score of every image with every method, one panel per metric; images in the order of the first panel's
    bicubic score (or of the first method's). None without scores."""
    metrics = [column for column in METRIC_COLUMNS if any(run.per_image.get(column.key) for run in runs)]
    if not metrics:
        return None
    order = _order(runs, metrics[0].key)
    with small_panels(len(metrics)) as (figure, panels):
        for panel, column in zip(panels, metrics, strict=True):
            for index, run in enumerate(runs):
                _dots(panel, run.per_image.get(column.key, {}), order, index, run.method)
            panel.set_title(f"{column.label} {ARROWS[column.direction]}")
            panel.set_xticks([])
            panel.tick_params(length=0)
        legend(figure, panels[0].get_legend_handles_labels()[0])
    return figure


def _dots(panel: Any, scores: Mapping[str, float], order: Sequence[str], index: int, method: str) -> None:
    places = [place for place, name in enumerate(order) if name in scores]
    values = [scores[order[place]] for place in places]
    hollow = method in score_files.BASELINES
    color = PALETTE[index % len(PALETTE)]
    panel.plot(places, values, color=color, alpha=0.35, linewidth=0.8)
    face = "none" if hollow else color
    panel.plot(
        places,
        values,
        "o",
        markersize=3.6,
        markerfacecolor=face,
        markeredgecolor=color,
        label=score_files.method_label(method),
    )


def _order(runs: Sequence[MethodScores], metric: str) -> list[str]:
    scored = [run for run in runs if run.per_image.get(metric)]
    first = next((run for run in scored if run.method == "bicubic"), scored[0])
    scores = first.per_image[metric]
    return sorted(scores, key=lambda name: (scores[name], name))
