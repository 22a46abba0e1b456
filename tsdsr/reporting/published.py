"""The tables that papers print, as data: `published/table*.yaml`, every figure with the source it was read from.

A figure is kept as the text that was printed, so its digits survive. A figure that could not be read in a source is
absent, and the row or the table says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tsdsr.reporting.table import Cell, Column, Direction, Provenance

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class PublishedRow:
    """Args:
    method: the name as printed.
    key: the project's name of the method (`full`, `wo_tsm` ...), where it has one.
    dataset: what it was scored on; empty where the table has no data set.
    values: column key -> the text as printed.
    empty: why the columns without a value have none.
    """

    method: str
    key: str
    dataset: str
    values: Mapping[str, str]
    empty: str
    provenance: Provenance

    def cell(self, column: Column) -> Cell:
        text = self.values.get(column.key)
        if text is None:
            return Cell(reason=self.empty, provenance=self.provenance)
        return Cell(float(text.replace(",", "")), text, provenance=self.provenance)


@dataclass(frozen=True)
class PublishedTable:
    """One table of the paper, with the rows that other publications add to it."""

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

    def row(self, key: str, dataset: str | None = None) -> PublishedRow | None:
        """The first row with this project name (on this data set)."""
        rows = (row for row in self.rows if row.key == key and dataset in (None, row.dataset))
        return next(rows, None)


def load(name: str) -> PublishedTable:
    """A table by its name: `table1` ... `table5`."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    sources = {key: _provenance(source) for key, source in values["sources"].items()}
    return PublishedTable(
        name=name,
        title=values["title"],
        caption=values["caption"],
        stub=values["stub"],
        columns=tuple(_column(column) for column in values["columns"]),
        rows=tuple(_row(row, sources, values["empty"]) for row in values["rows"]),
        notes=tuple(values.get("notes", ())),
    )


def names() -> list[str]:
    """The tables that are kept."""
    return sorted(path.stem for path in FOLDER.glob("table*.yaml"))


def _column(values: Mapping[str, Any]) -> Column:
    direction: Direction | None = values.get("direction")
    return Column(values["key"], values["label"], direction, values.get("digits", 4))


def _row(values: Mapping[str, Any], sources: Mapping[str, Provenance], empty: str) -> PublishedRow:
    return PublishedRow(
        method=values["method"],
        key=values.get("key", ""),
        dataset=values.get("dataset", ""),
        values={key: str(text) for key, text in values.get("values", {}).items()},
        empty=values.get("empty", empty),
        provenance=sources[values["source"]],
    )


def _provenance(values: Mapping[str, str]) -> Provenance:
    details = tuple((key.replace("_", " "), text) for key, text in values.items())
    return Provenance("printed", f"printed in {values['printed_in']}", details)
