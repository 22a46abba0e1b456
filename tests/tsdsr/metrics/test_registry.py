"""One row a metric, in the paper's order."""

from __future__ import annotations

import pytest

from tsdsr import metrics
from tsdsr.config import Params
from tsdsr.errors import UserError
from tsdsr.weights import WEIGHTS

PAPER = ["PSNR", "SSIM", "LPIPS", "DISTS", "FID", "NIQE", "MUSIQ", "MANIQA", "CLIPIQA"]


def test_the_rows_are_the_papers_columns() -> None:
    assert [row.label for row in metrics.select(None)] == PAPER
    assert metrics.COLUMNS == ("psnr", "ssim", "lpips", "dists", "niqe", "musiq", "maniqa", "clipiqa")


def test_directions_and_references_agree_with_pyiqa() -> None:
    from pyiqa.default_model_configs import DEFAULT_CONFIGS

    for row in metrics.METRICS.values():
        theirs = DEFAULT_CONFIGS[row.backend]
        assert (row.direction == "lower") == theirs.get("lower_better", False), row.name
        if row.per_image:
            assert row.needs_reference == (theirs["metric_mode"] == "FR"), row.name


def test_weights_are_registered_and_say_who_uses_them() -> None:
    for row in metrics.METRICS.values():
        for name in row.weights:
            assert f"metric {row.name}" in WEIGHTS[name].used_for


def test_the_committed_params_ask_for_metrics_that_exist(params: Params) -> None:
    assert [row.name for row in metrics.select(params.evaluate.metrics)] == [row.name for row in metrics.select(None)]


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UserError, match="unknown metric psnry; known: psnr, ssim"):
        metrics.select(["ssim", "psnry"])
