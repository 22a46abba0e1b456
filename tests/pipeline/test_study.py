"""What is kept of an ablation: a table, each run's means with divergence marked, and a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline import study
from tsdsr.ablation import Columns
from tsdsr.errors import UserError


def columns(psnr: float, niqe: float) -> Columns:
    images = [f"p{index}.png" for index in range(8)]
    return {
        "psnr": {name: psnr + 0.1 * index for index, name in enumerate(images)},
        "niqe": {name: niqe - 0.1 * index for index, name in enumerate(images)},
    }


def test_a_study_keeps_tables_means_and_a_picture_and_names_what_diverged(tmp_path: Path) -> None:
    runs = {
        "full": {0: columns(28.0, 9.0), 1: columns(28.2, 9.1)},
        "residual_velocity": {0: columns(27.0, 8.5), 1: columns(20.0, 7.0)},
    }
    study.write(runs, tmp_path / "ablation")
    text = (tmp_path / "ablation" / "table.md").read_text()
    assert "Diverged (mean PSNR 3 dB below the best run's): residual_velocity, seed 1." in text
    assert "| residual_velocity | 0, 1 |" in text
    rows = list(csv.DictReader((tmp_path / "ablation" / "runs.csv").open()))
    assert [(row["variant"], row["seed"], row["diverged"]) for row in rows] == [
        ("full", "0", "0"),
        ("full", "1", "0"),
        ("residual_velocity", "0", "0"),
        ("residual_velocity", "1", "1"),
    ]
    assert float(rows[1]["psnr"]) == 28.55
    assert (tmp_path / "ablation" / "differences.png").read_bytes().startswith(b"\x89PNG")
    kept = list(csv.DictReader((tmp_path / "ablation" / "table.csv").open()))
    wanted = {"full", "residual_velocity"}
    assert {row["variant"] for row in kept} == wanted


def test_a_study_of_another_reference_has_the_baselines_in_its_table_and_not_among_its_runs(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("reports/scores").mkdir(parents=True)
    for name, psnr in (("full", 20), ("wo_tsm-seed0", 21), ("wo_dasm-seed0", 22), ("bicubic", 25)):
        lines = [f"p{index}.png,{psnr + index}," for index in range(6)]
        Path(f"reports/scores/{name}.csv").write_text("\n".join(["name,psnr,lpips", *lines]) + "\n")
    params = ["--params", str(root / "params.yaml")]
    study.main(["terms", "--reference", "wo_tsm", *params])
    table, means = (
        list(csv.DictReader(Path(f"reports/studies/terms/{name}.csv").read_text().splitlines()))
        for name in ("table", "runs")
    )
    assert {row["variant"]: row["difference"] for row in table} == {
        "wo_tsm": "",
        "wo_dasm": "1",
        "full": "-1",
        "bicubic": "4",
    }
    assert [row["variant"] for row in means] == ["wo_tsm", "wo_dasm", "full"]
    with pytest.raises(UserError, match=r"--reference vsd: not among what was scored: wo_tsm, wo_dasm, full, bicubic"):
        study.main(["terms", "--reference", "vsd", *params])


def test_a_run_s_row_has_its_least_shares_and_its_last_pattern(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("scores", "curves", "validation"):
        Path("reports", folder).mkdir(parents=True)
    for name in ("full", "wo_tsm-seed0"):
        Path(f"reports/scores/{name}.csv").write_text("name,psnr\n" + "".join(f"p{i}.png,2{i}\n" for i in range(6)))
    Path("reports/curves/full.csv").write_text("step,grad_share/tsd,tsd\n10,0.4,1\n20,0.3,1\n30,0.35,1\n")
    Path("reports/validation/full.csv").write_text("step,psnr,pattern_db\n15,20,4.5\n30,21,1.5\n")
    study.main(["seeds", "--params", str(root / "params.yaml")])
    rows = list(csv.DictReader(Path("reports/studies/seeds/runs.csv").read_text().splitlines()))
    assert [(row["variant"], row["least_share/tsd"], row["pattern_db"]) for row in rows] == [
        ("wo_tsm", "", ""),
        ("full", "0.3", "1.5"),
    ]


def test_a_study_without_divergence_says_none(tmp_path: Path) -> None:
    study.write({"full": {0: columns(28.0, 9.0)}, "vsd": {0: columns(27.9, 9.0)}}, tmp_path / "ablation")
    assert (tmp_path / "ablation" / "table.md").read_text().endswith("best run's): none.\n")
