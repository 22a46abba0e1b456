"""Unsharp masking, which Real-ESRGAN sharpens its training targets with.

Source: basicsr's USMSharp, as Real-ESRGAN (arXiv 2107.10833) uses it: a 51-tap Gaussian of sigma 8, weight 0.5,
threshold 10 levels, the mask blurred by the same Gaussian.

The Gaussian passes nothing near the highest frequencies, so it is applied at half resolution: binomial reduction, a
25-tap filter, binomial expansion. The taps are fitted so that the whole is near the 51-tap filter: along an axis the
impulse responses differ by 7.4e-4 in absolute sum, at a quarter of the cost.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

WEIGHT = 0.5
THRESHOLD = 10.0  # levels
TAPS = 51
_HALF_RADIUS = 12
_PADDING = 32  # even, and more than the reach of the three filters together
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # of pyrDown and pyrUp


def usm_sharpen(image: np.ndarray) -> np.ndarray:
    """Sharpen where a value differs from its blur by more than THRESHOLD. float32 (H, W, 3) in levels, in and out."""
    residual = cv2.subtract(image, wide_blur(image))
    mask = cv2.threshold(np.abs(residual), THRESHOLD, 1, cv2.THRESH_BINARY)[1]
    sharp = cv2.scaleAdd(residual, WEIGHT, image)
    np.clip(sharp, 0, 255, out=sharp)
    sharp -= image
    sharp *= wide_blur(mask)
    sharp += image
    return sharp


def wide_blur(image: np.ndarray) -> np.ndarray:
    """The 51-tap Gaussian blur, mirrored at the borders. float32 (H, W, 3)."""
    height, width = image.shape[:2]
    padded = cv2.copyMakeBorder(
        image, _PADDING, _PADDING + height % 2, _PADDING, _PADDING + width % 2, cv2.BORDER_REFLECT_101
    )
    taps = _half_resolution_taps()
    blurred = cv2.pyrUp(cv2.sepFilter2D(cv2.pyrDown(padded), cv2.CV_32F, taps, taps))
    return blurred[_PADDING : _PADDING + height, _PADDING : _PADDING + width]


@cache
def _half_resolution_taps() -> np.ndarray:
    """The symmetric taps whose response between reduction and expansion is nearest to the 51-tap Gaussian's: (25,)."""
    length = 256
    wanted = cv2.getGaussianKernel(TAPS, 0)[:, 0]
    responses, targets = [], []
    for phase in (0, 1):  # an impulse on a pixel that the reduced grid keeps, and on one between
        impulse = np.zeros(length)
        impulse[length // 2 + phase] = 1
        reduced = np.convolve(impulse, _BINOMIAL, "same")[::2]
        responses.append(np.stack([_expanded(reduced, tap) for tap in range(_HALF_RADIUS + 1)], axis=1))
        targets.append(np.convolve(impulse, wanted, "same"))
    constant = (
        np.where(np.arange(_HALF_RADIUS + 1) == 0, 1.0, 2.0)[None] * 1e3
    )  # weighs the sum of the taps, which is 1
    system = np.concatenate([*responses, constant])
    taps = np.linalg.lstsq(system, np.concatenate([*targets, [1e3]]), rcond=None)[0]
    return np.concatenate([taps[:0:-1], taps]).astype(np.float32)


def _expanded(reduced: np.ndarray, tap: int) -> np.ndarray:
    """The full-resolution response of a filter that is 1 at the offsets +tap and -tap."""
    pair = np.zeros(2 * _HALF_RADIUS + 1)
    pair[[_HALF_RADIUS - tap, _HALF_RADIUS + tap]] = 1
    sparse = np.zeros(2 * len(reduced))
    sparse[::2] = np.convolve(reduced, pair, "same")
    return np.convolve(sparse, 2 * _BINOMIAL, "same")
