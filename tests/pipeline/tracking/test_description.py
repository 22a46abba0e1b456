"""Every run that the pipeline makes is described in words."""

from __future__ import annotations

import pytest

from pipeline.tracking import description
from tsdsr.config import Params


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("full", ["student full", "Method tsdsr, 240 steps of 6 samples", "0.1 latent_mse"]),
        ("wo_tsm-seed3", ["variant", "full with distill.tsd.lambda 1", "seed 3", "Method tsdsr"]),
        ("full-seed1", ["variant", "no change", "seed 1"]),
        ("start", ["all variants of the ablation continue", "Method tsdsr"]),
        ("bicubic", ["baseline bicubic"]),
        ("round_trip", ["baseline round_trip"]),
        ("Other_Net-test", ["Other Net", "from somewhere", "data set test"]),
        ("trial-02", ["sweep default", "distill.tsd.lambda 0.7", "distill.tsd.dasm.step_size 50"]),
    ],
)
def test_a_run_is_described_by_what_its_params_say(params: Params, name: str, said: list[str]) -> None:
    other = {"name": "Other Net", "dataset": "test", "dir": "somewhere"}
    words = description.of_child(params.overlay({"evaluate": {"external": [other]}}), name)
    assert all(part in words for part in said), words
