"""Pairs' pictures as tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tsdsr.errors import UserError


def read_image(path: Path) -> Tensor:
    """An 8-bit picture of a pair: [3,H,W] in [-1, 1].

    Raises:
        UserError: if it is missing or damaged.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read as a picture: {error}; run the stage prepare-degradations") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 127.5 - 1
