from pathlib import Path

import numpy as np
import pytest

from tsdsr.config import DegradationConfig, Params


@pytest.fixture(scope="session")
def config() -> DegradationConfig:
    return Params.load(Path(__file__).parents[3] / "params.yaml").degradation


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """A real photograph: (512, 512, 3) uint8 RGB."""
    from skimage import data

    return data.astronaut()
