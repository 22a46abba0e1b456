import csv
import io
from dataclasses import replace

import pytest

from tsdsr.reporting.render import to_csv, to_latex, to_markdown
from tsdsr.reporting.table import Cell, Column, Provenance, Row, Table, ranked

ORIGIN = Provenance("measured", "measured here on x_y")


@pytest.fixture
def table() -> Table:
    columns = [Column("here.psnr", "PSNR", "up", 2, "Measured here"), Column("paper.psnr", "PSNR", "up", 2, "Paper")]
    rows = [
        Row("A & B_1", {"here.psnr": Cell(25.0, "25.00", 24.1, 26.0), "paper.psnr": Cell(27.0, "27.0")}, "S", ORIGIN),
        Row(
            "C|D",
            {"here.psnr": Cell(24.0, "24.00", note="of 2_3 images"), "paper.psnr": Cell(reason="not printed; 100 %")},
            "S",
            ORIGIN,
        ),
    ]
    return ranked(Table("t", "Table 7. Title", "Variant", columns, rows, "50 % of λ"))


def test_markdown_marks_ranks_and_reasons(table: Table) -> None:
    text = to_markdown(table)
    assert f"| A & B_1 | **25.00** | 27.0 | [{ORIGIN.id}](../provenance.json) |" in text
    assert "| C\\|D | <u>24.00</u> <sup>a</sup> | — <sup>b</sup> |" in text
    assert "<sup>a</sup> of 2_3 images" in text
    assert "<sup>b</sup> not printed; 100 %" in text
    widths = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert widths == {5}


def test_a_quiet_cell_needs_no_footnote(table: Table) -> None:
    rows = [
        replace(row, cells={key: replace(cell, quiet=True) for key, cell in row.cells.items()}) for row in table.rows
    ]
    for text in (to_markdown(replace(table, rows=rows)), to_latex(replace(table, rows=rows))):
        assert "not printed" not in text
    assert "not printed" in to_csv(replace(table, rows=rows))


def test_latex_escapes_and_marks(table: Table) -> None:
    text = to_latex(table)
    assert r"A \& B\_1 & \textbf{25.00} & 27.0 \\" in text
    assert r"\underline{24.00}$^{a}$ & ---$^{b}$ \\" in text
    assert r"\caption{Title. 50 \% of $\lambda$}" in text  # LaTeX puts its own number there
    assert r"not printed; 100 \%" in text
    assert r"\multicolumn{1}{c}{Measured here}" in text
    assert r"\begin{table}" in text
    assert r"\end{table}" in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_a_row_that_begins_with_a_bracket_or_a_star_is_no_option_of_the_row_before(table: Table) -> None:
    rows = [replace(row, label=label) for row, label in zip(table.rows, ("[A]", "*B"))]
    starts = [line.split(" &")[0] for line in to_latex(replace(table, rows=rows)).splitlines()]
    assert starts.count("{[}A]") == starts.count("{*}B") == 1


def test_a_wide_table_spans_both_columns_of_a_paper(table: Table) -> None:
    columns = [Column(f"c{index}", "PSNR") for index in range(9)]
    rows = [Row("A", {column.key: Cell(1.0, "1.00") for column in columns})]
    text = to_latex(replace(table, columns=columns, rows=rows))
    assert r"\begin{table*}" in text
    assert r"\end{table*}" in text


def test_csv_reads_back(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert rows[0]["here.psnr"] == "25.00"
    assert (rows[0]["here.psnr_low"], rows[0]["here.psnr_high"]) == ("24.10", "26.00")
    assert "paper.psnr_low" not in rows[0]
    assert rows[1]["paper.psnr"] == ""
    assert rows[1]["empty_because"] == "paper.psnr: not printed; 100 %"
    assert rows[1]["notes"] == "here.psnr: of 2_3 images"
    assert rows[1]["source"] == ORIGIN.id
