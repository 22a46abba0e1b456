"""The tables that papers print, as data: `published/table*.yaml`, every figure with the source it was read from.

A figure is kept as the text that was printed, so its digits survive. A figure that could not be read in a source is
absent, and the row or the table says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tsdsr.reporting.table import Cell, Column, Provenance

FOLDER = Path(__file__).parent / "published"


@dataclass(frozen=True)
class PublishedRow:
    """Args:
    method: the name as printed.
    key: the project's name of the method (`full`, `wo_tsm` ...), where it has one.
    dataset: what it was scored or timed on.
    values: column key -> the text as printed.
    empty: why the columns without a value have none.
    """

    method: str
    key: str
    dataset: str
    values: Mapping[str, str]
    empty: str
    provenance: Provenance

    @property
    def group(self) -> str:
        """What it is ranked with: the rows of one publication on one data set."""
        return f"{self.dataset}, {self.provenance.summary}"

    def cell(self, key: str) -> Cell:
        """The cell of a column; a text that is no number stays a text."""
        text = self.values.get(key)
        if text is None:
            return Cell(reason=self.empty, provenance=self.provenance)
        return Cell(_number(text), text, provenance=self.provenance)


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

    def row(self, key: str, dataset: str) -> PublishedRow | None:
        """The first row with this project name on this data set."""
        return next((row for row in self.rows if row.key == key and row.dataset == dataset), None)


def load(name: str) -> PublishedTable:
    """A table by its name: `table1` ... `table5`."""
    values = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    columns = tuple(Column(**column) for column in values["columns"])
    return PublishedTable(
        name=name,
        title=values["title"],
        caption=values["caption"],
        stub=values["stub"],
        columns=columns,
        rows=tuple(_row(row, columns, values["sources"]) for row in values["rows"]),
        notes=tuple(values.get("notes", ())),
    )


def names() -> list[str]:
    """The tables that are kept."""
    return sorted(path.stem for path in FOLDER.glob("table*.yaml"))


def _row(
    values: Mapping[str, str], columns: Sequence[Column], sources: Mapping[str, Mapping[str, str]]
) -> PublishedRow:
    """A row as the file writes it: its figures in one text, in the order of the columns, `-` for none."""
    source, texts = sources[values["source"]], values["values"].split()
    if len(texts) != len(columns):
        raise ValueError(f"{values['method']} on {values['dataset']}: {len(texts)} figures for {len(columns)} columns")
    return PublishedRow(
        method=values["method"],
        key=values.get("key", ""),
        dataset=values["dataset"],
        values={column.key: text for column, text in zip(columns, texts, strict=True) if text != "-"},
        empty=source["empty"],
        provenance=_provenance(source),
    )


def _provenance(source: Mapping[str, str]) -> Provenance:
    details = tuple((key.replace("_", " "), source[key]) for key in ("publication", "read_in"))
    return Provenance("printed", f"printed in {source['printed_in']}", details)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
