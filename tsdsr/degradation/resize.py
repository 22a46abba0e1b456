"""Resizing equal to torch.nn.functional.interpolate: area, bilinear and bicubic, without anti-aliasing.

Images are float32 (H, W, 3).
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from tsdsr.degradation.draws import ResizeMode

_FLAGS = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def resize_by(image: np.ndarray, factor: float, mode: ResizeMode) -> np.ndarray:
    """To floor(side * factor), at least 1; bilinear and bicubic sample at (i + 0.5) / factor - 0.5."""
    height, width = (max(1, math.floor(side * factor)) for side in image.shape[:2])
    if mode == "area":
        return area(image, height, width)
    if factor == 1:
        return image
    # cv2 rounds the size and torch floors it; both sampling grids start at the same corner, so the excess is cut off.
    # cv2 rounds 0.5 to 0 pixels; in that case the size is passed.
    exact = min(image.shape[:2]) * factor >= 1
    size, scale = (None, factor) if exact else ((width, height), 0)
    resized = cv2.resize(image, size, fx=scale, fy=scale, interpolation=_FLAGS[mode])
    return np.ascontiguousarray(resized[:height, :width])


def resize_to(image: np.ndarray, height: int, width: int, mode: ResizeMode) -> np.ndarray:
    """To (height, width)."""
    if image.shape[:2] == (height, width):
        return image
    if mode == "area":
        return area(image, height, width)
    return cv2.resize(image, (width, height), interpolation=_FLAGS[mode])


def area(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixel i of m is the mean of the whole source pixels floor(i n / m) .. ceil((i + 1) n / m) - 1, on each axis."""
    if image.shape[:2] == (height, width):
        return image
    pooled = _pool_rows(image, height)
    return cv2.transpose(_pool_rows(cv2.transpose(pooled), width))


def _pool_rows(image: np.ndarray, count: int) -> np.ndarray:
    index = np.arange(count)
    start, stop = index * len(image) // count, -(-(index + 1) * len(image) // count)
    sizes = stop - start
    shortest, longest = int(sizes.min()), int(sizes.max())
    total = image[start]
    for offset in range(1, shortest):
        total += image[start + offset]
    for offset in range(shortest, longest):
        longer = np.flatnonzero(sizes > offset)
        total[longer] += image[start[longer] + offset]
    total *= (1 / sizes).astype(np.float32)[:, None, None]
    return total
