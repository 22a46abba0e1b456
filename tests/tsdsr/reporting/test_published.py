from collections.abc import Iterator

import pytest

from tsdsr.reporting import published
from tsdsr.reporting.published import PublishedRow, PublishedTable

NAMES = ["table1", "table2", "table3", "table4", "table5"]


def _rows(table: PublishedTable, **wanted: str) -> Iterator[PublishedRow]:
    return (row for row in table.rows if all(getattr(row, key) == value for key, value in wanted.items()))


def test_the_five_tables_are_kept() -> None:
    assert published.names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_its_source_and_sane_figures(name: str) -> None:
    table = published.load(name)
    ranges = {"ssim": (0, 1), "lpips": (0, 1), "dists": (0, 1), "maniqa": (0, 1), "clipiqa": (0, 1), "psnr": (15, 40)}
    ranges |= {"musiq": (0, 100), "niqe": (2, 12), "fid": (0, 500)}
    for row in table.rows:
        assert row.provenance.kind == "printed"
        assert {"publication", "read in"} <= dict(row.provenance.details).keys()
        assert row.values, f"{row.method} holds no figure"
        for column in table.columns:
            cell = row.cell(column.key)
            assert cell.text == row.values.get(column.key, "")
            assert cell.text or cell.reason
            if cell.value is not None and column.key in ranges:
                low, high = ranges[column.key]
                assert low < cell.value < high, f"{row.method}, {row.dataset}: {column.key} {cell.text}"


def test_digits_stay_as_printed() -> None:
    row = next(_rows(published.load("table1"), method="AddSR-1s", dataset="DRealSR"))
    assert row.cell("maniqa").text == "0.5490"


def test_re_measured_and_printed_rows_stand_side_by_side() -> None:
    rows = list(_rows(published.load("table1"), method="OSEDiff-1s", dataset="DRealSR"))
    figures = {(row.values["psnr"], row.values["ssim"], row.values["niqe"]) for row in rows}
    assert ("27.35", "0.7610", "7.3053") in figures
    assert ("27.9243", "0.7835", "6.4902") in figures
    first = next(row for row in rows if row.values["psnr"] == "27.35")
    assert "first version could not be read" in (first.cell("lpips").reason or "")


def test_the_student_s_figures_agree_between_tables() -> None:
    """TSD-SR's row is printed in Tables 1, 2 and 4 alike, and its columns in Table 5's base models differ from it."""
    one, two, four = (published.load(name) for name in ("table1", "table2", "table4"))
    for dataset in ("DRealSR", "RealSR"):
        rows = [table.row("full", dataset) for table in (one, two, four)]
        assert all(row is not None for row in rows)
        values = [row.values for row in rows if row is not None]
        assert values[0] == values[1]
        assert values[2].items() <= values[0].items()


def test_transcribed_rows_agree_with_the_other_paper_that_prints_them() -> None:
    table = published.load("table1")
    for row in _rows(table, method="OSEDiff-1s"):
        if "TinySR" in row.provenance.summary:
            ours = next(
                other
                for other in _rows(table, method="OSEDiff-1s", dataset=row.dataset)
                if "v4" in other.provenance.summary
            )
            assert row.values["lpips"] == ours.values["lpips"]
            assert float(row.values["niqe"]) == pytest.approx(float(ours.values["niqe"]), abs=0.005)
