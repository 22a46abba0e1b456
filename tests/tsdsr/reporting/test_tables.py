from pathlib import Path

import pytest

from tests.tsdsr.reporting.conftest import write_scores
from tsdsr import files
from tsdsr.reporting import published, scores, tables
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Row, Table


@pytest.fixture
def runs(workspace: Path) -> list[MethodScores]:
    return scores.load(workspace / "reports/scores")


def _row(table: Table, label: str, group: str = "") -> Row:
    return next(row for row in table.rows if row.label == label and group in row.group)


def test_the_ablation_keeps_printed_figures_in_columns_of_their_own(runs: list[MethodScores]) -> None:
    table = tables.ablation(runs, published.load("table4"))
    assert [heading.split(",")[0] for heading, _ in table.blocks] == ["Measured here", "DRealSR", "RealSR"]
    assert [row.label for row in table.rows_of("Students")] == ["Full", "w/o DASM", "w/o TSM"]
    assert [row.label for row in table.rows_of("Baselines")] == ["Bicubic", "Teacher's round trip"]
    full = _row(table, "Full")
    assert full.cells["here.psnr"].text == "26.00"
    assert full.cells["DRealSR.lpips"].text == "0.2967"
    assert full.cells["DRealSR.lpips"].rank == "best"
    printed = full.cells["DRealSR.lpips"].provenance
    assert printed is not None
    assert printed.kind == "printed"
    assert _row(table, "Bicubic").cells["DRealSR.lpips"].reason == tables.NO_SUCH_ROW
    assert all(cell.rank is None for row in table.rows_of("Baselines") for cell in row.cells.values())


def test_the_ablation_keeps_the_papers_rows_that_were_not_trained_here(runs: list[MethodScores]) -> None:
    table = tables.ablation([run for run in runs if run.variant in ("wo_dasm", "bicubic")], published.load("table4"))
    assert [row.label for row in table.rows] == ["Full", "w/o DASM", "w/o TSM", "Bicubic"]
    full = _row(table, "Full").cells
    assert (full["DRealSR.lpips"].text, full["DRealSR.lpips"].rank) == ("0.2967", "best")
    assert full["here.psnr"].reason == "not trained and scored here (ablate.run)"


@pytest.mark.parametrize(("images", "mark"), [(6, "†"), (5, "")])
def test_a_dagger_marks_what_enough_images_tell_apart(workspace: Path, images: int, mark: str) -> None:
    folder, ids = workspace / "reports/scores", [f"image{index}" for index in range(images)]
    write_scores(folder, "full", {"psnr": 25.0}, ids)
    write_scores(folder, "wo_tsm-seed0", {"psnr": 24.0}, ids)
    cell = _row(tables.ablation(scores.load(folder), published.load("table4")), "w/o TSM").cells["here.psnr"]
    assert cell.mark == mark, "every image scores exactly 1 dB less"
    assert "minus Full: -1" in (cell.detail or "")


def test_no_dagger_without_a_difference(workspace: Path) -> None:
    write_scores(workspace / "reports/scores", "wo_tsm-seed0", {"psnr": 25.0})
    table = tables.ablation(scores.load(workspace / "reports/scores"), published.load("table4"))
    cell = _row(table, "w/o TSM").cells["here.psnr"]
    assert cell.mark == ""
    assert "minus Full: +0" in (cell.detail or "")


def _add_external(workspace: Path, method: str, dataset: str) -> list[MethodScores]:
    folder = workspace / "reports/scores"
    write_scores(folder, method, {"psnr": 27.9243, "lpips": 0.3})
    values = files.read_json(folder / f"{method}.json")
    values["dataset"] = dataset
    values["provenance"]["outputs"] = "elsewhere"
    files.write_json(folder / f"{method}.json", values)
    return scores.load(folder)


def test_measured_rows_follow_the_printed_ones_of_their_data_set(workspace: Path) -> None:
    runs = _add_external(workspace, "OSEDiff", "drealsr")
    table = tables.comparison(runs, published.load("table1"), "T", default=True)
    groups = table.groups
    assert groups.index("DRealSR, measured here") == groups.index("RealSR, printed in TSD-SR v4, Table 1") - 1
    assert _row(table, "OSEDiff", "measured").cells["psnr"].text == "28.92"
    ours = next(group for group in groups if group.startswith("made-up"))
    assert [row.label for row in table.rows_of(ours)] == [
        "TSD-SR here: Full",
        "TSD-SR here: w/o DASM, seed 0",
        "TSD-SR here: w/o TSM, seed 0",
    ]


def test_ranks_never_cross_from_printed_to_measured(workspace: Path) -> None:
    runs = _add_external(workspace, "OSEDiff", "drealsr")
    table = tables.comparison(runs, published.load("table1"), "T", default=True)
    printed = table.rows_of("DRealSR, printed in TSD-SR v4, Table 1")
    assert [row.label for row in printed if row.cells["psnr"].rank == "best"] == ["SinSR-1s"]
    assert _row(table, "OSEDiff", "measured").cells["psnr"].rank is None, "alone in its group"
    kinds = {group: {row.provenance.kind for row in table.rows_of(group) if row.provenance} for group in table.groups}
    assert all(len(kind) == 1 for kind in kinds.values())


def test_another_method_s_outputs_land_in_the_table_that_names_it(workspace: Path) -> None:
    runs = _add_external(workspace, "SeeSR", "realsr")
    two = tables.comparison(runs, published.load("table2"), "T", default=False)
    assert _row(two, "SeeSR", "measured")
    assert not [row for row in two.rows if "w/o" in row.label]
    four = tables.ablation(runs, published.load("table4"))
    assert not [row for row in four.rows if row.label == "SeeSR"]


def test_a_text_column_stays_a_text(runs: list[MethodScores]) -> None:
    table = tables.comparison(runs, published.load("table5"), "T", default=False, texts={"base": "tiny"})
    assert _row(table, "AddSR").cells["base"].text == "SD2-base"
    assert _row(table, "TSD-SR here: Full").cells["base"].text == "tiny"
