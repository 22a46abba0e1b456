"""Pairs' pictures as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsdsr.errors import UserError


def read_pixels(path: Path) -> np.ndarray:
    """An 8-bit picture of a pair: uint8 (H, W, 3), RGB.

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            return np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}; run the stage prepare-degradations") from None


def normalized(pixels: np.ndarray) -> Tensor:
    """uint8 (H, W, 3) -> [3,H,W] in [-1, 1]."""
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 127.5 - 1


def read_image(path: Path) -> Tensor:
    """A picture as the networks take it: [3,H,W] in [-1, 1]. Raises as `read_pixels` does."""
    return normalized(read_pixels(path))
