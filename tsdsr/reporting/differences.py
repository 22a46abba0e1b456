"""A plot of an ablation: each variant's difference to the reference with its interval, one panel per metric."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib
from matplotlib.figure import Figure

from tsdsr import metrics
from tsdsr.metrics.statistics import Interval
from tsdsr.reporting.curves import FAINT, PALETTE, STYLE


def differences(variants: Mapping[str, Mapping[str, Interval]], reference: str) -> Figure:
    """Dots with intervals around the line of no difference; a filled dot has an interval without 0.

    Args:
        variants: label -> metric -> variant minus reference. reference: its label on the axis.
    """
    shown = [row for name, row in metrics.METRICS.items() if any(name in found for found in variants.values())]
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(2.6 * len(shown) + 1.4, 0.3 * len(variants) + 1.0), layout="constrained")
        panels = figure.subplots(1, len(shown), squeeze=False, sharey=True).ravel()
        for panel, metric in zip(panels, shown, strict=True):
            panel.axvline(0, color=FAINT, linewidth=1)
            for place, found in enumerate(reversed(list(variants.values()))):
                if (value := found.get(metric.name)) is None or value.low is None:
                    continue
                face = PALETTE[0] if value.excludes_zero else "white"
                panel.plot([value.low, value.high], [place, place], color=PALETTE[0])
                panel.plot(value.mean, place, "o", color=PALETTE[0], markerfacecolor=face)
            panel.set_title(f"{metric.label} {metric.arrow}, minus {reference}")
        panels[0].set_yticks(range(len(variants)), list(reversed(list(variants))))
    return figure
