"""The papers' tables as data: `published/*.yaml`, every figure with its source.

A figure is stored as the printed text, which keeps its digits. The paper's versions print different figures; a table
has the rows of one version and those added from other publications.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from tsdsr.reporting.scores import METRIC_COLUMNS
from tsdsr.reporting.table import Cell, Column, Provenance, Row

FOLDER = Path(__file__).parent / "published"
VERSIONS = ("v1", "v4")  # of TSD-SR's paper; a file each
OTHERS = "others"
COLUMNS: Mapping[str, Column] = {
    column.key: column
    for column in (
        *METRIC_COLUMNS,
        Column("steps", "Steps"),
        Column("time_s", "Time (s)", "down", digits=4),
        Column("macs_g", "MACs (G)", "down", digits=0),
        Column("params_m", "Parameters (M)", "down", digits=1),
        Column("base", "Base model"),
    )
}


@dataclass(frozen=True)
class PublishedRow:
    """Args:
    method: the name as printed.
    dataset: of its scores or timing.
    values: column key -> the printed text.
    empty: the reason for columns without a value.
    """

    method: str
    dataset: str
    values: Mapping[str, str]
    empty: str
    provenance: Provenance

    @property
    def group(self) -> str:
        """Its group for ranks: the rows of one publication on one data set."""
        return f"{self.dataset}, {self.provenance.summary}"

    def cell(self, key: str) -> Cell:
        """The cell of a column; a text that is not a number stays a text."""
        text = self.values.get(key)
        if text is None:
            return Cell(reason=self.empty, provenance=self.provenance)
        return Cell(_number(text), text, provenance=self.provenance)


@dataclass(frozen=True)
class PublishedTable:
    """One table of a version of the paper, with rows added from other publications."""

    name: str
    title: str
    caption: str
    stub: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]

    @property
    def datasets(self) -> list[str]:
        return list(dict.fromkeys(row.dataset for row in self.rows))

    def row(self, method: str, dataset: str) -> PublishedRow | None:
        """The first row of this method on this data set."""
        return next((row for row in self.rows if row.method == method and row.dataset == dataset), None)

    def table_rows(self) -> list[Row]:
        """Its rows for a table of its columns."""
        return [
            Row(row.method, {column.key: row.cell(column.key) for column in self.columns}, row.group, row.provenance)
            for row in self.rows
        ]


def load(version: str) -> dict[str, PublishedTable]:
    """The tables of one of `VERSIONS` by name: `table1` ... `table5`; the fourth version's last is `base_models`."""
    (paper,) = _documents(version)
    tables = {name: _table(name, values, paper) for name, values in paper["tables"].items()}
    for other in _documents(OTHERS):
        for name, values in other["tables"].items():
            tables[name] = _with_rows(tables[name], values, other)
    return tables


def _documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text(encoding="utf-8")))


def _table(name: str, values: Mapping[str, Any], paper: Mapping[str, Any]) -> PublishedTable:
    return PublishedTable(
        name=name,
        title=f"{values['printed_in']}. {values['title']}",
        caption=values["caption"],
        stub=values.get("stub", "Method"),
        columns=_columns(values),
        rows=tuple(_rows(values, paper)),
        notes=tuple(values.get("notes", ())),
    )


def _with_rows(table: PublishedTable, values: Mapping[str, Any], source: Mapping[str, Any]) -> PublishedTable:
    return replace(
        table,
        columns=tuple(dict.fromkeys((*table.columns, *_columns(values)))),
        rows=(*table.rows, *_rows(values, source)),
        notes=(*table.notes, *values.get("notes", ())),
    )


def _columns(values: Mapping[str, Any]) -> tuple[Column, ...]:
    return tuple(COLUMNS[key] for key in values["columns"].split())


def _rows(values: Mapping[str, Any], source: Mapping[str, Any]) -> Iterator[PublishedRow]:
    """Rows in the file's form: figures in one text, in the order of the columns, `-` for none."""
    keys, place = values["columns"].split(), values.get("printed_in")
    summary = f"printed in {source['name']}, {place}" if place else source["name"]
    details = (("publication", source["publication"]), ("read in", source["read_in"]))
    origin = Provenance("printed", summary, details)
    for dataset, rows in values["rows"].items():
        for method, texts in (item for row in rows for item in row.items()):
            figures = dict(zip(keys, texts.split(), strict=True))
            known = {key: text for key, text in figures.items() if text != "-"}
            yield PublishedRow(method, dataset, known, source.get("empty", "not printed there"), origin)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
