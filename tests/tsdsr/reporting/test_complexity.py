"""Table 3: our three forms beside the printed rows, each shape by itself, empty times with their reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tsdsr.errors import UserError
from tsdsr.reporting import published
from tsdsr.reporting.complexity import complexity, load_sizes
from tsdsr.reporting.table import Row, Table

PROTOCOL = {"device": "Some CPU, 1 thread(s)", "warm_up": 3, "repeats": 20, "statistic": "median"}


@pytest.fixture
def sizes() -> dict[str, Any]:
    """As benchmarks/model_size.py prints them without a GPU."""
    return {
        "models": {
            "tsdsr_trained": {"params_m": 2207.3, "macs_g": 3080.6, "macs_without_attention_g": 2904.5},
            "tsdsr": {"params_m": 2112.34, "macs_g": 2870.0, "macs_without_attention_g": 2699.87},
            "tsdsr_streamlined": {"params_m": 1420.3, "macs_g": 2865.0, "macs_without_attention_g": 2696.3},
        },
        "timing": {"not_timed": "no GPU"},
        "tiny": {"models": {"tsdsr": {"params_m": 3.19, "macs_g": 16.6, "time_s": 0.51}}, "timing": PROTOCOL},
        "commit": "c0ffee",
    }


def _table(sizes: dict[str, Any] | None) -> Table:
    return complexity(sizes, published.load("v1")["table3"])


def _row(table: Table, label: str, group: str) -> Row:
    (row,) = [row for row in table.rows if row.label == label and group in row.group]
    return row


def test_without_a_measurement_the_table_says_how_to_make_one() -> None:
    table = _table(None)
    assert any("model_size" in note for note in table.notes)
    assert not any("measured here" in row.group for row in table.rows)


@pytest.mark.parametrize("text", ["", "not timed\n", "{}", "[]"])
def test_what_a_failed_benchmark_leaves_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model_size.json"
    assert load_sizes(path) is None
    path.write_text(text)
    with pytest.raises(UserError, match=r"model_size\.json: not the last line of benchmarks/model_size\.py"):
        load_sizes(path)


def test_the_three_forms_stand_in_a_group_of_their_own(sizes: dict[str, Any]) -> None:
    table = _table(sizes)
    labels = [row.label for row in table.rows_of("SD3-medium's shape, measured here")]
    assert labels == ["TSD-SR, as trained", "TSD-SR, merged", "TSD-SR, streamlined"]
    merged = _row(table, "TSD-SR, merged", "SD3-medium")
    assert (merged.cells["macs_g"].text, merged.cells["params_m"].text) == ("2870", "2112.3")
    assert merged.cells["time_s"].reason == "not timed: no GPU"
    assert _row(table, "TSD-SR, streamlined", "SD3-medium").cells["params_m"].rank == "best"
    assert any("merged 2700" in note for note in table.notes)


def test_the_tiny_shape_never_stands_among_the_others(sizes: dict[str, Any]) -> None:
    row = _row(_table(sizes), "TSD-SR, merged", "tiny")
    assert "Some CPU" in row.group
    assert row.cells["time_s"].text == "0.5100"
    assert row.provenance is not None
    assert {("repeats", "20"), ("statistic", "median"), ("commit", "c0ffee")} <= set(row.provenance.details)


def test_a_timed_shape_shows_its_protocol(sizes: dict[str, Any]) -> None:
    sizes["timing"] = {**PROTOCOL, "device": "Some GPU"}
    sizes["models"]["tsdsr"]["time_s"] = 0.0491
    row = _row(_table(sizes), "TSD-SR, merged", "SD3-medium")
    assert row.cells["time_s"].text == "0.0491"
    assert row.provenance is not None
    assert ("device", "Some GPU") in row.provenance.details
