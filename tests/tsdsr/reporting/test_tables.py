from pathlib import Path

import pytest

from tests.tsdsr.reporting.conftest import write_scores
from tsdsr import files
from tsdsr.reporting import published, scores, tables
from tsdsr.reporting.published import PublishedTable
from tsdsr.reporting.scores import MethodScores
from tsdsr.reporting.table import Row, Table


@pytest.fixture
def runs(workspace: Path) -> list[MethodScores]:
    return scores.load(workspace / "reports/scores")


def _row(table: Table, label: str, group: str = "") -> Row:
    return next(row for row in table.rows if row.label == label and group in row.group)


def _printed(name: str, version: str = "v1") -> PublishedTable:
    return published.load(version)[name]


def test_every_method_scored_here_stands_in_one_table(runs: list[MethodScores]) -> None:
    table = tables.measured(runs)
    labels = ["Full", "w/o DASM", "w/o TSM", "Bicubic", "Teacher's round trip"]
    assert [row.label for row in table.rows] == labels
    assert [column.key for column in table.columns] == ["psnr", "ssim"]
    assert _row(table, "Full").cells["psnr"].rank == "best"
    assert table.notes == ("Not measured here: LPIPS (weights absent: `tsdsr weights fetch`).",)


def test_the_ablation_has_the_papers_columns_in_blocks_of_their_own(workspace: Path) -> None:
    for index, method in enumerate(("full", "wo_tsm-seed0", "bicubic")):
        write_scores(workspace / "reports/scores", method, {"niqe": 5.0 + index, "musiq": None})
    table = tables.ablation(scores.load(workspace / "reports/scores"), _printed("table4"))
    assert [heading.split(",")[0] for heading, _ in table.blocks] == ["Measured here", "DRealSR", "RealSR"]
    assert [count for _, count in table.blocks] == [1, 4, 4]  # MUSIQ, MANIQA and CLIPIQA are folded
    labels = ["Full", "w/o DASM", "w/o TSM", "Bicubic", "Teacher's round trip"]
    assert [row.label for row in table.rows] == labels
    full = _row(table, "Full")
    assert (full.cells["here.niqe"].text, full.cells["here.niqe"].rank) == ("6.0000", "best")
    assert (full.cells["DRealSR.niqe"].text, full.cells["DRealSR.niqe"].rank) == ("5.5044", "best")
    printed = full.cells["DRealSR.niqe"].provenance
    assert printed is not None
    assert printed.kind == "printed"
    assert _row(table, "Bicubic").cells["DRealSR.niqe"] == tables.NO_SUCH_ROW
    assert "Not measured here: MUSIQ (weights absent: `tsdsr weights fetch`)." in table.notes[0]
    four = tables.ablation(scores.load(workspace / "reports/scores"), _printed("table4", "v4"))
    assert _row(four, "Full").cells["DRealSR.lpips"].text == "0.2967"


def test_the_ablation_keeps_the_papers_rows_that_were_not_trained_here(workspace: Path) -> None:
    write_scores(workspace / "reports/scores", "wo_dasm-seed0", {"niqe": 5.0})
    runs = [run for run in scores.load(workspace / "reports/scores") if run.variant in ("wo_dasm", "bicubic")]
    table = tables.ablation(runs, _printed("table4"))
    assert [row.label for row in table.rows] == ["Full", "w/o DASM", "w/o TSM", "Bicubic"]
    full = _row(table, "Full").cells
    assert (full["DRealSR.niqe"].text, full["DRealSR.niqe"].rank) == ("5.5044", "best")
    assert full["here.niqe"].reason == "not trained and scored here (ablate.run)"


@pytest.mark.parametrize(("images", "mark"), [(6, "†"), (5, "")])
def test_a_dagger_marks_what_enough_images_tell_apart(workspace: Path, images: int, mark: str) -> None:
    folder, ids = workspace / "reports/scores", [f"image{index}" for index in range(images)]
    write_scores(folder, "full", {"psnr": 25.0}, ids)
    write_scores(folder, "wo_tsm-seed0", {"psnr": 24.0}, ids)
    cell = _row(tables.measured(scores.load(folder)), "w/o TSM").cells["psnr"]
    assert cell.mark == mark, "every image scores exactly 1 dB less"
    assert "minus Full: -1" in (cell.detail or "")


