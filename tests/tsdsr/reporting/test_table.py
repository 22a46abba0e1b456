from dataclasses import replace

import pytest

from tsdsr.reporting.table import Cell, Column, Row, Table, ranked

UP, DOWN, PLAIN = Column("a", "A", "up"), Column("b", "B", "down"), Column("c", "C")


def _table(*rows: tuple[str, str, float | None]) -> Table:
    def cell(value: float | None) -> Cell:
        return Cell(reason="absent") if value is None else Cell(value, str(value))

    return Table("t", "T", "Row", [UP, DOWN, PLAIN], [Row(n, {k: cell(v) for k in "abc"}, g) for n, g, v in rows])


def _ranks(table: Table, key: str) -> list[str | None]:
    return [row.cells[key].rank for row in table.rows]


def test_best_and_second_follow_the_direction() -> None:
    table = ranked(_table(("x", "", 1.0), ("y", "", 3.0), ("z", "", 2.0)))
    assert _ranks(table, "a") == [None, "best", "second"]
    assert _ranks(table, "b") == ["best", None, "second"]
    assert _ranks(table, "c") == [None, None, None]


def test_groups_are_never_ranked_against_each_other() -> None:
    table = ranked(_table(("x", "printed", 9.0), ("y", "printed", 8.0), ("z", "measured", 1.0), ("w", "measured", 2.0)))
    assert _ranks(table, "a") == ["best", "second", "second", "best"]
    assert _ranks(ranked(_table(("x", "p", 9.0), ("y", "p", 8.0), ("z", "m", 1.0), ("w", "m", 2.0)), ["m"]), "a") == [
        None,
        None,
        "second",
        "best",
    ]


def test_a_tie_for_the_first_place_leaves_no_second() -> None:
    assert _ranks(ranked(_table(("x", "", 3.0), ("y", "", 3.0), ("z", "", 2.0))), "a") == ["best", "best", None]


def test_what_looks_equal_shares_its_rank() -> None:
    cells = [{key: Cell(value, f"{value:.2f}") for key in "abc"} for value in (22.718, 22.722, 22.5)]
    table = Table("t", "T", "Row", [UP, DOWN, PLAIN], [Row(str(k), row) for k, row in enumerate(cells)])
    assert _ranks(ranked(table), "a") == ["best", "best", None]


def test_a_single_figure_and_equal_figures_are_not_best() -> None:
    assert _ranks(ranked(_table(("x", "", 3.0), ("y", "", None))), "a") == [None, None]
    assert _ranks(ranked(_table(("x", "", 3.0), ("y", "", 3.0))), "a") == [None, None]


def test_an_empty_cell_says_why() -> None:
    with pytest.raises(ValueError, match="why"):
        Cell()


def test_a_row_without_a_column_is_refused() -> None:
    table = _table(("x", "", 1.0))
    with pytest.raises(ValueError, match="row x"):
        replace(table, columns=[UP])
