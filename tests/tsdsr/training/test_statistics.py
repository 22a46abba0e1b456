from __future__ import annotations

import pytest
import torch

from tests.tsdsr.training.rig import distill_config, trainer
from tsdsr.methods.tsdsr import TSDSR
from tsdsr.training.statistics import ByNoise, faint_terms
from tsdsr.training.world import World

STATISTICS = TSDSR.statistics


def test_means_by_phase_and_sigma():
    found = ByNoise(["early", "late"], STATISTICS, torch.device("cpu"))
    sigma = torch.tensor([0.25, 0.27, 0.99, 1.0])
    values = torch.tensor([1.0, 2.0, 5.0, 9.0])
    for phase in ("late", "late"):
        found.note(phase, sigma, {name: values * (i + 1) for i, name in enumerate(STATISTICS)})
    rows = found.rows(World())
    assert [(row["phase"], row["sigma_low"], row["sigma_high"], row["samples"]) for row in rows] == [
        ("late", 0.2, 0.3, 4),
        ("late", 0.9, 1.0, 4),
    ]
    for i, name in enumerate(STATISTICS):
        assert [row[name] for row in rows] == pytest.approx([1.5 * (i + 1), 7.0 * (i + 1)])


def test_a_run_counts_every_sample_of_the_tsd_term_once(tmp_path):
    config = distill_config()
    made = trainer(config, tmp_path)
    made.run()
    rows = made.by_noise.rows(World())
    assert sum(row["samples"] for row in rows) == config.steps * config.batch_size
    early = sum(row["samples"] for row in rows if row["phase"] == "early")
    assert early == round(0.6 * config.steps) * config.batch_size
    assert all(-1 <= row[name] <= 1 for row in rows for name in ("cosine_z_hat", "cosine_z"))


def test_the_means_are_those_of_the_curve(tmp_path):
    made = trainer(distill_config(log_every=6), tmp_path)
    made.run()
    rows = made.by_noise.rows(World())
    for name in STATISTICS:
        mean = sum(row[name] * row["samples"] for row in rows) / sum(row["samples"] for row in rows)
        assert mean == pytest.approx(made.history[0][name], rel=1e-5)


def test_terms_that_hardly_teach_are_named_by_phase():
    rows = [
        {"phase": 0.0, "grad_share/tsd": 0.01, "grad_share/latent_mse": 0.99},
        {"phase": 0.0, "grad_share/tsd": 0.02, "grad_share/latent_mse": 0.98},
        {"phase": 1.0, "grad_share/tsd": 0.4, "grad_share/lpips": 0.6},
    ]
    assert faint_terms(rows, ["early", "late"]) == {("early", "tsd"): pytest.approx(0.015)}
