from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tsdsr.errors import UserError
from tsdsr.reporting import curves


def _write(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.csv").write_text(text)


def test_terms_may_start_late_and_phases_make_boundaries(tmp_path: Path) -> None:
    _write(tmp_path, "wo_tsm-seed0", "step,phase,tsd\n1,0,2\n")
    _write(tmp_path, "full", "step,phase,lpips,tsd\n5,0,1.5,\n10,0,1.2,\n15,1,1.1,0.3\n")
    full, other = curves.load(tmp_path)
    assert (full.run, other.run) == ("full", "wo_tsm-seed0")
    assert full.terms["tsd"] == ([15.0], [0.3])
    assert full.boundaries == [15.0]


def test_equal_curves_give_equal_bytes(tmp_path: Path) -> None:
    _write(tmp_path, "full", "step,lpips,tsd\n1,3,4\n2,2,5\n")
    pictures = [
        (curves.to_svg(figure), curves.to_png(figure))
        for figure in (curves.draw(curves.load(tmp_path), {"lpips": "Named so"}) for _ in range(2))
    ]
    assert pictures[0] == pictures[1]
    assert b"Named so" in pictures[0][0]
    assert b">lpips<" not in pictures[0][0]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("lpips\n1\n", "step"), ("step,lpips\n1,high\n", "high"), ("step,lpips\n1,2,3\n", "number"), ("ÿ", "utf-8")],
)
def test_a_bad_curve_is_named(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "full.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=rf"full\.csv.*{wanted}"):
        curves.load(tmp_path)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_a_moving_average_stays_inside_and_does_not_lag(values: list[float]) -> None:
    smoothed = curves.smooth(values)
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert all(min(values) - slack <= value <= max(values) + slack for value in smoothed)
    assert smoothed[::-1] == pytest.approx(curves.smooth(values[::-1]), abs=slack)


def test_a_moving_average_keeps_a_line_and_calms_an_alternation() -> None:
    line = [2.0 * step for step in range(30)]
    assert curves.smooth(line)[8:-8] == pytest.approx(line[8:-8])
    assert max(map(abs, curves.smooth([1.0, -1.0] * 20)[8:-8])) < 0.01


def test_curves_that_overlap_are_drawn_as_differences(tmp_path: Path) -> None:
    _write(tmp_path, "full", "step,near,far,short\n1,10,10,1\n2,5,5,1\n3,0,0,\n")
    _write(tmp_path, "vsd-seed0", "step,near,far,short\n1,10.1,14,1\n2,5.1,1,1\n3,0.1,2,2\n")
    runs = curves.load(tmp_path)
    assert [curves.overlapping(runs, name) for name in ("near", "far", "short", "absent")] == [
        True,
        False,
        False,
        False,
    ]
    panels = {axes.get_title("left"): axes for axes in curves.draw(runs, {}).axes}
    assert list(panels["near, minus Full"].lines[1].get_ydata()) == pytest.approx([0.1, 0.1, 0.1])
    assert "far" in panels
