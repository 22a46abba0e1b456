"""A table as data: columns with a direction, cells with a reason if empty and with their origin.

`render` renders it. A value is ranked only among values of its column and of rows in its `group`, and a group has one
origin (printed in one paper, or measured here) and one data set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Direction = Literal["up", "down"]
Rank = Literal["best", "second"]
ARROWS: Mapping[Direction | None, str] = {"up": "↑", "down": "↓", None: ""}


@dataclass(frozen=True)
class Provenance:
    """The origin of a figure.

    Args:
        kind: `printed` (read in a publication) or `measured` (scored here).
        summary: one readable line.
        details: ordered name/value pairs: source and URL, or run id, commit, hashes and hardware.
    """

    kind: Literal["printed", "measured"]
    summary: str
    details: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """Seven hexadecimal digits, its key in `provenance.json`, shown beside a row."""
        return hashlib.sha256(repr((self.summary, self.details)).encode()).hexdigest()[:7]


@dataclass(frozen=True)
class Cell:
    """One figure, or the reason for its absence.

    Args:
        value: the number for ranking and sorting; None for a text and an empty cell.
        text: the number in its shown form (for printed figures: as printed), or the text.
        low, high: the ends of its interval, if there is one.
        ends: the kind of interval.
        reason: for the empty cell.
        quiet: whether its reason is given elsewhere, so that it needs no footnote.
        note: a footnote about the figure.
        mark: a sign after the figure, explained in the table's caption.
        detail: the explanation of the mark for this cell.
        provenance: its origin; None = the row's.
    """

    value: float | None = None
    text: str = ""
    low: float | None = None
    high: float | None = None
    ends: str = "95 %, bootstrap over photographs"
    reason: str | None = None
    quiet: bool = False
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
    direction: which way is better; None: the column is not ranked.
    digits: decimals of measured figures.
    block: columns of one block have a common heading.
    short: the block's name in formats in which every column repeats it.
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
    group: rows of one group are adjacent and ranked together.
    provenance: of its cells without their own.
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
    caption: sentences under the title about the comparison and the ranks.
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
        """Consecutive columns of one block: (heading, number of columns)."""
        runs: list[tuple[str, int]] = []
        for column in self.columns:
            if runs and runs[-1][0] == column.block:
                runs[-1] = (column.block, runs[-1][1] + 1)
            else:
                runs.append((column.block, 1))
        return runs

    def rows_of(self, group: str) -> list[Row]:
        return [row for row in self.rows if row.group == group]


def ranked(table: Table) -> Table:
    """`table` with the best and the second best figure of each column and group marked.

    Figures are compared with their shown digits, so figures that look equal share a rank; a second best exists only
    after a single best. A group with fewer than two figures in a column has no best.
    """
    rows = list(table.rows)
    for column in table.columns:
        for group in table.groups:
            marks = _marks(column, [row for row in rows if row.group == group])
            rows = [_mark(row, column.key, marks) if row.group == group else row for row in rows]
    return replace(table, rows=tuple(rows))


def folded(table: Table) -> Table:
    """`table` with one line about unmeasured columns: a column without any figure is removed, and empty cells of a
    column without measured figures have no footnotes. The reason is that of the column's first row."""
    unmeasured: dict[str, list[str]] = {}
    quiet, dropped = set(), set()
    for column in table.columns:
        cells = [(row, row.cells[column.key]) for row in table.rows]
        ours = [cell for row, cell in cells if not _printed(row, cell)]
        if all(cell.empty for _, cell in cells):
            dropped.add(column.key)
        if ours and all(cell.empty for cell in ours):
            quiet.add(column.key)
            reason = next((cell.reason for cell in ours if cell.reason and not cell.quiet), None)
            if reason:
                unmeasured.setdefault(_in_short(reason), []).append(column.label)
    rows = [_folded_row(row, quiet, dropped) for row in table.rows]
    lines = [f"Not measured here: {', '.join(dict.fromkeys(names))} ({why})." for why, names in unmeasured.items()]
    columns = [column for column in table.columns if column.key not in dropped]
    return replace(table, columns=columns, rows=rows, notes=(*lines, *table.notes))


def _printed(row: Row, cell: Cell) -> bool:
    origin = cell.provenance or row.provenance
    return origin is not None and origin.kind == "printed"


def _folded_row(row: Row, quiet: Collection[str], dropped: Collection[str]) -> Row:
    cells = {key: cell for key, cell in row.cells.items() if key not in dropped}
    for key, cell in cells.items():
        if key in quiet and cell.empty and not _printed(row, cell):
            cells[key] = replace(cell, quiet=True)
    return replace(row, cells=cells)


def _in_short(reason: str) -> str:
    """Columns without weights share a line."""
    return "weights absent: `tsdsr weights fetch`" if re.match(r"weights .* absent", reason) else reason


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
