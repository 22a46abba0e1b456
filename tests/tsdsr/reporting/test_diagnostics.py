"""The paper's Figs. 3 and 5 out of a run's statistics by noise level."""

from __future__ import annotations

from pathlib import Path

import pytest

from tsdsr.errors import UserError
from tsdsr.reporting import curves, diagnostics

HEADER = "phase,sigma_low,sigma_high,samples,tsd_norm,vsd_norm,tsm_norm,cosine_z_hat,cosine_z\n"


def _write(folder: Path, run: str, *rows: str) -> None:
    (folder / f"{run}.csv").write_text(HEADER + "".join(f"{row}\n" for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    _write(tmp_path, "wo_tsm-seed0", "early,0.0,0.5,10,1,0.5,0.2,0.1,0.9")
    _write(
        tmp_path,
        "full",
        "early,0.5,1.0,1,1,0.2,0.3,0.5,0.7",
        "early,0.0,0.5,3,1,0.6,0.2,0.1,0.9",
        "late,0.0,0.5,0,,,,,",
        "late,0.5,1.0,2,1,0.4,0.2,,0.8",
    )
    return tmp_path


def test_bins_come_in_order_and_empty_ones_not_at_all(folder: Path) -> None:
    full, other = diagnostics.load(folder)
    assert (full.run, other.run) == ("full", "wo_tsm-seed0")
    assert [bin.middle for bin in full.phases["early"]] == [0.25, 0.75]
    assert [bin.low for bin in full.phases["late"]] == [0.5]


def test_a_run_of_a_method_without_directions_is_left_out(folder: Path) -> None:
    """TAD-SR's file has its own statistic alone."""
    header = "phase,sigma_low,sigma_high,samples,hfsd_norm"
    (folder / "tadsr-seed0.csv").write_text(f"{header}\nall,0.0,0.1,3,0.2\n", encoding="utf-8")
    assert [diagnosis.run for diagnosis in diagnostics.load(folder)] == ["full", "wo_tsm-seed0"]


def test_an_overall_mean_counts_each_sample_once(folder: Path) -> None:
    full = diagnostics.load(folder)[0]
    assert diagnostics.overall(full.phases["early"], "cosine_z_hat") == pytest.approx((3 * 0.1 + 0.5) / 4)
    assert diagnostics.overall(full.phases["late"], "cosine_z_hat") is None


def test_the_table_keeps_printed_and_measured_apart(folder: Path) -> None:
    table = diagnostics.table(diagnostics.load(folder))
    printed, early, late, _ = table.rows
    assert printed.provenance is not None
    assert printed.provenance.kind == "printed"
    assert (printed.cells["cosine_z"].text, printed.cells["cosine_z_hat"].text) == ("0.88", "0.20")
    assert (early.label, early.cells["gap"].text, early.cells["samples"].text) == ("Full, early", "0.650", "4")
    assert late.cells["gap"].reason == "no sample"
    assert early.group != printed.group


@pytest.mark.parametrize("draw", [diagnostics.directions, diagnostics.errors])
def test_every_point_lies_within_its_panel(tmp_path: Path, draw) -> None:
    """Panels of a row share their scale, and the last one may hold the largest value, or one below 0."""
    _write(tmp_path, "full", "early,0.0,0.5,3,1,0.2,0.2,0.3,0.9", "late,0.0,0.5,3,1,0.9,0.8,-0.4,0.9")
    for axes in draw(diagnostics.load(tmp_path)).axes:
        low, high = axes.get_ylim()
        values = [value for line in axes.lines for value in line.get_ydata()]
        assert values
        assert low <= min(values) <= max(values) <= high


def test_both_figures_are_drawn_the_same_every_time(folder: Path) -> None:
    runs = diagnostics.load(folder)
    for draw in (diagnostics.directions, diagnostics.errors):
        first, second = (curves.to_svg(draw(runs)) for _ in range(2))
        assert first == second
        assert b"w/o TSM, seed 0" in first
        assert b"phase late" in first


@pytest.mark.parametrize(("text", "fault"), [("phase\nearly\n", "sigma_low"), (HEADER + "a,x,1,1,,,,,\n", "'x'")])
def test_a_bad_file_is_named(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "full.csv").write_text(text)
    with pytest.raises(UserError, match=rf"full\.csv.*{fault}"):
        diagnostics.load(tmp_path)
