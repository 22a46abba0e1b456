"""A table as data: columns that know their direction, cells that know why they are empty and where they come from.

Rendering is elsewhere (`render`). Ranks never mix worlds: a value is compared only with values of its own column and of
rows in its own `group`, and a group is one origin (printed in one paper, or measured here) on one dataset.
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
    """Where a figure comes from.

    Args:
        kind: `printed` (read in a publication) or `measured` (scored here).
        summary: one line for people.
        details: ordered name/value pairs: source and URL, or run id, commit, hashes and hardware.
    """

    kind: Literal["printed", "measured"]
    summary: str
    details: tuple[tuple[str, str], ...] = ()

    @property
    def id(self) -> str:
        """Seven hexadecimal digits that stand for it beside a row, and lead to it in `provenance.json`."""
        return hashlib.sha256(repr((self.summary, self.details)).encode()).hexdigest()[:7]


@dataclass(frozen=True)
class Cell:
    """One figure, or the reason for its absence.

    Args:
        value: the number that ranks and sorts; None for a text, and when the cell is empty.
        text: the number as shown (for printed figures: as printed), or the text.
        low, high: the ends of its interval, where there is one.
        ends: what they are.
        reason: why the cell is empty.
        quiet: whether its reason stands elsewhere, so that it needs no footnote.
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


def ranked(table: Table) -> Table:
    """`table` with the best and the second best figure of each column marked, inside each group.

    Figures are compared as they are shown, so what looks equal is equal and shares a rank; a second best exists only
    below a single best. A group with fewer than two figures in a column has no best.
    """
    rows = list(table.rows)
    for column in table.columns:
        for group in table.groups:
            marks = _marks(column, [row for row in rows if row.group == group])
            rows = [_mark(row, column.key, marks) if row.group == group else row for row in rows]
    return replace(table, rows=tuple(rows))


def folded(table: Table) -> Table:
    """`table` with one line in place of what was not measured: a column without any figure goes, and empty cells of a
    column that no measured row fills need no footnotes. The reason given is that of the column's first row."""
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
    """Columns that lack weights, each other ones, share a line."""
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
