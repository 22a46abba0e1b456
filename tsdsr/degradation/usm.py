"""Unsharp masking, with which Real-ESRGAN sharpens its training targets.

Source: basicsr's USMSharp, as Real-ESRGAN (arXiv 2107.10833) uses it: a 51-tap Gaussian of sigma 8, weight 0.5,
threshold 10 levels, the mask blurred by the same Gaussian.

The Gaussian removes the highest frequencies, so it is applied at half resolution: binomial reduction, a 25-tap filter,
binomial expansion. The taps are fitted to the 51-tap filter: along an axis the impulse responses differ by 7.4e-4 in
absolute sum, at a quarter of the cost.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from tsdsr.degradation.scratch import scratch

WEIGHT = 0.5
THRESHOLD = 10.0  # levels
TAPS = 51
_HALF_RADIUS = 12
_PADDING = 32  # even, and larger than the reach of the three filters together
_BINOMIAL = np.array([1, 4, 6, 4, 1]) / 16  # of pyrDown and pyrUp


def usm_sharpen(image: np.ndarray) -> np.ndarray:
    """Sharpen values that differ from their blur by more than THRESHOLD. Input and output: float32 (H, W, 3) in
    levels."""
    sharp = np.empty_like(image)
    plane = scratch("usm plane", *image.shape[:2])
    for channel in range(image.shape[2]):
        cv2.extractChannel(image, channel, plane)
        cv2.insertChannel(_sharpen_plane(plane), sharp, channel)
    return sharp


def _sharpen_plane(plane: np.ndarray) -> np.ndarray:
    residual, mask, change = (scratch(f"usm {name}", *plane.shape) for name in ("residual", "mask", "change"))
    cv2.subtract(plane, wide_blur(plane), residual)
    np.abs(residual, out=mask)
    cv2.threshold(mask, THRESHOLD, 1, cv2.THRESH_BINARY, mask)
    cv2.scaleAdd(residual, WEIGHT, plane, change)
    np.clip(change, 0, 255, out=change)
    cv2.subtract(change, plane, change)
    cv2.multiply(change, wide_blur(mask), change)
    return cv2.add(change, plane, change)


def wide_blur(plane: np.ndarray) -> np.ndarray:
    """The 51-tap Gaussian blur, mirrored at the borders. float32 (H, W); the result is overwritten by the next call."""
    (height, width), margin = plane.shape, _PADDING
    rows, columns = (side + side % 2 + 2 * margin for side in plane.shape)
    padded = scratch("usm padded", rows, columns)
    reduced, filtered = (scratch(f"usm {name}", rows // 2, columns // 2) for name in ("reduced", "filtered"))
    bottom, right = rows - height - margin, columns - width - margin
    cv2.copyMakeBorder(plane, margin, bottom, margin, right, cv2.BORDER_REFLECT_101, padded)
    cv2.pyrDown(padded, reduced)
    taps = _half_resolution_taps()
    cv2.sepFilter2D(reduced, cv2.CV_32F, taps, taps, filtered)
    return cv2.pyrUp(filtered, padded)[margin : margin + height, margin : margin + width]


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
