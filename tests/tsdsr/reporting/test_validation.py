"""The held-out crops' curves and sheets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tsdsr.reporting.conftest import picture
from tsdsr.reporting import curves, figures, validation


def test_the_warning_level_follows_the_best_look_so_far() -> None:
    assert validation.warning_level([2.0, -1.0, 0.5, -2.0], rise=3.0) == pytest.approx([3.0, 3.0, 2.0, 2.0])


def test_a_run_that_broke_the_limit_is_named_with_its_worst_score(tmp_path: Path) -> None:
    (tmp_path / "full.csv").write_text("step,psnr,pattern_db\n50,21,8.2\n100,22,4\n150,22,2\n")
    (tmp_path / "vsd-seed0.csv").write_text("step,psnr,pattern_db\n50,21,2.9\n100,22,\n")
    (sentence,) = validation.broken_limits(curves.load(tmp_path), 3.0)
    assert sentence == (
        "The periodic pattern in the held-out crops exceeded its limit of 3 dB: Full, 2 of 3 validations, "
        "8.2 dB at most and 2.0 dB at the end."
    )


def test_the_runs_of_a_variant_that_broke_the_limit_are_counted(tmp_path: Path) -> None:
    for seed, scores in enumerate(([3.5, 1.0], [0.5, 0.6], [2.0, 5.0])):
        rows = "".join(f"{50 * step},21,{score}\n" for step, score in enumerate(scores, 1))
        (tmp_path / f"vsd-seed{seed}.csv").write_text("step,psnr,pattern_db\n" + rows)
    (sentence,) = validation.broken_limits(curves.load(tmp_path), 3.0)
    assert sentence.endswith("VSD alone, 2 of 3 runs (seeds 0, 2), 5.0 dB at most and 5.0 dB at the end.")


def test_the_curve_shows_scores_and_the_level_of_the_warning(tmp_path: Path) -> None:
    (tmp_path / "full.csv").write_text("step,psnr,niqe,pattern_db\n50,21,,0.5\n100,22,,0.8\n")
    (drawing,) = figures.of_validation(curves.load(tmp_path), 3.0)
    panels = [axes for axes in drawing.figure.axes if axes.lines]
    assert len(panels) == 2
    dotted = panels[1].lines[-1]
    assert list(dotted.get_ydata()) == [3.0, 3.0]
    assert drawing.provenance.details == (("files", "reports/validation/full.csv"),)


def test_no_runs_no_drawing(tmp_path: Path) -> None:
    assert list(figures.of_validation(curves.load(tmp_path), 3.0)) == []
    assert list(figures.of_directions([])) == []
    assert validation.sheets(tmp_path / "absent", ["full"]) == []


def test_sheets_come_in_the_order_of_the_runs(tmp_path: Path) -> None:
    for name in ("a-seed0", "full", "former-seed0"):
        picture(1).save(tmp_path / f"{name}.png")
    first, second = validation.sheets(tmp_path, ["full", "a-seed0", "without-seed0"])
    assert first.title.endswith("Full")
    assert second.title.endswith("a, seed 0")
    assert first.uri.startswith("data:image/webp")