def test_seeds_share_a_row_and_their_dagger_is_over_seeds_too(workspace: Path) -> None:
    folder, ids = workspace / "reports/scores", [f"image{index}" for index in range(8)]
    for method, psnr in {
        "full": 25.0,
        "wo_tsm-seed0": 24.9,
        "wo_tsm-seed1": 24.7,
        "vsd-seed0": 24.0,
        "vsd-seed1": 26.0,
    }.items():
        write_scores(folder, method, {"psnr": psnr}, ids)
    table = tables.measured(scores.load(folder))
    lower, undecided = (_row(table, label).cells["psnr"] for label in ("w/o TSM", "VSD alone"))
    assert (lower.text, lower.mark) == ("28.30", "†")
    assert (undecided.text, undecided.mark) == ("28.50", "")
    assert "2 seeds" in (lower.note or "")


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
    table = tables.comparison(runs, _printed("table1"), default=True)
    groups = table.groups
    assert groups.index("DRealSR, measured here") == groups.index("RealSR, printed in TSD-SR v1, Table 1") - 1
    assert _row(table, "OSEDiff", "measured").cells["psnr"].text == "28.92"
    ours = next(group for group in groups if group.startswith("made-up"))
    assert [row.label for row in table.rows_of(ours)] == [
        "Ours: Full",
        "Ours: w/o DASM",
        "Ours: w/o TSM",
        "Bicubic",
    ]


def test_ranks_never_cross_from_printed_to_measured(workspace: Path) -> None:
    runs = _add_external(workspace, "OSEDiff", "drealsr")
    table = tables.comparison(runs, _printed("table1"), default=True)
    printed = table.rows_of("DRealSR, printed in TSD-SR v1, Table 1")
    assert [row.label for row in printed if row.cells["psnr"].rank == "best"] == ["SinSR-1s"]
    assert _row(table, "OSEDiff", "measured").cells["psnr"].rank is None, "alone in its group"
    kinds = {group: {row.provenance.kind for row in table.rows_of(group) if row.provenance} for group in table.groups}
    assert all(len(kind) == 1 for kind in kinds.values())


def test_another_method_s_outputs_land_in_the_table_that_names_it(workspace: Path) -> None:
    runs = _add_external(workspace, "SeeSR", "realsr")
    two = tables.comparison(runs, _printed("table2"))
    assert _row(two, "SeeSR", "measured")
    assert not [row for row in two.rows if "w/o" in row.label]
    four = tables.ablation(runs, _printed("table4"))
    assert not [row for row in four.rows if row.label == "SeeSR"]


def test_a_text_column_stays_a_text(runs: list[MethodScores]) -> None:
    table = tables.comparison(runs, _printed("base_models", "v4"), texts={"base": "tiny"})
    assert _row(table, "AddSR").cells["base"].text == "SD2-base"
    assert _row(table, "Ours: Full").cells["base"].text == "tiny"


@pytest.mark.parametrize("name", ["table1", "table2", "table5"])
def test_bicubic_and_real_esrgan_stand_beside_the_printed_rows(workspace: Path, name: str) -> None:
    write_scores(workspace / "reports/scores", "real_esrgan", {"psnr": 24.0})
    runs = _add_external(workspace, "Real-ESRGAN", "drealsr")
    table = tables.comparison(runs, _printed(name))
    assert _row(table, "Real-ESRGAN", "DRealSR, measured here").cells["psnr"].text == "28.92"
    ours = next(group for group in table.groups if group.startswith("made-up"))
    assert [row.label for row in table.rows_of(ours)] == ["Ours: Full", "Bicubic", "Real-ESRGAN"]
    assert "not measured" not in str(table.notes)
