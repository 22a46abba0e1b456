"""Blur: correlate an image with a kernel, by the cheapest of three exact methods.

A separable kernel takes two passes; a small one is summed directly; others use a real Fourier transform. Images are
float32 (H, W, 3) in 8-bit levels. Borders are mirrored without repeating the edge pixel, as in basicsr.
"""

from __future__ import annotations

import cv2
import numpy as np

from tsdsr.degradation.kernels import Kernel, axis_weights
from tsdsr.degradation.scratch import scratch

BORDER = cv2.BORDER_REFLECT_101
NEGLIGIBLE = 1e-6  # sum of absolute weights that may be cut from a kernel's border: changes at most 3e-4 levels
LARGEST_DIRECT = 11  # side from which the Fourier transform is faster


def blur(image: np.ndarray, kernel: Kernel) -> np.ndarray:
    """Correlate every channel with `kernel`; the shape stays."""
    axis = axis_weights(kernel)
    if axis is not None:
        axis = _trim(axis[None, :])[0]
        return cv2.sepFilter2D(image, cv2.CV_32F, axis, axis, borderType=BORDER)
    weights = _trim(kernel.weights())
    if len(weights) <= LARGEST_DIRECT:
        return cv2.filter2D(image, cv2.CV_32F, weights, borderType=BORDER)
    return _fourier(image, weights)


def _trim(weights: np.ndarray) -> np.ndarray:
    """The kernel without the outer rings whose absolute weights sum to less than NEGLIGIBLE, normalised to 1."""
    rings = min(side // 2 for side in weights.shape if side > 1) if weights.size > 1 else 0
    total = np.abs(weights).sum()
    for ring in range(rings, 0, -1):
        kept = weights[tuple(slice(ring, -ring) if side > 1 else slice(None) for side in weights.shape)]
        if total - np.abs(kept).sum() < NEGLIGIBLE:
            return kept / kept.sum()
    return weights


def _fourier(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """By the convolution theorem. All kernels are symmetric under a half turn, so their spectra are real."""
    radius = len(weights) // 2
    height, width = image.shape[:2]
    rows, columns = (cv2.getOptimalDFTSize(side + 2 * radius) for side in (height, width))
    padded = scratch("padded", rows, columns, image.shape[2])
    cv2.copyMakeBorder(image, radius, rows - height - radius, radius, columns - width - radius, BORDER, padded)
    spectrum = _packed_spectrum(weights, rows, columns)
    blurred = np.empty((height, width, image.shape[2]), np.float32)
    plane = scratch("plane", rows, columns)
    for channel in range(image.shape[2]):
        cv2.extractChannel(padded, channel, plane)
        cv2.dft(plane, plane)
        cv2.multiply(plane, spectrum, plane)
        cv2.idft(plane, plane, cv2.DFT_REAL_OUTPUT | cv2.DFT_SCALE)
        inner = np.ascontiguousarray(plane[radius : radius + height, radius : radius + width])
        cv2.insertChannel(inner, blurred, channel)
    return blurred


def _packed_spectrum(weights: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The kernel's real spectrum in the layout of OpenCV's packed spectrum of a real image.

    A row is packed as Re(0) Re(1) Im(1) Re(2) Im(2) ..., so each value stands twice; the columns of frequency 0 and,
    where the width is even, of the highest frequency are packed in the same way downwards.
    """
    cos_y, sin_y = _waves(len(weights), rows)
    cos_x, sin_x = _waves(len(weights), columns)
    half = columns // 2 + 1
    kernel = weights.astype(np.float32)
    spectrum = cos_y @ kernel @ cos_x[:half].T - sin_y @ kernel @ sin_x[:half].T
    packed = scratch("spectrum", rows, columns)
    packed[:, 1::2] = spectrum[:, 1:]
    packed[:, 2::2] = spectrum[:, 1 : (columns + 1) // 2]
    packed[:, 0] = _packed_column(spectrum[:, 0])
    if columns % 2 == 0:
        packed[:, -1] = _packed_column(spectrum[:, -1])
    return packed


def _packed_column(values: np.ndarray) -> np.ndarray:
    """values[0], then values[1] twice, values[2] twice ... as long as `values`."""
    return values[(np.arange(len(values)) + 1) // 2]


def _waves(size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi f x / count, float32 (count, size): frequencies f, offsets x from the kernel's centre."""
    phase = np.outer(np.arange(count), np.arange(size) - size // 2) % count
    angle = np.arange(count) * (2 * np.pi / count)
    return np.cos(angle).astype(np.float32)[phase], np.sin(angle).astype(np.float32)[phase]
