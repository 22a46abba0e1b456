from dataclasses import replace

import pytest

from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table, folded, ranked

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


def test_columns_that_nobody_measured_become_a_line() -> None:
    printed, ours = Provenance("printed", "paper"), Provenance("measured", "here")
    absent = Cell(reason="weights one (one.pth) are absent: `x`")
    rows = [
        Row("theirs", {"a": Cell(1.0, "1"), "b": Cell(2.0, "2"), "c": Cell(reason="not printed")}, "p", printed),
        Row("mine", {"a": Cell(3.0, "3"), "b": absent, "c": absent}, "m", ours),
        Row("my other", {"a": Cell(reason="failed"), "b": absent, "c": Cell(reason="not asked for")}, "m", ours),
    ]
    table = folded(Table("t", "T", "Row", [UP, DOWN, PLAIN], rows, notes=["last"]))
    assert [column.key for column in table.columns] == ["a", "b"]
    assert table.notes == (
        "Not measured here: B, C (weights absent: `tsdsr weights fetch`).",
        "last",
    )
    assert table.rows[1].cells["b"].quiet
    assert not table.rows[2].cells["a"].quiet, "its column has a measured figure"


def test_an_origin_has_an_id_of_its_own() -> None:
    one, two = Provenance("measured", "here", (("run", "1"),)), Provenance("measured", "here", (("run", "2"),))
    assert one.id == Provenance("measured", "here", (("run", "1"),)).id
    assert one.id != two.id
    assert len(one.id) == 7
