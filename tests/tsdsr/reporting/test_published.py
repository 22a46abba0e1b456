"""What papers print, against an independent reading and against each other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsdsr.reporting import published
from tsdsr.reporting.published import PublishedTable

FIRST_VERSION = Path(__file__).parent / "data/tsdsr_v1.txt"
AS_PRINTED = {"OSEDiff": "OSDiff", "TSD-SR": "Ours"}
RANGES = {"ssim": (0, 1), "lpips": (0, 1), "dists": (0, 1), "maniqa": (0, 1), "clipiqa": (0, 1), "psnr": (15, 40)}
RANGES |= {"musiq": (0, 100), "niqe": (2, 12), "fid": (0, 500)}


def own_rows(version: str, name: str) -> dict[tuple[str, str], dict[str, str]]:
    """(data set, method) -> figures, of the rows that this version prints."""
    table = published.load(version)[name]
    rows = [row for row in table.rows if f"TSD-SR {version}," in row.provenance.summary]
    assert len({(row.dataset, row.method) for row in rows}) == len(rows) or name == "base_models"
    return {(row.dataset, row.method): dict(row.values) for row in rows}


def every_table() -> dict[str, PublishedTable]:
    tables = {version: published.load(version) for version in published.VERSIONS}
    return {f"{version}-{name}": table for version in tables for name, table in tables[version].items()}


def test_the_first_version_is_that_of_an_independent_reading() -> None:
    """The fixture has a cell a line, with the methods as printed; not one more and not one less is kept."""
    lines = [line.split(" | ") for line in FIRST_VERSION.read_text().splitlines() if not line.startswith("#")]
    wanted = {(f"table{number}", dataset, method, column): text for number, dataset, method, column, text in lines}
    assert len(wanted) == len(lines) == 108 + 216 + 11 + 24 + 135
    kept = {}
    for name in published.load("v1"):
        for (dataset, method), values in own_rows("v1", name).items():
            stem, dash, steps = method.partition("-1s")
            printed = AS_PRINTED.get(stem, stem) + dash + steps
            if name == "table3":
                printed = f"{AS_PRINTED.get(method, method).partition(' (')[0]}, {values.pop('steps')}"
            kept |= {(name, dataset, printed, column): text for column, text in values.items()}
    assert kept == wanted


def test_each_version_has_its_own_tables() -> None:
    first, fourth = (list(published.load(version)) for version in published.VERSIONS)
    assert first == ["table1", "table2", "table3", "table4", "table5"]
    assert fourth == ["table1", "table2", "table3", "table4", "base_models"]
    columns = [column.key for column in published.load("v1")["table4"].columns]
    assert columns == ["niqe", "musiq", "maniqa", "clipiqa"]
    assert {method for _, method in own_rows("v1", "table5")} == {"BSRGAN", "Real-ESRGAN", "LDL", "FeMASR", "TSD-SR"}


def test_no_row_mixes_versions() -> None:
    for version, other in (("v1", "v4"), ("v4", "v1")):
        for table in published.load(version).values():
            assert not [row for row in table.rows if f"TSD-SR {other}" in row.provenance.summary]
    assert own_rows("v1", "table1")["DRealSR", "TSD-SR-1s"]["psnr"] == "26.01"
    assert own_rows("v4", "table1")["DRealSR", "TSD-SR-1s"]["psnr"] == "27.77"


@pytest.mark.parametrize("table", every_table().values(), ids=every_table().keys())
def test_every_row_has_its_source_and_sane_figures(table: PublishedTable) -> None:
    for row in table.rows:
        assert row.provenance.kind == "printed"
        assert {"publication", "read in"} <= dict(row.provenance.details).keys()
        for column in table.columns:
            cell = row.cell(column.key)
            assert cell.text == row.values.get(column.key, "")
            assert cell.text or cell.reason
            if cell.value is not None and column.key in RANGES:
                low, high = RANGES[column.key]
                assert low < cell.value < high, f"{row.method}, {row.dataset}: {column.key} {cell.text}"


def test_the_students_figures_agree_between_tables() -> None:
    for version, names in (("v1", ("table2", "table4", "table5")), ("v4", ("table2", "table4"))):
        one = {dataset: values for (dataset, method), values in own_rows(version, "table1").items() if "TSD" in method}
        for name in names:
            for (dataset, method), values in own_rows(version, name).items():
                if method in ("TSD-SR-1s", "TSD-SR", "Full"):
                    assert values.items() <= one[dataset].items()


def test_the_versions_differ_in_tsdsr_and_osediff_alone() -> None:
    for name in ("table1", "table2"):
        first, fourth = own_rows("v1", name), own_rows("v4", name)
        assert first.keys() == fourth.keys()
        differing = {method for dataset, method in first if first[dataset, method] != fourth[dataset, method]}
        assert differing == ({"TSD-SR-1s", "OSEDiff-1s"} if name == "table1" else {"TSD-SR-1s"})
    assert own_rows("v1", "table3") == own_rows("v4", "table3")


def test_rows_of_others_name_their_source_or_why_they_are_empty() -> None:
    rows = published.load("v1")["table1"].rows
    tinysr = [row for row in rows if row.method.startswith("TinySR")]
    assert {row.provenance.summary for row in tinysr} == {
        "printed in TinySR v2, Table A.1",
        "other papers, second-hand",
        "a public port of TinySR, second-hand",
    }
    (tadsr,) = [row for row in rows if row.method.startswith("TAD-SR")]
    assert not tadsr.values
    assert "not found" in (tadsr.cell("psnr").reason or "")
    logged = [row for row in rows if "log published with OSEDiff" in row.provenance.summary]
    assert [row.values["niqe"] for row in logged] == ["6.4902", "5.6476"]


def test_digits_stay_as_printed() -> None:
    row = published.load("v1")["table1"].row("AddSR-1s", "DRealSR")
    assert row is not None
    assert row.cell("maniqa").text == "0.5490"
