"""Quality against cost: which figures are set against each other."""

from __future__ import annotations

from pathlib import Path

from tests.tsdsr.reporting.conftest import write_scores
from tsdsr import files
from tsdsr.reporting import cost, published, scores


def test_printed_quality_and_cost_come_from_one_publication() -> None:
    first, tinysr = cost.printed(published.load("v1"), "niqe")
    assert first.title == "A100, printed in TSD-SR v1, Table 3"
    points = {point.label: (point.quality, dict(point.costs)) for point in first.points}
    assert points["TSD-SR"] == (5.5044, {"time_s": 0.1362})
    assert points["AddSR (4 steps)"] == (7.6689, {"time_s": 1.0199})
    assert points["AddSR (1 step)"] == (6.9321, {"time_s": 0.5043})
    assert len(points) == 11
    points = {point.label: (point.quality, dict(point.costs)) for point in tinysr.points}
    assert points["TinySR"] == (5.67, {"time_s": 0.026, "macs_g": 427.0, "params_m": 341.0})
    assert points["TSD-SR"][0] == 5.91, "as TinySR's paper prints it"


def test_methods_scored_here_stand_by_their_own_cost(workspace: Path) -> None:
    folder = workspace / "reports/scores"
    assert cost.measured(scores.load(folder), "psnr") == []
    for method, spent in {
        "full": {"time_s": 0.5, "macs_g": 16.6, "picture": "64x64"},
        "real_esrgan": {"time_s": 5.3},
    }.items():
        write_scores(folder, method, {"psnr": 25.0})
        values = files.read_json(folder / f"{method}.json")
        values["provenance"]["cost"] = spent
        files.write_json(folder / f"{method}.json", values)
    (panels,) = cost.measured(scores.load(folder), "psnr")
    assert {point.label: dict(point.costs) for point in panels.points} == {
        "Full": {"time_s": 0.5, "macs_g": 16.6},
        "Real-ESRGAN": {"time_s": 5.3},
    }
    grid = cost.draw([panels]).axes
    assert [len(axes.texts) for axes in grid] == [2, 1, 0]
    full = scores.load(folder)[0]
    assert "picture 64x64" in dict(full.provenance.details)["cost of a picture"]


def test_a_label_does_not_cover_the_one_of_a_place_close_above() -> None:
    heights = {"alone": 1.0, "above": 12.1, "below": 12.0}
    points = [cost.CostPoint(name, height, {"time_s": 0.1}) for name, height in heights.items()]
    texts = cost.draw([cost.Panels("measured here", cost.COLUMNS["niqe"], points)]).axes[0].texts
    assert {text.get_text(): text.xyann[1] > 0 for text in texts} == {"alone": True, "above": True, "below": False}
