"""Curves: `reports/curves/<run>.csv` (`step,<term>,...`) as one small panel per term, one line per run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tsdsr.errors import UserError
from tsdsr.reporting.scores import method_label

PALETTE = ("#3b78c9", "#d97b29", "#2a937a", "#9c62c0", "#c94f5f", "#8a7a3d", "#5f7f95")
INK, FAINT = "#22272e", "#b9c0c8"
STYLE: Mapping[str, Any] = {
    "svg.hashsalt": "tsdsr",  # otherwise element ids are random
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.grid.axis": "y",
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}


MIN_TO_SMOOTH = 12  # logged steps; a shorter curve is shown as it is
SHARE = "grad_share/"  # prefix of the columns with shares of the gradient, drawn by `shares`
OVERLAP = 0.05  # share of the full run's range: curves nearer than this are drawn as differences
PHASE = "phase"  # the column with the number of the phase; a change is drawn as a line, not as a panel


@dataclass(frozen=True)
class Curve:
    """One run's stepped values: term -> (steps, values); a term may start late or miss steps."""

    run: str
    terms: Mapping[str, tuple[list[float], list[float]]]

    @property
    def boundaries(self) -> list[float]:
        """The steps at which a new phase was first logged."""
        steps, phases = self.terms.get(PHASE, ([], []))
        return [step for step, before, now in zip(steps[1:], phases, phases[1:], strict=False) if before != now]


def load(folder: Path) -> list[Curve]:
    """Every curve under `folder`, `full` first, then by name; empty if the folder is empty or absent.

    Raises:
        UserError: a file has no `step` column or a value that is not a number.
    """
    paths = sorted(folder.glob("*.csv"), key=lambda path: (not path.stem.startswith("full"), path.stem))
    return [Curve(path.stem, _read(path)) for path in paths]


def _read(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    terms: dict[str, tuple[list[float], list[float]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and "step" not in rows[0]:
            raise UserError(f"{path}: no `step` column; run the distill stage again")
        for row in rows:
            for name, text in row.items():
                if name != "step" and text:
                    steps, values = terms.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(text))
    except (ValueError, TypeError) as error:  # the row is too long or too short
        raise UserError(f"{path}: {error}; every value must be a number or empty") from None
    return terms


Limit = Callable[[Sequence[float]], Sequence[float]]


def draw(
    curves: Sequence[Curve],
    titles: Mapping[str, str],
    limits: Mapping[str, Limit] | None = None,
) -> Figure:
    """A figure with one panel per term; overlapping curves are drawn as differences from the first run's.

    Args:
        titles: renames and orders terms (and may carry a caveat).
        limits: for a term, a function from a run's values to its upper limit at each step; drawn dotted.
    """
    every = dict.fromkeys(name for curve in curves for name in curve.terms)
    names = sorted((name for name in every if name != PHASE and not name.startswith(SHARE)), key=_rank(titles))
    with small_panels(len(names)) as (figure, panels):
        for panel, name in zip(panels, names, strict=True):
            _panel(panel, name, curves, titles.get(name, name), (limits or {}).get(name))
        handles = [
            matplotlib.lines.Line2D([], [], color=PALETTE[index % len(PALETTE)], label=method_label(curve.run))
            for index, curve in enumerate(curves)
        ]
        legend(figure, handles)
    return figure


@contextmanager
def small_panels(count: int) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of small panels, three in a row, to be drawn in the report's style within the block."""
    rows = max(1, math.ceil(count / 3))
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(10.2, 2.2 * rows + 0.5), layout="constrained")
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        for panel in panels[count:]:
            panel.set_axis_off()
        yield figure, list(panels[:count])


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """One legend above all panels."""
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 6))


def _rank(titles: Mapping[str, str]) -> Callable[[str], int]:
    order = {name: index for index, name in enumerate(titles)}
    return lambda name: order.get(name, len(order))


def overlapping(curves: Sequence[Curve], name: str) -> bool:
    """Whether all runs have this term at the steps of the first, and are too near it to be distinguished."""
    if len(curves) < 2 or any(name not in curve.terms for curve in curves):
        return False
    (steps, first), *others = (curve.terms[name] for curve in curves)
    if any(other[0] != steps for other in others):
        return False
    spread = max(first) - min(first)
    gaps = [median(abs(a - b) for a, b in zip(values, first, strict=True)) for _, values in others]
    return 0 < max(gaps) < OVERLAP * spread


def _panel(panel: Axes, name: str, curves: Sequence[Curve], title: str, limit: Limit | None) -> None:
    reference = curves[0].terms[name][1] if limit is None and overlapping(curves, name) else None
    for index, curve in enumerate(curves):
        if name in curve.terms:
            steps, values = curve.terms[name]
            if reference is not None:
                values = [value - base for value, base in zip(values, reference, strict=True)]
            color = PALETTE[index % len(PALETTE)]
            if len(steps) < MIN_TO_SMOOTH:
                panel.plot(steps, values, color=color, marker="o", markersize=3)
            else:
                panel.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
                panel.plot(steps, smooth(values), color=color)
            if limit is not None:
                panel.plot(steps, limit(values), color=color, linestyle=(0, (1, 2)), linewidth=1.1)
    for step in sorted({step for curve in curves for step in curve.boundaries}):
        panel.axvline(step, color=FAINT, linewidth=0.8, linestyle=(0, (3, 3)), zorder=0)
    panel.set_title(title if reference is None else f"{title}, minus {method_label(curves[0].run)}")
    panel.margins(x=0.01)
    panel.tick_params(length=0)


def smooth(values: Sequence[float], width: float = 2.0) -> list[float]:
    """Moving average with a centred Gaussian window (`width`: its standard deviation, in logged steps)."""
    reach = math.ceil(3 * width)
    weights = [math.exp(-0.5 * (offset / width) ** 2) for offset in range(-reach, reach + 1)]
    result = []
    for place in range(len(values)):
        near = range(max(0, place - reach), min(len(values), place + reach + 1))
        shares = [weights[other - place + reach] for other in near]
        result.append(sum(share * values[other] for share, other in zip(shares, near, strict=True)) / sum(shares))
    return result


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Bytes that are equal for equal figures: no date, no version of the software."""
    return _save(figure, "png", dpi=dpi, metadata={"Software": None})


def to_svg(figure: Figure) -> bytes:
    """Bytes that are equal for equal figures; texts stay texts."""
    return _save(figure, "svg", metadata={"Date": None, "Creator": None}, transparent=True)


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.rc_context(dict(STYLE)):
        figure.savefig(buffer, format=kind, **options)
    return buffer.getvalue()
