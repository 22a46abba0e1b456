"""Folders of small images, and caches without weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty torch cache and an empty Hugging Face cache; work in an empty directory."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hugging-face"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[str, np.ndarray], Path]:
    def write(name: str, pixels: np.ndarray) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def photograph() -> np.ndarray:
    """uint8 (192, 288, 3): a natural image, which NIQE needs."""
    import skimage.data

    return skimage.data.astronaut()[:192, 100:388]


@pytest.fixture
def folders(save: Callable[[str, np.ndarray], Path], photograph: np.ndarray, tmp_path: Path) -> tuple[Path, Path]:
    """`restored` and `reference` with a.png, b.png and a smaller c.png."""
    random = np.random.default_rng(0)
    for name, image in {"a": photograph, "b": photograph[:, ::-1], "c": photograph[:144, :192]}.items():
        noisy = image + random.normal(0, 8, image.shape)
        save(f"reference/{name}.png", np.ascontiguousarray(image))
        save(f"restored/{name}.png", noisy.clip(0, 255).round().astype(np.uint8))
    return tmp_path / "restored", tmp_path / "reference"
