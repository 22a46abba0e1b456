from dataclasses import replace
from pathlib import Path

import pytest

from tests.tsdsr.reporting.conftest import ABSENT, IDS, write_scores
from tsdsr import files
from tsdsr.errors import UserError
from tsdsr.reporting import scores
from tsdsr.reporting.scores import METRIC_COLUMNS

PSNR, LPIPS = METRIC_COLUMNS[0], METRIC_COLUMNS[2]


def test_methods_come_in_the_table_s_order(workspace: Path) -> None:
    loaded = scores.load(workspace / "reports/scores")
    assert [run.method for run in loaded] == ["full", "wo_dasm-seed0", "wo_tsm-seed0", "bicubic", "round_trip"]
    assert [run.variant for run in loaded][:2] == ["full", "wo_dasm"]
    assert scores.of_image(loaded[0], IDS[1]) == {"psnr": 26.0, "ssim": 1.8}


def test_a_figure_carries_its_interval_and_its_origin(workspace: Path) -> None:
    full = scores.load(workspace / "reports/scores")[0]
    cell = scores.pooled_cell(PSNR, [full], "psnr")
    assert (cell.value, cell.text) == (26.0, "26.00")
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < 26 < cell.high
    assert cell.provenance is not None
    details = dict(cell.provenance.details)
    assert details["commit"] == "c0ffee"
    assert details["MLflow run"] == "run-full"
    assert details["protocol"].startswith("backend pyiqa psnr")


def test_an_absent_metric_says_why(workspace: Path) -> None:
    full = scores.load(workspace / "reports/scores")[0]
    assert scores.pooled_cell(LPIPS, [full], "lpips").reason == ABSENT
    assert "evaluate.metrics" in (scores.pooled_cell(LPIPS, [full], "fid").reason or "")


def test_seeds_are_pooled_as_the_mean_over_photographs_and_seeds(tmp_path: Path) -> None:
    for seed, mean in enumerate((20.0, 26.0)):
        write_scores(tmp_path, f"full-seed{seed}", {"psnr": mean}, ids=["one", "two"])
    runs = scores.load(tmp_path)
    assert {run.variant for run in runs} == {"full"}
    cell = scores.pooled_cell(PSNR, runs, "psnr")
    assert (cell.value, cell.low, cell.high) == (23.5, 20.0, 27.0)
    assert "2 seeds" in (cell.note or "")
    assert len(cell.provenance.details) == 2 * len(runs[0].metrics["psnr"].provenance.details)


def test_a_broken_file_is_named(workspace: Path) -> None:
    path = workspace / "reports/scores/full.json"
    for text in ('{"method": "full"}', ""):
        files.write_text(path, text)
        with pytest.raises(UserError, match=r"full\.json.*evaluate"):
            scores.load(path.parent)


def test_no_scores_say_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="evaluate"):
        scores.load(tmp_path)


def test_a_partial_run_says_so(workspace: Path) -> None:
    path = workspace / "reports/scores/full.json"
    files.write_json(path, {**files.read_json(path), "partial": True, "departures": ["6 images, not 93"]})
    full = scores.load(path.parent)[0]
    assert "partial" in full.provenance.summary
    assert dict(full.provenance.details)["not the published test set"] == "6 images, not 93"
    note = scores.pooled_cell(PSNR, [full], "psnr").note
    assert note == f"6 images, not 93; partial: over the {len(IDS)} images that could be scored"
    assert replace(full, partial=False) != full
