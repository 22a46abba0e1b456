"""Fixtures that several areas share: a params file that is valid, and networks small enough to be built per test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.tiny import tiny_transformer, tiny_vae
from tsdsr.config import Params

ROOT = Path(__file__).parents[1]

# What the shell is set up for is not for the tests: their Ray, MLflow, git and pages are their own, and on loopback.
SETTINGS = ("RAY_", "MLFLOW_", "TSDSR_", "DVC_", "GIT_", "GRADIO_", "GLOO_", "NCCL_", "HF_HUB_", "COLUMNS")
for name in [*os.environ]:
    if name.startswith(SETTINGS) or name.lower().endswith("_proxy"):
        del os.environ[name]

# cuBLAS reads it before its first product in a process, and the tests of a file share one: see `make_deterministic`.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The tensors are tiny: a second thread only waits for the first, for seconds where other processes keep the cores busy.
torch.set_num_threads(1)

# Examples that are the same in every run, however slow the machine is.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """What a test draws is the same in every run, whichever tests came before it in its process."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return Params.load(ROOT / "params.yaml")


@pytest.fixture
def transformer():
    """A random SD3 transformer of 2 layers, float32."""
    return tiny_transformer()


@pytest.fixture
def vae():
    """A random autoencoder, 2 pixels a latent, 4 latent channels, with a shift factor."""
    return tiny_vae()
