"""The counts of benchmarks/model_size.py, from which Table 3 takes its measured rows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tsdsr.models import presets


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks/model_size.py"
    spec = importlib.util.spec_from_file_location("model_size", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_merged_student_has_the_size_that_is_printed_for_it(benchmark: ModuleType) -> None:
    """TinySR, arXiv 2508.17434, Table 1: 2,112 M parameters and 2,700 G multiply-adds at 512x512."""
    sizes = benchmark.count(presets.get("sd3-medium"), 512, {"rank": 64, "vae_rank": 64})
    trained, merged, slim = (sizes[name] for name in ("tsdsr_trained", "tsdsr", "tsdsr_streamlined"))
    assert merged["params_m"] == pytest.approx(2112, abs=0.5)
    assert merged["macs_without_attention_g"] == pytest.approx(2700, abs=0.5)
    assert trained["params_m"] > merged["params_m"] > slim["params_m"]
    assert trained["macs_g"] > merged["macs_g"] > slim["macs_g"]
    assert sizes["tinysr"]["params_m"] == pytest.approx(341.49, abs=0.005)  # ibid.: 341 M, 427 G
    assert sizes["tinysr"]["macs_without_attention_g"] == pytest.approx(426.55, abs=0.005)
    teacher, step = sizes["restoring_teacher"], sizes["transformer with LoRA"]
    autoencoder = sizes["encoder"]["macs_g"] + sizes["decoder"]["macs_g"]
    assert teacher["steps"] == 15
    assert teacher["macs_g"] == pytest.approx(autoencoder + 15 * step["macs_g"], rel=1e-3)  # and z_L's projection


def test_the_three_forms_give_one_picture(benchmark: ModuleType) -> None:
    sizes = {"rank": 8, "vae_rank": 4}
    seconds, difference = benchmark.measure(presets.get("tiny"), 64, sizes, "cpu", torch.float32, 0, 1)
    assert {*seconds, "restoring_teacher"} == {*benchmark.NAMES}
    assert all(value > 0 for value in seconds.values())
    assert 0 < difference < benchmark.TOLERANCE
