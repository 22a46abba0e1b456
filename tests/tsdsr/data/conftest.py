from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tsdsr.config import Params


@pytest.fixture
def texture() -> np.ndarray:
    """A colour picture, (72, 96, 3), no two crops of which are equal."""
    return np.random.default_rng(0).integers(0, 256, (72, 96, 3), dtype=np.uint8)


@pytest.fixture
def small(params: Params) -> Params:
    """The committed params at sizes for tests: crops of 32 px, three a training photograph and two a test one."""
    crops = {"train": 3, "test": 2}
    return params.overlay({"data": {"crop_size": 32, "test_crop_size": 48, "crops_per_photograph": crops}})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight photographs in two folders."""
    root = tmp_path / "photographs"
    rng = np.random.default_rng(1)
    for index in range(8):
        path = root / ("by day" if index % 2 else "by night") / f"picture {index // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return root
