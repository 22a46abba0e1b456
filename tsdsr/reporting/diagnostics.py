"""TSD's directions by noise level, `reports/diagnostics/<run>.csv`, in the form of the paper's Figs. 3 and 5.

Fig. 3: the teacher's direction from a noised latent compared with the direction to the photograph's latent, for the
student's latent (z_hat) and the photograph's own (z); if the first is low, VSD's "true direction" is wrong. Fig. 5: the
error of VSD by time.

Source: TSD-SR, arXiv 2411.18263v4, Sec. 3.3 and 3.4.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tsdsr.errors import UserError
from tsdsr.reporting.curves import INK, PALETTE, STYLE
from tsdsr.reporting.scores import method_label
from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table

STUDENT, PHOTOGRAPH = "cosine_z_hat", "cosine_z"
ERRORS = {"vsd_norm": "VSD's residual (Fig. 5)", "tsm_norm": "TSM's residual"}
NUMBERS = ("sigma_low", "sigma_high", "samples", STUDENT, PHOTOGRAPH, *ERRORS)
PRINTED = {STUDENT: 0.2, PHOTOGRAPH: 0.88}
PRINTED_SIGMA = 0.25  # t = 100 of 1000, through SD3's shift of 3
PRINTED_ORIGIN = Provenance(
    "printed",
    "printed in TSD-SR v4, Sec. 3.3 and Fig. 3: at t = 100, with SD3",
    (("publication", "L. Dong et al., TSD-SR, arXiv 2411.18263v4 (CVPR 2025)"),),
)


@dataclass(frozen=True)
class Bin:
    """Means over the samples of one phase with sigma between `low` and `high`."""

    low: float
    high: float
    samples: float
    means: Mapping[str, float]

    @property
    def middle(self) -> float:
        return (self.low + self.high) / 2


@dataclass(frozen=True)
class Diagnosis:
    """One run's bins, by phase of its recipe, in the order of sigma."""

    run: str
    phases: Mapping[str, Sequence[Bin]]


def load(folder: Path) -> list[Diagnosis]:
    """Every run under `folder`, `full` first, then by name; empty if the folder is empty or absent.

    Runs of methods without these statistics, such as TAD-SR, are left out.

    Raises:
        UserError: a file lacks a column or has a value that is not a number.
    """
    paths = sorted(folder.glob("*.csv"), key=lambda path: (not path.stem.startswith("full"), path.stem))
    found = ((path.stem, _read(path)) for path in paths)
    return [Diagnosis(run, phases) for run, phases in found if phases is not None]


def _read(path: Path) -> dict[str, list[Bin]] | None:
    """None if the run's method has no such statistics."""
    phases: dict[str, list[Bin]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), set(reader.fieldnames or ())
        if "sigma_low" in names and not names & {STUDENT, PHOTOGRAPH, *ERRORS}:
            return None
        for row in rows:
            numbers = {name: float(row[name]) for name in NUMBERS if row[name]}
            if numbers.get("samples"):
                phases.setdefault(row["phase"], []).append(
                    Bin(numbers["sigma_low"], numbers["sigma_high"], numbers["samples"], numbers)
                )
    except (KeyError, ValueError) as error:
        fault = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: {fault}; run the distill stage again") from None
    return {phase: sorted(bins, key=lambda bin: bin.low) for phase, bins in phases.items()}


def overall(bins: Sequence[Bin], name: str) -> float | None:
    """The mean over all samples, or None if none has this statistic."""
    known = [bin for bin in bins if name in bin.means]
    samples = sum(bin.samples for bin in known)
    return sum(bin.samples * bin.means[name] for bin in known) / samples if samples else None


def directions(runs: Sequence[Diagnosis]) -> Figure:
    """Fig. 3: cosines of the teacher's direction with the true one, by sigma; one panel per phase."""

    def panel(axes: Axes, row: str, phase: str) -> None:
        for index, run in enumerate(runs):
            _line(axes, run, phase, PHOTOGRAPH, index, linestyle=(0, (2, 1.5)), markerfacecolor="none")
            _line(axes, run, phase, STUDENT, index)
        axes.plot([PRINTED_SIGMA], [PRINTED[PHOTOGRAPH]], "D", color=INK, markerfacecolor="none", markersize=6)
        axes.plot([PRINTED_SIGMA], [PRINTED[STUDENT]], "D", color=INK, markersize=6)
        axes.set_title(f"Cosine with the true direction, phase {phase}")

    styles = [
        Line2D([], [], color=INK, linestyle=(0, (2, 1.5)), marker="o", markerfacecolor="none", label="on z"),
        Line2D([], [], color=INK, marker="o", label="on ẑ"),
        Line2D([], [], color=INK, marker="D", linestyle="none", label="printed for SD3 (hollow: on z)"),
    ]
    return _draw(runs, ["cosine"], panel, styles, height=3.2, top=1.02)


