"""Conversion of float levels to 8 bits."""

from __future__ import annotations

import cv2
import numpy as np


def to_8bit(image: np.ndarray) -> np.ndarray:
    """Round half to even, saturate to [0, 255]: uint8."""
    return cv2.convertScaleAbs(np.maximum(image, 0))
