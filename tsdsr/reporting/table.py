"""A table as data: columns that know their direction, cells that know why they are empty and where they come from.

Rendering is elsewhere (`render`). Ranks never mix worlds: a value is compared only with values of its own column and of
rows in its own `group`, and a group is one origin (printed in one paper, or measured here) on one dataset.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Direction = Literal["up", "down"]
Rank = Literal["best", "second"]
ARROWS: Mapping[Direction | None, str] = {"up": "↑", "down": "↓", None: ""}


@dataclass(frozen=True)
class Provenance:
    """Where a figure comes from.

    Args:
        kind: `printed` (read in a publication) or `measured` (scored here).
        summary: one line for people.
        details: ordered name/value pairs: source and URL, or run id, commit, hashes and hardware.
    """

    kind: Literal["printed", "measured"]
    summary: str
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Cell:
    """One figure, or the reason for its absence.

    Args:
        value: the number that ranks and sorts; None for a text, and when the cell is empty.
        text: the number as shown (for printed figures: as printed), or the text.
        low, high: the ends of its interval, where there is one.
        ends: what they are.
        reason: why the cell is empty.
        note: anything to know about the figure; a footnote.
        mark: a sign after the figure, explained in the table's caption.
        detail: what the mark stands for in this cell's case.
        provenance: where it comes from; the row's when None.
    """

    value: float | None = None
    text: str = ""
    low: float | None = None
    high: float | None = None
    ends: str = "95 %, bootstrap over photographs"
    reason: str | None = None
    note: str | None = None
    mark: str = ""
    detail: str | None = None
    provenance: Provenance | None = None
    rank: Rank | None = None

    def __post_init__(self) -> None:
        if self.value is not None and not self.text:
            raise ValueError(f"a figure must have a text; {self.value} has none")
        if self.empty and not self.reason:
            raise ValueError("an empty cell must say why it is empty")

    @property
    def empty(self) -> bool:
        return not self.text


@dataclass(frozen=True)
class Column:
    """Args:
    key: unique in the table.
    label: the heading, without its arrow.
    direction: which way is better; None where nothing is (it is not ranked).
    digits: decimals shown for measured figures.
    block: columns of one block stand together under a common heading.
    short: the block's name where every column repeats it.
    """

    key: str
    label: str
    direction: Direction | None = None
    digits: int = 4
    block: str = ""
    short: str = ""

    @property
    def heading(self) -> str:
        return f"{self.label} {ARROWS[self.direction]}".strip()

    def show(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


@dataclass(frozen=True)
class Row:
    """Args:
    label: the method or variant.
    cells: by column key; every column of the table has one.
    group: rows of one group are ranked together, and stand together.
    provenance: of its cells, where they have none of their own.
    """

    label: str
    cells: Mapping[str, Cell]
    group: str = ""
    provenance: Provenance | None = None


@dataclass(frozen=True)
class Table:
    """Args:
    name: the stem of its files.
    stub: the heading of the first column.
    caption: sentences under the title: what is compared, and how it is ranked.
    """

    name: str
    title: str
    stub: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str = ""
    notes: Sequence[str] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        keys = [column.key for column in self.columns]
        if len(set(keys)) != len(keys):
            raise ValueError(f"table {self.name}: column keys are not unique: {keys}")
        for row in self.rows:
            if set(row.cells) != set(keys):
                differ = set(row.cells) ^ set(keys)
                raise ValueError(f"table {self.name}, row {row.label}: cells and columns differ: {differ}")

    @property
    def groups(self) -> list[str]:
        """The groups in the order of their first rows."""
        return list(dict.fromkeys(row.group for row in self.rows))

    @property
    def blocks(self) -> list[tuple[str, int]]:
        """Runs of columns with equal block: (heading, number of columns)."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.block:
                runs[-1] = (column.block, runs[-1][1] + 1)
            else:
                runs.append((column.block, 1))
        return runs

    def rows_of(self, group: str) -> list[Row]:
        return [row for row in self.rows if row.group == group]


def ranked(table: Table, groups: Collection[str] | None = None) -> Table:
    """`table` with the best and the second best figure of each column marked, inside each of `groups` (all by default).

    Figures are compared as they are shown, so what looks equal is equal and shares a rank; a second best exists only
    below a single best. A group with fewer than two figures in a column has no best.
    """
    rows = list(table.rows)
    for column in table.columns:
        for group in table.groups if groups is None else groups:
            marks = _marks(column, [row for row in rows if row.group == group])
            rows = [_mark(row, column.key, marks) if row.group == group else row for row in rows]
    return replace(table, rows=tuple(rows))


def _marks(column: Column, rows: Sequence[Row]) -> dict[float, Rank]:
    values = [float(cell.text) for row in rows if (cell := row.cells[column.key]).value is not None]
    if column.direction is None or len(values) < 2:
        return {}
    distinct = sorted(set(values), reverse=column.direction == "up")
    if len(distinct) < 2:
        return {}
    marks: dict[float, Rank] = {distinct[0]: "best"}
    if values.count(distinct[0]) == 1:
        marks[distinct[1]] = "second"
    return marks


def _mark(row: Row, key: str, marks: Mapping[float, Rank]) -> Row:
    cell = row.cells[key]
    rank = marks.get(float(cell.text)) if cell.value is not None else None
    return replace(row, cells={**row.cells, key: replace(cell, rank=rank)})
