"""The images of pairs as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsdsr.errors import UserError


def read_pixels(path: Path) -> np.ndarray:
    """An 8-bit image of a pair: uint8 (H, W, 3), RGB.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image: {error}; run the stage prepare-degradations") from None


def normalized(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> [3,H,W] in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def denormalized(image: Tensor) -> np.ndarray:
    """[3,H,W], nominally in [-1, 1] -> uint8 (H, W, 3)."""
    pixels: np.ndarray = ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return pixels


def read_image(path: Path) -> Tensor:
    """An image as input of the networks: [3,H,W] in [-1, 1]. Raises as `read_pixels`."""
    return normalized(read_pixels(path))
