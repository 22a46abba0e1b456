"""Gaussian and Poisson noise, per channel or gray. Pictures are float32 (H, W, 3), BGR, in 8-bit levels.

Source: Real-ESRGAN, arXiv 2107.10833, section 3.1; basicsr's noise functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np

from tsdsr.degradation.draws import NoiseDraw
from tsdsr.degradation.levels import to_8bit
from tsdsr.degradation.poisson import sample_poisson

# Luma as torchvision's rgb_to_grayscale has it, in BGR order; these weights sum to 0.9999.
_GRAY = np.array([[0.114, 0.587, 0.2989]], dtype=np.float32)
_ENOUGH = 4096  # pixels looked at first when counting a picture's distinct levels


def add_noise(image: np.ndarray, draw: NoiseDraw, rng: np.random.Generator) -> np.ndarray:
    """Add the drawn kind of noise, its values from `rng`, and clip to [0, 255]."""
    noise = NOISES[draw.kind](cv2.transform(image, _GRAY) if draw.gray else image, rng)
    if draw.gray:
        noise = cv2.merge([noise, noise, noise])
    noisy = cv2.scaleAdd(noise, draw.strength, image)
    return np.clip(noisy, 0, 255, out=noisy)


def gaussian(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values in the picture's shape."""
    return rng.standard_normal(image.shape, dtype=np.float32)


def poisson(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shot noise, in levels: with peak counts at 255, (counts / peak) * 255 minus the picture in whole levels."""
    levels = to_8bit(image)
    peak = peak_count(levels)
    counts = sample_poisson(levels, peak, rng)
    return cv2.addWeighted(counts.astype(np.float32), 255 / peak, levels.astype(np.float32), -1, 0)


NOISES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "gaussian": gaussian,
    "poisson": poisson,
}


def peak_count(levels: np.ndarray) -> int:
    """The number of distinct levels in the picture, rounded up to a power of two: at most 256."""
    flat = levels.reshape(-1)
    for part in (flat[:: max(1, flat.size // _ENOUGH)], flat):
        peak = 1 << math.ceil(math.log2(np.count_nonzero(np.bincount(part))))
        if peak == 256:  # more pixels cannot add to it
            break
    return peak
