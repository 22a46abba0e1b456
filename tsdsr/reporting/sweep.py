"""A sweep's results on the page, if `reports/sweep` has any: its plots, and its trials as a table."""

from __future__ import annotations

import csv
from pathlib import Path

from tsdsr.reporting import sheet
from tsdsr.reporting.gallery import data_uri
from tsdsr.reporting.page import PageSection, Plot
from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table

TITLES = {
    "parallel": ("Trials, in parallel coordinates", "One line per trial, through its values to its score."),
    "slices": ("Score against each parameter", "One dot per trial."),
    "importance": ("Importance of the parameters", "The share of the score's variance that each explains."),
}
TRIALS = "trials.csv"


def section(folder: Path) -> PageSection:
    """The sweep's part of the page; empty without a sweep."""
    trials = table(folder)
    return PageSection("sweep", "Sweep", "Sweep", plots(folder), [trials] if trials else [])


def plots(folder: Path) -> list[Plot]:
    """The sweep's pictures, the known ones first."""
    order = {name: index for index, name in enumerate(TITLES)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (order.get(path.stem, len(order)), path.stem))
    return [_plot(path) for path in paths]


def _plot(path: Path) -> Plot:
    title, caption = TITLES.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    origin = Provenance("measured", "drawn by the sweep", (("file", f"reports/sweep/{path.name}"),))
    return Plot(title, caption, uri=data_uri(sheet.read(path)), provenance=origin)


def table(folder: Path) -> Table | None:
    """The trials as a sortable table, or None without a sweep."""
    path = folder / TRIALS
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        return None
    columns = [Column(name, name) for name in rows[0] if name != "trial"]
    origin = Provenance("measured", "a trial of the sweep", (("file", f"reports/sweep/{TRIALS}"),))
    body = [Row(f"trial {row['trial']}", {c.key: _cell(row[c.key]) for c in columns}, "", origin) for row in rows]
    return Table("sweep", "Trials", "Trial", columns, body)


def _cell(text: str) -> Cell:
    try:
        return Cell(float(text), text)
    except ValueError:
        return Cell(text=text, reason=None if text else "none in this trial")
