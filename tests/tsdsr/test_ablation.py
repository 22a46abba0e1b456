"""Means and paired differences of ablation runs, from score files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tsdsr import ablation
from tsdsr.errors import UserError

NAMED = ("wo_tsm-seed0", "wo_dasm-seed0", "full-seed1", "vsd-seed0", "vsd-seed1", "tsm_alone-seed7")


def write(folder: Path, method: str, **columns: list[float]) -> None:
    with (folder / f"{method}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *columns])
        writer.writerows([f"{row}.png", *values] for row, values in enumerate(zip(*columns.values())))


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """20 images of very different difficulty; wo_tsm loses 0.5 dB on each, wo_dasm nothing on average."""
    draw = np.random.default_rng(0)
    hard = draw.normal(25, 5, 20)
    noise = draw.normal(0, 0.1, 20)
    write(tmp_path, "full", psnr=list(hard), ssim=[0.5] * 20)
    write(tmp_path, "wo_tsm-seed0", psnr=list(hard - 0.5 + noise), ssim=[0.4] * 20)
    write(tmp_path, "wo_dasm-seed0", psnr=list(hard + noise - noise.mean()), ssim=[0.5] * 20)
    write(tmp_path, "bicubic", psnr=list(hard - 9), ssim=[0.3] * 20)
    return tmp_path


def test_pairing_finds_a_difference_far_below_the_spread_of_the_images(scores: Path) -> None:
    results = ablation.summarise(ablation.read_runs(scores, full_seed=0, named=NAMED))
    assert set(results) == {"full", "wo_tsm", "wo_dasm"}  # a baseline is no variant
    loss = results["wo_tsm"].differences["psnr"]
    assert loss.mean == pytest.approx(-0.5, abs=0.1)
    assert loss.excludes_zero
    assert not results["wo_dasm"].differences["psnr"].excludes_zero
    assert results["full"].differences == {}
    mean = results["wo_tsm"].means["psnr"]
    assert mean.low < mean.mean < mean.high
    assert mean.high - mean.low > 5 * (loss.high - loss.low)  # unpaired, it would drown


def test_differences_are_paired_by_seed_where_both_have_it(tmp_path: Path) -> None:
    write(tmp_path, "full", psnr=[20.0, 30.0])
    write(tmp_path, "full-seed1", psnr=[22.0, 32.0])
    write(tmp_path, "vsd-seed1", psnr=[21.0, 31.0])
    write(tmp_path, "tsm_alone-seed7", psnr=[21.0, 31.0])
    write(tmp_path, "vsd-seed2", psnr=[90.0, 90.0])  # not named: another recipe's, maybe on other images
    results = ablation.summarise(ablation.read_runs(tmp_path, full_seed=0, named=NAMED))
    assert results["full"].seeds == (0, 1)
    assert results["vsd"].differences["psnr"].mean == pytest.approx(-1.0)  # against seed 1 of full alone
    assert results["tsm_alone"].differences["psnr"].mean == pytest.approx(0.0)  # against its mean over seeds


def test_a_baseline_is_compared_with_every_seed_of_the_reference(tmp_path: Path) -> None:
    write(tmp_path, "full", psnr=[20.0, 30.0])
    write(tmp_path, "vsd-seed0", psnr=[21.0, 31.0])
    write(tmp_path, "vsd-seed1", psnr=[24.0, 34.0])
    write(tmp_path, "bicubic", psnr=[22.0, 32.0])
    runs = ablation.read_runs(tmp_path, full_seed=0, named=NAMED, baselines=["bicubic", "round_trip"])
    results = ablation.summarise(runs, "vsd")
    assert results["bicubic"].seeds == ()
    assert results["bicubic"].differences["psnr"].mean == pytest.approx(-0.5)
    assert results["full"].differences["psnr"].mean == pytest.approx(-1.0)
    assert results["vsd"].differences == {}
    text = ablation.markdown("Methods", list(results.values()), "vsd")
    assert "| bicubic | - | 27.00" in text
    assert "difference to vsd;" in text


def test_images_and_metrics_that_a_run_lacks_are_left_out_not_counted_as_zero(tmp_path: Path) -> None:
    write(tmp_path, "full", psnr=[20.0, 30.0, 40.0], niqe=[3.0, 4.0, 5.0])
    (tmp_path / "vsd-seed0.csv").write_text("name,psnr,niqe\n0.png,19,\n2.png,39,\n")
    result = ablation.summarise(ablation.read_runs(tmp_path, full_seed=0, named=NAMED))["vsd"]
    assert set(result.means) == {"psnr"}
    assert (result.means["psnr"].mean, result.differences["psnr"].mean) == (29.0, -1.0)


def test_tables_have_the_papers_rows_in_its_order(scores: Path, tmp_path: Path) -> None:
    results = ablation.summarise(ablation.read_runs(scores, full_seed=0, named=NAMED))
    written = ablation.write_tables(results, tmp_path / "tables")
    assert [path.name for path in written] == ["ablation_terms.md", "ablation_terms.csv"]  # no DASM row was run
    text = written[0].read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[2:]] == ["| wo_tsm", "| wo_dasm", "| full"]
    assert "PSNR ↑" in rows[0]
    assert rows[2].count("*") == 2  # both of its differences are real
    with written[1].open(newline="") as file:
        first = next(csv.DictReader(file))
    assert (first["variant"], first["metric"]) == ("wo_tsm", "psnr")
    assert float(first["difference"]) == pytest.approx(results["wo_tsm"].differences["psnr"].mean, rel=1e-4)


def test_without_full_there_is_nothing_to_compare_to(tmp_path: Path) -> None:
    write(tmp_path, "vsd-seed0", psnr=[1.0])
    with pytest.raises(UserError, match="full"):
        ablation.read_runs(tmp_path, full_seed=0, named=NAMED)
