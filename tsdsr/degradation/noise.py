"""Gaussian and Poisson noise, per channel or gray. Images are float32 (H, W, 3), BGR, in 8-bit levels.

Source: Real-ESRGAN, arXiv 2107.10833, section 3.1; basicsr's noise functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from tsdsr.degradation.draws import NoiseDraw
from tsdsr.degradation.levels import to_8bit
from tsdsr.degradation.poisson import sample_poisson

NoiseOf = Callable[[np.ndarray], np.ndarray]  # a band of the image -> its noise before scaling

# Luma of torchvision's rgb_to_grayscale in BGR order; these weights sum to 0.9999.
_GRAY = np.array([[0.114, 0.587, 0.2989]], dtype=np.float32)
_BAND_PIXELS = 16384
_ENOUGH = 4096  # pixels that are examined first when an image's distinct levels are counted


def add_noise(image: np.ndarray, draw: NoiseDraw, rng: np.random.Generator) -> np.ndarray:
    """Add noise of the drawn kind, with values from `rng`, and clip to [0, 255].

    It processes the image in bands of rows that fit in the processor's cache.
    """
    source = cv2.transform(image, _GRAY) if draw.gray else image
    make_noise = NOISES[draw.kind](source, rng)
    noisy = np.empty_like(image)
    for rows in _bands(*image.shape[:2]):
        noise = make_noise(source[rows])
        if draw.gray:
            noise = cv2.merge([noise, noise, noise])
        cv2.scaleAdd(noise, draw.strength, image[rows], noisy[rows])
        np.clip(noisy[rows], 0, 255, out=noisy[rows])
    return noisy


def _bands(height: int, width: int) -> Iterator[slice]:
    step = max(1, _BAND_PIXELS // width)
    return (slice(start, start + step) for start in range(0, height, step))


def gaussian(_: np.ndarray, rng: np.random.Generator) -> NoiseOf:
    """Standard normal values, in levels."""
    return lambda band: rng.standard_normal(band.shape, dtype=np.float32)


def poisson(image: np.ndarray, rng: np.random.Generator) -> NoiseOf:
    """Shot noise in levels: with peak counts at 255, (counts / peak) * 255 minus the image in whole levels."""
    peak = peak_count(to_8bit(image))

    def noise(band: np.ndarray) -> np.ndarray:
        levels = to_8bit(band)
        counts = sample_poisson(levels, peak, rng)
        return cv2.addWeighted(counts.astype(np.float32), 255 / peak, levels.astype(np.float32), -1, 0)

    return noise


NOISES: dict[str, Callable[[np.ndarray, np.random.Generator], NoiseOf]] = {"gaussian": gaussian, "poisson": poisson}


def peak_count(levels: np.ndarray) -> int:
    """The number of distinct levels in the image, rounded up to a power of two: at most 256."""
    flat = levels.reshape(-1)
    for part in (flat[:: max(1, flat.size // _ENOUGH)], flat):
        peak = 1 << math.ceil(math.log2(np.count_nonzero(np.bincount(part))))
        if peak == 256:  # the maximum is reached
            break
    return peak