def errors(runs: Sequence[Diagnosis]) -> Figure:
    """Fig. 5 (a): the residuals of VSD, and of TSM, by sigma; one column per phase."""

    def panel(axes: Axes, row: str, phase: str) -> None:
        for index, run in enumerate(runs):
            _line(axes, run, phase, row, index)
        axes.set_title(f"{ERRORS[row]}, phase {phase}")

    return _draw(runs, list(ERRORS), panel, [], height=2.5)


def _draw(
    runs: Sequence[Diagnosis],
    rows: Sequence[str],
    panel: Callable[[Axes, str, str], None],
    styles: Sequence[Line2D],
    height: float,
    top: float | None = None,
) -> Figure:
    phases = list(dict.fromkeys(phase for run in runs for phase in run.phases))
    with matplotlib.rc_context(dict(STYLE)):
        figure = Figure(figsize=(10.2, height * len(rows) + 0.7), layout="constrained")
        grid = figure.subplots(len(rows), len(phases), squeeze=False, sharey="row")
        for row, line in zip(rows, grid, strict=True):
            for phase, axes in zip(phases, line, strict=True):
                panel(axes, row, phase)
                axes.set_xlim(0, 1)
                axes.tick_params(length=0)
            low, high = line[0].get_ylim()  # of the row, after all lines are drawn
            line[0].set_ylim(min(0.0, low), high if top is None else top)
        for axes in grid[-1]:
            axes.set_xlabel("σ: clean to noise (timestep / 1000)")
        handles = [
            Line2D([], [], color=PALETTE[index % len(PALETTE)], label=method_label(run.run))
            for index, run in enumerate(runs)
        ]
        figure.legend(handles=[*handles, *styles], loc="outside upper left", ncols=min(len(handles) + len(styles), 6))
    return figure


def _line(axes: Axes, run: Diagnosis, phase: str, name: str, index: int, **style: Any) -> None:
    known = [bin for bin in run.phases.get(phase, []) if name in bin.means]
    color = PALETTE[index % len(PALETTE)]
    axes.plot(
        [bin.middle for bin in known],
        [bin.means[name] for bin in known],
        color=color,
        marker="o",
        markersize=3.4,
        **style,
    )


def table(runs: Sequence[Diagnosis]) -> Table:
    """Fig. 3 as a table: the cosines over all samples of a phase, beside the paper's."""
    columns = (
        Column(PHOTOGRAPH, "on z (the photograph)", digits=3),
        Column(STUDENT, "on ẑ (the student)", digits=3),
        Column("gap", "gap", digits=3),
        Column("samples", "samples", digits=0),
    )
    return Table(
        "directions",
        "Cosine of the teacher's direction with the true one",
        "Run and phase",
        columns,
        tuple(_rows(runs, columns)),
        "Over all noise levels, each sample counted once; the paper's figures are for one noise level and SD3.",
    )


def _rows(runs: Sequence[Diagnosis], columns: Sequence[Column]) -> Iterator[Row]:
    printed = {**PRINTED, "gap": PRINTED[PHOTOGRAPH] - PRINTED[STUDENT]}
    cells = {key: Cell(value, f"{value:.2f}", provenance=PRINTED_ORIGIN) for key, value in printed.items()}
    cells["samples"] = Cell(reason="not printed there", provenance=PRINTED_ORIGIN)
    yield Row("early in training", cells, "TSD-SR v4, Fig. 3", PRINTED_ORIGIN)
    for run in runs:
        origin = Provenance("measured", "noted while training", (("file", f"reports/diagnostics/{run.run}.csv"),))
        for phase, bins in run.phases.items():
            means = {name: overall(bins, name) for name in (PHOTOGRAPH, STUDENT)}
            good, weak = means[PHOTOGRAPH], means[STUDENT]
            values = {**means, "gap": None if good is None or weak is None else good - weak}
            values["samples"] = sum(bin.samples for bin in bins)
            yield Row(
                f"{method_label(run.run)}, {phase}",
                {column.key: _cell(column, values[column.key], origin) for column in columns},
                "measured here",
                origin,
            )


def _cell(column: Column, value: float | None, origin: Provenance) -> Cell:
    if value is None:
        return Cell(reason="no sample", provenance=origin)
    return Cell(value, column.show(value), provenance=origin)
